"""Groups: the text that a pattern matches in a path, or the value in a column of a table."""

import pytest

from lib.core.schema import Params
from lib.photos import groups, labels, listing


def test_a_group_is_the_text_that_the_pattern_matches_anywhere_in_the_path():
    paths = ["ill/p07_1.png", "ill/p07_2.png", "well/p7/1.png", "well/none.png"]
    assert groups.of_paths(r"p(\d+)[_/]", paths) == ["07", "07", "7", ""]


def test_an_optional_group_that_is_absent_is_empty():
    assert groups.of_paths(r"p(\d+)?_", ["p_1.png", "p3_1.png"]) == ["", "3"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "must be a regular expression: .*Received: '\\('"),
        (r"p\d+", "must have one group in parentheses. Received: 0"),
        (r"(p)(\d+)", "must have one group in parentheses. Received: 2"),
        (r"q(\d+)", r"matches the paths of the photos, such as p1.png. Received: .* none of 1 paths"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_an_error(pattern, message):
    with pytest.raises(ValueError, match=rf"`split.group`.*{message}"):
        groups.of_paths(pattern, ["p1.png"])


def source(**tables):
    given = {
        "kind": "sample",
        "tables": {name: {"file": f"{name}.csv"} | keys for name, keys in tables.items()},
    }
    return Params.model_validate({"name": "mine", "source": given}).source


def test_a_group_is_the_value_in_any_table_that_has_the_column(raw):
    raw.photo("a/1.png", 1)
    raw.photo("a/2.png", 2)
    raw.photo("3.png", 3)
    raw.put("one.csv", b"filename,label,who (id)\n1.png,cat,anna\n2.png,dog, bo \n")
    raw.put("two.csv", b"filename,label\n3.png,cat\n")
    given = source(one={"photos": "a", "label": "label"}, two={"label": "label"})
    contents = listing.Folder(raw.folder)
    found = labels.find(contents, given, group="who (id)")
    assert dict(zip(found.path, found.group, strict=True)) == {
        "3.png": "",
        "a/1.png": "anna",
        "a/2.png": "bo",
    }
    # A pattern is also possible if there are tables.
    assert list(labels.find(contents, given, group=r"(\d)\.png").group) == ["3", "1", "2"]
    with pytest.raises(ValueError, match=r"'whom'. Columns: 'filename', 'label', 'who \(id\)'"):
        labels.find(contents, given, group="whom")
