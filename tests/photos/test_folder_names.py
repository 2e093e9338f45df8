"""Meanings of folder names, with the names that public data sets have."""

import pytest

from lib.photos import folder_names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (name, "train")
            for name in ("train", "TRAINING", "trainset", "Training_Set", "images_train", "tr")
        ),
        *(
            (name, "train")
            for name in ("train.X1", "TrainImages", "train_val", "My training data", "train 01")
        ),
        *(
            (name, "val")
            for name in ("val", "Valid", "validation", "dev", "eval", "val_images", "validation-set")
        ),
        *((name, "test") for name in ("test", "Testing", "holdout", "hold-out", "test2", "PublicTest", "te")),
        *((name, "predict") for name in ("pred", "predictions", "to_predict")),
    ],
)
def test_a_name_without_other_words_is_a_split(name, split):
    found = folder_names.split_of(name)
    assert found.split == split and not {"images", "set", "x", "my"} & set(found.rest)


@pytest.mark.parametrize(
    ("name", "rest"),
    [("seg_train", ("seg",)), ("asl_alphabet_test", ("asl", "alphabet")), ("test tube", ("tube",))],
)
def test_other_words_of_a_split_are_kept(name, rest):
    assert folder_names.split_of(name).rest == rest


@pytest.mark.parametrize(
    "name", ["trains", "contest", "strain", "train_test_split", "invalid", "latest", "bus"]
)
def test_names_that_are_no_split(name):
    assert folder_names.split_of(name) is None


def test_names_of_photos_without_labels():
    names = [
        "unlabelled",
        "Unlabeled",
        "unknown_images",
        "UNSORTED",
        "to-label",
        "no label",
        "images to predict",
    ]
    assert all(map(folder_names.is_unlabelled, names))
    assert not any(
        map(folder_names.is_unlabelled, ["known", "unknown bird", "test", "images", "other", "label"])
    )


def test_names_that_group_photos_by_anything_but_their_class():
    names = [
        "cam2",
        "2023",
        "2023-05-01",
        "20230501",
        "P017",
        "100CANON",
        "40X",
        "color",
        "Grayscale",
        "fold_3",
    ]
    assert all(map(folder_names.is_carrier, [*names, "front view", "img", "patient 12", "masks"]))
    classes = ["cat", "n01629819", "7", "A", "normal", "001.Black_footed_Albatross", "turn left", "apple"]
    assert not any(map(folder_names.is_carrier, classes))
