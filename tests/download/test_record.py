"""The record of a source: a valid one is read, also if an earlier version wrote it."""

import json

import pytest
from download_builders import source

from lib.download import sources
from lib.download.record import SourceRecord


def test_a_record_is_read_back_if_its_photos_are_there(tmp_path):
    record = SourceRecord(
        kind="drive",
        archive=None,
        archive_sha256=None,
        skipped=1,
        licence=None,
        declared={"kind": "drive", "drive": "1ZX"},
        fingerprint=None,
        fetched_at="2026-01-01T00:00:00+00:00",
        files=2,
        bytes=30,
        content_sha256="c" * 64,
    )
    record.save(tmp_path)
    assert SourceRecord.load(tmp_path) is None
    (tmp_path / "raw").mkdir()
    assert SourceRecord.load(tmp_path) == record


def test_a_record_of_an_earlier_version_is_read_and_a_damaged_one_is_not(folder, archive):
    settings = source("archive", archive=str(archive))
    first = sources.fetch(settings, folder)
    values = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps(dict(sorted(values.items())) | {"more": 1}))
    assert sources.fetch(settings, folder) == first
    for text in ("", "[]", "{}", '"text"', json.dumps({"kind": "archive"})):
        (folder / "source.json").write_text(text)
        with pytest.raises(ValueError, match=r"Received: photos without a source\.json"):
            sources.fetch(settings, folder)
