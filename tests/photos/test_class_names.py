"""Names of classes: short texts on one line, told apart, and only from files inside the source."""

import json
import re

import pandas as pd
import pytest

from lib.core.schema import Sample
from lib.photos import class_names

CLASSES = ["n1", "n2", "n3"]


def names_of(raw, content, classes=CLASSES):
    raw.put("deep/Labels.json", content if isinstance(content, bytes) else json.dumps(content).encode())
    return class_names.of_source(
        raw.folder, Sample(kind="sample", class_names="deep/Labels.json"), classes=classes
    )


def test_names_end_before_the_comma(raw):
    names = {"n2": "tabby, tabby cat", "n1": "Éléphant d'Asie", "other": "no class of ours"}
    assert list(names_of(raw, names).items()) == [("n1", "Éléphant d'Asie"), ("n2", "tabby"), ("n3", "n3")]
    assert names_of(raw, b"\xef\xbb\xbf" + json.dumps(names).encode())["n2"] == "tabby"


def test_without_a_file_the_labels_are_the_names(raw):
    assert class_names.of_source(raw.folder, Sample(kind="sample"), classes=["10", "9"]) == {
        "10": "10",
        "9": "9",
    }


def test_classes_of_the_same_name_have_their_labels_too(raw):
    names = {"n1": "crane, a bird", "n2": "crane", "n3": "maillot"}
    assert list(names_of(raw, names).values()) == ["crane (n1)", "crane (n2)", "maillot"]
    # a class without a name of its own whose label is the name of another
    assert names_of(raw, {"n1": "crane"}, ["n1", "crane"]) == {"n1": "crane (n1)", "crane": "crane"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" two\n lines\t, x", "two lines"),
        ("a\x00b\x1b[31mc\u202ed\u200be\ud800f", "ab[31mcdef"),  # cannot be seen, or not be written
        ("", "n1"),
        (" , x", "n1"),
        ("\u200b", "n1"),
        ("w" * 60, "w" * 60),
        ("w" * 61, "w" * 59 + "…"),
    ],
)
def test_names_fit_on_a_line(raw, text, name):
    assert names_of(raw, {"n1": text})["n1"] == name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "deep/Labels.json is not JSON in UTF-8"),
        (b"n1: cat", "is not JSON in UTF-8"),
        (b'{"n1": "B\xe4r"}', "is not JSON in UTF-8"),
        (b"[" * 100_000, "is not JSON in UTF-8"),
        (b'["cat"]', "expected a mapping {label: name}. Received: list"),
        (b'{"n1": "cat", "n2": 7}', "expected a string for each label. Received: int for 'n2'"),
        (b'{"n1": {"n2": "cat"}}', "Received: dict for 'n1'"),
        (
            b'"' + b"x" * 10_000_001 + b'"',
            "has 10,000,003 bytes. Expected: a file with names of at most 10,000,000",
        ),
    ],
)
def test_names_that_cannot_be_used(raw, content, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        names_of(raw, content)


def test_a_missing_file_of_names_lists_those_there_are(raw):
    raw.put("deep/labels.json")
    with pytest.raises(
        FileNotFoundError, match="the source has no Labels.json. JSON files in it: deep/labels.json"
    ):
        class_names.of_source(raw.folder, Sample(kind="sample", class_names="Labels.json"), classes=CLASSES)


@pytest.mark.parametrize("path", ["../names.json", "/etc/names.json", "link.json", "far/names.json", "a\0b"])
def test_names_outside_the_source(raw, tmp_path, path):
    (tmp_path / "names.json").write_text('{"n1": "secret"}')
    (raw.folder / "link.json").symlink_to(tmp_path / "names.json")
    (raw.folder / "far").symlink_to(tmp_path)
    with pytest.raises(
        ValueError, match="`source.class_names` must be a path inside the source. Received: "
    ) as caught:
        class_names.of_source(raw.folder, Sample(kind="sample", class_names=path), classes=CLASSES)
    assert repr(path) in str(caught.value)


def test_names_stand_for_labels_in_tables():
    table = pd.DataFrame({"label": ["1", "2"], "predicted": ["2", "x"], "path": ["1", "2"]})
    shown = class_names.rename(table, {"1": "2", "2": "ox"})  # all at once: "1" does not become "ox"
    assert shown.to_dict("list") == {"label": ["2", "ox"], "predicted": ["ox", "x"], "path": ["1", "2"]}
    assert table.label.tolist() == ["1", "2"]
    assert list(class_names.rename(table.iloc[:0], {}).columns) == list(table.columns)
    assert class_names.rename(table[["label"]], {"1": "one"}).label.tolist() == ["one", "2"]


def test_labels_without_a_name_are_shown_without_control_characters():
    labels = ["a\x1b[31m", "b\u202e", "c\nd"]
    names = class_names.of_source(None, Sample(kind="sample"), classes=labels)
    assert list(names) == labels and list(names.values()) == ["a\\x1b[31m", "b\\u202e", "c\\nd"]


@pytest.mark.parametrize(
    "names",
    [
        ["Cat", "cat", "cat "],
        ["red fox", "red_fox", "Red-Fox", "redfox"],
        ["\uff21\uff22", "ab"],
        ["owl\u200b", "owl"],
        ["owl", "owls"],
        ["class 1", "class1"],
        ["1 ", "1"],
        ["St. Bernard", "St Bernard"],
    ],
)
def test_classes_that_differ_by_their_spelling_are_listed(names):
    (sentence,) = class_names.look_alikes([*names, "yak"])
    assert all(f"'{name}'" in sentence for name in names if name.isprintable()) and "yak" not in sentence


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "bat"],
        ["1.5", "15"],
        ["-1", "1"],
        ["1-2", "12"],
        ["class 1", "class 11"],
        ["bas", "bass"],
        ["+", "-"],
        ["a", "as"],
        ["Bär", "Bar"],
    ],
)
def test_other_classes_are_not_listed(names):
    assert class_names.look_alikes(names) == []


def test_look_alikes_have_no_control_characters_and_long_lists_are_cut():
    (sentence,) = class_names.look_alikes([f"a{'-' * count}b\x1b" for count in range(9)])
    assert "\x1b" not in sentence and "and 3 more" in sentence


def test_a_card_has_the_names_of_its_classes():
    assert class_names.of_card({"classes": ["1", "2"], "class_names": ["ox", "cat"]}) == {
        "1": "ox",
        "2": "cat",
    }
