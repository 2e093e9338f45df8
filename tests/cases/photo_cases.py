"""Sources of photos as cameras, telephones and microscopes write them: bit depths, profiles, HEIC, names."""

import io
import struct
import zlib

import numpy as np
import profiles
from PIL import Image
from shared import Drawing, scene

from lib.photos import formats

CLASSES = ("a", "b")


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
    profile = profiles.rgb_profile(profiles.DISPLAY_P3, b"Display P3")
    for label, number, pixels in drawings():
        stored = profiles.from_srgb(np.rot90(pixels, 1) if number % 2 else pixels, profiles.DISPLAY_P3)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        codec, suffix = ("HEIF", "HEIC") if number < 3 else ("JPEG", "JPG")
        options = {"quality": 97, "icc_profile": profile, "exif": exif.tobytes()}
        Drawing(folder).put(f"{label}/IMG_{number}.{suffix}", saved(stored, codec, **options))
