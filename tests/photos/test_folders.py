"""Folder levels: the class and the split, decided from all paths together."""

import itertools

import numpy as np
import pytest

from lib.photos import folders

CLASSES = ("cat", "dog", "owl")


def photos(*places, count=3, name="{}"):
    """Return paths of photos in folders."""
    return [f"{place}/{name.format(number)}.jpg" for place in places for number in range(count)]


def every(*levels):
    """Return the folders of all combinations of names."""
    return ["/".join(parts) for parts in itertools.product(*levels)]


def decide(paths, splits=None, unlabelled=None):
    return folders.Decision(paths, splits=splits, unlabelled=unlabelled)


def read(paths, **keys):
    """Return (pattern, label, split) of each folder of photos; the pattern is empty without a label."""
    decision = decide(paths, **keys)
    roles = {path.rpartition("/")[0]: decision.of(path) for path in paths}
    return {place: (role.pattern, role.label, role.split) for place, role in roles.items()}


@pytest.mark.parametrize(
    ("places", "pattern"),
    [
        (CLASSES, "CLASS"),
        (every(["archive"], ["images"], CLASSES), "*/*/CLASS"),
        (every(["Training", "Testing"], CLASSES), "SPLIT/CLASS"),
        (every(["training", "validation"], CLASSES), "SPLIT/CLASS"),
        (every(["train", "eval"], CLASSES), "SPLIT/CLASS"),
        (every(["tr", "te"], CLASSES), "SPLIT/CLASS"),
        (every(["images_train", "images_val"], CLASSES), "SPLIT/CLASS"),
        (every(["birds_train", "birds_holdout"], CLASSES), "SPLIT/CLASS"),
        (every(["Train_Original", "Test_Final"], CLASSES), "SPLIT/CLASS"),
        (every(["train"], CLASSES), "SPLIT/CLASS"),
        (every(["x"], ["train.X1", "train.X2", "val.X"], ["n01629819", "n01644900"]), "*/SPLIT/CLASS"),
        (
            every(["seg_train"], ["seg_train"], CLASSES) + every(["seg_test"], ["seg_test"], CLASSES),
            "SPLIT/*/CLASS",
        ),
        (every(["train", "test"], ["images"], CLASSES), "SPLIT/*/CLASS"),
        (every(CLASSES, ["train", "test"]), "CLASS/SPLIT"),
        (["cat/cat_train", "cat/cat_test", "dog/dog_train", "dog/dog_test"], "CLASS/SPLIT"),
        (
            ["nut/train/good", "nut/test/good", "nut/test/bent", "pin/train/good", "pin/test/cut"],
            "CLASS/SPLIT",
        ),
        (every(["color", "grayscale"], CLASSES), "*/CLASS"),
        (every(["original", "augmented"], CLASSES), "*/CLASS"),
        (every(["40X", "100X"], CLASSES), "*/CLASS"),
        (every(["fold1", "fold2", "fold3"], CLASSES), "*/CLASS"),
        (every(["color", "gray"], ["train", "test"], CLASSES), "*/SPLIT/CLASS"),
        (every(["train", "test"], ["color", "gray"], CLASSES), "SPLIT/*/CLASS"),
        (["2022/cat", "2022/dog", "2023/owl"], "*/CLASS"),
        (every([str(number) for number in range(8000, 8060, 7)], ["0", "1"]), "*/CLASS"),
        (every(["studio", "garden"], [f"species {letter}" for letter in "abcdef"]), "*/CLASS"),
        (every(CLASSES, ["canon", "nikon"]), "CLASS"),
        (every(CLASSES, ["front", "back"]), "CLASS"),
        (["cat/2023-01", "cat/2023-02", "dog/2024-01"], "CLASS"),
        (["ill/patient01", "ill/patient02", "well/patient03", "well/patient04"], "CLASS"),
        (["ill/17", "ill/23", "well/41", "well/5"], "CLASS"),
        (every(CLASSES, ["leaf 1", "leaf 2"]), "CLASS"),
        (every(["site1", "site2"], ["cam1", "cam2"], CLASSES), "*/*/CLASS"),
        (every(["2023", "2024"], CLASSES, ["cam1", "cam2"]), "*/CLASS"),
        (every(["shelf 1", "shelf 2"], CLASSES), "*/CLASS"),
        (["cat", "dog/pug", "dog/boxer", "owl"], "CLASS"),
        (every(CLASSES, ["images"]), "CLASS"),
        (every(["valid", "invalid"]), "CLASS"),
        (every(["known", "unknown"]), "CLASS"),
        (["bus", "car", "train"], "CLASS"),
        (every(["bus", "car", "train"], ["2023", "2024"]), "CLASS"),
        (["train station", "test tube", "bus stop"], "CLASS"),
        (every(["train", "val"], [str(number) for number in range(10)]), "SPLIT/CLASS"),
        (every(["train", "test"], [*CLASSES, "unknown"]), "SPLIT/CLASS"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:4]),
)
def test_the_level_of_classes_and_splits(places, pattern):
    found = read(photos(*places))
    assert {pattern for pattern, _, _ in found.values()} == {pattern}
    parts = pattern.split("/")
    for place, (_, label, split) in found.items():
        assert label == place.split("/")[parts.index("CLASS")]
        assert bool(split) == ("SPLIT" in parts)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "dev", "eval"], ["train", "val", "test"]),
        (["train", "val", "eval", "test"], ["train", "val", "val", "test"]),
        (["trainset", "valset", "testset"], ["train", "val", "test"]),
        (["TRAIN", "Valid", "Hold-Out"], ["train", "val", "test"]),
    ],
)
def test_the_split_of_each_folder(names, splits):
    found = read(photos(*every(names, CLASSES)))
    assert [found[f"{name}/cat"][2] for name in names] == splits


