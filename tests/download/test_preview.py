"""The files that 01_download would fetch, before it fetches them."""

import pytest
from download_builders import PHOTO, make_zip, source

from lib.download import preview, sources


def paths(settings, folder):
    with preview.contents(settings, folder) as found:
        return found and (found.place, found.listing.paths)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos/red").mkdir(parents=True)
    (tmp_path / "photos/red/1.jpg").write_bytes(PHOTO)
    return tmp_path / "photos"


def test_a_folder_is_listed_in_its_place(folder, photos):
    assert paths(source("folder", folder=str(photos)), folder) == ("folder photos", ["red/1.jpg"])
    assert not folder.exists() or not list(folder.iterdir())


def test_the_home_folder_is_refused_before_it_is_listed(folder, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    with pytest.raises(ValueError, match="contains the home folder"):
        paths(source("folder", folder="~"), folder)


def test_an_archive_is_listed_without_unpacking_it(folder, tmp_path):
    archive = make_zip(tmp_path / "photos.zip")
    settings = source("kaggle", dataset="a/b", archive=str(archive))
    assert paths(settings, folder) == ("archive photos.zip", ["labels.csv", "train/1.jpg"])
    assert not (folder / "raw").exists()
    with pytest.raises(FileNotFoundError, match="gone.zip"):
        paths(source("archive", archive="gone.zip"), folder)


def test_fetched_photos_are_listed_after_the_archive_is_deleted(folder, tmp_path):
    archive = make_zip(tmp_path / "photos.zip")
    settings = source("archive", archive=str(archive))
    sources.fetch(settings, folder)
    archive.unlink()
    assert paths(settings, folder) == (
        f"{folder.parent.name}/{folder.name}/raw",
        ["labels.csv", "train/1.jpg"],
    )


def test_what_is_not_here_yet_is_described(folder, monkeypatch, tmp_path):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = source("kaggle", dataset="a/b")
    assert paths(dataset, folder) is None
    assert "https://www.kaggle.com/datasets/a/b will be downloaded, but no key was found" in preview.download(
        dataset
    )
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text("{}")
    text = preview.download(source("kaggle", competition="c"))
    assert "competitions/c, whose rules must be accepted there" in text
    assert "with the key in .kaggle/kaggle.json" in text
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    text = preview.download(dataset)
    assert "with the key in KAGGLE_API_TOKEN" in text and "secret" not in text
    assert "make butterfly ARCHIVE=path" in text
    assert "without a key" in preview.download(source("drive", drive="abc"))
    url = source("archive", archive="https://me:word@x.org/a.zip?key=1", sha256="0" * 64)
    assert paths(url, folder) is None
    assert preview.download(url).startswith("https://x.org/a.zip will be downloaded")
    sample = source("sample")
    assert paths(sample, folder) is None and "36 photos" in preview.download(sample)
