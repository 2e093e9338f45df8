"""The sample data set: deterministic, with the defects that it documents and a mask for each photo."""

import collections
import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from lib.download import sample, scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample")
    sample.write(path, seed=0, photos_per_class=8)
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photos(folder, pattern="raw/**/*.jpg"):
    """Map each readable photo to its decoded image and each unreadable one to None."""
    images = {}
    for path in sorted(Path(folder).glob(pattern)):
        try:
            images[path] = Image.open(path)
            images[path].load()
        except OSError:
            images[path] = None
    return images


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    sample.write(tmp_path / "new" / "folder", seed=0, photos_per_class=8)
    assert contents(tmp_path / "new" / "folder") == contents(folder)


def test_another_seed_gives_other_photos(folder, tmp_path):
    sample.write(tmp_path, seed=1, photos_per_class=8)
    mine = {path.read_bytes() for path in folder.rglob("*.jpg")}
    other = {path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    # The empty file and the text.
    assert len(mine & other) == 2


def test_a_photo_does_not_depend_on_how_many_others_there_are(folder, tmp_path):
    sample.write(tmp_path, seed=0, photos_per_class=9)
    mine = {path.read_bytes() for path in folder.rglob("raw/test/*.jpg")}
    assert mine == {path.read_bytes() for path in tmp_path.rglob("raw/test/*.jpg")}


def test_classes_are_unequal(folder):
    counts = [len(list(path.glob("*.jpg"))) for path in (folder / "raw" / "train").iterdir()]
    assert len(counts) == 8
    assert min(counts) < 0.75 * max(counts)
    assert sum(counts) == 8 + 7 + 7 + 6 + 6 + 5 + 5 + 4 + 3 + 4 + 1 + 2


def test_exact_duplicates_and_one_photo_under_two_labels(folder):
    places = collections.defaultdict(list)
    for path in folder.glob("raw/**/*.jpg"):
        places[hashlib.sha1(path.read_bytes()).hexdigest()].append(path.parent.name)
    groups = [classes for classes in places.values() if len(classes) > 1]
    assert sorted(len(classes) for classes in groups) == [2, 2, 2, 2]
    assert sorted(len(set(classes)) for classes in groups) == [1, 1, 1, 2]


def test_near_duplicates_look_like_a_larger_photo_of_their_class(folder):
    readable = {path: image for path, image in photos(folder, "raw/train/*/*.jpg").items() if image}
    coarse = max(sum(image.quantization[0]) for image in readable.values())
    small = [path for path, image in readable.items() if sum(image.quantization[0]) == coarse]
    assert len(small) == 4
    for path in small:
        assert all(136 <= side <= 187 for side in readable[path].size)
        others = [other for other in path.parent.glob("*.jpg") if other in readable and other != path]
        assert min(difference(readable[path], readable[other]) for other in others) < 6


def difference(one, other):
    pixels = [np.asarray(image.convert("L").resize((32, 32)), float) for image in (one, other)]
    return np.abs(pixels[0] - pixels[1]).mean()


def test_three_files_are_unreadable(folder):
    broken = [path for path, image in photos(folder).items() if image is None]
    starts = sorted(path.read_bytes()[:3] for path in broken)
    # An empty file, a text, the beginning of a JPEG.
    assert starts == [b"", b"<ht", b"\xff\xd8\xff"]


def test_one_greyscale_one_cmyk_and_one_rotated_photo(folder):
    readable = [image for image in photos(folder).values() if image]
    modes = collections.Counter(image.mode for image in readable)
    assert (modes["L"], modes["CMYK"], set(modes)) == (1, 1, {"L", "CMYK", "RGB"})
    orientations = [image.getexif().get(ExifTags.Base.Orientation, 1) for image in readable]
    assert sorted(orientations)[-2:] == [1, 6]


def test_a_rotated_photo_is_upright_after_its_orientation_is_applied():
    image = np.zeros((20, 40, 3), np.uint8)
    # The upper half is white.
    image[:10] = 255
    stored = Image.open(io.BytesIO(sample.encode(image, rotated=True)))
    assert stored.size == (20, 40)
    upright = np.asarray(ImageOps.exif_transpose(stored))
    assert upright.shape == (20, 40, 3)
    assert upright[:8].mean() > 250 and upright[12:].mean() < 5


def test_each_readable_photo_has_a_mask_of_its_upright_size(folder):
    readable = {path: image for path, image in photos(folder).items() if image}
    assert {path.stem for path in readable} == {path.stem for path in (folder / "masks").iterdir()}
    for path, image in readable.items():
        mask = Image.open(folder / "masks" / f"{path.stem}.png")
        assert mask.mode == "1"
        assert mask.size == ImageOps.exif_transpose(image).size
        assert 0.01 < np.asarray(mask).mean() < 0.7, path.name


def test_unlabelled_photos_have_their_species_beside_raw(folder):
    names = sorted(path.name for path in (folder / "raw" / "test").iterdir())
    rows = list(csv.DictReader((folder / "test_labels.csv").open()))
    assert [row["filename"] for row in rows] == names
    assert len(names) == 24
    assert len({row["label"] for row in rows}) > 3
    assert {row["label"] for row in rows} <= {path.name for path in (folder / "raw" / "train").iterdir()}


def test_names_are_used_once_and_tell_nothing_of_the_class(folder):
    stems = [path.stem for path in folder.glob("raw/**/*.jpg")]
    assert sorted(stems) == [f"photo_{number + 1:04d}" for number in range(len(stems))]
    first = sorted((path.stem, path.parent.name) for path in folder.glob("raw/train/*/*.jpg"))[:10]
    assert len({species for _, species in first}) > 2


def test_a_mask_fits_the_photo_of_its_duplicates(folder):
    """The mask of an exact duplicate is that of its original; a near-duplicate's is reduced with it."""
    masks = collections.defaultdict(set)
    for path, image in photos(folder, "raw/train/*/*.jpg").items():
        if image:
            content = hashlib.sha1(path.read_bytes()).hexdigest()
            masks[content].add((folder / "masks" / f"{path.stem}.png").read_bytes())
    assert {len(each) for each in masks.values()} == {1}


@pytest.mark.parametrize("seed", range(5))
def test_the_photo_with_two_labels_has_those_of_neighbours(tmp_path, monkeypatch, seed):
    def noise(species, catalogue, *, random):
        return random.integers(0, 256, (16, 16, 3), np.uint8), np.ones((16, 16), bool)

    monkeypatch.setattr(scenes, "draw_photo", noise)
    sample.write(tmp_path, seed=seed, photos_per_class=8)
    labels = sorted(path.name for path in (tmp_path / "raw" / "train").iterdir())
    places = collections.defaultdict(set)
    for path in tmp_path.glob("raw/train/*/*.jpg"):
        places[path.read_bytes()].add(labels.index(path.parent.name))
    (first, second), *others = [sorted(ranks) for ranks in places.values() if len(ranks) > 1]
    assert second - first in (1, len(labels) - 1)
    assert not others


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`seed` must be 0 or more. Received: -1"):
        sample.write(tmp_path, seed=-1, photos_per_class=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("photos_per_class", [7, 0, -1])
def test_too_few_photos_are_refused(tmp_path, photos_per_class):
    with pytest.raises(ValueError, match=f"8 or more.*Received: {photos_per_class}"):
        sample.write(tmp_path, seed=0, photos_per_class=photos_per_class)
    assert not list(tmp_path.iterdir())
