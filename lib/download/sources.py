"""Bringing the photos of a source to `outputs/data/<source>/`: once, whole, and never changed afterwards.

What is under way lies in `*.partial`; `raw/` is there only when all of it is, with `source.json` beside it.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from lib.core import files, locks, params, schema
from lib.download import archives, kaggle, transfer
from lib.photos import decoding

PHOTOS = tuple(sorted(decoding.SUFFIXES))


REMADE = ("folder", "sample")  # kinds that can be made again, and are when their origin has changed

NOTHING = {"kind": None, "archive": None, "archive_sha256": None, "skipped": 0, "licence": None}


def fetch(source: schema.Source, folder: Path) -> dict:
    """Bring the photos of a source to `folder/raw/` and write `folder/source.json`.

    What is there and fits is used as it is, without network. A drawn sample is made again when the code that
    draws it has changed, a copied folder when the original has; anything else is never overwritten.

    Args:
        source: where the photos come from. An `archive` given for kind kaggle or drive is that data set,
            downloaded by hand: no key and no network are needed.
        folder: `outputs/data/<source.name>`; nothing is written outside it.

    Returns:
        What source.json holds: `kind` (how they came: kaggle, archive, drive, folder or sample), `declared` (what
        was asked for, without paths), `fingerprint` (of the folder's listing or the sampling code, else None),
        `fetched_at` (UTC), `archive` and `archive_sha256` (None where there was none), `skipped` (links and devices
        left out of a copied folder), `files`, `bytes`, `content_sha256` and `licence`.

    Raises:
        FileNotFoundError: the archive or folder is not there.
        ValueError: the download was refused or is not what it should be; the archive is hostile, damaged or
            without photos; the disk is too full; the folder holds something else. Nothing then passes for fetched.
    """
    with locks.source(Path(folder)):
        return _fetch(source, Path(folder))


def _fetch(source: schema.Source, folder: Path) -> dict:
    """Do what `fetch` says while no other process works on the source."""
    _check(source)
    there = _there(folder)
    wanted = {"declared": _declared(source), "fingerprint": _fingerprint(source, folder)}
    if there and _fits(there, source, wanted=wanted):
        return there
    _require_replaceable(there, source, folder=folder, declared=wanted["declared"])
    staging, download = folder / "fetch.partial", folder / "download.partial"
    _remove(staging, folder / "old.partial")
    staging.mkdir(parents=True)
    try:
        record = NOTHING | wanted | _bring(source, staging, download=download)
        record |= _summary(staging / "raw", what=record["archive"] or _asked(wanted["declared"]))
        record["licence"] = source.licence or record["licence"]
        _publish(record, staging, folder=folder)
    except (files.NoSpace, transfer.Unfinished):
        raise  # what was downloaded is good
    except ValueError:
        _remove(download)
        raise
    finally:
        _remove(staging)
    _remove(download)
    return record


def _check(source: schema.Source) -> None:
    if not source.archive:
        return
    if source.kind in REMADE:
        raise ValueError(
            f"source.archive: expected none for kind {source.kind}. Received: {source.archive}. Leave ARCHIVE= out"
        )
    if "://" in source.archive and not (transfer.is_url(source.archive) and source.sha256):
        raise ValueError(
            f"source.archive: expected a path, or an http or https URL with its source.sha256. Received: {transfer.without_secrets(source.archive)}"
        )


def _declared(source: schema.Source) -> dict:
    """Return what identifies the source; of a path, only its last part."""
    if source.kind == "kaggle":
        fields = {"dataset": source.dataset} if source.dataset else {"competition": source.competition}
    elif source.kind == "archive":
        fields = {
            "archive": transfer.without_secrets(source.archive)
            if transfer.is_url(source.archive)
            else Path(source.archive).name
        }
    elif source.kind == "drive":
        fields = {"drive": _drive_id(source.drive)}
    elif source.kind == "folder":
        fields = {"folder": Path(source.folder).name or Path(source.folder).resolve().name}
    else:
        fields = {"seed": source.seed, "photos_per_class": source.photos_per_class}
    return {"kind": source.kind, **fields}


def _asked(declared: dict) -> str:
    return ", ".join(str(value) if key == "kind" else f"{key} {value}" for key, value in declared.items())


def _fingerprint(source: schema.Source, folder: Path) -> str | None:
    """Return a hash that changes when what can be made again should be."""
    if source.kind == "sample":
        # here: only this kind needs them
        from lib.download import painting, sample, scenes, species

        files = (sample.__file__, scenes.__file__, painting.__file__, species.__file__, species.FILE)
        hashes = [_sha256(Path(file)) for file in files]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if source.kind == "folder":
        found, _ = _listing(_original(source, folder))
        stats = [(name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in found]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    return None


def _there(folder: Path) -> dict | None:
    """Return what source.json says of the photos that are there, or None."""
    try:
        record = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and (folder / "raw").is_dir() else None


def _fits(there: dict, source: schema.Source, *, wanted: dict) -> bool:
    if any(there.get(key) != value for key, value in wanted.items()):
        return False
    if source.sha256 and there.get("archive_sha256") != source.sha256:
        return False
    if not source.archive or transfer.is_url(source.archive):
        return True
    try:
        archive = _find(source.archive, "archive")
        return archive.is_file() and _sha256(archive) == there.get("archive_sha256")
    except FileNotFoundError:
        if source.kind != "archive":  # typed just now, by hand
            raise
        return True  # deleted after it was unpacked


def _require_replaceable(there: dict | None, source: schema.Source, *, folder: Path, declared: dict) -> None:
    remade = there and source.kind in REMADE and there.get("kind") == source.kind
    if remade or not (folder / "raw").exists():
        return
    place = f"{folder.parent.name}/{folder.name}"
    found = "photos without a source.json that says where they come from"
    if there:
        found = f"{_asked(there.get('declared') or {})} (archive {there.get('archive')}, SHA-256 {there.get('archive_sha256')})"
    raise ValueError(
        f"{place}: expected {_asked(declared)}{' from ' + Path(source.archive).name if source.archive else ''}. "
        f"Received: {found}. It is never overwritten: "
        f'take another folder with SET="source.name={folder.name}2", or remove {place} by hand'
    )


def _bring(source: schema.Source, staging: Path, *, download: Path) -> dict:
    """Put the photos under `staging/raw`; return how they came."""
    if source.archive:
        url = transfer.is_url(source.archive)
        archive = (
            transfer.download(source.archive, source.sha256, download)
            if url
            else _find(source.archive, "archive")
        )
        return _unpack(archive, "archive", source=source, staging=staging)
    if source.kind == "kaggle":
        archive, licence = kaggle.download(source, download)
        return {**_unpack(archive, "kaggle", source=source, staging=staging), "licence": licence}
    if source.kind == "drive":
        return _drive(source, staging, download=download)
    if source.kind == "folder":
        return _copy(source, staging)
    from lib.download import sample

    sample.write(staging, seed=source.seed, photos_per_class=source.photos_per_class)
    return {"kind": "sample"}


def _unpack(archive: Path, kind: str, *, source: schema.Source, staging: Path) -> dict:
    sha256 = _sha256(archive) if archive.is_file() else None
    if source.sha256 and sha256 != source.sha256:
        raise ValueError(
            f"{archive.name}: expected the SHA-256 {source.sha256}. Received: {sha256}. It is another file than the "
            "one declared, or damaged: get it again, or correct source.sha256"
        )
    archives.extract(archive, staging / "raw")
    return {"kind": kind, "archive": archive.name, "archive_sha256": sha256}


def _find(text: str, key: str) -> Path:
    """Find what a user typed: from the current folder or, as notebooks run in theirs, from the project's."""
    path = params.find_file(text)
    if path.exists():
        return path
    raise FileNotFoundError(
        f"source.{key}: expected the path of something that exists. Received: {text}, which is neither in the current "
        f"folder nor in the project's. Check the path{', or give ARCHIVE=path' if key == 'archive' else ''}"
    )


def _drive_id(text: str) -> str:
    match = re.search(r"(?:folders/|[?&]id=)([\w-]+)", text) or re.fullmatch(r"([\w-]+)", text)
    if not match:
        raise ValueError(f"source.drive: expected the link or id of a Google Drive folder. Received: {text}")
    return match[1]


def _drive(source: schema.Source, staging: Path, *, download: Path) -> dict:
    """Download a folder of Google Drive, whose size nothing tells beforehand; a sole archive in it is unpacked."""
    import gdown  # here: only this kind needs it

    folder = download / _drive_id(source.drive)
    folder.mkdir(parents=True, exist_ok=True)
    files.require_space(folder, transfer.UNKNOWN_SIZE, what=f"downloading {source.drive}")
    # older releases, such as Colab's, know no time limit
    known = inspect.signature(gdown.download_folder).parameters
    limits = {"timeout": transfer.TIMEOUT, "retries": transfer.RETRIES} if "timeout" in known else {}
    try:
        got = gdown.download_folder(
            id=folder.name, output=str(folder), quiet=True, use_cookies=False, resume=True, **limits
        )
        reason = None if got else "no files"
    except Exception as error:  # its own, which have no common base, and those of requests and of its parser
        reason = " ".join(str(error).replace(str(folder), "").split())[:300] or type(error).__name__
    if reason:
        raise transfer.Unfinished(
            f"Google Drive folder {source.drive}: expected a download. Received: {reason}. Two ways on: (1) share the folder "
            "as 'anyone with the link'; (2) download it in a browser, which gives a zip, and run "
            f"`make {source.name or '<name>'} ARCHIVE=path`"
        )
    found, _ = _listing(folder)
    if len(found) == 1 and not found[0][0].lower().endswith(PHOTOS):
        return _unpack(found[0][1], "drive", source=source, staging=staging)
    folder.rename(staging / "raw")
    return {"kind": "drive"}


def _original(source: schema.Source, folder: Path) -> Path:
    original = _find(source.folder, "folder").resolve()
    if not original.is_dir():
        raise ValueError(
            f"source.folder: expected a folder of photos. Received: {source.folder}, a file. Give a zip as kind: archive"
        )
    if original.is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(original):
        raise ValueError(
            f"source.folder: expected a folder apart from {folder.parent.name}/{folder.name}, where the copy goes. "
            f"Received: {source.folder}. Move the photos elsewhere"
        )
    return original


def _listing(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """Return the plain files below a folder as (relative path, path), sorted, and the number of other things."""
    found, others = [], 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        paths = [Path(place, name) for name in names]
        plain = [path for path in paths if path.is_file() and not path.is_symlink()]
        others += len(paths) - len(plain) + sum(Path(place, name).is_symlink() for name in folders)
        found += [(files.readable(path.relative_to(folder).as_posix()), path) for path in plain]
    return sorted(found), others


def _raise(error: OSError):
    raise error


def _copy(source: schema.Source, staging: Path) -> dict:
    found, skipped = _listing(_find(source.folder, "folder").resolve())
    needed = sum(path.stat().st_size + archives.BLOCK for _, path in found)
    files.require_space(staging, needed, what=f"copying {source.folder}")
    (staging / "raw").mkdir()
    for name, path in found:
        target = staging / "raw" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # on this disk, or once a name that is not UTF-8 was read as Latin-1
            raise ValueError(
                f"copying {source.folder}: expected names that differ on this disk. Received: two files called "
                f"{name!r}. Rename one of them"
            )
        shutil.copy2(path, target)
    return {"kind": "folder", "skipped": skipped}


def _summary(raw: Path, what: str) -> dict:
    """Count and hash the files under raw/, which must hold a photo."""
    found, _ = _listing(raw)
    if not any(name.lower().endswith(PHOTOS) for name, _ in found):
        counts = Counter(path.suffix.lower() or "without a suffix" for _, path in found).most_common(5)
        raise ValueError(
            f"{what}: expected photos ({', '.join(PHOTOS)}). Received: {len(found)} files and no photo among them"
            f"{': ' if counts else ''}{', '.join(f'{suffix} {count}' for suffix, count in counts)}. "
            "Check that it is the right one; archives inside must be unpacked by hand and given as kind: folder"
        )
    content = hashlib.sha256()
    for name, path in found:
        content.update(f"{name}\0{_sha256(path)}\n".encode(errors="surrogateescape"))
    size = sum(path.stat().st_size for _, path in found)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"fetched_at": now, "files": len(found), "bytes": size, "content_sha256": content.hexdigest()}


def _publish(record: dict, staging: Path, *, folder: Path) -> None:
    """Swap the new for the old: raw/ goes first and comes last, so that with source.json it is always whole."""
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: (name != "raw", name))
    (staging / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    old = folder / "old.partial"
    old.mkdir()
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(old / name)
    for name in ("source.json", *reversed(names)):
        (staging / name).replace(folder / name)
    _remove(old)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
