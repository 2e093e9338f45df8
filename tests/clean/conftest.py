"""Fixtures of the tests of the cleaning."""

import pytest


@pytest.fixture
def watched(monkeypatch):
    """A person sits before the kernel."""
    monkeypatch.setattr("lib.clean.review.interactive", lambda: True)
