"""Recognize the format of an image from its first bytes, and check its header, without decoding pixels.

Names and suffixes of files are not used. The import is fast: neither OpenCV nor scikit-learn is imported.
"""

import io
import warnings

import numpy as np
from PIL import Image, PngImagePlugin

# Pillow's warnings (invalid EXIF, large images) are harmless here or become the reason in a row.
warnings.filterwarnings("ignore", module="PIL")
# `too_large` checks the size instead.
Image.MAX_IMAGE_PIXELS = None
# Maximum size in bytes of the colour profile of a PNG; 1 MB is too small for some.
PngImagePlugin.MAX_TEXT_CHUNK = 8_000_000
# Each format that is read, and its name in Pillow.
READ = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "tiff": "TIFF",
    "avif": "AVIF",
    "heic": "HEIF",
}
# Formats that are recognized but not read; `raw` is that of a camera.
NOT_READ = ("jp2", "jxl", "psd", "ico", "dicom", "raw", "svg", "eps", "pdf")
# Maximum number of pixels of an image, in its header.
LARGEST_PIXELS = 200_000_000
# Maximum number of pixels that are decoded; they take about 1 GB. A large JPEG is decoded at 1/2 to 1/8.
LARGEST_DECODED = 100_000_000
# Maximum number of scans of a JPEG. Encoders write about 10; 100 scans of 64 million pixels take 5 s.
LARGEST_SCANS = 100
# Number of bytes of a file that suffice for `signature`.
HEAD = 512
# First bytes of each format.
_STARTS = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II\x2a\0\x10\0\0\0CR", "raw"),
    (b"IIU\0", "raw"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"II\x2a\0", "tiff"),
    (b"MM\0\x2a", "tiff"),
    (b"II\x2b\0", "tiff"),
    (b"MM\0\x2b", "tiff"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\0\0\0\x0cJXL ", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"8BPS", "psd"),
    (b"\0\0\1\0", "ico"),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),
    (b"%PDF-", "pdf"),
)
# Brands of the ISO base media file format. Brands that several formats use, such as `mif1`, are left out.
_BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    b"heic": "heic",
    b"heix": "heic",
    b"heim": "heic",
    b"heis": "heic",
    b"hevc": "heic",
    b"hevx": "heic",
    b"crx ": "raw",
}
# Sizes of the second header of a BMP, which its two letters are too short to identify.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def signature(head: bytes) -> str | None:
    """Return the format of an image from its first bytes.

    Args:
        head: the first `HEAD` bytes of a file, or all of it.

    Returns:
        A key of `READ` or `NOT_READ`; None if the file is not an image in a known format.
    """
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[4:8] == b"ftyp":
        return _brand(head)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "svg" if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text else None


def _brand(head: bytes) -> str | None:
    """Return the format that the brands of a file name, the main brand first."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


class Unusable(ValueError):
    """Raised if a file is not a usable photo although it may be intact; the message is the reason."""


def header(data: bytes) -> str | None:
    """Check the header of an image without decoding its pixels.

    Args:
        data: the file, or its first bytes. If the header is cut, only the format is checked: that of a JPEG
            has up to a few hundred kilobytes, and that of a TIFF may be anywhere.

    Returns:
        The reason that the file is not a usable photo; None if its header has no problem.
    """
    try:
        with open_image(data):
            return None
    except Unusable as error:
        return str(error)
    # Pillow raises almost any error if a header is cut or damaged; `decoding.decode` returns the reason.
    except Exception:
        return None


def open_image(data: bytes) -> Image.Image:
    """Open an image whose header has no problem; its pixels are not decoded yet.

    Raises:
        Unusable: if the format is not read, or decoding would take too much memory or time.
        Exception: Pillow raises almost any error if the file is damaged.
    """
    name = _require_format(data)
    # Other formats of Pillow are not tried: for an EPS, it starts Ghostscript, which executes the file.
    image = Image.open(io.BytesIO(data), formats=[READ[name]])
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        raise Unusable(f"{width} x {height} pixels are more than {LARGEST_PIXELS // 1_000_000} million")
    # A progressive JPEG is decoded at its full size first.
    if width * height > LARGEST_DECODED and (name != "jpeg" or image.info.get("progressive")):
        raise Unusable(
            f"{width} x {height} pixels are more than {LARGEST_DECODED // 1_000_000} million, the maximum "
            "for a photo that is not a baseline JPEG"
        )
    if name == "jpeg":
        _require_few_scans(data)
    return image


def _require_format(data: bytes) -> str:
    """Return the format of a file, a key of `READ`."""
    if not data:
        raise Unusable("the file is empty")
    name = signature(data[:HEAD])
    if name == "heic" and not register_heif():
        raise Unusable("a HEIC photo needs the package pillow-heif: install it, or save the photo as JPEG")
    if name in READ:
        return str(name)
    if data[:256].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"{")):
        raise Unusable("not a photo: the file contains text such as HTML")
    raise Unusable(
        f"not a photo in a supported format ({', '.join(READ.values())})"
        + (f". Received: {name}. Save it as JPEG or PNG" if name else "")
    )


def register_heif() -> bool:
    """Let Pillow read HEIC if the package pillow-heif is installed; return whether it is."""
    try:
        # Imported when a HEIC photo is read.
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    # Photos are decoded in parallel already.
    pillow_heif.options.DECODE_THREADS = 1
    return True


def _require_few_scans(data: bytes) -> None:
    """Check that the scans of a JPEG do not take too long to decode."""
    # An upper bound, several times as fast as `bytes.count`: the two bytes of the marker at even and at odd
    # positions, which may also occur in a thumbnail or after the image.
    words = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    most = sum(np.count_nonzero(values == 0xDAFF) for values in words)
    if most > LARGEST_SCANS and (scans := _scans(data)) > LARGEST_SCANS:
        raise Unusable(f"a JPEG of {scans:,} scans, more than {LARGEST_SCANS}")


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG up to its end marker."""
    scans, position = 0, 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 3:
        marker = data[position + 1]
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        # Stuffed bytes, fill bytes and restart markers have no segment.
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
        elif marker == 0xFF:
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return scans
