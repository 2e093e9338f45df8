"""Names in a table find the only file that they can mean, and never another."""

import unicodedata

import pytest

from lib.photos import matching

FILES = [
    "labels.csv",
    "photos/a.jpg",
    "photos/B.JPG",
    "photos/deep/c.d.png",
    "photos/deep/a b.jpeg",
    "photos/x/1.jpg",
    "photos/y/1.jpg",
    "photos/z/2.jpg",
    "photos/2.jpg",
    "photos/mask.jpg.png",
    "other/e.jpg",
    "photos/.hidden.jpg",
]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("a.jpg", ["photos/a.jpg"]),
        ("a", ["photos/a.jpg"]),
        ("A.JPEG", ["photos/a.jpg"]),
        (" ./a.jpg ", ["photos/a.jpg"]),
        ("b", ["photos/B.JPG"]),
        ("c.d", ["photos/deep/c.d.png"]),
        ("a b.jpg", ["photos/deep/a b.jpeg"]),
        ("c.d.jpg", []),
        ("1.jpg", ["photos/x/1.jpg", "photos/y/1.jpg"]),
        ("x/1", ["photos/x/1.jpg"]),
        ("X\\1.jpg", ["photos/x/1.jpg"]),
        ("q/1.jpg", []),
        # the path in the folder itself, before a file of that name further down
        ("2", ["photos/2.jpg"]),
        ("/home/me/photos/y/1.jpg", ["photos/y/1.jpg"]),
        ("/home/me/q/1.jpg", ["photos/x/1.jpg", "photos/y/1.jpg"]),
        ("C:\\set\\deep\\c.d.png", ["photos/deep/c.d.png"]),
        ("../../a.jpg", ["photos/a.jpg"]),
        ("file:///set/a.jpg", ["photos/a.jpg"]),
        ("images/a.jpg", ["photos/a.jpg"]),
        ("images/c.d.png", []),
        ("mask.jpg", []),
        ("e.jpg", []),
        ("hidden", []),
        ("../../etc/passwd", []),
        ("", []),
        ("/", []),
        ("..", []),
    ],
)
def test_names_and_the_files_that_they_can_mean(name, paths):
    index = matching.Index(FILES, ["photos"])
    assert index.find(name).paths == paths


def test_an_accent_may_be_one_character_or_two():
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    index = matching.Index([f"{decomposed}/1.jpg", f"{composed}2.jpg", f"{decomposed}2.jpg"], [])
    assert index.find(f"{composed}/1.jpg").paths == [f"{decomposed}/1.jpg"]
    assert matching.Index([f"{decomposed}/1.jpg"], [composed]).find("1").paths == [f"{decomposed}/1.jpg"]
    # both exist: the one that is spelled like the name
    assert index.find(f"{decomposed}2.jpg").paths == [f"{decomposed}2.jpg"]


def test_folders_are_alternatives():
    index = matching.Index(FILES, ["photos/x", "photos/z/"])
    assert index.find("1.jpg") == matching.Match(["photos/x/1.jpg"], is_exact=True)
    assert index.find("2").paths == ["photos/z/2.jpg"] and not index.find("2").is_exact
    assert matching.Index(FILES, ["photos/x", "photos/y"]).find("1.jpg").paths == FILES[5:7]


def test_a_name_with_more_folders_than_the_file_is_marked():
    index = matching.Index(FILES, ["photos"])
    assert index.find("images/a.jpg").is_longer and not index.find("A.jpg").is_longer


def test_a_backslash_can_be_a_part_of_a_name():
    assert matching.Index(["a\\b.jpg", "a/b.jpg"], []).find("a\\b.jpg").paths == ["a\\b.jpg"]


def test_names_are_parsed_without_a_root():
    assert matching.parse("C:\\a\\.\\b.jpg") == (("a", "b.jpg"), True)
    assert matching.parse("a/../b/c") == (("b", "c"), True)
    assert matching.parse("./a//b") == (("a", "b"), False)
