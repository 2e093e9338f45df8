"""Layouts: the labels by `source.layout`, and the decision as a sentence."""

import pytest

from lib.core.schema import Sample
from lib.photos import layouts


def read(*paths, **keys):
    return layouts.read(list(paths), Sample(kind="sample", **keys))


def rows(*paths, **keys):
    return {path: row for path, *row in read(*paths, **keys).rows}


def test_a_layout_decides_the_levels():
    paths = ("mammals/cat/a/1.jpg", "mammals/dog/1.jpg", "birds/owl/1.jpg")
    assert [label for label, _, _ in rows(*paths, layout="CLASS").values()] == ["mammals", "mammals", "birds"]
    assert [label for label, _, _ in rows(*paths, layout="*/CLASS").values()] == ["cat", "dog", "owl"]


def test_a_layout_with_splits():
    found = rows("cat/train/1.jpg", "cat/Testing/1.jpg", "dog/train/1.jpg", "dog/1.jpg", layout="CLASS/SPLIT")
    assert found["cat/train/1.jpg"] == ["cat", "train", ""] and found["cat/Testing/1.jpg"] == [
        "cat",
        "test",
        "",
    ]
    assert found["dog/1.jpg"] == ["dog", "", ""]
    found = rows(
        "a/cat/1.jpg", "b/dog/1.jpg", "c/1.jpg", layout="SPLIT/CLASS", splits={"a": "train", "c": "predict"}
    )
    assert found["a/cat/1.jpg"] == ["cat", "train", ""] and found["c/1.jpg"] == ["", "predict", ""]
    assert found["b/dog/1.jpg"] == ["", "", "its folder b is not in `source.splits`"]


def test_a_folder_in_a_layout_is_the_only_one_that_is_used():
    found = rows(
        "color/cat/1.jpg", "gray/cat/1.jpg", "color/1.jpg", "color/unknown/1.jpg", layout="color/CLASS"
    )
    assert found["color/cat/1.jpg"] == ["cat", "", ""]
    assert found["gray/cat/1.jpg"] == ["", "", "its folder gray does not match color in `source.layout`"]
    assert found["color/1.jpg"] == found["color/unknown/1.jpg"] == ["", "predict", ""]


def test_a_layout_without_a_folder_of_train_is_an_error():
    with pytest.raises(ValueError, match="no folder at SPLIT has the name of train. Folders there: `a`, `b`"):
        read("a/cat/1.jpg", "b/dog/1.jpg", layout="SPLIT/CLASS")


def test_unlabelled_patterns():
    found = rows("cat/1.jpg", "cat/q_2.jpg", "dog/1.jpg", "new/1.jpg", unlabelled=["new", "q_*"])
    assert [path for path, row in found.items() if row[1] == "predict"] == ["cat/q_2.jpg", "new/1.jpg"]
    (note,) = read("cat/1.jpg", "dog/1.jpg", unlabelled=["gone"]).notes
    assert note == "`source.unlabelled` contains 'gone', which matches no file"


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (["cat/1.jpg", "dog/1.jpg"], "2 classes from `CLASS`, no splits"),
        (
            ["x/cat/1.jpg", "x/dog/1.jpg", "x/todo/1.jpg", "2.jpg"],
            "2 classes from `*/CLASS`, no splits, 2 photos without labels in `x/todo/`, `./`",
        ),
        (
            ["Tr/a/1.jpg", "Tr/b/1.jpg", "te/a/1.jpg", "x/1.jpg"],
            "2 classes from `SPLIT/CLASS`, splits from the folder names (train from `Tr`; test from `te`), "
            "1 photos outside of them in `x/`",
        ),
        (["cat/1.jpg"], "1 class from `CLASS`, no splits"),
        (["1.jpg"], "0 classes from no folder, no splits, 1 photos without labels in `./`"),
    ],
)
def test_the_decision_is_a_sentence(paths, sentence):
    assert read(*paths).layout == sentence


def test_classes_that_train_lacks_are_noted():
    (note,) = read("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg").notes
    assert note == "val has classes that train lacks, whose photos cannot be used: `c`"
