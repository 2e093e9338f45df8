"""List the files of a source, in a folder or in an archive that is not unpacked, and read them."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn, Protocol

from lib.core import files

# Suffixes of photos: such a file always gets a row, with the reason if it is not a photo.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
        *(".heic", ".heif", ".hif", ".jp2", ".jxl"),
    )
)
# Suffixes that tell nothing about the content, which is read instead, as for a name without a suffix.
MEANINGLESS = frozenset((".bin", ".dat", ".data", ".download", ".file", ".image", ".img", ".photo", ".tmp"))
# Folders that programs write, not people. Hidden folders and these are not entered.
SKIPPED = frozenset(
    {"__MACOSX", "__pycache__", "node_modules", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
)
# Maximum number of files of a source.
MAX_FILES = 2_000_000
# Kinds of entries of a folder that are never opened.
DEVICE = "device"


class Listing(Protocol):
    """The files of a source.

    Attributes:
        paths: relative POSIX paths of all regular files, sorted.
        others: number of entries that are not regular files: `link`, `device` (also a pipe or socket),
            `empty folder` and `hidden folder`, which is not entered.
    """

    paths: list[str]
    others: Counter[str]

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the content of a file, or its first `limit` bytes."""

    def heads(self, paths: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield the paths with the first `limit` bytes of each file, in the order of the fastest access."""


class Folder:
    """A folder on disk, see `Listing`. Links are not followed.

    Args:
        root: the folder.
        ignore: patterns of `source.ignore`; a folder that cannot be read is skipped if it matches.

    Raises:
        ValueError: if a folder cannot be read, or there are more than `MAX_FILES` files.
    """

    def __init__(self, root: Path, *, ignore: Iterable[str] = ()):
        self.root = root
        self.paths: list[str] = []
        self.others: Counter[str] = Counter()
        # Names that are not UTF-8 as they are on the disk.
        self._on_disk: dict[str, str] = {}
        self._ignored = matcher(ignore)
        pending = [""]
        while pending:
            pending += self._list(pending.pop())
        self.paths.sort()

    def on_disk(self, path: str) -> str:
        """Return a path as it is on the disk, which may not be UTF-8."""
        return self._on_disk.get(path, path)

    def path(self, path: str) -> Path:
        """Return the path of a file on the disk."""
        return self.root / self.on_disk(path)

    def read(self, path: str, limit: int | None = None) -> bytes:
        with self.path(path).open("rb") as file:
            return file.read(-1 if limit is None else limit)

    def heads(self, paths: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        return ((path, self.read(path, limit)) for path in paths)

    def _list(self, folder: str) -> list[str]:
        """List the files of a folder, and return its subfolders."""
        try:
            with os.scandir(self.root / folder) as scan:
                entries = list(scan)
        except OSError as error:
            if folder and self._ignored(folder):
                self.others["hidden folder"] += 1
                return []
            _refuse(folder or self.root.name, error)
        if folder and not entries:
            self.others["empty folder"] += 1
        kinds = [(f"{folder}/{entry.name}" if folder else entry.name, _kind(entry)) for entry in entries]
        self.others.update(kind for _, kind in kinds if kind not in ("file", "folder"))
        for name, kind in kinds:
            if kind == "file":
                self.paths.append(readable := files.readable(name))
                if readable != name:
                    self._on_disk[readable] = name
        if len(self.paths) > MAX_FILES:
            raise ValueError(
                f"{self.root.name}: expected at most {MAX_FILES:,} files. Received: more, "
                f"{len(entries):,} of them in {folder or 'the folder itself'}. "
                "Give the folder of the photos only"
            )
        return [name for name, kind in kinds if kind == "folder"]


def _kind(entry: os.DirEntry[str]) -> str:
    """Return the kind of an entry: `file`, `folder`, or a key of `Listing.others`."""
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "hidden folder" if is_hidden(entry.name) else "folder"
    return "file" if entry.is_file(follow_symlinks=False) else DEVICE


def _refuse(folder: str, error: OSError) -> NoReturn:
    name = files.readable(folder)
    raise ValueError(
        f"expected folders that can be read. Received: {name}, {error.strerror}. Change its permissions, "
        f"move it elsewhere, or set `source.ignore: [{name!r}]`"
    ) from error


def is_hidden(path: str) -> bool:
    """Return whether a part of a path is hidden, or a folder that programs write."""
    return any(part.startswith(".") or part in SKIPPED for part in path.split("/"))


def photos(listing: Listing, paths: Iterable[str] | None = None) -> list[str]:
    """Return the paths of the photos in a listing, sorted; hidden files are left out.

    A file is a photo if it has the suffix of a photo. If it has no suffix, or a suffix that tells nothing
    about the content, such as `.1` or `.bin`, its first bytes decide.

    Args:
        listing: the files of the source.
        paths: some of its paths; if None, all.
    """
    # Imported here because a run that is up to date needs no images.
    from lib.photos import formats

    visible = [path for path in (listing.paths if paths is None else paths) if not is_hidden(path)]
    named = [path for path in visible if suffix(path) in SUFFIXES]
    unnamed = [path for path in visible if (end := suffix(path)) in MEANINGLESS or not end[1:].isalpha()]
    heads = listing.heads([path for path in unnamed if suffix(path) not in SUFFIXES], formats.HEAD)
    return sorted([*named, *(path for path, head in heads if formats.signature(head) in formats.READ)])


def suffix(path: str) -> str:
    """Return the suffix of a path in lower case, such as `.jpg`; empty if it has no suffix."""
    return PurePosixPath(path).suffix.lower()


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that returns whether a relative path matches a pattern, or is inside a match.

    Args:
        patterns: a pattern without `/` matches the name of a file or folder at any depth; a pattern with `/`
            matches from the source's folder. `*` and `?` match within a name, `[ab]` a character, and `**`
            any number of folders.
    """
    expression = "|".join(map(_expression, patterns))
    search = re.compile(expression).fullmatch if expression else None
    return lambda path: search is not None and search(path) is not None


def _expression(pattern: str) -> str:
    """Translate a pattern to a regular expression of the whole path."""
    parts = pattern.replace("\\", "/").strip("/").split("/")
    names = ["(?:[^/]+/)*" if part == "**" else f"{_name(part)}/" for part in parts]
    anywhere = "" if len(parts) > 1 else "(?:[^/]+/)*"
    return f"{anywhere}{''.join(names).removesuffix('/')}(?:/.*)?"


def _name(pattern: str) -> str:
    """Translate a pattern of a single name to a regular expression."""
    return re.sub(r"\*|\?|\[[^\]]+\]|.", lambda match: _part(match[0]), pattern, flags=re.DOTALL)


def _part(part: str) -> str:
    """Translate a wildcard, a character class or a character."""
    if len(part) > 1:
        return _class(part)
    return {"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))


def _class(part: str) -> str:
    """Translate a character class such as `[!0-9]`."""
    inner = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
    expression = f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    try:
        re.compile(expression)
    # A range such as [z-a] is text.
    except re.error:
        return re.escape(part)
    return expression
