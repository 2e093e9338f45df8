"""Decode each photo once, to upright 8-bit RGB, and cache it resized.

Photos are decoded with Pillow, because OpenCV accepts a truncated JPEG and TensorFlow supports fewer formats.
They are resized with OpenCV, by area averaging if they shrink.
"""

import contextlib
import errno
import functools
import hashlib
import mmap
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageFile, ImageOps

from lib.core import cache, files, locks, tables
from lib.photos import colours, formats, quality

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
# Minimum number of levels of an image of more than 8 bits; with fewer, it is black to the eye.
FEWEST_LEVELS = 8
# Number of values of 16 bits.
VALUES = 2**16
# Side of the perceptual hash, in bits.
HASH_SIDE = 8
COLUMNS = ["path", "sha1", "phash", "width", "height", "maximum", "problem", "note", *quality.COLUMNS]

_large_photo_lock = threading.Lock()


class Decoded(NamedTuple):
    """A decoded photo.

    Attributes:
        pixels: `uint8` of shape `(height, width, 3)`, upright, sRGB.
        size: `(width, height)` of the upright photo at full size.
        maximum: largest value of an image with more than 8 bits, up to 65,535; 0 for other images.
        note: what was ignored or clipped, as text; empty if nothing was.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    maximum: int
    note: str


def decode(
    data: bytes, *, side: int | None = None, bit_depth: int | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a photo; return the pixels and the size of the result of `read`, which has the arguments."""
    return read(data, side=side, bit_depth=bit_depth)[:2]


def read(data: bytes, *, side: int | None = None, bit_depth: int | None = None) -> Decoded:
    """Decode a photo.

    The EXIF orientation and the colour profile are applied, the first frame of an animation is decoded, and
    transparency is composited on white.

    Args:
        data: the bytes of the file, in a format of `formats.READ`, whatever its name.
        side: side in pixels that the photo will be resized to; if `None`, the photo is decoded at full size.
            A JPEG that is more than twice as large as both `side` and `quality.SIDE` is decoded at 1/2, 1/4
            or 1/8 of its size, which is faster.
        bit_depth: bit depth of images with more than 8 bits, 8 to 16: the value `2**bit_depth - 1` becomes
            255, and larger values too. If `None`, it is the bit depth of the image's largest value.

    Raises:
        ValueError: if the photo cannot be decoded; the message is the reason.
    """
    try:
        with formats.open_image(data) as image:
            width, height = image.size
            if side:
                minimum = 2 * max(side, quality.SIDE)
                image.draft(None, (minimum, minimum))
            decoded = image.size[0] * image.size[1]
            if decoded > formats.LARGEST_DECODED:
                raise formats.Unusable(f"{width} x {height} pixels are too many to decode at full size")
            # A progressive JPEG is decoded at its full size first.
            many = (width * height if image.info.get("progressive") else decoded) > MANY_PIXELS
            with _large_photo_lock if many else contextlib.nullcontext():
                pixels, swapped, maximum, note = _decode(image, data, bit_depth=bit_depth)
    except formats.Unusable as error:
        raise ValueError(str(error)) from None
    # Pillow raises almost any error when a file is damaged.
    except Exception as error:
        _refuse_damaged(error)
    return Decoded(pixels, (height, width) if swapped else (width, height), maximum, note)


def _decode(image: Image.Image, data: bytes, *, bit_depth: int | None) -> tuple[np.ndarray, bool, int, str]:
    """Decode an open image; return also whether its sides are swapped, its maximum and a note."""
    # Before `getexif`, which loads the pixels of a PNG.
    is_wide = _is_wide(image)
    orientation = image.getexif().get(ORIENTATION, 1)
    profile = image.info.get("icc_profile")
    # Pillow returns the upright size of a TIFF, and rotates it when its pixels are loaded.
    is_tiff = image.format == "TIFF"
    if image.format == "HEIF" and image.mode.startswith("I"):
        # The package has scaled grey images of 10 and 12 bits to 16.
        image, is_wide = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)), False
    values, maximum, notes = _values(image, data) if is_wide else None, 0, []
    if values is not None:
        is_upright = is_tiff and image.mode.startswith("I")
        # Without the transparency of RGBA.
        maximum = int(np.atleast_3d(values)[..., :3].max())
        notes.append(_clipping(maximum, bit_depth))
        image = Image.fromarray(_narrow(values, bit_depth or max(8, maximum.bit_length())))
        if not is_upright:
            image.getexif()[ORIENTATION] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    rgb, note = _to_rgb(image, profile)
    pixels = np.asarray(rgb)
    return (
        pixels,
        orientation in (5, 6, 7, 8) and not is_tiff,
        maximum,
        "; ".join(filter(None, [*notes, note])),
    )


