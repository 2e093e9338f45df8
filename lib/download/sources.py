"""Fetch the photos of a source to `outputs/data/<source>/`: once, whole, and never changed afterwards.

Unfinished work is in `*.partial`; `raw/` exists only when it is complete, with `source.json` beside it.
"""

import hashlib
import json
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from lib.core import files, locks, privacy, schema
from lib.download import archives, drive, kaggle, local, transfer
from lib.download.record import Arrival, SourceRecord
from lib.photos import decoding

PHOTOS = tuple(sorted(decoding.SUFFIXES))
# Kinds that can be made again, and are when their origin has changed.
REMADE = ("folder", "sample")


def fetch(source: schema.Source, folder: Path) -> SourceRecord:
    """Fetch the photos of a source to `folder/raw/` and write `folder/source.json`.

    Photos that are there and fit are used as they are, without network. A drawn sample is made again when the
    code that draws it has changed, a copied folder when the original has; anything else is never overwritten.

    Args:
        source: the source. An `archive` given for kind kaggle or drive is that data set, downloaded by hand:
            no key and no network are needed.
        folder: `outputs/data/<source.name>`; nothing is written outside it.

    Returns:
        The content of `source.json`.

    Raises:
        FileNotFoundError: the archive or folder does not exist.
        ValueError: the download was refused or is not what it should be; the archive is hostile, damaged or
            without photos; the disk is too full; the folder holds something else. Nothing is then left that
            could pass for fetched.
    """
    with locks.source(Path(folder)):
        return _fetch(source, Path(folder))


def _fetch(source: schema.Source, folder: Path) -> SourceRecord:
    """Do what `fetch` says while no other process works on the source."""
    _check_url(source)
    record = SourceRecord.load(folder)
    declared, fingerprint = _declared(source), _fingerprint(source, folder)
    if record and _fits(record, source, declared=declared, fingerprint=fingerprint):
        return record
    _require_replaceable(record, source, folder=folder, declared=declared)
    staging, download = folder / "fetch.partial", folder / "download.partial"
    _remove(staging, folder / "old.partial")
    staging.mkdir(parents=True)
    try:
        arrival = _bring(source, staging, download=download)
        record = _record(source, arrival, staging / "raw", declared=declared, fingerprint=fingerprint)
        _publish(record, staging, folder=folder)
    except (files.NoSpace, transfer.Unfinished):
        # The downloaded part is good.
        raise
    except ValueError:
        _remove(download)
        raise
    finally:
        _remove(staging)
    _remove(download)
    return record


def _check_url(source: schema.Source) -> None:
    if not isinstance(source, schema.ArchivedSource) or not source.archive:
        return
    if "://" in source.archive and not (transfer.is_url(source.archive) and source.sha256):
        raise ValueError(
            "source.archive: expected a path, or an http or https URL with its source.sha256. "
            f"Received: {privacy.without_secrets(source.archive)}"
        )


def _declared(source: schema.Source) -> dict[str, str | int]:
    """Return what identifies the source; of a path, only its last part."""
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


def _title(declared: dict[str, str | int]) -> str:
    """Return what identifies a source as words of a message."""
    return ", ".join(str(value) if key == "kind" else f"{key} {value}" for key, value in declared.items())


def _fingerprint(source: schema.Source, folder: Path) -> str | None:
    """Return a hash of the origin of photos that can be made again; None for other kinds."""
    if isinstance(source, schema.Sample):
        # Only this kind needs them.
        from lib.download import painting, sample, scenes, species

        paths = (sample.__file__, scenes.__file__, painting.__file__, species.__file__, species.FILE)
        hashes = [files.file_sha256(Path(path)) for path in paths]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if isinstance(source, schema.Folder):
        return local.fingerprint(source, folder)
    return None


def _fits(
    record: SourceRecord, source: schema.Source, *, declared: dict[str, str | int], fingerprint: str | None
) -> bool:
    """Return whether the photos that a record describes are those of the source."""
    if record.declared != declared or record.fingerprint != fingerprint:
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
        # The archive of this kind may be deleted once it is unpacked; for another kind it was typed just now.
        if isinstance(source, schema.Archive):
            return True
        raise
    return archive.is_file() and files.file_sha256(archive) == record.archive_sha256


