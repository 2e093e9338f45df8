"""Lock the photos of a source or the folder of a run, so that only one process at a time uses it."""

import contextlib
import errno
import functools
from collections.abc import Iterator
from pathlib import Path

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, SoftFileLock, Timeout

# Time to wait for a lock before a message is printed or an error is raised.
TIMEOUT_SECONDS = 1.0
FOREVER = -1
# Error codes of disks without file locks, such as some network drives.
UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


@contextlib.contextmanager
def source(folder: Path) -> Iterator[None]:
    """Lock the photos of a source. If another process has the lock, print a message and wait.

    Args:
        folder: `outputs/data/<source>`, created if it is missing. The lock is reentrant within a process.
    """
    try:
        lock = _acquire(folder, TIMEOUT_SECONDS)
    except Timeout:
        print(f"another process is reading the photos of {folder.name}: waiting")
        lock = _acquire(folder, FOREVER)
    with lock:
        yield


@contextlib.contextmanager
def run(folder: Path) -> Iterator[None]:
    """Lock a run, so that no other process overwrites its results.

    Args:
        folder: folder of the run, created if it is missing. The lock is reentrant within a process.

    Raises:
        ValueError: if another process has the lock.
    """
    try:
        lock = _acquire(folder, TIMEOUT_SECONDS)
    except Timeout:
        raise ValueError(
            f"another process is using {folder.parent.name}/{folder.name}: wait until it ends, "
            "shut down its notebook, or choose another name for this run (RUN=name)"
        ) from None
    with lock:
        yield


def _acquire(folder: Path, timeout: float) -> AcquireReturnProxy:
    """Acquire the lock of a folder. Without file locks, use a file that contains the process ID."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _file_lock(folder / ".lock").acquire(timeout=timeout)
    except NotImplementedError:
        # Earlier versions of filelock, for `ENOSYS`.
        pass
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    _print_fallback(folder)
    return SoftFileLock(folder / ".lock.process", is_singleton=True).acquire(timeout=timeout)


def _file_lock(path: Path) -> BaseFileLock:
    try:
        # By its own fallback, the file that an earlier process left would count as locked.
        return FileLock(path, is_singleton=True, fallback_to_soft=False)
    except TypeError:
        # Earlier versions have no fallback.
        return FileLock(path, is_singleton=True)


@functools.cache
def _print_fallback(folder: Path) -> None:
    """Print a message, once per folder, if its disk has no file locks."""
    print(
        f"the disk of {folder.parent.name}/{folder.name} has no file locks: the file .lock.process is used "
        "instead. It is ignored if its process is no longer running on this machine"
    )
