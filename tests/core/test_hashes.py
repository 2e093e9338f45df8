"""SHA-256 of files: which of them are read again, and what is stored."""

import json
import os
import time

import pytest

from lib.core import files, hashes

YESTERDAY = time.time() - 86_400


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are hashed."""
    names = []
    original = files.file_sha256

    def file_sha256(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(files, "file_sha256", file_sha256)
    return names


def put(path, content, *, modified=YESTERDAY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def test_only_files_of_another_size_or_time_are_hashed_again(tmp_path, read):
    for name in ("a", "b", "c"):
        put(tmp_path / "in" / name, name.encode())

    def digests():
        read.clear()
        return hashes.of_files(tmp_path / "in", ["a", "b", "c"], table=tmp_path / "table.json")

    first = digests()
    assert sorted(read) == ["a", "b", "c"]
    assert first == {name: files.file_sha256(tmp_path / "in" / name) for name in "abc"}
    assert digests() == first and read == []
    put(tmp_path / "in/a", b"other")
    put(tmp_path / "in/b", b"x", modified=YESTERDAY + 5)
    second = digests()
    assert sorted(read) == ["a", "b"]
    assert second["c"] == first["c"] and second["a"] != first["a"] and second["b"] != first["b"]
    # Touched, with the same content.
    os.utime(tmp_path / "in/c", (YESTERDAY + 9, YESTERDAY + 9))
    assert digests() == second and read == ["c"]
    assert digests() == second and read == []


def test_a_file_that_has_just_changed_is_hashed_again_although_its_size_and_time_are_the_same(tmp_path, read):
    path, now = tmp_path / "a", time.time()
    put(path, b"one", modified=now)
    before = hashes.of_files(tmp_path, ["a"], table=tmp_path / "table.json")
    put(path, b"two", modified=now)
    assert hashes.of_files(tmp_path, ["a"], table=tmp_path / "table.json") != before
    # A clock that is ahead.
    for content in (b"one", b"two"):
        put(path, content, modified=now + 1000)
        digests = hashes.of_files(tmp_path, ["a"], table=tmp_path / "table.json")
        assert digests == {"a": files.file_sha256(path)}
    assert not (tmp_path / "table.json").exists()


def test_a_changed_byte_with_restored_size_and_time_is_the_limit(tmp_path):
    path = put(tmp_path / "a", b"one")
    before = hashes.of_files(tmp_path, ["a"], table=tmp_path / "table.json")
    put(path, b"two")
    assert hashes.of_files(tmp_path, ["a"], table=tmp_path / "table.json") == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"a": 1}', '{"a": [1, 2]}', '{"a": [[], {}, 1]}', "\x00"]
)
def test_a_damaged_table_is_ignored_and_written_again(tmp_path, text):
    put(tmp_path / "a", b"one")
    table = put(tmp_path / "table.json", text.encode())
    assert hashes.of_files(tmp_path, ["a"], table=table) == {"a": files.file_sha256(tmp_path / "a")}
    assert list(json.loads(table.read_text())) == ["a"]


def test_a_table_that_cannot_be_written_changes_no_result(tmp_path):
    put(tmp_path / "a", b"one")
    (tmp_path / "file").touch()
    expected = {"a": files.file_sha256(tmp_path / "a")}
    assert hashes.of_files(tmp_path, ["a"], table=tmp_path / "file/table.json") == expected


def test_only_files_are_hashed_and_other_rows_are_kept(tmp_path):
    put(tmp_path / "a", b"one")
    put(tmp_path / "folder/b", b"two")
    table = tmp_path / "table.json"
    hashes.of_files(tmp_path, ["a"], table=table)
    os.mkfifo(tmp_path / "pipe")
    assert set(hashes.of_files(tmp_path, ["folder", "folder/b", "gone", "pipe"], table=table)) == {"folder/b"}
    assert set(json.loads(table.read_text())) == {"a", "folder/b"}


def test_a_file_that_cannot_be_read_is_not_stored(tmp_path, monkeypatch):
    put(tmp_path / "a", b"one")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files, "file_sha256", refuse)
        assert hashes.of_files(tmp_path, ["a"], table=tmp_path / "t.json") == {"a": "unreadable"}
    digests = hashes.of_files(tmp_path, ["a"], table=tmp_path / "t.json")
    assert digests == {"a": files.file_sha256(tmp_path / "a")}


def names(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def test_the_fingerprint_of_a_folder_changes_with_names_and_contents_only(tmp_path):
    photos, tables = tmp_path / "photos", tmp_path / "tables"
    put(photos / "cats/1.jpg", b"one")
    put(photos / os.fsdecode(b"caf\xe9.jpg"), b"two")

    def fingerprint():
        return hashes.of_folder(photos, names(photos), tables=tables)

    first = fingerprint()
    os.utime(photos / "cats/1.jpg", (YESTERDAY + 5, YESTERDAY + 5))
    (photos / "empty").mkdir()
    assert fingerprint() == first
    put(photos / "cats/1.jpg", b"One", modified=YESTERDAY + 6)
    second = fingerprint()
    assert second != first
    (photos / "cats/1.jpg").rename(photos / "cats/2.jpg")
    third = fingerprint()
    assert third not in (first, second)
    (photos / "cats/2.jpg").unlink()
    assert fingerprint() not in (first, second, third)
    # The names of the tables, and the names in them, do not contain the path.
    assert len(list(tables.iterdir())) == 2
    for table in tables.iterdir():
        assert "photos" not in table.name and "photos" not in table.read_text()


def test_a_folder_with_a_file_that_has_just_changed_is_hashed_again(tmp_path):
    photos, now = tmp_path / "photos", time.time()
    put(photos / "old", b"old")
    fingerprints = set()
    for content in (b"one", b"two"):
        put(photos / "new", content, modified=now)
        fingerprints.add(hashes.of_folder(photos, names(photos), tables=tmp_path))
    assert len(fingerprints) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_a_damaged_fingerprint_of_a_folder_is_computed_again(tmp_path, text):
    put(tmp_path / "photos/a", b"one")
    first = hashes.of_folder(tmp_path / "photos", ["a"], tables=tmp_path / "tables")
    (whole,) = (tmp_path / "tables").glob("*.whole.json")
    whole.write_text(text)
    assert hashes.of_folder(tmp_path / "photos", ["a"], tables=tmp_path / "tables") == first
    assert json.loads(whole.read_text())


def test_the_fingerprint_of_a_file_does_not_depend_on_its_name(tmp_path):
    one, two, other = (
        put(tmp_path / name, content) for name, content in (("1", b"x"), ("2", b"x"), ("3", b"y"))
    )
    assert hashes.of_folder(one, [], tables=tmp_path / "t") == hashes.of_folder(
        two, [], tables=tmp_path / "t"
    )
    assert hashes.of_folder(one, [], tables=tmp_path / "t") != hashes.of_folder(
        other, [], tables=tmp_path / "t"
    )
    assert hashes.of_folder(tmp_path / "gone", [], tables=tmp_path / "t")


def test_of_ten_thousand_unchanged_files_none_is_read_again(tmp_path, read):
    for number in range(10_000):
        (tmp_path / "photos" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "photos" / str(number % 10) / f"{number}.jpg"
        path.write_bytes(b"%d" % number)
        os.utime(path, (YESTERDAY, YESTERDAY))

    def fingerprint():
        return hashes.of_folder(tmp_path / "photos", names(tmp_path / "photos"), tables=tmp_path)

    first = fingerprint()
    read.clear()
    assert fingerprint() == first and read == []
