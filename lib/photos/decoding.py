"""Decode each photo once, to upright 8-bit RGB, and cache it resized.

Photos are decoded with Pillow, because OpenCV accepts a truncated JPEG and TensorFlow supports fewer formats.
They are resized with OpenCV, by area averaging if they shrink.
"""

import contextlib
import hashlib
import io
import mmap
import os
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from lib.core import cache, files, locks, tables
from lib.photos import quality

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
# Suffixes of photos in formats that are not supported: each photo gets a row with the reason.
NOT_READ = {".heic", ".heif"}
# Maximum number of pixels of a photo; decoded, they take about 600 MB.
LARGEST_PIXELS = 200_000_000
# Maximum size in bytes of a file, which is read into memory at once.
LARGEST_BYTES = 2 * 10**9
# Photos with more pixels are decoded one at a time, so that many cores do not exhaust the memory.
MANY_PIXELS = 20_000_000
# Maximum aspect ratio of the part of a panorama that `crop` scales.
LARGEST_ASPECT_RATIO = 8
# Number of files that are decoded before their pixels are written.
AT_ONCE = 256
# Problem of a file that a table of labels lists, but that the source does not have.
MISSING = "a table lists it, but there is no such file"
# EXIF tag of the orientation.
ORIENTATION = 0x0112
# Brands in the header of the format that iPhones write.
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim")
# Side of the perceptual hash, in bits.
HASH_SIDE = 8
COLUMNS = ["path", "sha1", "phash", "width", "height", "problem", *quality.COLUMNS]

# Pillow's warnings (invalid EXIF, large images) are harmless here or become the reason in a row.
warnings.filterwarnings("ignore", module="PIL")
# `decode` checks LARGEST_PIXELS instead, and raises an error rather than a warning.
Image.MAX_IMAGE_PIXELS = None
# Other formats are not supported: for an EPS, Pillow starts Ghostscript, which executes the file.
Image.init()
FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF") if name in Image.OPEN
]
_large_photo_lock = threading.Lock()


def decode(data: bytes, *, side: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a photo.

    Args:
        data: the bytes of the file, in a format of `FORMATS`. The first frame of an animation is decoded,
            transparency is composited on white, and 16 bits are scaled to 8.
        side: side in pixels that the photo will be resized to; if `None`, the photo is decoded at full size.
            A JPEG that is more than twice as large as both `side` and `quality.SIDE` is decoded at 1/2, 1/4
            or 1/8 of its size, which is faster.

    Returns:
        The photo as `uint8` of shape `(height, width, 3)`, RGB, with the EXIF orientation applied; and the
        `(width, height)` of the upright photo at full size.

    Raises:
        ValueError: if the photo cannot be decoded; the message is the reason.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_PIXELS:
                millions = LARGEST_PIXELS // 1_000_000
                raise _UnusableError(f"{width} x {height} pixels are more than {millions} million")
            if side:
                minimum = 2 * max(side, quality.SIDE)
                image.draft(None, (minimum, minimum))
            # Pillow returns the upright size of a TIFF.
            rotated = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) and image.format != "TIFF"
            is_large = image.size[0] * image.size[1] > MANY_PIXELS
            with _large_photo_lock if is_large else contextlib.nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.asarray(_to_rgb(image))
    # Pillow raises almost any error when a file is damaged.
    except Exception as error:
        raise ValueError(_reason(data, error)) from None
    return pixels, (height, width) if rotated else (width, height)


class _UnusableError(Exception):
    """Raised if a photo cannot be used although it is not damaged; the message is the reason."""


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB, composited on white."""
    if image.mode == "F":
        raise _UnusableError("floating-point pixels have no agreed range: save the photo with 8 or 16 bits")
    # Pillow's own conversion clips 16-bit grey instead of scaling it.
    if image.mode.startswith("I"):
        values = np.asarray(image)
        smallest, largest = values.min(), values.max()
        if smallest < 0 or largest >= 2**16:
            raise _UnusableError("32-bit pixels have no agreed range: save the photo with 8 or 16 bits")
        image = Image.fromarray((values // 257 if largest > 255 else values).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    """Return the reason that a file is not a usable photo, from its first bytes and the decoder's error."""
    if isinstance(error, _UnusableError):
        return str(error)
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "not a photo: the file contains text such as HTML"
    if data[4:8] == b"ftyp" and any(brand in data[8:40] for brand in HEIC_BRANDS):
        return "a HEIC photo, which is not read here: save it as JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a photo in a supported format ({', '.join(FORMATS)})"
    return f"damaged: {str(error).strip() or type(error).__name__}"


