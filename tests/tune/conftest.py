"""Fixtures of the tests of the search."""

import shutil

import pytest

from lib.core import schema
from lib.tune import studies


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A database without trials. Copying it is faster than creating another."""
    folder = tmp_path_factory.mktemp("empty")
    with studies.opened("x", monitor="val_loss", seed=0, settings=schema.Tune(), folder=folder):
        return folder / "study.db"


@pytest.fixture
def outputs(tmp_path, monkeypatch, database):
    """A function that changes to an empty folder of runs; its attribute `folder` is the first."""

    def move(name):
        (tmp_path / name / "tiny/tune").mkdir(parents=True)
        shutil.copy(database, tmp_path / name / "tiny/tune/study.db")
        monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / name))
        return tmp_path / name

    move.folder = move("first")
    return move


@pytest.fixture
def fit(monkeypatch):
    """The stand-in for the training, without networks whose memory must be freed."""
    # Imported here: TensorFlow takes seconds to load, and the tests of the studies do not need it.
    from search_builders import Fit

    stand_in = Fit()
    monkeypatch.setattr("lib.train.training.fit", stand_in)
    monkeypatch.setattr("lib.tune.tuning.gc.collect", lambda: None)
    monkeypatch.setattr("lib.tune.tuning.cache.code", lambda *files: "code")
    return stand_in
