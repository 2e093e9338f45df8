"""Fixtures of the tests of the training."""

import pytest
from builders import Broken, Tiny

from lib.networks import backbones, device
from lib.networks.device import tf
from lib.train import training


@pytest.fixture
def tiny(monkeypatch):
    """The backbones `Tiny` and `Broken`, and a newly prepared device."""
    for constructor in (Tiny, Broken):
        entry = backbones.Backbone(constructor, backbones.SIGNED)
        monkeypatch.setitem(backbones.REGISTRY, constructor.__name__, entry)
    device.prepare(0)


@pytest.fixture
def eager():
    """Run the training steps without tracing, which takes seconds and changes no result."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A function that trains without an interruption, only once for each name."""
    done = {}

    def get(name, settings, photos):
        name = f"{name}-{'eager' if tf.config.functions_run_eagerly() else 'graph'}"
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, training.fit(settings, photos, folder=folder)
        return done[name]

    return get
