"""Fixtures of all tests."""

import pytest
from shared import Drawing


@pytest.fixture
def raw(tmp_path):
    """The empty `raw/` of a source."""
    (tmp_path / "source/raw").mkdir(parents=True)
    return Drawing(tmp_path / "source/raw")
