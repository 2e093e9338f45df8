"""Write files and folders atomically, hash files, and check the free disk space."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

# Name of a temporary file or folder, with the ID of the process that writes it.
_PARTIAL = re.compile(r"\.partial-(\d+)-[0-9a-f]{8}-")
# Age at which the temporary files of killed processes are removed.
MAX_AGE_SECONDS = 24 * 60 * 60
# Name, size in bytes and number of decimal places of each unit.
UNITS = (("GB", 10**9, 1), ("MB", 10**6, 1), ("kB", 10**3, 1), ("bytes", 1, 0))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        OSError: if it does not exist, or is a folder, pipe or device; these are never opened.
    """
    return _regular(path, path.stat()).st_size


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        OSError: as `regular_size`; or if the file changes while it is read.
    """
    regular_size(path)
    # If a pipe has replaced the file meanwhile, opening it does not wait.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        before = _regular(path, os.fstat(file.fileno()))
        data = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise OSError(errno.EBUSY, "The file changed while it was read", path.name)
    return data


def _regular(path: Path, status: os.stat_result) -> os.stat_result:
    """Return the status of a file; raise an error if it is not a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", path.name)
    return status


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file or a folder atomically: after an interruption it is complete, unchanged or absent.

    The content is flushed to the disk before it is renamed, so that a power failure leaves no empty file.

    Args:
        path: a file, which is replaced if it exists; or a folder, which must not exist or be empty.
        save: function that writes the file, or creates the folder, at the temporary path that it receives.
            The path is unique and has the suffix of `path`, from which some writers infer the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    partial = path.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        save(partial)
        _flush(partial)
        partial.replace(path)
    except BaseException:
        remove(partial)
        raise
    _flush_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files in a folder that killed processes left more than a day ago."""
    for partial in folder.glob(".partial-*"):
        match = _PARTIAL.match(partial.name)
        # Another process may remove them too, and Windows does not remove open files.
        with contextlib.suppress(OSError):
            is_old = time.time() - _modified(partial) > MAX_AGE_SECONDS
            if match and is_old and not _is_running(int(match[1])):
                remove(partial)


def _modified(path: Path) -> float:
    """Return the time of the last change to a file, or to any file in a folder, in seconds."""
    return max(file.stat().st_mtime for file in (path, *path.rglob("*")))


def _is_running(process: int) -> bool:
    """Return whether a process is running on this machine; always False on Windows, where `kill` stops it."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The process belongs to another user.
        pass
    return True


def _flush(path: Path) -> None:
    """Flush a file, or all files in a folder, to the disk."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_dir():
            _flush_folder(file)
        else:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if path.is_dir():
        _flush_folder(path)


def _flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the operating system supports it."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class NoSpace(ValueError):
    """Raised if the disk is too full. Files that are already downloaded are valid and can be kept."""


def require_space(folder: Path, needed: float, *, action: str) -> None:
    """Check that a disk has enough free space.

    Args:
        folder: existing folder on the disk.
        needed: required space in bytes.
        action: description of the action, for the message, such as `unpacking photos.zip`.

    Raises:
        NoSpace: if fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        expected, received = _sizes(needed, free)
        raise NoSpace(
            f"{action}: expected {expected} of free disk space. Received: {received}. "
            "Free some space, or choose a folder on a larger disk with OUTPUTS=folder"
        )


def _sizes(first: float, second: float) -> list[str]:
    """Format two numbers of bytes in the largest unit in which they differ."""
    for unit, size, decimals in UNITS:
        texts = [f"{number / size:.{decimals}f} {unit}" for number in (first, second)]
        if texts[0] != texts[1]:
            break
    return texts


def readable(name: str) -> str:
    """Return a file name as valid Unicode; a name that is not UTF-8 is decoded as Latin-1.

    Args:
        name: name from the operating system or a tar archive, with surrogates for invalid bytes.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode("latin-1")
    return name


# Characters without a glyph that join letters of some scripts, and the parts of an emoji.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Return a text on a single line, with escapes such as `\\x1b` for characters that control a terminal.

    These are control characters and line ends, invisible format characters such as those that reverse the
    direction of a text, and surrogates.
    """
    return "".join(
        character.encode("unicode_escape").decode() if _is_control(character) else character
        for character in text
    )


def _is_control(character: str) -> bool:
    return (
        not character.isprintable()
        and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and character not in _JOINERS
    )


def stays_inside(path: str) -> bool:
    """Return whether a path is relative and without `..`."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
