"""Bringing the photos of a source to `outputs/data/<source>/`: once, whole, and never changed afterwards.

What is under way lies in `*.partial`; `raw/` is there only when all of it is, with `source.json` beside it.
"""

import contextlib
import csv
import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from lib.core import params, schema
from lib.download import archives
from lib.photos import decoding

PHOTOS = tuple(sorted(decoding.SUFFIXES))
REMADE = ("folder", "sample")  # kinds that can be made again, and are when their origin has changed
RETRIES = 5
BACKOFF = 2.0  # seconds before the first retry; doubled each time
TIMEOUT = 60  # seconds without a byte
CHUNK = 2**16  # what a cut in a download loses at most
KAGGLE_TIMEOUT = 24 * 3600  # seconds for a data set; the client's own calls have no limit
TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
UNPACKED = 2.2  # space that an archive of photos takes in all: itself, its content and a margin
UNKNOWN_SIZE = 10**9  # bytes that must be free where nothing tells the size beforehand
# The command `kaggle`, wherever its script lies. The client goes by the program's name to decide whether it may
# ask without a key; -P keeps a folder called kaggle in the current folder out of the way.
KAGGLE = [
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'kaggle'; from kaggle.cli import main; main()",
]

NOTHING = {"kind": None, "archive": None, "archive_sha256": None, "skipped": 0, "licence": None}


class Unfinished(ValueError):
    """A transfer failed: what has arrived is kept, for the next try to go on from."""


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
    folder = Path(folder)
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
    except (archives.NoSpace, Unfinished):
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
    if "://" in source.archive and not (_is_url(source.archive) and source.sha256):
        raise ValueError(
            f"source.archive: expected a path, or an http or https URL with its source.sha256. Received: {_shown(source.archive)}"
        )


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _declared(source: schema.Source) -> dict:
    """Return what identifies the source; of a path, only its last part."""
    if source.kind == "kaggle":
        fields = {"dataset": source.dataset} if source.dataset else {"competition": source.competition}
    elif source.kind == "archive":
        fields = {"archive": _shown(source.archive) if _is_url(source.archive) else Path(source.archive).name}
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

        origins = (sample.__file__, scenes.__file__, painting.__file__, species.__file__, species.FILE)
        hashes = [_sha256(Path(origin)) for origin in origins]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    if source.kind == "folder":
        files, _ = _listing(_original(source, folder))
        stats = [(name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in files]
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
    if not source.archive or _is_url(source.archive):
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
        url = _is_url(source.archive)
        archive = (
            _download(source.archive, source.sha256, download) if url else _find(source.archive, "archive")
        )
        return _unpack(archive, "archive", source=source, staging=staging)
    if source.kind == "kaggle":
        archive, licence = _kaggle(source, download)
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


def _download(url: str, sha256: str, download: Path) -> Path:
    """Download a file, going on where an earlier try stopped; return it, its hash still unchecked."""
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name).strip(".") or "archive"
    target = download / sha256[:16] / name  # by its hash: never the beginning of another file
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(name + ".partial")
    for attempt in range(RETRIES + 1):
        try:
            _transfer(url, part)
            break
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            if attempt == RETRIES or not (isinstance(error, TRANSIENT) or (status or 0) >= 500):
                raise Unfinished(
                    f"{_shown(url)}: expected a download. Received: {status or type(error).__name__}. Run it again to "
                    "go on where it stopped, or download it in a browser and give ARCHIVE=path"
                ) from None
            time.sleep(BACKOFF * 2**attempt)
    return part.rename(target)


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        if start and answer.status_code == 416:
            return  # all of it is there: the hash will tell
        answer.raise_for_status()
        start = start if answer.status_code == 206 else 0
        size = start + int(answer.headers.get("Content-Length", 0))
        archives.require_space(part.parent, UNPACKED * size - start, what=f"downloading {_shown(url)}")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(total=size or None, initial=start, unit="B", unit_scale=True, disable=None) as progress,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))


