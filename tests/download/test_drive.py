"""Google Drive: a folder or a sole archive in it, with a stand-in for gdown."""

from pathlib import Path

import gdown
import requests
from download_builders import make_zip, refusal, source

from lib.download import sources

LINK = "https://drive.google.com/drive/folders/1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2?usp=sharing"


def drive_with(monkeypatch, fill):
    def download_folder(id, output, quiet, use_cookies, resume, timeout, retries):
        assert id == "1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2" and timeout and not use_cookies
        return fill(output)

    monkeypatch.setattr(gdown, "download_folder", download_folder)


def test_a_drive_folder_of_photos(folder, monkeypatch):
    drive_with(
        monkeypatch,
        lambda output: [make_zip(Path(output, "a.zip")), make_zip(Path(output, "b.jpg"))],
    )
    record = sources.fetch(source("drive", drive=LINK), folder)
    assert record.declared == {"kind": "drive", "drive": "1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2"}
    assert (record.kind, record.files, record.archive) == ("drive", 2, None)


def test_a_drive_folder_with_one_archive(folder, archive, monkeypatch):
    drive_with(monkeypatch, lambda output: [make_zip(Path(output, "a.zip"))])
    record = sources.fetch(source("drive", drive=LINK), folder)
    assert (record.files, record.archive) == (2, "a.zip")
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_drive_folder_without_network(folder, monkeypatch):
    def fail(output):
        raise requests.ConnectionError("HTTPSConnectionPool(host='drive.google.com'): Max retries exceeded")

    drive_with(monkeypatch, fail)
    message = refusal(ValueError, source("drive", drive=LINK), folder)
    assert "Received: no connection to Google Drive. There are two ways to continue" in message


def test_a_drive_folder_that_is_not_shared(folder, monkeypatch):
    def fail(output):
        raise gdown.exceptions.DownloadError(f"Failed to retrieve\n- {output}/a.jpg")

    drive_with(monkeypatch, fail)
    message = refusal(ValueError, source("drive", drive=LINK), folder)
    assert (
        "Received: Failed to retrieve - /a.jpg. There are two ways to continue: (1) share the folder as"
        in message
    )
    assert "`make butterfly ARCHIVE=path`" in message
    assert "expected the link or ID" in refusal(
        ValueError, source("drive", drive="https://example.org/"), folder
    )