def _require_replaceable(
    record: SourceRecord | None, source: schema.Source, *, folder: Path, declared: dict[str, str | int]
) -> None:
    """Check that there are no photos, or photos that can be made again.

    Raises:
        ValueError: there are others; the message says which, and what to do.
    """
    if not (folder / "raw").exists() or (record and record.kind == source.kind and source.kind in REMADE):
        return
    shown = f"{folder.parent.name}/{folder.name}"
    received = "photos without a source.json that says where they come from"
    if record:
        archive = f"archive {record.archive}, SHA-256 {record.archive_sha256}"
        received = f"{_title(record.declared)} ({archive})"
    by_hand = isinstance(source, schema.ArchivedSource) and source.archive
    raise ValueError(
        f"{shown}: expected {_title(declared)}{f' from {Path(by_hand).name}' if by_hand else ''}. "
        f"Received: {received}. It is never overwritten: "
        f'take another folder with SET="source.name={folder.name}2", or remove {shown} by hand'
    )


def _bring(source: schema.Source, staging: Path, *, download: Path) -> Arrival:
    """Put the photos into `staging/raw`; return how they arrived."""
    match source:
        case schema.Folder():
            return local.copy(source, staging / "raw")
        case schema.Sample():
            from lib.download import sample

            sample.write(staging, seed=source.seed, photos_per_class=source.photos_per_class)
            return Arrival("sample")
        case schema.Kaggle(archive=None):
            archive, licence = kaggle.download(source, download)
            arrival = _unpack(archive, "kaggle", sha256=source.sha256, staging=staging)
            return arrival._replace(licence=licence)
        case schema.Drive(archive=None):
            return _take(drive.download(source, download), sha256=source.sha256, staging=staging)
    return _unpack(_archive(source, download), "archive", sha256=source.sha256, staging=staging)


def _archive(source: schema.ArchivedSource, download: Path) -> Path:
    """Return the archive that the parameters name, downloaded if it is a URL."""
    text = str(source.archive)
    if source.sha256 and transfer.is_url(text):
        return transfer.download(text, sha256=source.sha256, folder=download)
    return local.find(text, key="archive")


def _unpack(archive: Path, kind: str, *, sha256: str | None, staging: Path) -> Arrival:
    """Unpack an archive to `staging/raw` after checking its hash, if one is declared."""
    archives.require_file(archive)
    received = files.file_sha256(archive)
    if sha256 and received != sha256:
        raise ValueError(
            f"{archive.name}: expected the SHA-256 {sha256}. Received: {received}. It is another file than "
            "the one declared, or damaged: get it again, or correct source.sha256"
        )
    archives.extract(archive, staging / "raw")
    return Arrival(kind, archive=archive.name, archive_sha256=received)


def _take(folder: Path, *, sha256: str | None, staging: Path) -> Arrival:
    """Move a folder of Google Drive to `staging/raw`; if it holds one archive alone, unpack that."""
    entries, _ = local.listing(folder)
    if len(entries) == 1 and not entries[0][0].lower().endswith(PHOTOS):
        return _unpack(entries[0][1], "drive", sha256=sha256, staging=staging)
    folder.rename(staging / "raw")
    return Arrival("drive")


def _record(
    source: schema.Source,
    arrival: Arrival,
    raw: Path,
    *,
    declared: dict[str, str | int],
    fingerprint: str | None,
) -> SourceRecord:
    """Count and hash the files in `raw`, which must hold a photo, and return the record."""
    entries, _ = local.listing(raw)
    if not any(name.lower().endswith(PHOTOS) for name, _ in entries):
        raise ValueError(_without_photos(arrival.archive or _title(declared), [path for _, path in entries]))
    content = hashlib.sha256()
    for name, path in entries:
        content.update(f"{name}\0{files.file_sha256(path)}\n".encode(errors="surrogateescape"))
    return SourceRecord(
        kind=arrival.kind,
        archive=arrival.archive,
        archive_sha256=arrival.archive_sha256,
        skipped=arrival.skipped,
        licence=source.licence or arrival.licence,
        declared=declared,
        fingerprint=fingerprint,
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=len(entries),
        bytes=sum(path.stat().st_size for _, path in entries),
        content_sha256=content.hexdigest(),
    )


def _without_photos(title: str, paths: list[Path]) -> str:
    """Return the message for a source without photos, with the most frequent suffixes."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths).most_common(5)
    return (
        f"{title}: expected photos ({', '.join(PHOTOS)}). "
        f"Received: {len(paths)} files and no photo among them"
        f"{': ' if counts else ''}{', '.join(f'{suffix} {count}' for suffix, count in counts)}. "
        "Check that it is the right one; archives inside must be unpacked by hand and given as kind: folder"
    )


def _publish(record: SourceRecord, staging: Path, *, folder: Path) -> None:
    """Replace the old by the new; raw/ is removed first and added last, so that it is never incomplete."""
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: (name != "raw", name))
    record.save(staging)
    old = folder / "old.partial"
    old.mkdir()
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(old / name)
    for name in ("source.json", *reversed(names)):
        (staging / name).replace(folder / name)
    _remove(old)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