def _kaggle(source: schema.Source, download: Path) -> tuple[Path, str | None]:
    """Run Kaggle's client; return the archive and the licence that it names."""
    what = "datasets" if source.dataset else "competitions"
    name = source.dataset or source.competition
    # a folder for this name alone: the client takes any complete file of the same last part for it
    folder = download / re.sub(r"\W+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    size = _kaggle_size(source.dataset)
    archives.require_space(folder, UNPACKED * size if size else UNKNOWN_SIZE, what=f"downloading {name}")
    try:
        result = _client(what, "download", name, "-p", str(folder), "-q", timeout=KAGGLE_TIMEOUT)
        failed, reason = result.returncode != 0, _reason(result.stdout, result.stderr, folder=folder)
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no end after {KAGGLE_TIMEOUT // 3600} hours"
    # the client names an archive that is only begun as a complete one, with a marker beside it
    complete = [
        path for path in folder.iterdir() if not path.with_name(path.name + ".kaggle-partial").exists()
    ]
    if failed or len(complete) != 1:
        raise Unfinished(_kaggle_help(source, reason if failed else "no archive"))
    licence = re.search(r"^License\(s\): ((?!Error).+)$", result.stdout, re.MULTILINE)
    return complete[0], licence and licence[1].strip()


def _client(*arguments: str, timeout: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*KAGGLE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def _kaggle_size(dataset: str | None) -> int | None:
    """Return the bytes of a data set as Kaggle's list says them; None where it does not: without a key, for a competition."""
    if dataset is None:
        return None
    owner_and_name = "/".join(dataset.split("/")[:2])
    try:
        listed = _client("datasets", "list", "-s", owner_and_name.split("/")[1], "-v", timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
    for row in csv.reader(listed.stdout.splitlines()):
        sizes = [cell for cell in row if cell.isdecimal()]
        if row[:1] == [owner_and_name] and sizes:
            return int(sizes[0])
    return None


def _kaggle_help(source: schema.Source, reason: str) -> str:
    what = f"data set {source.dataset}" if source.dataset else f"competition {source.competition}"
    rules = f" In both cases accept the rules first, at kaggle.com/c/{source.competition}/rules."
    return (
        f"Kaggle {what}: expected a download. Received: {reason}. Two ways on: (1) a Kaggle key: create an API token at "
        "kaggle.com/settings and put it into ~/.kaggle/kaggle.json or the environment variable KAGGLE_API_TOKEN; "
        f"(2) download the zip in a browser and run `make {source.name or '<name>'} ARCHIVE=path`.{'' if source.dataset else rules}"
    )


def _reason(stdout: str, stderr: str, *, folder: Path) -> str:
    """Say in one line why the client failed, without keys or paths."""
    said = f"{stdout}\n{stderr}"
    if re.search(r"Failed to resolve|Max retries exceeded|ConnectionError", said):
        return "no connection to Kaggle"
    if refused := re.search(r"\b([45]\d\d) (?:Client|Server) Error: (.*?) for url", said):
        return f"{refused[1]} {refused[2]}"
    if "Authentication required" in said:
        return "401, Kaggle asks for a key or does not accept the one it got"
    lines = [line for line in stderr.splitlines() if line.strip()]
    line = lines[-1] if lines else "no explanation"
    return _without_secrets(line.replace(str(folder), folder.name).replace(str(Path.home()), "~"))[:300]


def _without_secrets(text: str) -> str:
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    home, given = Path.home(), os.environ.get("KAGGLE_CONFIG_DIR", "")
    places = (home / ".kaggle", home / ".config/kaggle", Path(given))
    names = ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    secrets = {token, os.environ.get("KAGGLE_KEY", "")} - {""}
    # the token may be the path of a file that holds it
    for path in (Path(token), *(place / name for place in places for name in names)):
        with contextlib.suppress(OSError):
            secrets.update(re.findall(r'[^\s"{}:,]{8,}', path.read_text(errors="replace")))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


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
    archives.require_space(folder, UNKNOWN_SIZE, what=f"downloading {source.drive}")
    # older releases, such as Colab's, know no time limit
    known = inspect.signature(gdown.download_folder).parameters
    limits = {"timeout": TIMEOUT, "retries": RETRIES} if "timeout" in known else {}
    try:
        got = gdown.download_folder(
            id=folder.name, output=str(folder), quiet=True, use_cookies=False, resume=True, **limits
        )
        reason = None if got else "no files"
    except Exception as error:  # its own, which have no common base, and those of requests and of its parser
        reason = " ".join(str(error).replace(str(folder), "").split())[:300] or type(error).__name__
    if reason:
        raise Unfinished(
            f"Google Drive folder {source.drive}: expected a download. Received: {reason}. Two ways on: (1) share the folder "
            "as 'anyone with the link'; (2) download it in a browser, which gives a zip, and run "
            f"`make {source.name or '<name>'} ARCHIVE=path`"
        )
    files, _ = _listing(folder)
    if len(files) == 1 and not files[0][0].lower().endswith(PHOTOS):
        return _unpack(files[0][1], "drive", source=source, staging=staging)
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
    files, others = [], 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        paths = [Path(place, name) for name in names]
        plain = [path for path in paths if path.is_file() and not path.is_symlink()]
        others += len(paths) - len(plain) + sum(Path(place, name).is_symlink() for name in folders)
        files += [(archives.readable(path.relative_to(folder).as_posix()), path) for path in plain]
    return sorted(files), others


def _raise(error: OSError):
    raise error


def _copy(source: schema.Source, staging: Path) -> dict:
    files, skipped = _listing(_find(source.folder, "folder").resolve())
    needed = sum(path.stat().st_size + archives.BLOCK for _, path in files)
    archives.require_space(staging, needed, what=f"copying {source.folder}")
    (staging / "raw").mkdir()
    for name, path in files:
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
    files, _ = _listing(raw)
    if not any(name.lower().endswith(PHOTOS) for name, _ in files):
        counts = Counter(path.suffix.lower() or "without a suffix" for _, path in files).most_common(5)
        raise ValueError(
            f"{what}: expected photos ({', '.join(PHOTOS)}). Received: {len(files)} files and no photo among them"
            f"{': ' if counts else ''}{', '.join(f'{suffix} {count}' for suffix, count in counts)}. "
            "Check that it is the right one; archives inside must be unpacked by hand and given as kind: folder"
        )
    content = hashlib.sha256()
    for name, path in files:
        content.update(f"{name}\0{_sha256(path)}\n".encode(errors="surrogateescape"))
    size = sum(path.stat().st_size for _, path in files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"fetched_at": now, "files": len(files), "bytes": size, "content_sha256": content.hexdigest()}


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
