"""Sources: the photos are fetched once and completely, and existing ones are never overwritten."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
from download_builders import PHOTO, digest, make_zip, refusal, source

import lib.download
from lib.core import params
from lib.download import sources, species


def test_an_archive_is_unpacked_once_and_described(folder, archive):
    record = sources.fetch(source("archive", archive=str(archive), licence="CC BY 4.0"), folder)
    assert (folder / "raw/train/1.jpg").read_bytes() == PHOTO
    written = json.loads((folder / "source.json").read_text())
    assert dataclasses.asdict(record) == written
    lines = "".join(f"{name}\0{digest(folder / 'raw' / name)}\n" for name in ("labels.csv", "train/1.jpg"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", written.pop("fetched_at"))
    assert written == {
        "kind": "archive",
        "declared": {"kind": "archive", "archive": "archive.zip"},
        "fingerprint": None,
        "archive": "archive.zip",
        "archive_sha256": digest(archive),
        "skipped": 0,
        "files": 2,
        "bytes": len(PHOTO) + 15,
        "content_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "licence": "CC BY 4.0",
        "notes": [],
    }
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_second_fetch_changes_nothing(folder, archive):
    settings = source("archive", archive=str(archive))
    first = sources.fetch(settings, folder)
    before = (folder / "raw").stat().st_mtime_ns
    assert sources.fetch(settings, folder) == first
    assert (folder / "raw").stat().st_mtime_ns == before
    archive.unlink()
    assert sources.fetch(settings, folder) == first  # deleted after it was unpacked


@pytest.mark.parametrize("start", ["current", "project", "home"])
def test_paths_start_here_in_the_project_or_at_home(folder, archive, tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path if start == "current" else "/")
    monkeypatch.setattr(params, "ROOT", tmp_path if start == "project" else tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "~/downloads/archive.zip" if start == "home" else "downloads/archive.zip"
    assert sources.fetch(source("archive", archive=text), folder).files == 2


def test_a_missing_archive_is_named_as_typed(folder):
    message = refusal(FileNotFoundError, source("archive", archive="~/Downloads/no.zip"), folder)
    assert "source.archive: expected a path that exists. Received: ~/Downloads/no.zip" in message
    assert "ARCHIVE=path" in message and str(Path.home() / "Downloads") not in message


def test_another_hash_than_declared_is_refused_and_the_file_kept(folder, archive):
    message = refusal(ValueError, source("archive", archive=str(archive), sha256="0" * 64), folder)
    assert f"archive.zip: expected the SHA-256 {'0' * 64}. Received: {digest(archive)}" in message
    assert archive.exists()


def test_an_archive_without_a_photo_is_refused(folder, tmp_path):
    members = [("1.json", b""), ("2.JSON", b""), ("notes.txt", b""), ("README", b"")]
    bad = make_zip(tmp_path / "archive.zip", members)
    message = refusal(ValueError, source("archive", archive=str(bad)), folder)
    assert "archive.zip: expected photos (.avif, .bmp" in message
    assert "Received: 4 files, but no photo: .json 2, without a suffix 1, .txt 1" in message
    assert bad.exists() and list(folder.glob("[!.]*")) == []


def test_a_hostile_archive_leaves_nothing(folder, tmp_path):
    bad = make_zip(tmp_path / "archive.zip", [("1.jpg", PHOTO), ("../../x.jpg", PHOTO)])
    assert "'../../x.jpg'" in refusal(ValueError, source("archive", archive=str(bad)), folder)
    assert list(folder.glob("[!.]*")) == []


@pytest.mark.parametrize("text", ["/dev/zero", "{pipe}", "{folder}"])
def test_an_archive_that_is_no_file_is_refused_at_once(folder, tmp_path, text):
    os.mkfifo(tmp_path / "pipe")
    typed = text.format(pipe=tmp_path / "pipe", folder=tmp_path)
    message = refusal(ValueError, source("archive", archive=typed), folder)
    kind = "a folder (give it as kind: folder)" if text == "{folder}" else "a device or a pipe"
    assert message == f"{Path(typed).name}: expected a zip or tar archive. Received: {kind}"


def test_other_photos_are_never_overwritten(folder, archive, tmp_path):
    sources.fetch(source("archive", archive=str(archive)), folder)
    before = (folder / "source.json").read_bytes()
    changed = make_zip(tmp_path / "other" / "archive.zip", [("2.jpg", PHOTO)])
    for settings in (
        source("archive", archive=str(changed)),
        source("archive", archive=str(archive), sha256="0" * 64),
        source("kaggle", dataset="a/b", archive=str(archive)),
        source("sample"),
        source("folder", folder=str(archive.parent)),
    ):
        with pytest.raises(ValueError, match="data/butterfly: expected ") as caught:
            sources.fetch(settings, folder)
        assert 'SET="source.name=butterfly2", or remove data/butterfly by hand' in str(caught.value)
        assert "Received: archive, archive archive.zip" in str(caught.value)
    assert (folder / "source.json").read_bytes() == before and (folder / "raw/train/1.jpg").exists()


def test_photos_without_a_record_are_not_overwritten(folder, archive):
    (folder / "raw").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Received: photos without a source\.json"):
        sources.fetch(source("archive", archive=str(archive)), folder)


def test_nothing_is_written_outside_the_folder(folder, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    sources.fetch(source("archive", archive=str(archive)), folder)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert all(folder in path.parents for path in after.keys() - before.keys())


def test_the_leftovers_of_a_killed_run_are_no_photos(folder, archive):
    for name in ("fetch.partial/raw", "old.partial/raw"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half.jpg").write_bytes(b"")
    (folder / "source.json").write_text("{}")  # written just before raw/ comes
    sources.fetch(source("archive", archive=str(archive)), folder)
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]
    assert not (folder / "raw/half.jpg").exists()


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A stand-in for lib.download.sample; returns the path of its source."""
    path = tmp_path / "sample.py"
    path.write_text(
        "def write(folder, *, seed=0, photos_per_class=36):\n"
        "    for name in ('raw', 'masks'):\n"
        "        (folder / name).mkdir()\n"
        "        for number in range(photos_per_class):\n"
        "            (folder / name / f'{seed}_{number}.png').write_bytes(b'')\n"
        "    (folder / 'test_labels.csv').write_text('filename,label')\n"
    )
    spec = importlib.util.spec_from_file_location("lib.download.sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "lib.download.sample", module)
    monkeypatch.setattr(lib.download, "sample", module, raising=False)
    return path


def test_a_sample_is_made_again_when_its_code_or_size_changes(folder, sample):
    first = sources.fetch(source("sample"), folder)
    assert first.declared == {"kind": "sample", "seed": 0, "photos_per_class": 36}
    (folder / "masks/mark").write_text("")
    assert sources.fetch(source("sample"), folder) == first and (folder / "masks/mark").exists()
    sample.write_text(sample.read_text() + "# better\n")
    assert sources.fetch(source("sample"), folder).fingerprint != first.fingerprint
    assert not (folder / "masks/mark").exists()
    assert sources.fetch(source("sample", seed=1, photos_per_class=8), folder).files == 8
    assert {path.name for path in (folder / "raw").iterdir()} == {f"1_{number}.png" for number in range(8)}
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "masks",
        "raw",
        "source.json",
        "test_labels.csv",
    ]


def test_a_sample_is_made_again_when_its_species_change(folder, sample, tmp_path, monkeypatch):
    first = sources.fetch(source("sample"), folder)
    changed = tmp_path / "species.yaml"
    changed.write_text("species: {}\n")
    monkeypatch.setattr(species, "FILE", changed)
    assert sources.fetch(source("sample"), folder).fingerprint != first.fingerprint


def test_a_swap_that_was_killed_is_made_good(folder, sample, monkeypatch):
    sources.fetch(source("sample"), folder)
    replace = Path.replace

    def killed(path, target):
        if target.parent == folder:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        sources.fetch(source("sample", seed=1), folder)
    assert not (folder / "raw").exists()
    assert sources.fetch(source("sample", seed=1), folder).declared["seed"] == 1
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "masks",
        "raw",
        "source.json",
        "test_labels.csv",
    ]


def test_the_encoding_of_the_names_belongs_to_the_source(folder, archive):
    first = sources.fetch(source("archive", archive=str(archive)), folder)
    with pytest.raises(ValueError, match="name_encoding cp932"):
        sources.fetch(source("archive", archive=str(archive), name_encoding="cp932"), folder)
    assert sources.fetch(source("archive", archive=str(archive)), folder) == first
