"""Find, list and copy the files of a source on this machine."""

import hashlib
import json
import shutil
from pathlib import Path

from lib.core import files, params, privacy, schema
from lib.download import archives
from lib.download.record import Origin
from lib.photos import listing

# A folder with more files, of which fewer than this fraction are photos, is not one of photos.
MANY_FILES = 20_000
FEWEST_PHOTOS = 0.1
# Number of files in which photos are counted.
SAMPLE = 1000


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


def contents(source: schema.Folder) -> listing.Folder:
    """List the files of a source.

    Raises:
        ValueError: if a folder cannot be read, or few of many files are photos.
    """
    found = listing.Folder(find(source.folder, key="folder").resolve(), ignore=source.ignore)
    # The first bytes of every file would be too slow to read.
    some = found.paths[:: -(-len(found.paths) // SAMPLE) or 1]
    if len(found.paths) > MANY_FILES and len(listing.photos(found, some)) < FEWEST_PHOTOS * len(some):
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder} with "
            f"{len(found.paths):,} files, few of them photos. All would be copied: give the folder of the "
            "photos only"
        )
    return found


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
    original(source, target)
    return fingerprint_of(contents(source))


def fingerprint_of(found: listing.Folder) -> str:
    """Compute a hash of the names, sizes and modification times of some files."""
    stats = [(name, (stat := found.path(name).stat()).st_size, stat.st_mtime_ns) for name in found.paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def copy(source: schema.Folder, raw: Path) -> Origin:
    """Copy the folder of a source, without links and devices, to the new folder `raw`.

    Returns:
        The origin, with the number of links and devices that were skipped.

    Raises:
        NoSpace: if the disk is too full.
        ValueError: if the names of two files are equal on this disk.
    """
    found = contents(source)
    needed = sum(found.path(name).stat().st_size + archives.BLOCK for name in found.paths)
    files.require_space(raw.parent, needed, action=f"copying {source.folder}")
    raw.mkdir()
    for name in found.paths:
        target = raw / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Two names can be equal on this disk, or after a name that is not UTF-8 is decoded as Latin-1.
        if target.exists():
            raise ValueError(
                f"copying {source.folder}: expected names that differ on this disk. "
                f"Received: two files named {name!r}. Rename one of them"
            )
        shutil.copyfile(found.path(name), target)
    return Origin("folder", skipped=found.others["link"] + found.others[listing.DEVICE])


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
