"""Files of this machine: a folder is copied without links, and not with all of the home folder."""

import os
from pathlib import Path

import pytest
from download_builders import PHOTO, refusal, source

from lib.download import local, sources
from lib.download.record import SourceRecord


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "red").mkdir(parents=True)
    (folder / "red/1.jpg").write_bytes(PHOTO)
    return folder


def test_a_folder_is_copied_without_its_links(folder, photos):
    (photos / "link.jpg").symlink_to("/etc/hostname")
    (photos / "linked").symlink_to("/etc")
    record = sources.fetch(source("folder", folder=str(photos)), folder)
    assert record.declared == {"kind": "folder", "folder": "photos"}
    assert (record.files, record.skipped) == (1, 2)
    assert [path.name for path in (folder / "raw").rglob("*")] == ["red", "1.jpg"]
    assert (folder / "raw/red/1.jpg").read_bytes() == PHOTO


def test_a_folder_is_copied_again_when_it_has_changed(folder, photos):
    settings = source("folder", folder=str(photos))
    first = sources.fetch(settings, folder)
    assert sources.fetch(settings, folder) == first
    (photos / "red/2.jpg").write_bytes(PHOTO)
    second = sources.fetch(settings, folder)
    assert second.files == 2 and second.content_sha256 != first.content_sha256
    os.utime(photos / "red/2.jpg", ns=(1, 1))
    assert sources.fetch(settings, folder).fingerprint != second.fingerprint
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_an_unusable_change_of_a_folder_leaves_the_copy(folder, photos):
    settings = source("folder", folder=str(photos))
    first = sources.fetch(settings, folder)
    (photos / "red/1.jpg").unlink()
    with pytest.raises(ValueError, match=r"folder photos: expected photos .* 0 files, but no photo"):
        sources.fetch(settings, folder)
    assert SourceRecord.load(folder) == first and (folder / "raw/red/1.jpg").exists()


def test_names_in_a_folder_that_are_not_utf_8_are_read_as_latin_1(folder, photos):
    odd = os.fsdecode("red/Bär.jpg".encode("latin-1"))
    (photos / odd).write_bytes(PHOTO)
    assert sources.fetch(source("folder", folder=str(photos)), folder).files == 2
    assert (folder / "raw/red/Bär.jpg").exists()
    (photos / "red/Bär.jpg").write_bytes(PHOTO)
    with pytest.raises(
        ValueError, match=r"names that differ on this disk. Received: two files named 'red/Bär\.jpg'"
    ):
        sources.fetch(source("folder", folder=str(photos)), folder)


def test_folders_that_cannot_be_copied(folder, photos, tmp_path):
    assert "Received: no, which is neither" in refusal(
        FileNotFoundError, source("folder", folder="no"), folder
    )
    message = refusal(ValueError, source("folder", folder=str(photos / "red/1.jpg")), folder)
    assert "a file. Give a zip as kind: archive" in message
    apart = "expected a folder that neither contains data/butterfly, the folder of the copy"
    assert apart in refusal(ValueError, source("folder", folder=str(tmp_path)), folder)
    (folder / "mine").mkdir(parents=True)
    assert apart in refusal(ValueError, source("folder", folder=str(folder / "mine")), folder)


@pytest.mark.parametrize("text", ["~", "{home}", "{home}/..", "/"])
def test_the_home_folder_and_a_whole_disk_are_not_copied(folder, tmp_path, monkeypatch, text):
    home = tmp_path / "homes" / "jane"
    (home / ".ssh").mkdir(parents=True)
    (home / "1.jpg").write_bytes(PHOTO)
    monkeypatch.setenv("HOME", str(home))
    message = refusal(ValueError, source("folder", folder=text.format(home=home)), folder)
    assert "expected a folder of photos" in message and "contains the home folder or a whole disk" in message


def test_a_folder_inside_the_home_folder_is_copied(folder, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert sources.fetch(source("folder", folder="~/photos"), folder).files == 1


def refuse_to_list(monkeypatch, *names):
    scan = os.scandir

    def scandir(path):
        if isinstance(path, Path) and path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_read_is_named(folder, photos, monkeypatch):
    refuse_to_list(monkeypatch, "red")
    message = refusal(ValueError, source("folder", folder=str(photos)), folder)
    assert message.startswith("expected folders that can be read. Received: red, Permission denied.")
    assert "`source.ignore: ['red']`" in message


def test_a_folder_that_cannot_be_read_can_be_ignored(folder, photos, monkeypatch):
    (photos / "private").mkdir()
    refuse_to_list(monkeypatch, "private")
    settings = source("folder", folder=str(photos), ignore=["private"])
    assert sources.fetch(settings, folder).files == 1


def test_hidden_folders_and_those_of_programs_are_not_copied(folder, photos):
    for name in (".git/objects/1.jpg", "red/node_modules/a/2.jpg", "__MACOSX/._1.jpg"):
        (photos / name).parent.mkdir(parents=True)
        (photos / name).write_bytes(PHOTO)
    assert sources.fetch(source("folder", folder=str(photos)), folder).files == 1


def test_a_large_folder_of_other_files_is_not_copied(folder, photos, monkeypatch):
    monkeypatch.setattr(local, "MANY_FILES", 20)
    for number in range(25):
        (photos / f"{number}.txt").touch()
    message = refusal(ValueError, source("folder", folder=str(photos)), folder)
    assert "with 26 files, few of them photos. All would be copied" in message


def test_photos_without_a_suffix_are_fetched(folder, photos):
    (photos / "red/1.jpg").rename(photos / "red/1")
    assert sources.fetch(source("folder", folder=str(photos)), folder).files == 1
