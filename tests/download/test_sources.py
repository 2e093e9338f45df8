"""Sources: the photos come once and whole, and nothing that is there is overwritten."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import traceback
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import gdown
import pytest
from conftest import encoded, scene

import lib.download
from lib.core import files, params, schema
from lib.download import archives, kaggle, sources, transfer

PHOTO = b"\xff\xd8\xff" + os.urandom(5000)
KEY = "0123456789abcdef0123456789abcdef"


def make_zip(path, members=(("train/1.jpg", PHOTO), ("labels.csv", b"filename,label\n"))):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(kind, **fields):
    return schema.Source(kind=kind, name="butterfly", **fields)


def message(error, wanted, folder):
    """Return the message of a failed fetch, after checking that nothing passes for fetched."""
    with pytest.raises(error) as caught:
        sources.fetch(wanted, folder)
    assert not (folder / "raw").exists() and not (folder / "source.json").exists()
    assert not (folder / "fetch.partial").exists()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "butterfly"


@pytest.fixture
def archive(tmp_path):
    return make_zip(tmp_path / "downloads" / "archive.zip")


class Handler(BaseHTTPRequestHandler):
    """A file server with Range, and Kaggle's API as the real client calls it."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content_Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers), None))
        content = server.files[urlsplit(self.path).path]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if server.failures or start >= len(content):
            self.answer(server.failures.pop(0) if server.failures else 416)
            return
        body = content[start:]
        sent = body[: server.cuts.pop(0)] if server.cuts else body
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        if self.server.refusal:
            status, text = self.server.refusal
            return self.answer(status, text, Content_Type="application/json")
        if self.path.endswith("GetDatasetMetadata"):
            info = {"info": {"licenses": [{"name": "CC0-1.0"}]}}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if self.path.endswith("ListDatasets"):
            others = {"ref": "another/butterflies", "totalBytes": "1"}
            found = {
                "ref": "someone/butterflies",
                "title": "Some, butterflies",
                "totalBytes": str(self.server.listed),
            }
            listed = json.dumps({"datasets": [others, found]}).encode()
            return self.answer(200, listed, Content_Type="application/json")
        return self.answer(302, Location="http://localhost/files/archive.zip")


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.files, server.cuts, server.failures, server.refusal = [], {}, [], [], None
    server.listed = 1000
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(transfer, "BACKOFF", 0)
    monkeypatch.setattr(transfer, "CHUNK", 100)
    yield server
    server.shutdown()
    server.server_close()


# an archive that is there


