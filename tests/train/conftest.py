"""Fixtures of the tests of the training."""

import pytest
from builders import Broken, Tiny

from lib.networks import backbones, device
from lib.networks.device import tf
from lib.train import training


@pytest.fixture
def tiny(monkeypatch):
    """The backbones `Tiny` and `Broken`, and a device that starts anew."""
    for constructor in (Tiny, Broken):
        entry = backbones.Backbone(constructor, backbones.SIGNED)
        monkeypatch.setitem(backbones.REGISTRY, constructor.__name__, entry)
    device.prepare(0)


@pytest.fixture
def eager():
    """Run the steps of training without tracing them first, which takes seconds and changes nothing here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Return a function that trains some settings and photos without an interruption, each only once."""
    done = {}

    def get(name, settings, photos):
        name = f"{name}-{'eager' if tf.config.functions_run_eagerly() else 'graph'}"
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, training.fit(settings, photos, folder=folder)
        return done[name]

    return get
