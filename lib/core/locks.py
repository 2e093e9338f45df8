"""Provisional."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def run(folder: Path) -> Iterator[None]:
    """Hold a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock", timeout=0):
        yield
