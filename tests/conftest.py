"""Fixtures of all tests, and the option `--without-backend`."""

import importlib.abc
import os
import sys

import pytest
from shared import Drawing

BACKENDS = {"jax", "keras", "tensorflow", "torch"}


def pytest_addoption(parser):
    """Add the option that `make test-fast` uses."""
    parser.addoption("--without-backend", action="store_true", help="skip all tests that import a backend")


def pytest_configure(config):
    """Turn each import of a backend into a skip: of a module of tests, or of the test that runs."""
    if config.getoption("without_backend"):
        sys.meta_path.insert(0, NoBackend())
        sys.addaudithook(refuse_python)


class NoBackend(importlib.abc.MetaPathFinder):
    """Skip the importer of a backend; the usual finders are asked about all other modules."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in BACKENDS:
            pytest.skip(f"imports {fullname}", allow_module_level=True)


def refuse_python(event, arguments):
    """Skip a test that starts another Python, such as a kernel: its imports cannot be seen from here."""
    # Without a test it is pytest-xdist that starts its workers.
    testing = "PYTEST_CURRENT_TEST" in os.environ
    if event == "subprocess.Popen" and testing and sys.executable in (arguments[0], arguments[1][0]):
        pytest.skip("starts another Python")


@pytest.fixture
def raw(tmp_path):
    """The empty `raw/` of a source."""
    (tmp_path / "source/raw").mkdir(parents=True)
    return Drawing(tmp_path / "source/raw")
