"""Fixtures of the tests of the training."""

import pytest
from builders import Broken, Tiny

from lib.networks import backbones, backend
from lib.train import training


@pytest.fixture
def tiny(monkeypatch):
    """The backbones `Tiny` and `Broken`, and a newly prepared device."""
    for constructor in (Tiny, Broken):
        entry = backbones.Backbone(constructor, backbones.SIGNED)
        monkeypatch.setitem(backbones.REGISTRY, constructor.__name__, entry)
    backend.prepare(0)


def run_eagerly(eagerly):
    """Run TensorFlow's functions with or without tracing, which takes seconds and changes no result."""
    if backend.ENGINE == "tensorflow":
        backend.native.config.run_functions_eagerly(eagerly)


@pytest.fixture
def eager():
    run_eagerly(True)
    yield
    run_eagerly(False)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A function that trains without an interruption, only once for each name."""
    done = {}

    def get(name, settings, photos):
        eagerly = backend.ENGINE == "tensorflow" and backend.native.config.functions_run_eagerly()
        name = f"{name}-{'eager' if eagerly else 'graph'}"
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, training.fit(settings, photos, folder=folder)
        return done[name]

    return get
