"""The engine: the Keras backend that the environment names, checked before Keras is imported."""

import os
import sys
from types import SimpleNamespace

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


# Several processes


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which JAX connects the processes. It refuses to do so without an address."""
    calls = []

    def initialize(address, count, number, **options):
        if address is None and "SLURM_JOB_ID" not in os.environ:
            raise ValueError("coordinator_address should be defined.")
        calls.append((address, count, number))

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("JAX_ENABLE_PREEMPTION_SERVICE", "")
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "jax.distributed", SimpleNamespace(initialize=initialize))
    for variable in (*engine.JOIN, "SLURM_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)
    return calls


def set_variables(monkeypatch, *values):
    for variable, value in zip(engine.JOIN, values, strict=True):
        monkeypatch.setenv(variable, value)


def test_three_variables_name_the_processes(joined, monkeypatch):
    set_variables(monkeypatch, "node1:1234", "4", "3")
    engine.join()
    assert joined == [("node1:1234", 4, 3)]


def test_without_variables_the_launcher_names_the_processes(joined, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    engine.join()
    assert joined == [(None, None, None)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "", ""), "a process that srun has started, or host:port.*Received: none of them"),
        (("node1:1234", "4", ""), "Missing: KERAS_DISTRIBUTION_PROCESS_ID"),
        (("node1:1234", "four", "0"), "Received:.*four"),
    ],
)
def test_processes_without_a_name_are_refused(joined, monkeypatch, values, message):
    set_variables(monkeypatch, *values)
    with pytest.raises(ValueError, match=message):
        engine.join()
    assert joined == []


def test_only_jax_trains_in_several_processes(joined, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(ValueError, match="expected KERAS_BACKEND=jax.*Received: tensorflow"):
        engine.join()
