"""Files: written atomically, hashed, and refused if the disk is full."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from lib.core import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 1000)
    assert files.file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_write_is_whole_or_nothing(tmp_path):
    path = tmp_path / "new/result.csv"

    def half(partial):
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        files.write(path, half)
    assert names(path.parent) == []
    files.write(path, lambda partial: partial.write_text("first"))
    with pytest.raises(OSError):
        files.write(path, half)
    assert path.read_text() == "first"
    files.write(path, lambda partial: partial.write_text("second"))
    assert path.read_text() == "second" and names(path.parent) == ["result.csv"]


def test_a_folder_is_whole_or_nothing(tmp_path):
    def save(partial):
        (partial / "deep").mkdir(parents=True)
        (partial / "deep/file").write_text("content")

    def half(partial):
        save(partial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "folder", half)
    assert names(tmp_path) == []
    files.write(tmp_path / "folder", save)
    assert names(tmp_path) == ["folder"] and (tmp_path / "folder/deep/file").read_text() == "content"


def test_a_partial_name_has_the_suffix_and_is_used_once(tmp_path):
    partials = []

    def save(partial):
        partials.append(partial.name)
        partial.write_bytes(b"")

    for _ in range(2):
        files.write(tmp_path / "model.keras", save)
    assert all(name.endswith(".keras") and name != "model.keras" for name in partials)
    assert partials[0] != partials[1]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, files.Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: events.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(
        files.Path, "replace", lambda path, target: events.append("replace") or replace(path, target)
    )
    files.write(tmp_path / "a", lambda partial: partial.write_text("x"))
    assert events[:2] == ["fsync", "replace"]


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_files_of_killed_processes_are_removed_after_a_day(tmp_path):
    dead, old = ended_process(), time.time() - 2 * files.MAX_AGE_SECONDS
    kept = {
        f".partial-{os.getpid()}-00000000-alive.csv": old,
        f".partial-{dead}-00000000-recent.csv": time.time(),
        ".partial-of somebody else": old,
    }
    swept = {f".partial-{dead}-00000000-a.csv": old, f".partial-{dead}-0123cdef-folder": old}
    for name, modified in (kept | swept).items():
        if name.endswith("folder"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (modified, modified))
    files.write_json(tmp_path / "new.json", 1)
    assert names(tmp_path) == sorted([*kept, "new.json"])


def test_json_written_and_read_back(tmp_path):
    value = {"name": "Bär", "numbers": [1, 0.1, None, True]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "Bär" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": object()}])
def test_values_that_json_does_not_have_are_refused(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("needed", "free", "sizes"),
    [
        (2.2e9, 1.1e9, "expected 2.2 GB of free disk space. Received: 1.1 GB."),
        (40e6, 300e3, "expected 40.0 MB of free disk space. Received: 0.3 MB."),
        (5.0003e9, 5e9, "expected 5000.3 MB of free disk space. Received: 5000.0 MB."),
        (192, 191, "expected 192 bytes of free disk space. Received: 191 bytes."),
    ],
)
def test_the_message_for_a_full_disk_has_units_that_show_the_difference(
    tmp_path, monkeypatch, needed, free, sizes
):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("usage", (), {"free": free}))
    with pytest.raises(files.NoSpace, match=f"unpacking: {sizes} Free some"):
        files.require_space(tmp_path, needed, action="unpacking")
    files.require_space(tmp_path, free, action="unpacking")


def test_readable():
    assert files.readable("Bär.jpg") == "Bär.jpg"
    assert files.readable("B\udce4r.jpg") == "Bär.jpg"


def test_printable():
    assert files.printable("Bär 蝶\n\x1b[31m\x07\u202e") == "Bär 蝶\n\\x1b[31m\\x07\\u202e"
