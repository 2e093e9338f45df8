"""Find, list and copy the files of a source on this machine."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

from lib.core import files, params, privacy, schema
from lib.download import archives
from lib.download.record import Origin


def find(text: str, *, key: str) -> Path:
    """Find a file or folder, relative to the current folder or to the project.

    Args:
        text: the path.
        key: key of the path, as in `source.<key>`, for error messages.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if the path cannot be read.
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
    advice = " or the URL (http or https), or give ARCHIVE=path" if key == "archive" else ""
    raise FileNotFoundError(
        f"source.{key}: expected a path that exists. Received: {privacy.without_secrets(text)}, which is "
        f"neither in the current folder nor in the project folder. Check the path{advice}"
    )


def listing(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """List the plain files of a folder and its subfolders.

    Returns:
        Sorted pairs of relative path (with `/`) and path; and the number of omitted links and devices.

    Raises:
        ValueError: if a folder cannot be read.
    """
    entries, skipped = [], 0
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        paths = [Path(parent, name) for name in names]
        plain = [path for path in paths if path.is_file() and not path.is_symlink()]
        skipped += len(paths) - len(plain) + sum(Path(parent, name).is_symlink() for name in folders)
        entries += [(files.readable(path.relative_to(folder).as_posix()), path) for path in plain]
    return sorted(entries), skipped


def fingerprint(source: schema.Folder, target: Path) -> str:
    """Compute a hash of the names, sizes and modification times of the files of a source.

    Args:
        source: parameters of the source.
        target: folder of the copy, `outputs/data/<source.name>`.

    Raises:
        FileNotFoundError: if the folder of the source does not exist.
        ValueError: if it is a file, if it is a disk or contains the home folder, or if one of the two folders
            contains the other.
    """
    entries, _ = listing(original(source, target))
    stats = [(name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in entries]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def copy(source: schema.Folder, raw: Path) -> Origin:
    """Copy the folder of a source, without links and devices, to the new folder `raw`.

    Returns:
        The origin, with the number of links and devices that were skipped.

    Raises:
        NoSpace: if the disk is too full.
        ValueError: if the names of two files are equal on this disk.
    """
    entries, skipped = listing(find(source.folder, key="folder").resolve())
    needed = sum(path.stat().st_size + archives.BLOCK for _, path in entries)
    files.require_space(raw.parent, needed, action=f"copying {source.folder}")
    raw.mkdir()
    for name, path in entries:
        target = raw / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Two names can be equal on this disk, or after a name that is not UTF-8 is decoded as Latin-1.
        if target.exists():
            raise ValueError(
                f"copying {source.folder}: expected names that differ on this disk. "
                f"Received: two files named {name!r}. Rename one of them"
            )
        shutil.copyfile(path, target)
    return Origin("folder", skipped=skipped)


def original(source: schema.Folder, target: Path) -> Path:
    """Return the folder of a source after a check that it may be copied to the target.

    Args, Raises:
        See `fingerprint`.
    """
    folder, target = find(source.folder, key="folder").resolve(), target.resolve()
    if not folder.is_dir():
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder}, a file. "
            "Give a zip as kind: archive"
        )
    if Path.home().resolve().is_relative_to(folder) or folder == Path(folder.anchor):
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder}, which contains the "
            "home folder or a whole disk: all of it would be copied. Give the folder of the photos only"
        )
    if folder.is_relative_to(target) or target.is_relative_to(folder):
        raise ValueError(
            f"source.folder: expected a folder that neither contains {target.parent.name}/{target.name}, the "
            f"folder of the copy, nor is inside it. Received: {source.folder}. Move the photos elsewhere"
        )
    return folder


def _refuse(error: OSError) -> NoReturn:
    name = Path(os.fsdecode(error.filename or "")).name
    raise ValueError(f"expected folders that can be read. Received: {name}, {error.strerror}") from error