def _is_wide(image: Image.Image) -> bool:
    """Return whether an image whose pixels are not loaded has channels of more than 8 bits."""
    tile = image.tile[:1] if isinstance(image, ImageFile.ImageFile) else []
    has_colours = any(re.match(r"\W*(RGB|LA)\w*;16", str(entry.args)) for entry in tile)
    return image.mode == "F" or image.mode.startswith("I") or has_colours


def _values(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Return the values of a wide image, `uint16`, grey, RGB or RGBA; None if they cannot be read."""
    if image.mode == "F":
        raise formats.Unusable("floating-point pixels have no agreed range: save the photo with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= VALUES:
            raise formats.Unusable(
                "negative or 32-bit pixels have no agreed range: save the photo with 8 or 16 bits"
            )
        return values.astype(np.uint16)
    # OpenCV accepts truncated files, but Pillow keeps only 8 of the 16 bits of colours.
    image.load()
    stored: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3:
        return None
    return cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA if stored.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _clipping(maximum: int, bit_depth: int | None) -> str:
    """Return a note if values exceed a bit depth; refuse an image that would be black."""
    if bit_depth is None:
        return ""
    if _levels(bit_depth)[maximum] < FEWEST_LEVELS:
        raise formats.Unusable(
            f"its values, up to {maximum:,}, are black at the bit depth of the source, {bit_depth}: set "
            "`model.bit_depth`, or save the photo with 8 bits"
        )
    return f"values of more than {bit_depth} bits were clipped" if maximum >= 2**bit_depth else ""


@functools.cache
def _levels(bit_depth: int) -> np.ndarray:
    """Return the level of each value of 16 bits, `uint8` of shape `(65536,)`, rounded."""
    top = 2**bit_depth - 1
    return ((np.minimum(np.arange(VALUES), top) * 255 + top // 2) // top).astype(np.uint8)


def _narrow(values: np.ndarray, bit_depth: int) -> np.ndarray:
    """Scale `uint16` values to `uint8`. Transparency, the fourth channel, always has 16 bits."""
    result = _levels(bit_depth)[values]
    if values.shape[2:] == (4,):
        result[..., 3] = _levels(16)[values[..., 3]]
    return result


def _to_rgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Convert an 8-bit image of any mode to sRGB, composited on white; return also a note."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    note = ""
    if profile:
        image, note = colours.to_srgb(image, profile)
    if alpha is not None:
        image = image.convert("RGBA")
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB"), note


def _refuse_damaged(error: Exception) -> NoReturn:
    """Raise the reason that a file cannot be decoded. Unlike returned texts, it is in no key of a cache."""
    if isinstance(error, Image.UnidentifiedImageError):
        # Its message contains an address in memory.
        raise ValueError(
            "damaged: its header cannot be read, or its kind of pixels is not supported"
        ) from None
    raise ValueError(f"damaged: {str(error).strip() or type(error).__name__}") from None


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
                image, _ = decode(files.read_bytes(root / path), side=256)
            # 02_clean lists the file with the reason.
            except (OSError, ValueError):
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
    bit_depth: int | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read every file once: hash it, decode it, measure its quality and cache it resized.

    Images with more than 8 bits are scaled to 8 bits by the same bit depth, the result of
    `common_bit_depth`, and are decoded twice if it is not given.

    Args:
        root: `raw/` in the folder of the source, which is locked during the scan.
        paths: paths of the files relative to `root`, in the order of the result.
        content: identifier of the files' content, such as the `content_sha256` of the source.
        folder: folder of the cache; a later call with the same arguments loads the result, unless it is
            damaged.
        size, fit: see `resize`.
        bit_depth: bit depth of images with more than 8 bits; if `None`, that of their largest value.

    Returns:
        A table with the columns `path`, `sha1`, `phash`, `width`, `height` (upright, in pixels), `maximum`
        and `note` (see `Decoded`), `problem` (the reason that the file is not a usable photo, else empty) and
        those of `quality.measure` (NaN if the file has a problem); and the resized photos as a read-only
        `uint8` memory map of shape `(files, size, size, 3)`, black if the file has a problem.

    Raises:
        ValueError: if a file cannot be opened, or the disk is too full.
    """
    folder = folder / cache.fingerprint(content, paths, size, fit, bit_depth, cache.code(__name__))
    if not cache.is_intact(folder):
        with locks.source(root.parent):
            # Left by processes that were killed: while the lock is held, no other process scans.
            for partial in folder.parent.glob(f".partial-*-{folder.name}"):
                files.remove(partial)
            cache.folder(
                folder, lambda partial: _scan(root, paths, partial, size=size, fit=fit, bit_depth=bit_depth)
            )
    table = tables.read(
        folder / "scan.csv",
        dtype={"path": str, "sha1": str, "phash": str, "problem": str, "note": str},
        na_values={column: [""] for column in quality.COLUMNS},
    )
    return table, np.load(folder / "photos.npy", mmap_mode="r")


def common_bit_depth(table: pd.DataFrame) -> int | None:
    """Return the bit depth, 8 to 16, of the largest value of all images of a scan with more than 8 bits.

    Images of 12 bits in a file of 16 bits are therefore not black, and keep their differences in brightness.
    If there are no such images, return None.
    """
    maximum = int(table.maximum.max()) if len(table) else 0
    return max(8, maximum.bit_length()) if maximum else None


def _scan(root: Path, paths: list[str], folder: Path, *, size: int, fit: str, bit_depth: int | None) -> None:
    """Write `scan.csv` and `photos.npy` of the files into a folder."""
    # The folder of a data set that is attached on Kaggle is a link.
    root = root.resolve()
    with single_thread(), (folder / "photos.npy").open("wb") as file:
        cache.begin_array(file, (len(paths), size, size, 3), dtype=np.uint8)
        start = file.tell()
        rows = []
        for row, image in _read_all(root, paths, size=size, fit=fit, bit_depth=bit_depth):
            rows.append(row)
            file.write(image.tobytes())
        table = pd.DataFrame(rows, columns=COLUMNS)
        # The largest value is known only when all files have been read.
        again = [] if bit_depth else np.flatnonzero(table.maximum).tolist()
        common = common_bit_depth(table)
        second = _read_all(root, [paths[number] for number in again], size=size, fit=fit, bit_depth=common)
        for number, (row, image) in zip(again, second, strict=True):
            rows[number] = row
            file.seek(start + number * image.nbytes)
            file.write(image.tobytes())
    tables.write(pd.DataFrame(rows, columns=COLUMNS), folder / "scan.csv")


def _read_all(
    root: Path, paths: list[str], *, size: int, fit: str, bit_depth: int | None
) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Read files in parallel, `AT_ONCE` at a time, and yield their rows and resized photos in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            batch = paths[start : start + AT_ONCE]
            yield from pool.map(
                lambda path: _read(root, path, size=size, fit=fit, bit_depth=bit_depth), batch
            )


def _is_inside(root: Path, path: str) -> bool:
    """Return whether a file exists, without links below the root: they can lead out of the source."""
    try:
        return (root / path).resolve(strict=True) == root / path
    except OSError as error:
        # The caller reports other errors.
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def _read(
    root: Path, path: str, *, size: int, fit: str, bit_depth: int | None
) -> tuple[dict[str, object], np.ndarray]:
    """Return the row of a file and its resized photo."""
    row: dict[str, object] = {"path": path, "phash": "", "width": 0, "height": 0, "maximum": 0, "note": ""}
    black = np.zeros((size, size, 3), np.uint8)
    file = root / path
    if not _is_inside(root, path):
        return row | {"sha1": "", "problem": MISSING}, black
    try:
        if files.regular_size(file) > LARGEST_BYTES:
            problem = f"the file has more than {LARGEST_BYTES / 1e9:g} GB"
            with file.open("rb") as opened:
                row["sha1"] = hashlib.file_digest(opened, "sha1").hexdigest()
            return row | {"problem": problem}, black
        data = files.read_bytes(file)
    except OSError as error:
        raise ValueError(
            f"expected to read {path}, as 01_download did. Received: {error.strerror}. Check the disk and "
            "the permissions of the file, then run this again"
        ) from None
    row["sha1"] = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    try:
        photo = read(data, side=size, bit_depth=bit_depth)
    except ValueError as error:
        return row | {"problem": " ".join(str(error).split())}, black
    width, height = photo.size
    row |= {"width": width, "height": height, "maximum": photo.maximum, "note": photo.note}
    row |= {"phash": perceptual_hash(photo.pixels), "problem": "", **quality.measure(photo.pixels)}
    return row, resize(photo.pixels, size=size, fit=fit)
