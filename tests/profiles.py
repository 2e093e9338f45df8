"""ICC profiles of colour spaces, written by hand, and the values of colours in them."""

import struct

import numpy as np

# Chromaticities of red, green and blue, and gamma, of colour spaces; the white point is D65.
DISPLAY_P3 = (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2)
ADOBE_RGB = (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 2.19921875)
PROPHOTO = (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8)
SRGB = (((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), 2.2)
D65, D50 = (0.95047, 1.0, 1.08883), (0.96422, 1.0, 0.82521)
# Bradford's adaptation of the white point, on which ICC profiles agree.
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(space):
    """Return the matrix from linear RGB of a colour space to XYZ, adapted to D50."""
    primaries = np.array([[x / y, 1, (1 - x - y) / y] for x, y in space[0]]).T
    matrix = primaries * np.linalg.solve(primaries, D65)
    cones = np.diag((BRADFORD @ D50) / (BRADFORD @ D65))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ matrix


def from_srgb(pixels, space):
    """Return the 8-bit values in a colour space of colours in sRGB, computed without a library."""
    values = pixels / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ to_xyz((SRGB[0], None)).T
    encoded = np.clip(xyz @ np.linalg.inv(to_xyz(space)).T, 0, 1) ** (1 / space[1])
    return (encoded * 255).round().astype(np.uint8)


def profile(space, tags, *, connection=b"XYZ ", kind=b"mntr"):
    """Return an ICC profile of version 2."""
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _description(text):
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)


def rgb_profile(space, name=b"test"):
    """Return the ICC profile of a colour space."""
    columns = to_xyz(space).T
    tags = {b"desc": _description(name), b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}
    for letter, column in zip(b"rgb", columns, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*column)
        tags[bytes([letter]) + b"TRC"] = _curve(space[1])
    return profile(b"RGB ", tags)


def grey_profile(gamma):
    """Return the ICC profile of greys with a gamma."""
    white = b"XYZ " + bytes(4) + _fixed(*D50)
    return profile(b"GRAY", {b"desc": _description(b"grey"), b"wtpt": white, b"kTRC": _curve(gamma)})
