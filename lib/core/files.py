"""Write files and folders whole or not at all, hash them, and check that the disk has room."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# An unfinished file or folder, with the id of the process that writes it.
_PARTIAL = re.compile(r"\.partial-(\d+)-[0-9a-f]{8}-")
SECONDS_KEPT = 24 * 60 * 60
# Decimals of a size in each unit.
UNITS = (("GB", 10**9, 1), ("MB", 10**6, 1), ("kB", 10**3, 1), ("bytes", 1, 0))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file or a folder whole or not at all, whatever interrupts it.

    The content is on the disk before it gets its name, so that a power cut leaves no empty file either.

    Args:
        path: the file, which is replaced if it exists; or a folder, which must not exist or be empty.
        save: writes the file or creates the folder at the path that it is given. That path has the suffix
            of `path`, by which writers choose the format, and is no other process's.
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
    """Remove what killed processes left unfinished in a folder more than a day ago."""
    for partial in folder.glob(".partial-*"):
        match = _PARTIAL.match(partial.name)
        # Another process may sweep the same folder, and Windows keeps files that are open.
        with contextlib.suppress(OSError):
            is_old = time.time() - _modified(partial) > SECONDS_KEPT
            if match and is_old and not _is_running(int(match[1])):
                remove(partial)


def _modified(path: Path) -> float:
    """Return when a file, or the last file of a folder, was modified, in seconds."""
    return max(file.stat().st_mtime for file in (path, *path.rglob("*")))


def _is_running(process: int) -> bool:
    """Return whether a process is running on this machine; on Windows, where asking would end it, False."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It is another user's.
        pass
    return True


def _flush(path: Path) -> None:
    """Wait until the content of a file, or of all files of a folder, is on the disk."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_dir():
            _flush_folder(file)
        else:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    if path.is_dir():
        _flush_folder(path)


def _flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system and the disk can say so."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write a value as readable JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class NoSpace(ValueError):
    """The disk is too full: what was downloaded is good, and worth keeping."""


def require_space(folder: Path, needed: float, *, what: str) -> None:
    """Check that `needed` bytes fit on the disk of `folder`, an existing folder.

    Raises:
        NoSpace: they do not; the message says what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        expected, received = _sizes(needed, free)
        raise NoSpace(
            f"{what}: expected {expected} of free disk space. Received: {received}. "
            "Free some, or move the outputs to a bigger disk with OUTPUTS=folder"
        )


def _sizes(first: float, second: float) -> list[str]:
    """Return two numbers of bytes as texts, in the largest unit that shows their difference."""
    for unit, size, decimals in UNITS:
        texts = [f"{number / size:.{decimals}f} {unit}" for number in (first, second)]
        if texts[0] != texts[1]:
            break
    return texts


def readable(name: str) -> str:
    """Return a file's name as text that can be written; bytes that are not UTF-8 are read as Latin-1.

    Args:
        name: as the operating system or a tar gives it, with surrogates for the bytes that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode("latin-1")
    return name