def resize(image: np.ndarray, *, size: int, fit: str) -> np.ndarray:
    """Resize a photo to a square.

    Args:
        image: `uint8` of shape `(height, width, 3)`.
        size: side of the square, in pixels.
        fit: `crop` keeps the centre, `stretch` changes the aspect ratio, `pad` adds black bars.

    Returns:
        `uint8` of shape `(size, size, 3)`, by area averaging if the photo shrinks, else by bilinear
        interpolation.
    """
    height, width = image.shape[:2]
    if fit == "stretch":
        return _scale(image, size, size)
    if fit == "crop":
        image = _crop(image, LARGEST_ASPECT_RATIO * min(height, width))
        height, width = image.shape[:2]
    ratio = size / (min(height, width) if fit == "crop" else max(height, width))
    image = _scale(image, max(1, round(width * ratio)), max(1, round(height * ratio)))
    height, width = image.shape[:2]
    if fit == "crop":
        top, left = (height - size) // 2, (width - size) // 2
        return image[top : top + size, left : left + size]
    top, left = (size - height) // 2, (size - width) // 2
    return cv2.copyMakeBorder(image, top, size - height - top, left, size - width - left, cv2.BORDER_CONSTANT)


def prepare(image: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Resize and crop a photo to the input of a trained network.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.
        card: the model card; the keys `fit`, `resize` and `size` are used.

    Returns:
        `uint8` of shape `(size, size, 3)`.
    """
    return centre(resize(image, size=card["resize"], fit=card["fit"]), card["size"])


def centre(images: np.ndarray, size: int) -> np.ndarray:
    """Crop squares to their centre.

    Args:
        images: `uint8` of shape `(..., side, side, 3)`.
        size: side of the result, at most `side`.

    Returns:
        A view of `images`, of shape `(..., size, size, 3)`.
    """
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]


def release(images: np.ndarray) -> None:
    """Free the pages of a memory map. They are read again when they are needed.

    Otherwise, they count as memory of this process until the system reclaims it.

    Args:
        images: a memory map or a view of a memory map; other arrays are ignored.
    """
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Limit OpenCV to a single thread while a pool of threads uses every core."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _crop(image: np.ndarray, longest: int) -> np.ndarray:
    """Crop a panorama to its centre, because scaling a very narrow photo would exhaust the memory."""
    top, left = (max(0, side - longest) // 2 for side in image.shape[:2])
    return image[top : top + longest, left : left + longest]


def _scale(image: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def perceptual_hash(image: np.ndarray) -> str:
    """Compute the perceptual hash (pHash): for each low frequency, whether it is above their median.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.

    Returns:
        64 bits as 16 hexadecimal digits. The hashes of resized or recompressed copies differ in few bits.
        Source: http://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html
    """
    grey = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (4 * HASH_SIDE, 4 * HASH_SIDE), interpolation=cv2.INTER_AREA
    )
    low = cv2.dct(grey.astype(np.float32))[:HASH_SIDE, :HASH_SIDE]
    return np.packbits(low > np.median(low)).tobytes().hex()


def first_of_each(root: Path, table: pd.DataFrame, *, limit: int) -> list[tuple[str, np.ndarray]]:
    """Decode the first readable photo of each label.

    Args:
        root: the folder that the paths are relative to.
        table: columns `path` and `label`; rows without a label are skipped.
        limit: maximum number of labels.

    Returns:
        Pairs of label and photo, `uint8` of shape `(256, 256, 3)`.
    """
    result: dict[str, np.ndarray] = {}
    for path, label in zip(table.path, table.label, strict=True):
        if label and label not in result and len(result) < limit:
            try:
                image, _ = decode((root / path).read_bytes(), side=256)
            # 02_clean lists the file with the reason.
            except ValueError:
                continue
            result[label] = resize(image, size=256, fit="crop")
    return list(result.items())


def scan(
    root: Path,
    paths: list[str],
    *,
    content: str,
    folder: Path,
    size: int,
    fit: str,
    missing: Collection[str] = (),
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read every file once: hash it, decode it, measure its quality and cache it resized.

    Args:
        root: `raw/` in the folder of the source, which is locked during the scan.
        paths: paths of the files relative to `root`, in the order of the result.
        content: identifier of the files' content, such as the `content_sha256` of the source.
        folder: folder of the cache; a later call with the same arguments loads the result, unless it is
            damaged.
        size, fit: see `resize`.
        missing: those of the paths that the source lists but does not have; they are not opened.

    Returns:
        A table with the columns `path`, `sha1`, `phash`, `width`, `height` (upright, in pixels), `problem`
        (the reason that the file is not a usable photo, else empty) and those of `quality.measure` (NaN if
        the file has a problem); and the resized photos as a read-only `uint8` memory map of shape
        `(files, size, size, 3)`, black if the file has a problem.

    Raises:
        ValueError: if a file cannot be opened, or the disk is too full.
    """
    folder = folder / cache.fingerprint(content, paths, sorted(missing), size, fit, cache.code(__name__))
    if not cache.is_intact(folder):
        with locks.source(root.parent):
            # Left by processes that were killed: while the lock is held, no other process scans.
            for partial in folder.parent.glob(f".partial-*-{folder.name}"):
                files.remove(partial)
            absent = frozenset(missing)
            cache.folder(
                folder, lambda partial: _scan(root, paths, partial, size=size, fit=fit, missing=absent)
            )
    table = tables.read(
        folder / "scan.csv",
        dtype={"path": str, "sha1": str, "phash": str, "problem": str},
        na_values={column: [""] for column in quality.COLUMNS},
    )
    return table, np.load(folder / "photos.npy", mmap_mode="r")


def _scan(
    root: Path, paths: list[str], folder: Path, *, size: int, fit: str, missing: frozenset[str]
) -> None:
    """Write `scan.csv` and `photos.npy` of the files into a folder."""
    rows = []
    pool = ThreadPoolExecutor(os.cpu_count())
    with single_thread(), (folder / "photos.npy").open("wb") as file, pool:
        cache.begin_array(file, (len(paths), size, size, 3), dtype=np.uint8)
        for start in range(0, len(paths), AT_ONCE):
            batch = paths[start : start + AT_ONCE]
            present = [path for path in batch if path not in missing]
            read = pool.map(lambda path: _read(root, path, size=size, fit=fit), present)
            for path in batch:
                row, image = _missing(path, size=size) if path in missing else next(read)
                rows.append(row)
                file.write(image.tobytes())
    table = pd.DataFrame(rows, columns=COLUMNS)
    tables.write(table, folder / "scan.csv")


def _missing(path: str, *, size: int) -> tuple[dict[str, object], np.ndarray]:
    """Return the row and the black photo of a file that does not exist."""
    row = {"path": path, "sha1": "", "phash": "", "width": 0, "height": 0, "problem": MISSING}
    return row, np.zeros((size, size, 3), np.uint8)


def _read(root: Path, path: str, *, size: int, fit: str) -> tuple[dict[str, object], np.ndarray]:
    """Return the row of a file and its resized photo."""
    unusable: dict[str, object] = {"path": path, "phash": "", "width": 0, "height": 0}
    black = np.zeros((size, size, 3), np.uint8)
    file = root / path
    try:
        if file.stat().st_size > LARGEST_BYTES:
            with file.open("rb") as opened:
                sha1 = hashlib.file_digest(opened, "sha1").hexdigest()
            problem = f"the file has more than {LARGEST_BYTES / 1e9:g} GB"
            return unusable | {"sha1": sha1, "problem": problem}, black
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(
            f"expected to read {path}, as 01_download did. Received: {error.strerror}. Check the disk and "
            "the permissions of the file, then run this again"
        ) from None
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    try:
        image, (width, height) = decode(data, side=size)
    except ValueError as error:
        return unusable | {"sha1": sha1, "problem": " ".join(str(error).split())}, black
    row = {"path": path, "sha1": sha1, "phash": perceptual_hash(image), "width": width, "height": height}
    return row | {"problem": "", **quality.measure(image)}, resize(image, size=size, fit=fit)
