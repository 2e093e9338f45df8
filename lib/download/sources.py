"""Fetch the photos of a source to `outputs/data/<source>/`, once and completely; they never change.

Unfinished work is in `*.partial`. If `raw/` exists, it is complete, and `source.json` is next to it.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from lib.core import files, locks, privacy, schema
from lib.download import archives, drive, kaggle, local, transfer
from lib.download.record import Origin, SourceRecord
from lib.photos import listing

PHOTOS = tuple(sorted(listing.SUFFIXES))
# Kinds that are fetched again if their origin has changed.
REFETCHED = ("folder", "sample")


def fetch(source: schema.Source, folder: Path) -> SourceRecord:
    """Fetch the photos of a source to `folder/raw/` and write `folder/source.json`.

    If the photos of the source are already in the folder, they are used without network access. A sample is
    drawn again if the code that draws it has changed, and a folder is copied again if the original has
    changed. Other photos are never overwritten.

    Args:
        source: parameters of the source. For kind kaggle or drive, `archive` is a manual download of the data
            set, which needs neither a key nor network access.
        folder: `outputs/data/<source.name>`; nothing is written outside it.

    Returns:
        The content of `source.json`.

    Raises:
        FileNotFoundError: if the archive or folder does not exist.
        ValueError: if the download was refused or has another SHA-256; if the archive is unsafe, damaged or
            without photos; if the disk is too full; or if the folder contains other photos. Earlier photos
            are then unchanged, and no incomplete `raw/` exists.
    """
    with locks.source(folder):
        return _fetch(source, folder)


def _fetch(source: schema.Source, folder: Path) -> SourceRecord:
    """Fetch a source that this process has locked."""
    record = SourceRecord.load(folder)
    identity, fingerprint = identity_of(source), _fingerprint(source, folder)
    if record and _matches(record, source, identity=identity, fingerprint=fingerprint):
        return record
    _require_replaceable(record, source, folder=folder, identity=identity)
    staging, download = folder / "fetch.partial", folder / "download.partial"
    _remove(staging, folder / "old.partial")
    staging.mkdir(parents=True)
    try:
        origin = _collect(source, staging, download=download)
        record = _record(source, origin, staging / "raw", identity=identity, fingerprint=fingerprint)
        _publish(record, staging, folder=folder)
    except (files.NoSpace, transfer.Unfinished):
        # Keep the part that was downloaded.
        raise
    except ValueError:
        _remove(download)
        raise
    finally:
        _remove(staging)
    _remove(download)
    return record


def identity_of(source: schema.Source) -> dict[str, str | int]:
    """Return the keys that identify a source; paths are reduced to their last part."""
    encoding = getattr(source, "name_encoding", None)
    return _origin(source) | ({"name_encoding": encoding} if encoding else {})


def _origin(source: schema.Source) -> dict[str, str | int]:
    match source:
        case schema.Kaggle() if source.dataset:
            return {"kind": source.kind, "dataset": source.dataset}
        case schema.Kaggle():
            return {"kind": source.kind, "competition": str(source.competition)}
        case schema.Archive():
            return {"kind": source.kind, "archive": _archive_name(source.archive)}
        case schema.Drive():
            return {"kind": source.kind, "drive": drive.folder_id(source.drive)}
        case schema.Folder():
            return {"kind": source.kind, "folder": _folder_name(source.folder)}
        case schema.Sample():
            size = source.photos_per_class
            return {"kind": source.kind, "seed": source.seed, "photos_per_class": size}


def _archive_name(text: str) -> str:
    return privacy.without_secrets(text) if transfer.is_url(text) else Path(text).name


def _folder_name(text: str) -> str:
    return Path(text).name or Path(text).resolve().name


def _describe(identity: dict[str, str | int]) -> str:
    """Format the identity of a source for messages."""
    return ", ".join(str(value) if key == "kind" else f"{key} {value}" for key, value in identity.items())


def _fingerprint(source: schema.Source, folder: Path) -> str | None:
    """Return a hash of the folder to copy, or of the code that draws the sample; None for other kinds."""
    if isinstance(source, schema.Sample):
        # Imported here because only this kind of source needs them.
        from lib.download import painting, sample, scenes, species

        paths = (sample.__file__, scenes.__file__, painting.__file__, species.__file__, species.FILE)
        hashes = [files.file_sha256(Path(path)) for path in paths]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if isinstance(source, schema.Folder):
        return local.fingerprint(source, folder)
    is_copy = (folder / "raw").exists() and not (folder / "raw").is_symlink()
    if isinstance(source, schema.Kaggle) and not source.archive and not is_copy:
        attached = kaggle.attached(source)
        return local.fingerprint_of(listing.Folder(attached)) if attached else None
    return None


def _matches(
    record: SourceRecord, source: schema.Source, *, identity: dict[str, str | int], fingerprint: str | None
) -> bool:
    """Return whether a record describes the photos of a source."""
    if record.declared != identity or record.fingerprint != fingerprint:
        return False
    if not isinstance(source, schema.ArchivedSource):
        return True
    if source.sha256 and record.archive_sha256 != source.sha256:
        return False
    if not source.archive or transfer.is_url(source.archive):
        return True
    try:
        archive = local.find(source.archive, key="archive")
    except FileNotFoundError:
        # An archive can be deleted after it is unpacked. For other kinds, the user has just set its path.
        if isinstance(source, schema.Archive):
            return True
        raise
    return archive.is_file() and files.file_sha256(archive) == record.archive_sha256


def _require_replaceable(
    record: SourceRecord | None, source: schema.Source, *, folder: Path, identity: dict[str, str | int]
) -> None:
    """Raise a ValueError if the folder contains photos that cannot be fetched again."""
    # A link to an attached data set can be made again.
    is_copy = (folder / "raw").exists() and not (folder / "raw").is_symlink()
    if not is_copy or (record and record.kind == source.kind and source.kind in REFETCHED):
        return
    shown = f"{folder.parent.name}/{folder.name}"
    received = "photos without a source.json that records their origin"
    if record:
        archive = f"archive {record.archive}, SHA-256 {record.archive_sha256}"
        received = f"{_describe(record.declared)} ({archive})"
    archived = isinstance(source, schema.ArchivedSource) and source.archive
    raise ValueError(
        f"{shown}: expected {_describe(identity)}{f' from {Path(archived).name}' if archived else ''}. "
        f"Received: {received}. It is never overwritten: "
        f'choose another folder with SET="source.name={folder.name}2", or remove {shown} by hand'
    )


def _collect(source: schema.Source, staging: Path, *, download: Path) -> Origin:
    """Collect the photos of a source in `staging/raw`, and return their origin."""
    match source:
        case schema.Folder():
            return local.copy(source, staging / "raw")
        case schema.Sample():
            from lib.download import sample

            sample.write(staging, seed=source.seed, photos_per_class=source.photos_per_class)
            return Origin("sample")
        case schema.Kaggle(archive=None) if attached := kaggle.attached(source):
            return _collect_folder(attached, "kaggle", source=source, staging=staging, in_place=True)
        case schema.Kaggle(archive=None):
            archive, licence = kaggle.download(source, download)
            origin = _unpack(archive, "kaggle", source=source, staging=staging)
            return origin._replace(licence=licence)
        case schema.Drive(archive=None):
            folder = drive.download(source, download)
            return _collect_folder(folder, "drive", source=source, staging=staging)
    return _unpack(_archive(source, download), "archive", source=source, staging=staging)


def _archive(source: schema.ArchivedSource, download: Path) -> Path:
    """Return the path of the archive in the parameters, after a download if it is a URL."""
    text = str(source.archive)
    if transfer.is_url(text):
        # The schema requires the SHA-256 of a URL.
        return transfer.download(text, sha256=str(source.sha256), folder=download)
    return local.find(text, key="archive")


def _unpack(archive: Path, kind: str, *, source: schema.ArchivedSource, staging: Path) -> Origin:
    """Check the SHA-256 of an archive, unless it is None, and unpack the archive to `staging/raw`."""
    sha256, notes = source.sha256, list[str]()
    archives.require_file(archive)
    received = files.file_sha256(archive)
    if sha256 and received != sha256:
        raise ValueError(
            f"{archive.name}: expected the SHA-256 {sha256}. Received: {received}. It is another file, "
            "or damaged: download it again, or correct source.sha256"
        )
    archives.extract(archive, staging / "raw", name_encoding=source.name_encoding, notes=notes)
    return Origin(kind, archive=archive.name, archive_sha256=received, notes=tuple(notes))


def _collect_folder(
    folder: Path, kind: str, *, source: schema.ArchivedSource, staging: Path, in_place: bool = False
) -> Origin:
    """Move a folder to `staging/raw`, or link it in place; if its only file is an archive, unpack that."""
    found = listing.Folder(folder)
    if len(found.paths) == 1 and not listing.photos(found):
        return _unpack(found.path(found.paths[0]), kind, source=source, staging=staging)
    if in_place:
        (staging / "raw").symlink_to(folder, target_is_directory=True)
    else:
        folder.rename(staging / "raw")
    return Origin(kind)


def _record(
    source: schema.Source,
    origin: Origin,
    raw: Path,
    *,
    identity: dict[str, str | int],
    fingerprint: str | None,
) -> SourceRecord:
    """Count and hash the files in `raw`, which must contain a photo, and return the record."""
    found = listing.Folder(raw)
    if not listing.photos(found):
        raise ValueError(_no_photos(origin.archive or _describe(identity), found.paths))
    content = hashlib.sha256()
    for name in found.paths:
        content.update(f"{name}\0{files.file_sha256(found.path(name))}\n".encode(errors="surrogateescape"))
    return SourceRecord(
        kind=origin.kind,
        archive=origin.archive,
        archive_sha256=origin.archive_sha256,
        skipped=origin.skipped,
        licence=source.licence or origin.licence,
        declared=identity,
        fingerprint=fingerprint,
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=len(found.paths),
        bytes=sum(found.path(name).stat().st_size for name in found.paths),
        content_sha256=content.hexdigest(),
        notes=list(origin.notes),
    )


def _no_photos(title: str, paths: list[str]) -> str:
    """Return the message for a source without photos, with the most frequent suffixes of its files."""
    counts = Counter(listing.suffix(path) or "without a suffix" for path in paths).most_common(5)
    return (
        f"{title}: expected photos ({', '.join(PHOTOS)}). "
        f"Received: {len(paths)} files, but no photo"
        f"{': ' if counts else ''}{', '.join(f'{suffix} {count}' for suffix, count in counts)}. "
        "Check the source; archives inside it must be unpacked by hand and given as kind: folder"
    )


def _publish(record: SourceRecord, staging: Path, *, folder: Path) -> None:
    """Replace the earlier photos; `raw/` is removed first and added last, so that it is never incomplete."""
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: (name != "raw", name))
    record.save(staging)
    old = folder / "old.partial"
    old.mkdir()
    for name in names:
        # A link to a data set that is no longer attached does not exist, but is in the way.
        if os.path.lexists(folder / name):
            (folder / name).rename(old / name)
    for name in ("source.json", *reversed(names)):
        (staging / name).replace(folder / name)
    _remove(old)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
