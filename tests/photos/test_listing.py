"""Listings: every entry of a folder is a path or counted, and nothing but a regular file is opened."""

import os
import socket

import pytest
from shared import encoded, scene

from lib.photos import listing

PHOTO = encoded(scene(1), "JPEG")


def test_regular_files_are_sorted_and_other_entries_are_counted(raw, tmp_path):
    for path in ("b/2.jpg", "a.txt", "b/1", ".hidden.jpg", ".git/x", "node_modules/y/z.jpg"):
        raw.put(path)
    (raw.folder / "empty").mkdir()
    (raw.folder / "loop").symlink_to(raw.folder)
    (raw.folder / "b/link.jpg").symlink_to("nowhere")
    os.mkfifo(raw.folder / "b/pipe.jpg")
    contents = listing.Folder(raw.folder)
    assert contents.paths == [".hidden.jpg", "a.txt", "b/1", "b/2.jpg"]
    assert contents.others == {"hidden folder": 2, "empty folder": 1, "link": 2, "device": 1}
    assert contents.read("a.txt") == b"x" and contents.read("b/2.jpg", 0) == b""


def test_a_socket_is_not_opened(tmp_path, monkeypatch):
    # The path of a socket has at most about 100 characters.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("1.jpg")
        assert listing.Folder(tmp_path).others == {"device": 1}


def test_names_that_are_not_utf_8_can_be_read(raw):
    (raw.folder / os.fsdecode(b"B\xe4r.jpg")).write_bytes(b"content")
    contents = listing.Folder(raw.folder)
    assert contents.paths == ["Bär.jpg"] and contents.read("Bär.jpg") == b"content"


def test_too_many_files_are_refused_early(raw, monkeypatch):
    monkeypatch.setattr(listing, "MAX_FILES", 5)
    for number in range(6):
        raw.put(f"cache/{number}")
    with pytest.raises(ValueError, match="expected at most 5 files. Received: more, 6 of them in cache"):
        listing.Folder(raw.folder)


def test_a_deep_tree_is_listed(raw):
    path = "a/" * 600 + "1.jpg"
    raw.put(path)
    assert listing.Folder(raw.folder).paths == [path]


@pytest.mark.parametrize(
    ("name", "content", "is_photo"),
    [
        ("IMG_0001", PHOTO, True),
        ("IMG.0001", PHOTO, True),
        ("photo.jpg~", PHOTO, True),
        ("photo.bin", PHOTO, True),
        ("wrong.jpg", b"text", True),
        ("photo.HEIC", b"text", True),
        ("readme", b"text", False),
        ("notes.txt", PHOTO, False),
        (".hidden.jpg", PHOTO, False),
        ("__MACOSX", PHOTO, False),
    ],
)
def test_a_file_is_a_photo_by_its_suffix_or_content(raw, name, content, is_photo):
    raw.put(f"cat/{name}", content)
    assert listing.photos(listing.Folder(raw.folder)) == [f"cat/{name}"] * is_photo


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*_mask.png", ["a_mask.png", "x/y/a_mask.png"], ["a_mask.png.txt/b", "mask.png", "a_mask.jpg"]),
        ("masks", ["masks", "masks/1.png", "a/masks/b/1.png"], ["masks2/1.png", "a/my masks/1.png"]),
        ("masks/", ["a/masks/1.png"], ["a/1.png"]),
        ("a/*.png", ["a/1.png"], ["1.png", "a/b/1.png", "b/a/1.png"]),
        ("a/**/x.png", ["a/x.png", "a/b/c/x.png"], ["b/a/x.png", "a/xx.png"]),
        ("a\\b", ["a/b/1.png"], ["ab"]),
        ("photo?.jpg", ["photo1.jpg"], ["photo.jpg", "photo12.jpg"]),
        ("[ab].jpg", ["a.jpg", "c/b.jpg"], ["c.jpg"]),
        ("[!ab].jpg", ["c.jpg"], ["a.jpg"]),
        ("x (1).png", ["x (1).png"], ["x 1.png"]),
        ("[z-a].png", ["[z-a].png"], ["b.png"]),
        ("[.png", ["[.png"], ["x.png"]),
    ],
)
def test_patterns(pattern, matches, others):
    match = listing.matcher([pattern, "other"])
    assert all(map(match, matches)) and not any(map(match, others))
    assert not any(map(listing.matcher([]), matches))
