"""Kaggle: its real client against a stand-in server, with and without a key."""

import base64
import json
import os
import subprocess
import sys
import traceback

import pytest
from download_builders import digest, make_zip, refusal, source
from shared import encoded, scene

from lib.core import files
from lib.download import archives, kaggle, sources, transfer

KEY = "0123456789abcdef0123456789abcdef"


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
    assert (record.kind, record.licence) == ("kaggle", "CC0-1.0")
    assert record.declared == {"kind": "kaggle", "dataset": "someone/butterflies/3"}
    assert (record.archive, record.archive_sha256) == ("butterflies.zip", digest(archive))
    download = next(body for path, _, body in kaggle_server.seen if path.endswith("/DownloadDataset"))
    assert download["datasetVersionNumber"] == 3 and download["ownerSlug"] == "someone"
    assert not any("Authorization" in headers for _, headers, _ in kaggle_server.seen)
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["raw", "source.json"]


def test_the_size_is_known_before_the_download(kaggle_server, folder, monkeypatch):
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
    assert (record.archive, record.licence) == ("dogs.zip", "competition rules")
    assert kaggle_server.seen[0][0].endswith("competitions.CompetitionApiService/DownloadDataFiles")
    assert kaggle_server.seen[0][1]["Authorization"].startswith("Basic ")
    assert KEY not in (folder / "source.json").read_text()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, b"{}", "Received: 403 Forbidden."),
        (404, b"{}", "Received: 404 Not Found."),
        (401, b"{}", "Received: 401, Kaggle requires a key"),
        (403, b'{"code": 403, "message": "no access for %s"}' % KEY.encode(), "Received: no access for ***."),
    ],
)
def test_kaggle_refuses(kaggle_server, folder, monkeypatch, status, body, reason):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    kaggle_server.refusal = (status, body)
    message = refusal(ValueError, source("kaggle", dataset="someone/butterflies"), folder)
    assert message.startswith("Kaggle data set someone/butterflies: expected a download. ")
    assert reason in message and KEY not in message
    assert "(1) a Kaggle key: create an API token at kaggle.com/settings" in message
    assert "(2) download the zip in a browser and run `make butterfly ARCHIVE=path`" in message
    asked = [path.rpartition("/")[2] for path, _, _ in kaggle_server.seen]
    assert asked == ["ListDatasets", "GetDatasetMetadata"]  # it stops at once


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_file_is_not_asked_for_again(kaggle_server, folder, status):
    kaggle_server.failures = [status] * 9
    message = refusal(ValueError, source("kaggle", dataset="someone/butterflies"), folder)
    assert f"Received: {status}" in message
    assert [path for path, _, _ in kaggle_server.seen].count("http://localhost/files/archive.zip") == 1


def test_a_competition_needs_a_key_and_its_rules(kaggle_server, folder):
    message = refusal(ValueError, source("kaggle", competition="dogs"), folder)
    assert "Kaggle competition dogs: expected a download. Received: 401, Kaggle requires a key" in message
    assert message.endswith("accept the rules first, at kaggle.com/c/dogs/rules.") and not kaggle_server.seen


