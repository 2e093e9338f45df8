"""The engine: the Keras backend that the environment names, checked before Keras is imported."""

import os

import pytest

from lib.core import engine


@pytest.mark.parametrize("name", ["theano", "tensorflow "])
def test_an_unknown_backend_is_refused(monkeypatch, name):
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(ValueError, match="expected tensorflow, jax, torch"):
        engine.name()


def test_a_backend_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="KERAS_BACKEND=torch: this backend is not installed"):
        engine.name()


def test_tensorflow_is_the_default(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert engine.name() == "tensorflow" == os.environ["KERAS_BACKEND"]
