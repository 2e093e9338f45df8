"""Sources of photos as cameras, telephones and microscopes write them: bit depths, profiles, HEIC, names."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from shared import Drawing, scene

from lib.photos import formats

CLASSES = ("a", "b")
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


def _profile(space, tags):
    """Return an ICC profile of version 2."""
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
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
    return _profile(b"RGB ", tags)


def grey_profile(gamma):
    """Return the ICC profile of greys with a gamma."""
    white = b"XYZ " + bytes(4) + _fixed(*D50)
    return _profile(b"GRAY", {b"desc": _description(b"grey"), b"wtpt": white, b"kTRC": _curve(gamma)})


def saved(pixels, codec, **options):
    """Return an image file."""
    assert codec != "HEIF" or formats.register_heif()
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, codec, **options)
    return buffer.getvalue()


def chunk(kind, data):
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values):
    """Return a PNG of 16 bits, grey or in RGB."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def drawings(count=6):
    """Yield class, number and a pale picture of each photo, `uint8` of shape `(60, 80, 3)`, 40 to 142."""
    for label in CLASSES:
        for number in range(count):
            yield label, number, (40 + 0.4 * scene(10 * ord(label) + number)).astype(np.uint8)


def twelve_bits(folder, *, codec="PNG", colours=False):
    """Write photos of 12 bits in files of 16; the brightest value of the source is 4,095."""
    for label, number, pixels in drawings():
        values = (pixels if colours else pixels[..., 0]).astype(np.uint16) * 16
        values[0, 0] = 4095 if number == 0 else 0
        content = png16(values) if codec == "PNG" else saved(Image.fromarray(values), codec)
        Drawing(folder).put(f"{label}/{number}.{codec.lower()}", content)


def exposures(folder, factors):
    """Write photos of 16 bits in which the same picture was exposed differently."""
    for label, number, pixels in drawings(len(factors)):
        values = pixels[..., 0].astype(np.uint16) * factors[number]
        Drawing(folder).put(f"{label}/{number}.png", png16(values))


def neighbours(folder):
    """Write photos of 16 bits whose largest value is 255 or 256."""
    for label, number, pixels in drawings():
        values = pixels[..., 0].astype(np.uint16)
        values[0, 0] = 255 + number % 2
        Drawing(folder).put(f"{label}/{number}.png", png16(values))


def telephones(folder):
    """Write photos as telephones do: HEIC and JPEG, rotated, in Display P3, with upper-case suffixes."""
    profile = rgb_profile(DISPLAY_P3, b"Display P3")
    for label, number, pixels in drawings():
        stored = from_srgb(np.rot90(pixels, 1) if number % 2 else pixels, DISPLAY_P3)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        codec, suffix = ("HEIF", "HEIC") if number < 3 else ("JPEG", "JPG")
        options = {"quality": 97, "icc_profile": profile, "exif": exif.tobytes()}
        Drawing(folder).put(f"{label}/IMG_{number}.{suffix}", saved(stored, codec, **options))
