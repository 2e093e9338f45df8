"""Benchmarks: the archives are read from the folder of the command line or from DATA."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def archive():
    return runpy.run_path(str(BENCHMARKS / "data.py"))["archive"]


def test_the_folder_of_the_command_line_comes_before_data(archive, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flowers.zip").touch()
    monkeypatch.setenv("DATA", str(tmp_path / "one"))
    assert archive(None, "flowers.zip") == tmp_path / "one/flowers.zip"
    assert archive(tmp_path / "two", "flowers.zip") == tmp_path / "two/flowers.zip"


@pytest.mark.parametrize(("data", "received"), [(None, "no folder"), ("", "no folder"), ("/gone", "/gone")])
def test_a_missing_archive_is_one_line(archive, monkeypatch, data, received):
    monkeypatch.delenv("DATA", raising=False)
    if data is not None:
        monkeypatch.setenv("DATA", data)
    with pytest.raises(SystemExit) as error:
        archive(None, "flowers.zip")
    assert error.value.code == (
        f"expected flowers.zip in DATA=folder, see docs/datasets.md. Received: {received}"
    )