def test_kaggle_without_network(kaggle_server, folder, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    message = refusal(ValueError, source("kaggle", dataset="someone/butterflies"), folder)
    assert "Received: no connection to Kaggle. There are two ways to continue" in message


def test_a_kaggle_client_that_hangs_is_ended(kaggle_server, folder, monkeypatch):
    monkeypatch.setattr(kaggle, "KAGGLE", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(kaggle, "CLIENT_TIMEOUT", 0.2)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)  # of the question for the size
    assert "Received: no archive in" in refusal(ValueError, source("kaggle", dataset="a/b"), folder)


def test_keys_in_files_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_fromtheenvironment")
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text(json.dumps({"username": "me", "key": KEY}))
    (tmp_path / ".kaggle/access_token").write_text("KGAT_fromafile\n")
    message = kaggle._without_secrets(f"a {KEY} b KGAT_fromafile c KGAT_fromtheenvironment")
    assert message == "a *** b *** c ***"


def assert_no_key(text, folder):
    """Check that neither the text nor a file under the folder has the key, plain or as HTTP carries it."""
    for secret in (KEY, base64.b64encode(f"someone:{KEY}".encode()).decode()):
        assert secret not in text
        assert not [p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.mark.parametrize("refusal", [None, (403, b'{"code": 403, "message": "not with %s"}' % KEY.encode())])
def test_the_key_is_neither_printed_nor_written(kaggle_server, folder, monkeypatch, capfd, refusal):
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    kaggle_server.refusal, message = refusal, ""
    try:
        sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    except ValueError as error:  # a notebook shows it with all that led to it
        message = "".join(traceback.format_exception(error))
    assert bool(message) == bool(refusal) and any(
        "Authorization" in headers for _, headers, _ in kaggle_server.seen
    )
    assert_no_key(message + "".join(capfd.readouterr()), folder.parent)


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
    program = (
        "from lib import pipeline; from lib.core import params, steps\n"
        f"overrides = params.parse_assignments({change!r})\n"
        "sequence = (steps.DOWNLOAD, steps.CLEAN)\n"
        "pipeline.Runner(params.load('demo', overrides), overrides, sequence=sequence).run()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names = {path.name for path in (tmp_path / "outputs").rglob("*")}
    assert (done.returncode == 0) == (refusal is None), done.stderr
    assert "manifest.csv" in names if refusal is None else "not with ***" in done.stderr
    assert any(name.endswith(".ipynb") for name in names)
    assert any("Authorization" in headers for _, headers, _ in kaggle_server.seen)
    assert_no_key(done.stdout + done.stderr, tmp_path / "outputs")


def test_a_begun_kaggle_download_does_not_pass_for_a_complete_one(kaggle_server, folder, archive):
    target = folder / "download.partial" / "someone_butterflies"
    target.mkdir(parents=True)
    (target / "butterflies.zip").write_bytes(archive.read_bytes()[:1000])
    marker = {"validator": '"1"', "size": archive.stat().st_size}
    (target / "butterflies.zip.kaggle-partial").write_text(json.dumps(marker))
    record = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert record.archive_sha256 == digest(archive)
    assert kaggle_server.seen[-1][1].get("Range") == "bytes=1000-"


def test_a_kaggle_archive_waits_until_there_is_space(kaggle_server, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(archives, "extract", lambda *_, **__: (_ for _ in ()).throw(files.NoSpace("too full")))
        assert refusal(ValueError, source("kaggle", dataset="someone/butterflies"), folder) == "too full"
    assert (folder / "download.partial/someone_butterflies/butterflies.zip").exists()
    assert sources.fetch(source("kaggle", dataset="someone/butterflies"), folder).files == 2


def test_a_kaggle_archive_without_photos_is_deleted(kaggle_server, folder, tmp_path):
    kaggle_server.files["/files/archive.zip"] = make_zip(
        tmp_path / "no.zip", [("train.csv", b"")]
    ).read_bytes()
    assert "but no photo: .csv 1" in refusal(ValueError, source("kaggle", dataset="a/b"), folder)
    assert list(folder.glob("[!.]*")) == []


def test_an_archive_downloaded_by_hand_replaces_kaggle(kaggle_server, folder, archive):
    record = sources.fetch(source("kaggle", dataset="someone/butterflies", archive=str(archive)), folder)
    assert (record.kind, record.declared["dataset"]) == ("archive", "someone/butterflies")
    assert sources.fetch(source("kaggle", dataset="someone/butterflies"), folder) == record
    assert not kaggle_server.seen
    with pytest.raises(FileNotFoundError, match=r"Received: typo\.zip"):
        sources.fetch(source("kaggle", dataset="someone/butterflies", archive="typo.zip"), folder)


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """A Kaggle notebook's folder of attached data sets; the client must not run."""
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "input")
    monkeypatch.setattr(kaggle, "download", lambda *_: pytest.fail("a download began"))

    def attach(name, members):
        for path, content in members.items():
            file = tmp_path / "input" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return tmp_path / "input" / name

    return attach


PHOTOS = {"cat/1.png": encoded(scene(1)), "dog/1.png": encoded(scene(2))}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"dataset": "someone/butterflies"}, "butterflies"),
        ({"dataset": "someone/butterflies/3"}, "datasets/someone/butterflies"),
        ({"competition": "dogs"}, "dogs"),
        ({"competition": "dogs"}, "competitions/dogs"),
    ],
)
def test_an_attached_data_set_is_read_in_place(attached, folder, fields, name):
    mount = attached(name, PHOTOS)
    record = sources.fetch(source("kaggle", **fields), folder)
    assert (folder / "raw").resolve() == mount and (record.kind, record.files) == ("kaggle", 2)
    assert sources.fetch(source("kaggle", **fields), folder) == record


def test_another_data_set_that_is_attached_is_not_read(attached, folder, monkeypatch):
    attached("moths", PHOTOS)
    monkeypatch.setattr(kaggle, "download", lambda *_: (_ for _ in ()).throw(transfer.Unfinished("no key")))
    with pytest.raises(transfer.Unfinished):
        sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)


def test_an_attached_archive_is_unpacked(attached, folder, archive):
    attached("butterflies", {"all.zip": archive.read_bytes()})
    record = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert not (folder / "raw").is_symlink() and record.archive == "all.zip"
    assert (folder / "raw/train/1.jpg").is_file()


def test_a_data_set_that_is_attached_again_elsewhere_replaces_the_dead_link(attached, folder):
    mount = attached("butterflies", PHOTOS)
    sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    (mount.parent / "datasets/someone").mkdir(parents=True)
    mount.rename(mount.parent / "datasets/someone/butterflies")
    record = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert (folder / "raw/cat/1.png").is_file() and record.files == 2


def test_of_two_data_sets_of_one_name_that_of_the_owner_is_read(attached, folder):
    attached("butterflies", PHOTOS)
    mount = attached("datasets/someone/butterflies", PHOTOS)
    sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert (folder / "raw").resolve() == mount


def test_an_attached_data_set_that_has_changed_is_described_again(attached, folder):
    mount = attached("butterflies", PHOTOS)
    first = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    (mount / "cat/1.png").write_bytes(encoded(scene(3)))
    os.utime(mount / "cat/1.png", (1, 1))
    second = sources.fetch(source("kaggle", dataset="someone/butterflies"), folder)
    assert first.content_sha256 != second.content_sha256
