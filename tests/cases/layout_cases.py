"""Layouts and files that people really have, drawn anew: a generator for each, with its right reading."""

import itertools
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from shared import Drawing, encoded, scene


@dataclass(frozen=True)
class Case:
    """A source and its right reading.

    Attributes:
        draw: function that writes the files of the source.
        classes: number of photos of each class.
        layout: the pattern in the decision.
        splits: number of photos in each split that the source defines; `predict` for those without a label.
        notes: a part of each note.
        others: number of other files by kind.
        source: keys of the source.
    """

    draw: Callable[[Drawing], None]
    classes: dict[str, int]
    layout: str
    splits: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    others: dict[str, int] = field(default_factory=dict)
    source: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.draw.__name__


def put(raw: Drawing, *paths: str) -> None:
    """Write photos, each with pixels of its own."""
    for path in paths:
        codec = "PNG" if path.lower().endswith(".png") else "JPEG"
        raw.put(path, encoded(scene(zlib.crc32(path.encode()), 40, 32), codec))


def several(raw: Drawing, *levels: str | list[str], count: int = 3, name: str = "IMG_{}.jpg") -> None:
    """Write photos into the folders of all combinations of names."""
    places = [
        "/".join(parts) for parts in itertools.product(*([x] if isinstance(x, str) else x for x in levels))
    ]
    put(raw, *(f"{place}/{name.format(number)}" for place in places for number in range(count)))


SCENES = ["harbour", "meadow", "tunnel"]
THREE = dict.fromkeys(SCENES, 6)


def split_names_with_a_prefix_and_doubled_folders(raw):
    several(raw, "geo_train", "geo_train", SCENES)
    several(raw, "geo_test", "geo_test", SCENES)
    several(raw, "geo_pred", "geo_pred", count=5)


def training_and_testing(raw):
    several(raw, ["Training", "Testing"], SCENES)


def training_and_test_in_an_archive_folder(raw):
    several(raw, "archive (2)", ["Training", "Test"], SCENES)


def train_images_and_val_images(raw):
    several(raw, ["train_images", "val_images"], SCENES)


def classes_then_splits(raw):
    several(raw, SCENES, ["train", "test"])


def test_photos_in_a_dummy_folder(raw):
    several(raw, "train", SCENES, count=6)
    several(raw, "test/unknown", count=4)


def classes_called_like_splits(raw):
    several(raw, ["boat", "bus", "train"], count=6)


def valid_and_invalid_tickets(raw):
    several(raw, ["valid", "invalid"], count=6)


def class_folders_and_unlabelled(raw):
    several(raw, SCENES, count=6)
    several(raw, "Unlabelled", count=5)


def class_folders_and_a_flat_test(raw):
    several(raw, SCENES, count=6)
    several(raw, "test", count=5)


def loose_photos_beside_class_folders(raw):
    several(raw, SCENES, count=6)
    put(raw, "DSC_1.jpg", "DSC_2.jpg")


def photos_without_extension(raw):
    several(raw, ["harbour", "meadow"], count=6)
    several(raw, "tunnel", count=6, name="{:08x}")
    raw.put("tunnel/LICENSE", b"text")


def masks_among_the_photos(raw):
    several(raw, SCENES, count=6, name="scan ({}).png")
    several(raw, SCENES, count=6, name="scan ({})_mask.png")


def color_and_grayscale(raw):
    several(raw, "plants", ["color", "grayscale"], SCENES)


def original_and_augmented_in_each_split(raw):
    several(raw, ["train", "test"], ["original"], SCENES, count=2)
    several(raw, ["train"], ["augmented"], SCENES, count=2)


def an_archive_that_contains_itself(raw):
    several(raw, "scenes", SCENES)
    several(raw, "scenes/scenes", SCENES)


def photos_by_camera_below_the_classes(raw):
    several(raw, SCENES, ["canon", "iphone 12"])


def photos_by_date_below_the_classes(raw):
    several(raw, "harbour", ["2021-05-03", "2022-11"])
    several(raw, "meadow", ["2021", "2022-11-30"])
    several(raw, "tunnel", "20230117", count=6)


def parts_of_train(raw):
    several(raw, "big", ["train.X1", "train.X2"], SCENES, count=2)
    several(raw, "big/val.X", SCENES, count=2)


def val_lacks_a_class(raw):
    several(raw, "train", ["0", "90", "180"], count=6)
    several(raw, "val", ["0", "180", "270"], count=2)


def names_that_differ_by_case_and_space(raw):
    several(raw, ["Harbour", "harbour", "harbour ", "meadow"], count=6)


