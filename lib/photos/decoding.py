"""Decode photos of any format once, to upright 8-bit RGB, and keep them resized.

Pillow decodes: it alone of the usual decoders refuses a truncated JPEG and reads every format that
people store photos in. OpenCV resizes, by area averaging if it shrinks.
"""

import contextlib
import hashlib
import io
import mmap
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from lib.core import cache, files, locks
from lib.photos import quality

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
# Photos all the same: each gets its row, with the reason.
NOT_READ = {".heic", ".heif"}
# About 600 MB once decoded; beyond it a photo is a bomb or a scan of a wall.
LARGEST_PIXELS = 200_000_000
# Of a file, which is read as a whole.
LARGEST_BYTES = 2 * 10**9
# Photos of more pixels are decoded one at a time, so that memory suffices on many cores.
MANY_PIXELS = 20_000_000
# Times its shorter side; `crop` scales no more of a panorama.
WIDEST = 8
# Files that are read before their photos are written.
AT_ONCE = 256
# The EXIF tag.
ORIENTATION = 0x0112
# Brands of the format that iPhones write.
HEIC = (b"heic", b"heix", b"hevc", b"heim")
# Of the perceptual hash, in bits.
HASH_SIDE = 8
COLUMNS = ["path", "sha1", "phash", "width", "height", "problem", *quality.COLUMNS]

# What Pillow warns of (odd EXIF, large images) is either harmless here or ends as a row with its reason.
warnings.filterwarnings("ignore", module="PIL")
# The limit above is checked before decoding, as an error and not a warning.
Image.MAX_IMAGE_PIXELS = None
# No others: Pillow hands an EPS to Ghostscript, a program that runs what the file says.
Image.init()
FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF") if name in Image.OPEN
]
_one_large_photo = threading.Lock()


def decode(data: bytes, *, side: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one photo.

    Args:
        data: the bytes of the file, in one of `FORMATS`, whatever its name says. Of an animation the
            first frame is taken; transparency is composited on white; 16 bits are scaled to 8.
        side: the side in pixels that the photo will be resized to, if known: a JPEG more than
            twice as large as that, and as quality is measured at, is decoded at a half, a quarter or an
            eighth of its size, which is faster.

    Returns:
        The photo as `uint8` of shape `(height, width, 3)`, RGB, EXIF orientation applied; and the
        `(width, height)` of the whole upright photo.

    Raises:
        ValueError: why the bytes are not a usable photo.
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
                least = 2 * max(side, quality.SIDE)
                image.draft(None, (least, least))
            # Of a TIFF, Pillow has the upright size already.
            rotated = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) and image.format != "TIFF"
            many = image.size[0] * image.size[1] > MANY_PIXELS
            with _one_large_photo if many else contextlib.nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.asarray(_to_rgb(image))
    # A damaged file raises nearly anything, and all of it means the same.
    except Exception as error:
        raise ValueError(_reason(data, error)) from None
    return pixels, (height, width) if rotated else (width, height)


class _UnusableError(Exception):
    """Says why a photo that is not damaged cannot be used."""


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB, composited on white."""
    if image.mode == "F":
        raise _UnusableError("floating-point pixels have no agreed range: save the photo with 8 or 16 bits")
    # 16-bit grey: Pillow's own conversion clips it instead of scaling.
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
    """Return why a file is not a usable photo, by its first bytes and the error of the decoder."""
    if isinstance(error, _UnusableError):
        return str(error)
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "not a photo: the file holds a text such as HTML"
    if data[4:8] == b"ftyp" and any(brand in data[8:40] for brand in HEIC):
        return "a HEIC photo, which is not read here: save it as JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a photo in a known format, which are {', '.join(FORMATS)}"
    return f"damaged: {str(error).strip() or type(error).__name__}"


def resize(image: np.ndarray, *, size: int, fit: str) -> np.ndarray:
    """Bring a photo to a square.

    Args:
        image: `uint8` of shape `(height, width, 3)`.
        size: side of the square, in pixels.
        fit: `crop` keeps the centre, `stretch` changes the aspect ratio, `pad` adds black bars.

    Returns:
        `uint8` of shape `(size, size, 3)`; shrunk by area averaging, enlarged bilinearly.
    """
    height, width = image.shape[:2]
    if fit == "stretch":
        return _scale(image, size, size)
    if fit == "crop":
        image = _middle(image, WIDEST * min(height, width))
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
    """Bring a photo to what a trained network takes.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.
        card: the content of the `model.json` beside the network: `fit`, `resize` and `size`.

    Returns:
        `uint8` of shape `(size, size, 3)`.
    """
    return centre(resize(image, size=card["resize"], fit=card["fit"]), card["size"])


def centre(images: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle out of squares, as a view.

    Args:
        images: `uint8` of shape `(..., side, side, 3)`.
        size: side of the result, at most `side`.
    """
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]


