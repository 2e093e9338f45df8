"""Keep processes from each other's work: one at a time fetches or scans a source, or works on a run."""

import contextlib
import errno
import functools
from collections.abc import Iterator
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout

# A process that holds a lock no longer than this is waited for without a word.
SECONDS_PATIENT = 1.0
FOREVER = -1
# Errors of disks without file locks, such as some network drives.
UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


@contextlib.contextmanager
def source(folder: Path) -> Iterator[None]:
    """Hold the photos of a source; if another process holds them, print a line and wait.

    Args:
        folder: `outputs/data/<source>`, created if it is missing. This process may already hold it.
    """
    try:
        lock = _acquire(folder, SECONDS_PATIENT)
    except Timeout:
        print(f"another process is reading the photos of {folder.name}: waiting")
        lock = _acquire(folder, FOREVER)
    with lock:
        yield


@contextlib.contextmanager
def run(folder: Path) -> Iterator[None]:
    """Hold a run for this process; a second one would write over its results.

    Args:
        folder: the run's folder, created if it is missing. This process may already hold it.

    Raises:
        ValueError: another process holds it.
    """
    try:
        lock = _acquire(folder, SECONDS_PATIENT)
    except Timeout:
        raise ValueError(
            f"another process is at work in {folder.parent.name}/{folder.name}: wait for it, "
            "shut its notebook down, or give this run a name of its own (RUN=...)"
        ) from None
    with lock:
        yield


def _acquire(folder: Path, timeout: float) -> AcquireReturnProxy:
    """Acquire the lock of a folder, on a disk without file locks by a file that names the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock", is_singleton=True).acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    _tell(folder)
    return SoftFileLock(folder / ".lock.process", is_singleton=True).acquire(timeout=timeout)


@functools.cache
def _tell(folder: Path) -> None:
    """Print, once for each folder, how it is locked if its disk has no file locks."""
    print(
        f"the disk of {folder.parent.name}/{folder.name} has no file locks: .lock.process names the process "
        "at work, and is taken over when that process has ended on this machine"
    )