def rubbish_among_the_photos(raw):
    several(raw, SCENES, count=6)
    raw.put("harbour/Thumbs.db")
    raw.put("harbour/._IMG_1.jpg")
    raw.put(".git/objects/1.jpg")
    raw.put("node_modules/icon/1.png")
    os.mkfifo(raw.folder / "meadow/pipe.jpg")
    (raw.folder / "round").symlink_to(raw.folder)


def a_taxonomy_of_which_the_species_is_the_class(raw):
    several(raw, "water", "harbour", count=6)
    several(raw, "land", ["meadow", "tunnel"], count=6)


def folds_that_the_parameters_name(raw):
    several(raw, ["fold_1", "fold_2", "fold_3"], SCENES, count=2)


def thumbnails_that_the_parameters_ignore(raw):
    several(raw, SCENES, count=6)
    several(raw, SCENES, "thumbs", count=6, name="small_{}.jpg")


CASES = [
    Case(
        split_names_with_a_prefix_and_doubled_folders,
        THREE,
        "SPLIT/*/CLASS",
        {"train": 9, "test": 9, "predict": 5},
    ),
    Case(training_and_testing, THREE, "SPLIT/CLASS", {"train": 9, "test": 9}),
    Case(training_and_test_in_an_archive_folder, THREE, "*/SPLIT/CLASS", {"train": 9, "test": 9}),
    Case(train_images_and_val_images, THREE, "SPLIT/CLASS", {"train": 9, "val": 9}),
    Case(classes_then_splits, THREE, "CLASS/SPLIT", {"train": 9, "test": 9}),
    Case(test_photos_in_a_dummy_folder, THREE, "SPLIT/CLASS", {"train": 18, "predict": 4}),
    Case(
        classes_called_like_splits,
        {"boat": 6, "bus": 6, "train": 6},
        "CLASS",
        notes=("`train` is read as a class",),
    ),
    Case(valid_and_invalid_tickets, {"invalid": 6, "valid": 6}, "CLASS"),
    Case(class_folders_and_unlabelled, THREE, "CLASS", {"predict": 5}),
    Case(class_folders_and_a_flat_test, THREE, "CLASS", {"predict": 5}),
    Case(loose_photos_beside_class_folders, THREE, "CLASS", {"predict": 2}),
    Case(photos_without_extension, THREE, "CLASS", others={"no suffix": 1}),
    Case(
        masks_among_the_photos,
        dict.fromkeys(SCENES, 12),
        "CLASS",
        notes=("18 files pair up with photos, such as `scan (0)_mask.png` with `scan (0)`",),
    ),
    Case(masks_among_the_photos, THREE, "CLASS", others={"ignored": 18}, source={"ignore": ["*_mask.*"]}),
    Case(
        color_and_grayscale,
        THREE,
        "*/*/CLASS",
        notes=("`color`, `grayscale` contain the same class folders",),
    ),
    Case(
        color_and_grayscale,
        dict.fromkeys(SCENES, 3),
        "*/*/CLASS",
        source={"layout": "plants/color/CLASS"},
    ),
    Case(
        original_and_augmented_in_each_split,
        THREE,
        "SPLIT/*/CLASS",
        {"train": 12, "test": 6},
        notes=("variants",),
    ),
    Case(an_archive_that_contains_itself, THREE, "*/*/CLASS"),
    Case(photos_by_camera_below_the_classes, THREE, "CLASS"),
    Case(photos_by_date_below_the_classes, THREE, "CLASS"),
    Case(parts_of_train, THREE, "*/SPLIT/CLASS", {"train": 12, "val": 6}),
    Case(
        val_lacks_a_class,
        {"0": 8, "90": 6, "180": 8, "270": 2},
        "SPLIT/CLASS",
        {"train": 18, "val": 6},
        notes=("val has classes that train lacks, whose photos cannot be used: `270`",),
    ),
    Case(
        names_that_differ_by_case_and_space,
        {"Harbour": 6, "harbour": 6, "harbour ": 6, "meadow": 6},
        "CLASS",
        notes=("differ only by case, spaces",),
    ),
    Case(
        rubbish_among_the_photos,
        THREE,
        "CLASS",
        others={".db": 1, "hidden": 1, "hidden folder": 2, "device": 1, "link": 1},
    ),
    Case(a_taxonomy_of_which_the_species_is_the_class, THREE, "*/CLASS", source={"layout": "*/CLASS"}),
    Case(
        folds_that_the_parameters_name,
        THREE,
        "SPLIT/CLASS",
        {"train": 12, "test": 6},
        source={"splits": {"fold_[12]": "train", "fold_3": "test"}},
    ),
    Case(
        thumbnails_that_the_parameters_ignore,
        THREE,
        "CLASS",
        others={"ignored": 18},
        source={"ignore": ["thumbs"]},
    ),
]