def test_an_archive_is_unpacked_once_and_described(folder, archive):
    record = sources.fetch(source("archive", archive=str(archive), licence="CC BY 4.0"), folder)
    assert (folder / "raw/train/1.jpg").read_bytes() == PHOTO
    assert record == json.loads((folder / "source.json").read_text())
    lines = "".join(f"{name}\0{digest(folder / 'raw' / name)}\n" for name in ("labels.csv", "train/1.jpg"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.pop("fetched_at"))
    assert record == {
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
    }
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_second_fetch_changes_nothing(folder, archive):
    wanted = source("archive", archive=str(archive))
    first = sources.fetch(wanted, folder)
    before = (folder / "raw").stat().st_mtime_ns
    assert sources.fetch(wanted, folder) == first
    assert (folder / "raw").stat().st_mtime_ns == before
    archive.unlink()
    assert sources.fetch(wanted, folder) == first  # deleted after it was unpacked


@pytest.mark.parametrize("place", ["current", "project", "home"])
def test_paths_start_here_in_the_project_or_at_home(folder, archive, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path if place == "current" else "/")
    monkeypatch.setattr(params, "ROOT", tmp_path if place == "project" else tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "~/downloads/archive.zip" if place == "home" else "downloads/archive.zip"
    assert sources.fetch(source("archive", archive=text), folder)["files"] == 2


def test_a_missing_archive_is_named_as_typed(folder):
    said = message(FileNotFoundError, source("archive", archive="~/Downloads/no.zip"), folder)
    assert "source.archive: expected the path of something that exists. Received: ~/Downloads/no.zip" in said
    assert "ARCHIVE=path" in said and str(sources.Path.home() / "Downloads") not in said


def test_another_hash_than_declared_is_refused_and_the_file_kept(folder, archive):
    said = message(ValueError, source("archive", archive=str(archive), sha256="0" * 64), folder)
    assert f"archive.zip: expected the SHA-256 {'0' * 64}. Received: {digest(archive)}" in said
    assert archive.exists()


def test_an_archive_without_a_photo_is_refused(folder, tmp_path):
    members = [("1.json", b""), ("2.JSON", b""), ("notes.txt", b""), ("README", b"")]
    bad = make_zip(tmp_path / "archive.zip", members)
    said = message(ValueError, source("archive", archive=str(bad)), folder)
    assert "archive.zip: expected photos (.avif, .bmp" in said
    assert "Received: 4 files and no photo among them: .json 2, without a suffix 1, .txt 1" in said
    assert bad.exists() and list(folder.glob("[!.]*")) == []


def test_a_hostile_archive_leaves_nothing(folder, tmp_path):
    bad = make_zip(tmp_path / "archive.zip", [("1.jpg", PHOTO), ("../../x.jpg", PHOTO)])
    assert "'../../x.jpg'" in message(ValueError, source("archive", archive=str(bad)), folder)
    assert list(folder.glob("[!.]*")) == []


def test_other_photos_are_never_overwritten(folder, archive, tmp_path):
    sources.fetch(source("archive", archive=str(archive)), folder)
    before = (folder / "source.json").read_bytes()
    changed = make_zip(tmp_path / "other" / "archive.zip", [("2.jpg", PHOTO)])
    for wanted in (
        source("archive", archive=str(changed)),
        source("archive", archive=str(archive), sha256="0" * 64),
        source("kaggle", dataset="a/b", archive=str(archive)),
        source("sample"),
        source("folder", folder=str(archive.parent)),
    ):
        with pytest.raises(ValueError, match="data/butterfly: expected ") as caught:
            sources.fetch(wanted, folder)
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


def test_an_archive_is_not_for_a_sample(folder):
    said = message(ValueError, source("sample", archive="x.zip"), folder)
    assert "source.archive: expected none for kind sample. Received: x.zip" in said


# a URL


def url_source(server, archive, **fields):
    server.files["/photos/archive.zip"] = archive.read_bytes()
    url = server.url.replace("//", "//user:secret@") + "/photos/archive.zip?token=secret"
    return source("archive", archive=url, **{"sha256": digest(archive), **fields})


def test_a_url_is_downloaded_and_its_secrets_are_not_recorded(server, folder, archive):
    record = sources.fetch(url_source(server, archive), folder)
    assert record["declared"]["archive"] == server.url + "/photos/archive.zip"
    assert record["archive"] == "archive.zip" and "secret" not in json.dumps(record)
    assert len(server.seen) == 1
    sources.fetch(url_source(server, archive), folder)
    assert len(server.seen) == 1  # no network
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_cut_download_goes_on_where_it_stopped(server, folder, archive):
    server.cuts = [1000, 500]
    assert sources.fetch(url_source(server, archive), folder)["archive_sha256"] == digest(archive)
    assert [headers.get("Range") for _, headers, _ in server.seen] == [None, "bytes=1000-", "bytes=1500-"]


def test_a_failed_download_is_resumed_by_the_next_run(server, folder, archive):
    server.cuts = [700] + [0] * transfer.RETRIES
    said = message(ValueError, url_source(server, archive), folder)
    assert (
        f"{server.url}/photos/archive.zip: expected a download. Received: " in said and "secret" not in said
    )
    server.seen.clear()
    sources.fetch(url_source(server, archive), folder)
    assert server.seen[0][1]["Range"] == "bytes=700-"


def test_a_download_that_was_complete_when_killed_is_used(server, folder, archive):
    wanted = url_source(server, archive)
    part = folder / "download.partial" / wanted.sha256[:16] / "archive.zip.partial"
    part.parent.mkdir(parents=True)
    part.write_bytes(archive.read_bytes())
    assert sources.fetch(wanted, folder)["files"] == 2


def test_a_download_with_another_hash_is_deleted(server, folder, archive):
    said = message(ValueError, url_source(server, archive, sha256="0" * 64), folder)
    assert f"expected the SHA-256 {'0' * 64}. Received: {digest(archive)}" in said
    assert list(folder.glob("[!.]*")) == []


def test_errors_of_the_server(server, folder, archive):
    server.failures = [503, 503]
    assert sources.fetch(url_source(server, archive), folder)["files"] == 2
    server.failures = [404]
    server.seen.clear()
    assert "Received: 404" in message(ValueError, url_source(server, archive), folder.with_name("other"))
    assert len(server.seen) == 1


def test_a_download_that_does_not_fit_is_not_begun(server, folder, archive, monkeypatch):
    monkeypatch.setattr(
        archives.shutil, "disk_usage", lambda _: type("usage", (), {"free": archive.stat().st_size * 2})
    )
    assert "kB of free disk space" in message(ValueError, url_source(server, archive), folder)
    assert not [path for path in folder.rglob("[!.]*") if path.is_file()]


def test_only_http_is_downloaded(folder):
    said = message(
        ValueError, source("archive", archive="ftp://user:pass@host/a.zip", sha256="0" * 64), folder
    )
    assert "an http or https URL" in said and "pass" not in said


# Kaggle, through its real client


@pytest.fixture
def kaggle_server(server, archive, tmp_path, monkeypatch):
    """The server as Kaggle, and a user without a key."""
    server.files["/files/archive.zip"] = archive.read_bytes()
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    settings = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": server.url,
        "no_proxy": "",
        "NO_PROXY": "",
    }
    for name, value in {**settings, "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    return server


def test_kaggle_without_a_key_at_a_version(kaggle_server, folder, archive):
    record = sources.fetch(source("kaggle", dataset="someone/butterflies/3"), folder)
    assert (record["kind"], record["licence"]) == ("kaggle", "CC0-1.0")
    assert record["declared"] == {"kind": "kaggle", "dataset": "someone/butterflies/3"}
    assert (record["archive"], record["archive_sha256"]) == ("butterflies.zip", digest(archive))
    download = next(body for path, _, body in kaggle_server.seen if path.endswith("/DownloadDataset"))
    assert download["datasetVersionNumber"] == 3 and download["ownerSlug"] == "someone"
    assert not any("Authorization" in headers for _, headers, _ in kaggle_server.seen)
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_kaggle_says_the_size_before_the_download(kaggle_server, folder, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    kaggle_server.listed = 10**18
    with pytest.raises(ValueError, match="downloading someone/butterflies.*free"):
        sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert not any(path.endswith("/DownloadDataset") for path, _, _ in kaggle_server.seen)


def test_kaggle_with_a_key(kaggle_server, folder, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    record = sources.fetch(source("kaggle", competition="dogs", licence="competition rules"), folder)
    assert (record["archive"], record["licence"]) == ("dogs.zip", "competition rules")
    assert kaggle_server.seen[0][0].endswith("competitions.CompetitionApiService/DownloadDataFiles")
    assert kaggle_server.seen[0][1]["Authorization"].startswith("Basic ")
    assert KEY not in (folder / "source.json").read_text()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, b"{}", "Received: 403 Forbidden."),
        (404, b"{}", "Received: 404 Not Found."),
        (401, b"{}", "Received: 401, Kaggle asks for a key"),
        (403, b'{"code": 403, "message": "no access for %s"}' % KEY.encode(), "Received: no access for ***."),
    ],
)
def test_kaggle_refuses(kaggle_server, folder, monkeypatch, status, body, reason):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    kaggle_server.refusal = (status, body)
    said = message(ValueError, source("kaggle", dataset="someone/butterflies"), folder)
    assert said.startswith("Kaggle data set someone/butterflies: expected a download. ")
    assert reason in said and KEY not in said
    assert "(1) a Kaggle key: create an API token at kaggle.com/settings" in said
    assert "(2) download the zip in a browser and run `make butterfly ARCHIVE=path`" in said
    asked = [path.rpartition("/")[2] for path, _, _ in kaggle_server.seen]
    assert asked == ["ListDatasets", "GetDatasetMetadata"]  # it stops at once


def test_a_competition_needs_a_key_and_its_rules(kaggle_server, folder):
    said = message(ValueError, source("kaggle", competition="dogs"), folder)
    assert "Kaggle competition dogs: expected a download. Received: 401, Kaggle asks for a key" in said
    assert said.endswith("accept the rules first, at kaggle.com/c/dogs/rules.") and not kaggle_server.seen


def test_kaggle_without_network(kaggle_server, folder, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    said = message(ValueError, source("kaggle", dataset="someone/butterflies"), folder)
    assert "Received: no connection to Kaggle. Two ways on" in said


def test_a_kaggle_client_that_hangs_is_ended(kaggle_server, folder, monkeypatch):
    monkeypatch.setattr(kaggle, "KAGGLE", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(kaggle, "CLIENT_TIMEOUT", 0.2)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)  # of the question for the size
    assert "Received: no end after" in message(ValueError, source("kaggle", dataset="a/b"), folder)


def test_keys_in_files_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fromtheenvironment")
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text(json.dumps({"username": "me", "key": KEY}))
    (tmp_path / ".kaggle/access_token").write_text("KGAT_fromafile\n")
    said = kaggle._without_secrets(f"a {KEY} b KGAT_fromafile c KGAT_fromtheenvironment")
    assert said == "a *** b *** c ***"


def assert_no_key(text, folder):
    """Check that neither the text nor a file under the folder has the key, plain or as HTTP carries it."""
    for secret in (KEY, base64.b64encode(f"someone:{KEY}".encode()).decode()):
        assert secret not in text
        assert not [p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.mark.parametrize("refusal", [None, (403, b'{"code": 403, "message": "not with %s"}' % KEY.encode())])
def test_the_key_is_neither_printed_nor_written(kaggle_server, folder, monkeypatch, capfd, refusal):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    kaggle_server.refusal, said = refusal, ""
    try:
        sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    except ValueError as error:  # a notebook shows it with all that led to it
        said = "".join(traceback.format_exception(error))
    assert bool(said) == bool(refusal) and any(
        "Authorization" in headers for _, headers, _ in kaggle_server.seen
    )
    assert_no_key(said + "".join(capfd.readouterr()), folder.parent)


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [None, (403, b'{"code": 403, "message": "not with %s"}' % KEY.encode())])
def test_the_key_is_in_no_notebook_and_no_log(kaggle_server, tmp_path, monkeypatch, refusal):
    members = [
        (f"{label}/{n}.png", encoded(scene(n + len(label)))) for label in ("red", "blue") for n in range(9)
    ]
    kaggle_server.files["/files/archive.zip"] = make_zip(tmp_path / "two.zip", members).read_bytes()
    kaggle_server.refusal = refusal
    for name, value in {
        "KAGGLE_USERNAME": "someone",
        "KAGGLE_KEY": KEY,
        "CHRYSALIS_OUTPUTS": str(tmp_path / "outputs"),
    }.items():
        monkeypatch.setenv(name, value)
    change = "source.kind=kaggle source.dataset=someone/butterflies source.name=butterflies"
    program = f"from lib import pipeline; pipeline.run('demo', assignments={change!r}, stages=('01_download', '02_clean'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names = {path.name for path in (tmp_path / "outputs").rglob("*")}
    assert (done.returncode == 0) == (refusal is None), done.stderr
    assert "manifest.csv" in names if refusal is None else "not with ***" in done.stderr
    assert any(name.endswith(".ipynb") for name in names)
    assert any("Authorization" in headers for _, headers, _ in kaggle_server.seen)
    assert_no_key(done.stdout + done.stderr, tmp_path / "outputs")


def test_a_begun_kaggle_download_does_not_pass_for_a_complete_one(kaggle_server, folder, archive):
    place = folder / "download.partial" / "someone_butterflies"
    place.mkdir(parents=True)
    (place / "butterflies.zip").write_bytes(archive.read_bytes()[:1000])
    marker = {"validator": '"1"', "size": archive.stat().st_size}
    (place / "butterflies.zip.kaggle-partial").write_text(json.dumps(marker))
    record = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert record["archive_sha256"] == digest(archive)
    assert kaggle_server.seen[-1][1].get("Range") == "bytes=1000-"


def test_a_kaggle_archive_waits_until_there_is_space(kaggle_server, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(archives, "extract", lambda *_: (_ for _ in ()).throw(files.NoSpace("too full")))
        assert message(ValueError, source("kaggle", dataset="someone/butterflies"), folder) == "too full"
    assert (folder / "download.partial/someone_butterflies/butterflies.zip").exists()
    assert sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)["files"] == 2


def test_a_kaggle_archive_without_photos_is_deleted(kaggle_server, folder, tmp_path):
    kaggle_server.files["/files/archive.zip"] = make_zip(
        tmp_path / "no.zip", [("train.csv", b"")]
    ).read_bytes()
    assert "no photo among them: .csv 1" in message(ValueError, source("kaggle", dataset="a/b"), folder)
    assert list(folder.glob("[!.]*")) == []


def test_an_archive_downloaded_by_hand_stands_for_kaggle(kaggle_server, folder, archive):
    record = sources.fetch(source("kaggle", dataset="someone/butterflies", archive=str(archive)), folder)
    assert (record["kind"], record["declared"]["dataset"]) == ("archive", "someone/butterflies")
    assert sources.fetch(source("kaggle", dataset="someone/butterflies"), folder) == record
    assert not kaggle_server.seen
    with pytest.raises(FileNotFoundError, match=r"Received: typo\.zip"):
        sources.fetch(source("kaggle", dataset="someone/butterflies", archive="typo.zip"), folder)


# Google Drive, with a stand-in for gdown

LINK = "https://drive.google.com/drive/folders/1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2?usp=sharing"


def drive_with(monkeypatch, fill):
    def download_folder(id, output, quiet, use_cookies, resume, timeout, retries):
        assert id == "1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2" and timeout and not use_cookies
        return fill(output)

    monkeypatch.setattr(gdown, "download_folder", download_folder)


def test_a_drive_folder_of_photos(folder, monkeypatch):
    drive_with(
        monkeypatch,
        lambda output: [make_zip(sources.Path(output, "a.zip")), make_zip(sources.Path(output, "b.jpg"))],
    )
    record = sources.fetch(source("drive", drive=LINK), folder)
    assert record["declared"] == {"kind": "drive", "drive": "1ZXEhzbLRLU1giKKRJkjm8N04cO_JoYE2"}
    assert (record["kind"], record["files"], record["archive"]) == ("drive", 2, None)


def test_a_drive_folder_with_one_archive(folder, archive, monkeypatch):
    drive_with(monkeypatch, lambda output: [make_zip(sources.Path(output, "a.zip"))])
    record = sources.fetch(source("drive", drive=LINK), folder)
    assert (record["files"], record["archive"]) == (2, "a.zip")
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_a_drive_folder_that_is_not_shared(folder, monkeypatch):
    def fail(output):
        raise gdown.exceptions.DownloadError(f"Failed to retrieve\n- {output}/a.jpg")

    drive_with(monkeypatch, fail)
    said = message(ValueError, source("drive", drive=LINK), folder)
    assert "Received: Failed to retrieve - /a.jpg. Two ways on: (1) share the folder as 'anyone with" in said
    assert "`make butterfly ARCHIVE=path`" in said
    assert "expected the link or id" in message(
        ValueError, source("drive", drive="https://example.org/"), folder
    )


# a folder


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
    assert record["declared"] == {"kind": "folder", "folder": "photos"}
    assert (record["files"], record["skipped"]) == (1, 2)
    assert [path.name for path in (folder / "raw").rglob("*")] == ["red", "1.jpg"]
    assert (folder / "raw/red/1.jpg").stat().st_mtime_ns == (photos / "red/1.jpg").stat().st_mtime_ns


def test_a_folder_is_copied_again_when_it_has_changed(folder, photos):
    wanted = source("folder", folder=str(photos))
    first = sources.fetch(wanted, folder)
    assert sources.fetch(wanted, folder) == first
    (photos / "red/2.jpg").write_bytes(PHOTO)
    second = sources.fetch(wanted, folder)
    assert second["files"] == 2 and second["content_sha256"] != first["content_sha256"]
    os.utime(photos / "red/2.jpg", ns=(1, 1))
    assert sources.fetch(wanted, folder)["fingerprint"] != second["fingerprint"]
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_an_unusable_change_of_a_folder_leaves_the_copy(folder, photos):
    wanted = source("folder", folder=str(photos))
    first = sources.fetch(wanted, folder)
    (photos / "red/1.jpg").unlink()
    with pytest.raises(ValueError, match=r"folder photos: expected photos .* Received: 0 files and no photo"):
        sources.fetch(wanted, folder)
    assert json.loads((folder / "source.json").read_text()) == first and (folder / "raw/red/1.jpg").exists()


def test_names_in_a_folder_that_are_not_utf_8_are_read_as_latin_1(folder, photos):
    odd = os.fsdecode("red/Bär.jpg".encode("latin-1"))
    (photos / odd).write_bytes(PHOTO)
    assert sources.fetch(source("folder", folder=str(photos)), folder)["files"] == 2
    assert (folder / "raw/red/Bär.jpg").exists()
    (photos / "red/Bär.jpg").write_bytes(PHOTO)
    with pytest.raises(
        ValueError, match=r"names that differ on this disk. Received: two files called 'red/Bär\.jpg'"
    ):
        sources.fetch(source("folder", folder=str(photos)), folder)


def test_folders_that_cannot_be_copied(folder, photos, tmp_path):
    assert "Received: no, which is neither" in message(
        FileNotFoundError, source("folder", folder="no"), folder
    )
    said = message(ValueError, source("folder", folder=str(photos / "red/1.jpg")), folder)
    assert "a file. Give a zip as kind: archive" in said
    apart = "expected a folder apart from data/butterfly, where the copy goes"
    assert apart in message(ValueError, source("folder", folder=str(tmp_path)), folder)
    (folder / "mine").mkdir(parents=True)
    assert apart in message(ValueError, source("folder", folder=str(folder / "mine")), folder)


# the sample


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
    assert first["declared"] == {"kind": "sample", "seed": 0, "photos_per_class": 36}
    (folder / "masks/mark").write_text("")
    assert sources.fetch(source("sample"), folder) == first and (folder / "masks/mark").exists()
    sample.write_text(sample.read_text() + "# better\n")
    assert sources.fetch(source("sample"), folder)["fingerprint"] != first["fingerprint"]
    assert not (folder / "masks/mark").exists()
    assert sources.fetch(source("sample", seed=1, photos_per_class=8), folder)["files"] == 8
    assert {path.name for path in (folder / "raw").iterdir()} == {f"1_{number}.png" for number in range(8)}
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "masks",
        "raw",
        "source.json",
        "test_labels.csv",
    ]


def test_a_swap_that_was_killed_is_made_good(folder, sample, monkeypatch):
    sources.fetch(source("sample"), folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sources.Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        sources.fetch(source("sample", seed=1), folder)
    assert not (folder / "raw").exists()
    assert sources.fetch(source("sample", seed=1), folder)["declared"]["seed"] == 1
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "masks",
        "raw",
        "source.json",
        "test_labels.csv",
    ]