def release(images: np.ndarray) -> None:
    """Free the pages of a memory map; they are read again when they are needed.

    The pages count as this process's memory, as many of them as the machine has room for.

    Args:
        images: a memory map, or a view of one; what lies in memory stays as it is.
    """
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let OpenCV use a single thread while a pool of threads uses every core."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _middle(image: np.ndarray, longest: int) -> np.ndarray:
    """Cut the middle out of a panorama; scaled as a whole, a line of pixels would fill the memory."""
    top, left = (max(0, side - longest) // 2 for side in image.shape[:2])
    return image[top : top + longest, left : left + longest]


def _scale(image: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def perceptual_hash(image: np.ndarray) -> str:
    """Compute the perceptual hash (pHash): the signs of the lowest frequencies against their median.

    Args:
        image: `uint8` of shape `(height, width, 3)`, RGB.

    Returns:
        64 bits as 16 hexadecimal digits. Copies that were resized or compressed again differ in few
        bits. Source: http://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html
    """
    grey = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (4 * HASH_SIDE, 4 * HASH_SIDE), interpolation=cv2.INTER_AREA
    )
    low = cv2.dct(grey.astype(np.float32))[:HASH_SIDE, :HASH_SIDE]
    return np.packbits(low > np.median(low)).tobytes().hex()


def first_of_each(root: Path, table: pd.DataFrame, *, limit: int) -> list[tuple[str, np.ndarray]]:
    """Decode the first readable photo of each label.

    Args:
        root: the folder that the paths start at.
        table: columns `path` and `label`; rows without a label are passed over.
        limit: at most so many labels.

    Returns:
        Pairs of label and photo, `uint8` of shape `(256, 256, 3)`.
    """
    result: dict[str, np.ndarray] = {}
    for path, label in zip(table.path, table.label, strict=True):
        if label and label not in result and len(result) < limit:
            try:
                image, _ = decode((root / path).read_bytes(), side=256)
            # 02_clean gives it a row and a reason.
            except ValueError:
                continue
            result[label] = resize(image, size=256, fit="crop")
    return list(result.items())


def scan(
    root: Path, paths: list[str], *, content: str, folder: Path, size: int, fit: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read every file once: hash it, decode it, and keep it resized.

    Args:
        root: `raw/` in the folder of the source, which is locked meanwhile; the paths start there.
        paths: relative paths of the files, in the order of the result.
        content: what identifies the files' content, such as the `content_sha256` of the source.
        folder: keeps the result; a later call with the same arguments reads it back, unless it is damaged.
        size, fit: as `resize`.

    Returns:
        A table with the columns `path`, `sha1`, `phash`, `width`, `height` (upright, in pixels),
        `problem` (why the file is not a usable photo, else empty) and those of `quality.measure` (NaN if
        there is a problem); and the resized photos as a read-only `uint8` memory map of shape
        `(files, size, size, 3)`, black if there is a problem.

    Raises:
        ValueError: a file cannot be opened, or the disk is too full.
    """
    folder = folder / cache.fingerprint(content, paths, size, fit, cache.code(__name__))
    if not cache.is_intact(folder):
        with locks.source(root.parent):
            # Of processes that were killed: no other one scans now.
            for partial in folder.parent.glob(f".partial-*-{folder.name}"):
                files.remove(partial)
            cache.folder(folder, lambda partial: _scan(root, paths, partial, size=size, fit=fit))
    table = pd.read_csv(
        folder / "scan.csv",
        dtype={"path": str, "sha1": str, "phash": str, "problem": str},
        keep_default_na=False,
        na_values={column: [""] for column in quality.COLUMNS},
        encoding="utf-8",
    )
    return table, np.load(folder / "photos.npy", mmap_mode="r")


def _scan(root: Path, paths: list[str], folder: Path, *, size: int, fit: str) -> None:
    """Write `scan.csv` and `photos.npy` of the files into a folder."""
    rows = []
    pool = ThreadPoolExecutor(os.cpu_count())
    with single_thread(), (folder / "photos.npy").open("wb") as file, pool:
        cache.begin_array(file, (len(paths), size, size, 3), dtype=np.uint8)
        for start in range(0, len(paths), AT_ONCE):
            part = paths[start : start + AT_ONCE]
            for row, image in pool.map(lambda path: _read(root, path, size=size, fit=fit), part):
                rows.append(row)
                file.write(image.tobytes())
    table = pd.DataFrame(rows, columns=COLUMNS)
    # These line ends, so that "\r" in a name is quoted.
    table.to_csv(folder / "scan.csv", index=False, lineterminator="\r\n")


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
            "the rights of the file, then run this again"
        ) from None
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    try:
        image, (width, height) = decode(data, side=size)
    except ValueError as error:
        return unusable | {"sha1": sha1, "problem": " ".join(str(error).split())}, black
    row = {"path": path, "sha1": sha1, "phash": perceptual_hash(image), "width": width, "height": height}
    return row | {"problem": "", **quality.measure(image)}, resize(image, size=size, fit=fit)
