"""Find, list and copy the files of a source that is on this machine."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

from lib.core import files, params, schema
from lib.download import archives
from lib.download.record import Arrival


def find(text: str, *, key: str) -> Path:
    """Return the path that a user typed, from the current folder or from the project's.

    Raises:
        FileNotFoundError: nothing exists there; the message names the key `source.<key>`.
        ValueError: the path cannot be read.
    """
    try:
        path = params.find_file(text)
        exists = path.exists()
    except OSError as error:
        raise ValueError(
            f"source.{key}: expected a path that can be read. Received: {text}, {error.strerror}"
        ) from error
    if exists:
        return path
    raise FileNotFoundError(
        f"source.{key}: expected the path of something that exists. Received: {text}, which is neither in "
        "the current folder nor in the project's. "
        f"Check the path{', or give ARCHIVE=path' if key == 'archive' else ''}"
    )


def listing(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """List the plain files in a folder and those below it.

    Returns:
        The files as (relative path, path), sorted, and the number of links and devices.

    Raises:
        ValueError: a folder cannot be read.
    """
    entries, others = [], 0
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        paths = [Path(parent, name) for name in names]
        plain = [path for path in paths if path.is_file() and not path.is_symlink()]
        others += len(paths) - len(plain) + sum(Path(parent, name).is_symlink() for name in folders)
        entries += [(files.readable(path.relative_to(folder).as_posix()), path) for path in plain]
    return sorted(entries), others


def fingerprint(source: schema.Folder, target: Path) -> str:
    """Return a hash of the names, sizes and times of the files in the folder of a source.

    Args:
        source: the source.
        target: the folder that keeps the copy, `outputs/data/<source.name>`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file, holds the home folder or all of a disk, or is not apart from the copy.
    """
    entries, _ = listing(_original(source, target))
    stats = [(name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in entries]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def copy(source: schema.Folder, raw: Path) -> Arrival:
    """Copy the folder of a source, without links and devices, to a new folder.

    Raises:
        NoSpace: the disk is too full.
        ValueError: two names are the same on this disk.
    """
    entries, skipped = listing(find(source.folder, key="folder").resolve())
    needed = sum(path.stat().st_size + archives.BLOCK for _, path in entries)
    files.require_space(raw.parent, needed, action=f"copying {source.folder}")
    raw.mkdir()
    for name, path in entries:
        target = raw / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # On this disk, or after a name that is not UTF-8 was read as Latin-1.
        if target.exists():
            raise ValueError(
                f"copying {source.folder}: expected names that differ on this disk. "
                f"Received: two files called {name!r}. Rename one of them"
            )
        shutil.copyfile(path, target)
    return Arrival("folder", skipped=skipped)


def _original(source: schema.Folder, target: Path) -> Path:
    """Return the folder of a source after checking that all of it can be copied to the target."""
    folder, target = find(source.folder, key="folder").resolve(), target.resolve()
    if not folder.is_dir():
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder}, a file. "
            "Give a zip as kind: archive"
        )
    if Path.home().resolve().is_relative_to(folder) or folder == Path(folder.anchor):
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder}, which holds the home "
            "folder or a whole disk: everything in it would be copied. Name the folder of the photos alone"
        )
    if folder.is_relative_to(target) or target.is_relative_to(folder):
        raise ValueError(
            f"source.folder: expected a folder apart from {target.parent.name}/{target.name}, the folder of "
            f"the copy. Received: {source.folder}. Move the photos elsewhere"
        )
    return folder


def _refuse(error: OSError) -> NoReturn:
    name = Path(os.fsdecode(error.filename or "")).name
    raise ValueError(f"expected folders that can be read. Received: {name}, {error.strerror}") from error
