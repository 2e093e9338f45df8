"""Write files whole or not at all, hash them, and check that the disk has room."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a partial file and move it to `path` when it is whole, so that a kill leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")  # the suffix stays: writers choose the format by it
    save(partial)
    partial.replace(path)


def write_json(path: Path, value) -> None:
    """Write a value as readable JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class NoSpace(ValueError):
    """The disk is too full: what was downloaded is good, and worth keeping."""


def require_space(folder: Path, needed: float, what: str) -> None:
    """Check that `needed` bytes fit on the disk of `folder`, an existing folder.

    Raises:
        NoSpace: they do not; the message says in GB what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"{what}: expected {needed / 1e9:.1f} GB of free disk space. Received: {free / 1e9:.1f} GB. "
            "Free some, or move the outputs to a bigger disk with OUTPUTS=folder"
        )


def readable(name: str) -> str:
    """Return a file's name as text that can be written: its bytes, where they are not UTF-8, as Latin-1.

    Args:
        name: as the operating system or a tar gives it, with stand-ins for the bytes that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode("latin-1")
    return name
