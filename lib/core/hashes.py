"""SHA-256 of files, stored with their sizes and modification times so that only changed files are read again.

A file whose content has changed while its size and modification time were restored counts as unchanged.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.core import cache, files

TABLE = ".sha256.json"
# Resolution of modification times on FAT, the coarsest in use.
CLOCK_TICK_NS = 2 * 10**9
# Size in bytes, modification time in nanoseconds and SHA-256 of a file.
Row = tuple[int, int, str]


def of_files(root: Path, names: Iterable[str], *, table: Path) -> dict[str, str]:
    """Return the SHA-256 of files, and store those of files that changed since they were last hashed.

    Args:
        root: a folder.
        names: paths relative to `root`.
        table: JSON file with the SHA-256 of earlier calls, written atomically. It is ignored if it is damaged
            or cannot be written. A file that was modified in the last two seconds, or in the future, is not
            stored, because it could change again without a new modification time.

    Returns:
        64 hexadecimal digits by name, or `unreadable` if a file cannot be read; without names of no file.
    """
    stats = _stats(root, names)
    known, began = _load(table), time.time_ns()
    changed = [name for name, values in stats.items() if known.get(name, ())[:2] != values]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = dict(zip(changed, pool.map(lambda name: _sha256(root / name), changed), strict=True))
    settled = {
        name: (*stats[name], digest)
        for name, digest in digests.items()
        if digest != "unreadable" and stats[name][1] < began - CLOCK_TICK_NS
    }
    if settled:
        others = {name: row for name, row in known.items() if name not in digests}
        with contextlib.suppress(OSError):
            text = json.dumps(others | settled)
            files.write(table, lambda partial: partial.write_text(text, encoding="utf-8"))
    return {name: digests.get(name) or known[name][2] for name in stats}


def of_folder(path: Path, names: Iterable[str], *, tables: Path) -> str:
    """Return a fingerprint of the content of a file, or of the paths and contents of the files in a folder.

    Args:
        path: file or folder.
        names: relative paths of the files in the folder.
        tables: folder for the table of `of_files` and, so that it is seldom loaded, for the fingerprint by
            names, sizes and times of all files. The names of both contain no part of `path`.
    """
    table = tables / f".sha256-{cache.fingerprint(path.resolve())}.json"
    if not path.is_dir():
        return cache.fingerprint(list(of_files(path.parent, [path.name], table=table).values()))
    began, stats, whole = time.time_ns(), _stats(path, names), table.with_suffix(".whole.json")
    listing = hashlib.sha256(repr(stats).encode(errors="surrogateescape")).hexdigest()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if content := files.read_json(whole).get(listing):
            return content
    digests = of_files(path, stats, table=table)
    content = cache.fingerprint(sorted(digests.items()))
    settled = all(modified < began - CLOCK_TICK_NS for _, modified in stats.values())
    if settled and "unreadable" not in digests.values():
        with contextlib.suppress(OSError):
            files.write_json(whole, {listing: content})
    return content


def _stats(root: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the size and modification time of the names that are files."""
    stats, prefix = {}, f"{root}{os.sep}"
    for name in names:
        try:
            # Twice as fast as `Path.stat`.
            values = os.stat(prefix + name)  # noqa: PTH116
        except OSError:
            continue
        if stat.S_ISREG(values.st_mode):
            stats[name] = (values.st_size, values.st_mtime_ns)
    return stats


def _load(table: Path) -> dict[str, Row]:
    try:
        rows = files.read_json(table).items()
        return {name: (size, modified, digest) for name, (size, modified, digest) in rows}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _sha256(path: Path) -> str:
    try:
        return files.file_sha256(path)
    except OSError:
        # The step itself reports it, with advice.
        return "unreadable"
