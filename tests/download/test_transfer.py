"""Transfer: an interrupted download is continued, and its secrets are not recorded."""

import dataclasses
import json

from download_builders import digest, refusal, source

from lib.download import archives, sources, transfer


def url_source(server, archive, **fields):
    server.files["/photos/archive.zip"] = archive.read_bytes()
    url = server.url.replace("//", "//user:secret@") + "/photos/archive.zip?token=secret"
    return source("archive", archive=url, **{"sha256": digest(archive), **fields})


def test_a_url_is_downloaded_and_its_secrets_are_not_recorded(server, folder, archive):
    record = sources.fetch(url_source(server, archive), folder)
    assert record.declared["archive"] == server.url + "/photos/archive.zip"
    assert record.archive == "archive.zip" and "secret" not in json.dumps(dataclasses.asdict(record))
    assert len(server.seen) == 1
    sources.fetch(url_source(server, archive), folder)
    assert len(server.seen) == 1  # no network
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_cut_download_goes_on_where_it_stopped(server, folder, archive):
    server.cuts = [1000, 500]
    assert sources.fetch(url_source(server, archive), folder).archive_sha256 == digest(archive)
    assert [headers.get("Range") for _, headers, _ in server.seen] == [None, "bytes=1000-", "bytes=1500-"]


def test_a_failed_download_is_resumed_by_the_next_run(server, folder, archive):
    server.cuts = [700] + [0] * transfer.RETRIES
    message = refusal(ValueError, url_source(server, archive), folder)
    assert (
        f"{server.url}/photos/archive.zip: expected a download. Received: " in message
        and "secret" not in message
    )
    server.seen.clear()
    sources.fetch(url_source(server, archive), folder)
    assert server.seen[0][1]["Range"] == "bytes=700-"


def test_a_download_that_was_complete_when_killed_is_used(server, folder, archive):
    settings = url_source(server, archive)
    part = folder / "download.partial" / settings.sha256[:16] / "archive.zip.partial"
    part.parent.mkdir(parents=True)
    part.write_bytes(archive.read_bytes())
    assert sources.fetch(settings, folder).files == 2


def test_a_download_with_another_hash_is_deleted(server, folder, archive):
    message = refusal(ValueError, url_source(server, archive, sha256="0" * 64), folder)
    assert f"expected the SHA-256 {'0' * 64}. Received: {digest(archive)}" in message
    assert list(folder.glob("[!.]*")) == []


def test_errors_of_the_server(server, folder, archive):
    server.failures = [503, 503]
    assert sources.fetch(url_source(server, archive), folder).files == 2
    server.failures = [404]
    server.seen.clear()
    assert "Received: 404" in refusal(ValueError, url_source(server, archive), folder.with_name("other"))
    assert len(server.seen) == 1


def test_a_download_that_does_not_fit_is_not_begun(server, folder, archive, monkeypatch):
    monkeypatch.setattr(
        archives.shutil, "disk_usage", lambda _: type("usage", (), {"free": archive.stat().st_size * 2})
    )
    assert "kB of free disk space" in refusal(ValueError, url_source(server, archive), folder)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_only_http_is_downloaded(folder):
    ftp = source("archive", archive="ftp://user:pass@host/a.zip", sha256="0" * 64)
    message = refusal(FileNotFoundError, ftp, folder)
    assert "Check the path or the URL (http or https)" in message and "pass" not in message
