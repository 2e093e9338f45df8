"""Fixtures of the tests of the download."""

import pytest
from download_builders import make_zip, serving


@pytest.fixture
def folder(tmp_path):
    """The folder of the source butterfly, which does not exist."""
    return tmp_path / "data" / "butterfly"


@pytest.fixture
def archive(tmp_path):
    """A zip with a photo and a table."""
    return make_zip(tmp_path / "downloads" / "archive.zip")


@pytest.fixture
def server(monkeypatch):
    """A file server that is Kaggle's API too."""
    with serving(monkeypatch) as running:
        yield running