@pytest.mark.parametrize(
    ("places", "predicted"),
    [
        ([*every(["train"], CLASSES), "test"], ["test"]),
        ([*every(["train"], CLASSES), "test/unknown"], ["test/unknown"]),
        ([*every(["train"], CLASSES), "test/test"], ["test/test"]),
        ([*every(["train"], CLASSES), "test/dummy_class"], ["test/dummy_class"]),
        ([*every(["train", "test"], CLASSES), "train/unlabelled"], ["train/unlabelled"]),
        ([*every(["train", "test"], CLASSES), "unsorted/new"], ["unsorted/new"]),
        ([*every(["seg_train", "seg_test"], CLASSES), "seg_pred/seg_pred"], ["seg_pred/seg_pred"]),
        ([*every(["asl_train"], ["asl_train"], "ABC"), "asl_test/asl_test"], ["asl_test/asl_test"]),
        ([*CLASSES, "unlabelled"], ["unlabelled"]),
        ([*CLASSES, "Unlabeled images/2023"], ["Unlabeled images/2023"]),
        ([*CLASSES, "unknown", "to predict"], ["unknown", "to predict"]),
        ([*CLASSES, "test"], ["test"]),
        ([*CLASSES, "new photos/to predict"], ["new photos/to predict"]),
        ([*every(["train", "test"], CLASSES), "test_unlabelled"], ["test_unlabelled"]),
        ([*every(["photos"], CLASSES), "todo"], ["todo"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_photos_without_labels(places, predicted):
    found = read(photos(*places))
    assert [place for place, (_, label, _) in found.items() if not label] == predicted


def test_a_folder_that_repeats_the_folders_beside_it_is_read_as_the_same_classes():
    for outer, inner in (("flowers/", "flowers/flowers/"), ("", "brain_dataset/")):
        found = read(photos(*(outer + name for name in CLASSES), *(inner + name for name in CLASSES)))
        assert sorted({label for _, label, _ in found.values()}) == list(CLASSES)
    found = read(photos(*every(["chest", "chest/chest"], ["train", "test"], CLASSES)))
    assert {split for _, _, split in found.values()} == {"train", "test"}
    assert {label for _, label, _ in found.values()} == set(CLASSES)


def test_a_test_folder_with_the_classes_beside_it():
    found = read(photos(*CLASSES, *every(["test"], CLASSES)))
    assert found["cat"] == ("CLASS", "cat", "") and found["test/cat"] == ("SPLIT/CLASS", "cat", "test")


@pytest.mark.parametrize(
    ("places", "readings"),
    [
        (
            ["mammals/cat", "mammals/dog", "birds/owl", "birds/hawk"],
            [
                "`CLASS`: 2 classes (`mammals`, `birds`) of 12 photos",
                "`*/CLASS`: 4 classes (`cat`, `dog`, `owl`",
            ],
        ),
        (
            [
                "a/felidae/cat",
                "a/felidae/lion",
                "a/canidae/dog",
                "b/rosa/rose",
                "b/rosa/canina",
                "b/poa/grass",
            ],
            ["`CLASS`: 2 classes", "`*/CLASS`: 4 classes", "`*/*/CLASS`: 6 classes"],
        ),
        (every(CLASSES, ["one", "two"]), ["`CLASS`: 3 classes", "`*/CLASS`: 2 classes (`one`, `two`)"]),
        (every(["ill", "well"], ["1", "2", "3"]), ["`CLASS`: 2 classes", "`*/CLASS`: 3 classes"]),
        ([*CLASSES, *every(["train"], CLASSES)], ["`CLASS`: 4 classes", "`SPLIT/CLASS`: 3 classes"]),
        (
            ["bus/a", "car/b", "train/steam", "train/electric"],
            ["`CLASS`: 3 classes", "`SPLIT/CLASS`: 2 classes"],
        ),
        (
            every(["pets"], ["train", "test"], ["cat", "dog"])
            + every(["zoo"], ["train", "test"], ["owl", "ape"]),
            ["`CLASS/SPLIT`: 2 classes (`pets`, `zoo`)", "`*/SPLIT/CLASS`: 4 classes"],
        ),
    ],
    ids=lambda value: " ".join(value[:3]),
)
def test_two_plausible_readings_are_an_error_with_both(places, readings):
    with pytest.raises(ValueError, match="the folders can be read in [23] ways, because") as caught:
        decide(photos(*places))
    for reading in readings:
        assert reading in str(caught.value)
    assert "Set `source.layout` to `" in str(caught.value)


@pytest.mark.parametrize("name", ["val", "validation", "training", "dev"])
def test_a_flat_folder_of_a_split_beside_classes_is_a_question(name):
    with pytest.raises(
        ValueError, match=f"`{name}` has the name of a split, but contains no class"
    ) as caught:
        decide(photos("cat", "dog", name))
    assert "(3 classes) or have no labels (2 classes)" in str(caught.value)
    assert {label for _, label, _ in read(photos("cat", "dog", name), splits={}).values()} == {
        "cat",
        "dog",
        name,
    }


def test_split_folders_without_class_folders_are_an_error():
    with pytest.raises(ValueError, match="`train`, `test` have the names of splits: .* Received: none"):
        decide(photos("train", "test"))
    with pytest.raises(ValueError, match="Received: only one, good"):
        decide(photos("train/good", "test/good", "test/bad"))


def test_the_names_of_files_are_evidence():
    inner = [
        f"{place}/{place.rpartition('/')[2]}_{n}.jpg"
        for place in every(["lab x", "lab y"], CLASSES)
        for n in "12"
    ]
    assert {pattern for pattern, _, _ in read(inner).values()} == {"*/CLASS"}
    outer = [
        f"{place}/{place.partition('/')[0]}_{n}.jpg" for place in every(CLASSES, ["one", "two"]) for n in "12"
    ]
    assert {pattern for pattern, _, _ in read(outer).values()} == {"CLASS"}


def test_a_folder_of_masks_beside_class_folders_is_no_class():
    decision = decide(photos(*every(["images"], CLASSES), "masks"))
    assert decision.of("images/cat/1.jpg").label == "cat"
    assert decision.of("masks/1.jpg").problem == "it is in `masks`, beside class folders"
    assert read(photos("mask", "no mask"))["mask"] == ("CLASS", "mask", "")


def test_variants_and_doubtful_folders_are_noted():
    (note,) = decide(photos(*every(["plants"], ["color", "gray"], CLASSES))).notes
    assert "`color`, `gray` contain the same class folders, such as `cat`" in note
    assert "`source.layout: plants/color/CLASS`" in note
    (note,) = decide(photos(*every(["train", "test"], ["color", "gray"], CLASSES))).notes
    assert "`source.layout: SPLIT/color/CLASS`" in note
    (note,) = decide(
        photos(*every(["raw"], ["raw"], CLASSES), *every(["resized"], ["resized"], CLASSES))
    ).notes
    assert "`source.layout: raw/*/CLASS`" in note
    (note,) = decide(photos(*CLASSES, "misc")).notes
    assert "`misc` is read as a class" in note and "`source.unlabelled: [misc]`" in note
    (note,) = decide(photos("bus", "car", "train")).notes
    assert "`train` is read as a class" in note
    (note,) = decide(photos("cat", "dog/pug", "dog/boxer")).notes
    assert note.startswith("`dog/pug` and 1 more: a folder below a class")
    (note,) = decide(photos(*every(["test"], CLASSES))).notes
    assert "no folder has that of train" in note
    assert decide(photos(*CLASSES)).notes == []


def test_splits_from_the_parameters():
    places = every(["a", "b", "c"], CLASSES)
    found = read(photos(*places), splits={"A": "train", "b": "test"})
    assert found["a/cat"] == ("SPLIT/CLASS", "cat", "train") and found["b/cat"][2] == "test"
    assert found["c/cat"] == ("", "", "")
    assert (
        "outside the folders `a`, `b`"
        in decide(photos(*places), splits={"a": "train", "b": "val"}).of("c/cat/1").problem
    )
    folds = {"fold[12]": "train", "fold3": "test"}
    found = read(photos(*every(["fold1", "fold2", "fold3"], CLASSES)), splits=folds)
    assert [found[f"fold{number}/cat"][2] for number in (1, 2, 3)] == ["train", "train", "test"]
    found = read(photos(*CLASSES, "extra"), splits={"extra": "predict"})
    assert found["extra"][1] == "" and found["cat"] == ("CLASS", "cat", "")
    found = read(photos(*CLASSES, *every(["held"], CLASSES)), splits={"held": "test"})
    assert found["held/cat"][2] == "test" and found["cat"][2] == ""
    found = read(photos(*every(["train", "test"], CLASSES)), splits={})
    assert found["test/cat"] == ("*/CLASS", "cat", "")
    assert read(photos("train", "test"), splits={})["test"] == ("CLASS", "test", "")


def test_splits_that_no_folder_has_are_an_error():
    with pytest.raises(
        ValueError, match="`source.splits` contains old, but no folder .* Folders: `cat`, `dog`"
    ):
        decide(photos("cat", "dog"), splits={"old": "train"})
    with pytest.raises(ValueError, match="`source.splits` contains `b`, but no folder beside it for train"):
        decide(photos(*every(["a", "b"], CLASSES)), splits={"b": "test"})


def test_usual_names_of_photos_without_labels_can_be_turned_off():
    assert read(photos(*CLASSES, "unknown"), unlabelled=[])["unknown"] == ("CLASS", "unknown", "")


def test_any_folders_are_read_or_are_a_question():
    random = np.random.default_rng(0)
    splits, classes = ["train", "test", "val", "seg_train", "unknown"], ["cat", "dog", "owl", "masks", "misc"]
    vocabulary = [*splits, *classes, "2023", "cam1", "1", "2", "color", "images"]
    for _ in range(300):
        places = [
            "/".join(random.choice(vocabulary, random.integers(0, 5))) for _ in range(random.integers(1, 9))
        ]
        paths = sorted({f"{place}/1.jpg".lstrip("/") for place in places})
        try:
            decision = decide(paths)
        except ValueError as error:
            assert "`source." in str(error)
        else:
            assert all(role.split in ("", "train", "val", "test") for role in map(decision.of, paths))


@pytest.mark.parametrize("places", [["x/x", "x/y"], ["a/x/b", "a/a/x/c", "a/a/x/d"], ["a", "a/a", "a/a/a/a"]])
def test_repeated_names_come_to_an_end(places):
    decide(photos(*places))


def test_deep_and_large_trees():
    deep = "/".join(["cat", *(f"x{number}" for number in range(2000))])
    assert read(photos(deep, "dog"))[deep][:2] == ("CLASS", "cat")
    many = photos(*every(["train", "val"], [f"n{number:05}" for number in range(3000)]), count=2)
    assert len({label for _, label, _ in read(many).values()}) == 3000
