"""Draw the sample data set: butterflies of eight invented species, with the defects of real data sets.

It needs neither network access nor an account. The photos are difficult, as real photos are: species have
similar colours, backgrounds are independent of the species, and leaves cover parts of wings. Some labelled
photos, which depend on the seed, have defects:

- 3 exact duplicates in the same class and 1 photo in two classes: the same bytes with another name;
- 4 near-duplicates: resized, re-compressed copies in the same class;
- 3 unreadable files: a truncated JPEG, an empty file and an HTML page named .jpg;
- 1 greyscale JPEG, 1 CMYK JPEG, and 1 JPEG that is stored rotated, with EXIF orientation 6;
- classes of unequal size: `photos_per_class` photos in the first, half as many in the last, evenly between.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from lib.download import scenes, species
from lib.download.species import Catalogue

UNLABELLED = 24
# Second elements of the seeds of two random generators. For a photo, it is the index of its class.
DEFECTS_STREAM, NAMES_STREAM = 100, 101


class Defect(Enum):
    """The defects of labelled photos. A photo with a duplicate has a second file."""

    EXACT_DUPLICATE = auto()
    NEAR_DUPLICATE = auto()
    TWO_LABELS = auto()
    TRUNCATED = auto()
    GREYSCALE = auto()
    CMYK = auto()
    ROTATED = auto()


DEFECTS = (
    *(Defect.EXACT_DUPLICATE,) * 3,
    *(Defect.NEAR_DUPLICATE,) * 4,
    Defect.TWO_LABELS,
    Defect.TRUNCATED,
    Defect.GREYSCALE,
    Defect.CMYK,
    Defect.ROTATED,
)
UNREADABLE = (b"", b"<html>404 Not Found</html>\n")


@dataclass(frozen=True)
class File:
    """A file of the data set.

    Attributes:
        label: the species.
        labelled: whether the label is part of the data set; else the file is a photo to predict.
        data: the content.
        mask: `bool` of shape `(height, width)`, true for the pixels in which the butterfly is visible; None
            if the file is unreadable.
    """

    label: str
    labelled: bool
    data: bytes
    mask: np.ndarray | None


def write(folder: Path, *, seed: int, photos_per_class: int) -> None:
    """Write the sample data set to a folder. It is byte-identical for the same arguments.

    The folder then contains:

    - `raw/train/<species>/`: labelled photos, with the defects listed above;
    - `raw/test/`: 24 photos without a label;
    - `test_labels.csv`: the species of the photos in `raw/test/`, `filename,label`;
    - `masks/`: a 1-bit PNG for each readable photo, `<stem>.png` in its upright size, white for the pixels in
      which the butterfly is visible.

    Photos are JPEGs with sides of 160 to 220 pixels (near-duplicates: 136 to 187). Their names are
    `photo_<number>.jpg`, with unique numbers.

    Args:
        folder: the folder, created if it does not exist. Other files in it are not removed.
        seed: 0 or more. A photo depends on the seed, on the species and on its number in the species.
        photos_per_class: number of photos of the first species, 8 or more; the last species has half as many.

    Raises:
        ValueError: if `photos_per_class` is below 8, or `seed` below 0.
    """
    if photos_per_class < 8:
        raise ValueError(f"`photos_per_class` must be 8 or more. Received: {photos_per_class}")
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more. Received: {seed}")
    files = list(_files(species.load(), seed=seed, photos_per_class=photos_per_class))
    numbers = np.random.default_rng([seed, NAMES_STREAM]).permutation(len(files)).tolist()
    rows = ["filename,label\n"]
    for number, file in sorted(zip(numbers, files, strict=True), key=itemgetter(0)):
        name = f"photo_{number + 1:04d}"
        _write_file(file, folder, name=name)
        if not file.labelled:
            rows.append(f"{name}.jpg,{file.label}\n")
    (folder / "test_labels.csv").write_text("".join(rows), encoding="utf-8", newline="\n")


def encode(image: np.ndarray, *, mode: str = "RGB", quality: int = 90, rotated: bool = False) -> bytes:
    """Encode a photo as JPEG.

    Args:
        image: `uint8` RGB of shape `(height, width, 3)`.
        mode: image mode of Pillow: RGB, CMYK or L (greyscale).
        quality: JPEG quality, 1 to 95.
        rotated: whether to rotate the pixels by 90 degrees, and set the EXIF orientation that corrects it.
    """
    picture, exif, buffer = Image.fromarray(image).convert(mode), Image.Exif(), io.BytesIO()
    if rotated:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[ExifTags.Base.Orientation] = 6
    picture.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def _write_file(file: File, folder: Path, *, name: str) -> None:
    photos = folder / "raw" / (f"train/{file.label}" if file.labelled else "test")
    for directory in (photos, folder / "masks"):
        directory.mkdir(parents=True, exist_ok=True)
    (photos / f"{name}.jpg").write_bytes(file.data)
    if file.mask is not None:
        Image.fromarray(file.mask).save(folder / "masks" / f"{name}.png")


def _files(catalogue: Catalogue, *, seed: int, photos_per_class: int) -> Iterator[File]:
    """Draw the files of the data set: labelled photos with their defects, unlabelled photos, other files."""
    labels = list(catalogue.species)
    counts = np.linspace(photos_per_class, photos_per_class / 2, len(labels)).round().astype(int)
    photos = [(index, number) for index, count in enumerate(counts) for number in range(count)]
    order = np.random.default_rng([seed, DEFECTS_STREAM]).permutation(len(photos))
    shuffled = [photos[position] for position in order]
    defects = dict(zip(shuffled, DEFECTS, strict=False))
    for index, number in photos:
        random = np.random.default_rng([seed, index, number])
        image, mask = scenes.draw_photo(catalogue.species[labels[index]], catalogue, random=random)
        defect = defects.get((index, number))
        yield from _labelled_files(
            image, mask, label=labels[index], other_label=labels[index - 1], defect=defect
        )
    yield from _unlabelled_files(catalogue, seed)
    for (index, _), data in zip(shuffled, UNREADABLE, strict=False):
        yield File(labels[index], labelled=True, data=data, mask=None)


def _labelled_files(
    image: np.ndarray, mask: np.ndarray, *, label: str, other_label: str, defect: Defect | None
) -> list[File]:
    """Return the file of a labelled photo with its defect, and its duplicate if that is the defect."""
    photo = File(label, labelled=True, data=encode(image), mask=mask)
    match defect:
        case Defect.EXACT_DUPLICATE:
            return [photo, photo]
        case Defect.NEAR_DUPLICATE:
            smaller, smaller_mask = (
                cv2.resize(array, None, fx=0.85, fy=0.85) for array in (image, mask.astype(np.uint8))
            )
            return [photo, replace(photo, data=encode(smaller, quality=60), mask=smaller_mask > 0)]
        case Defect.TWO_LABELS:
            return [photo, replace(photo, label=other_label)]
        case Defect.TRUNCATED:
            return [replace(photo, data=photo.data[:2000], mask=None)]
        case Defect.GREYSCALE:
            return [replace(photo, data=encode(image, mode="L"))]
        case Defect.CMYK:
            return [replace(photo, data=encode(image, mode="CMYK"))]
        case Defect.ROTATED:
            return [replace(photo, data=encode(image, rotated=True))]
    return [photo]


def _unlabelled_files(catalogue: Catalogue, seed: int) -> Iterator[File]:
    """Draw the photos without a label, of random species."""
    labels = list(catalogue.species)
    for number in range(UNLABELLED):
        random = np.random.default_rng([seed, len(labels), number])
        label = labels[random.integers(len(labels))]
        image, mask = scenes.draw_photo(catalogue.species[label], catalogue, random=random)
        yield File(label, labelled=False, data=encode(image), mask=mask)
