"""Find the files that the names in a table mean, although tables spell names in many ways."""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from lib.photos import listing

# Suffixes of the same format.
_SAME_FORMAT = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
# The beginning of an absolute path or of a URL.
_ROOT = re.compile(r"/|[A-Za-z]:|[a-z]+://")


class Name(NamedTuple):
    """A name in a table: its parts without `.`, and whether it is absolute or begins with `..`."""

    parts: tuple[str, ...]
    is_foreign: bool


class Match(NamedTuple):
    """The files that a name in a table can mean.

    Attributes:
        paths: the files; empty if there are none, several if the name is ambiguous.
        is_exact: whether the name is the path of the file, relative to the folder of the photos.
        is_longer: whether the name has leading folders that the path of the file does not have.
    """

    paths: list[str]
    is_exact: bool = False
    is_longer: bool = False


class Index:
    """The files that a table can list.

    Args:
        paths: paths of all files, relative to the source, with `/`.
        folders: folders of the photos in the table, relative to the source; if empty, the source.
    """

    def __init__(self, paths: Iterable[str], folders: Sequence[str]):
        self.folders = [_folder(folder) for folder in folders] or [""]
        self.paths = {path for path in paths if self.contains(path)}
        self.composed: dict[str, list[str]] = defaultdict(list)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self.paths):
            self.composed[_composed(path)].append(path)
            if is_photo(path):
                for key in {_key(path), _key(path.rpartition(".")[0])}:
                    self.by_name[key].append(path)

    def contains(self, path: str) -> bool:
        """Return whether a path is in one of the folders."""
        return any(not folder or _composed(path).startswith(f"{folder}/") for folder in self.folders)

    def find(self, text: str) -> Match:
        """Find the files that a name in a table can mean.

        A path relative to one of the folders is preferred. Otherwise, a photo matches if its name is equal
        except for case, Unicode form and suffix, and if one of the two paths is the end of the other; of an
        absolute path, any part of the end may match. Of several photos, those with the most equal folders,
        then those with the most similar spelling are returned.
        """
        name = parse(text)
        for relative_name in (text, "" if name.is_foreign else "/".join(name.parts)):
            relative = {f"{folder}/{relative_name}".removeprefix("/") for folder in self.folders}
            composed = {path for each in relative for path in self.composed.get(_composed(each), ())}
            if exact := relative & self.paths or composed:
                return Match(sorted(exact), is_exact=True)
        if not name.parts:
            return Match([])
        candidates = self.by_name.get(_key(name.parts[-1]), ())
        ranks = {path: rank for path in candidates if (rank := self._rank(path, name))}
        if not ranks:
            return Match([])
        best = max(ranks.values())
        paths = [path for path, rank in ranks.items() if rank == best]
        return Match(paths, is_longer=best[1] < len(name.parts))

    def _rank(self, path: str, name: Name) -> tuple[bool, int, int] | None:
        """Return how well a photo matches a name, the larger the better; None if it does not match.

        The rank consists of whether the paths are as long as one another, the number of equal parts, and the
        similarity of the spelling.
        """
        file = _composed(path)
        similarity = _similarity(file.rpartition("/")[2], name.parts[-1])
        wanted = _backwards(name.parts)
        ranks = []
        for folder in self.folders:
            prefix = f"{folder}/" if folder else ""
            if file.startswith(prefix) and similarity is not None:
                received = _backwards(file.removeprefix(prefix).split("/"))
                pairs = zip(wanted, received, strict=False)
                equal = 1 + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
                if name.is_foreign or equal in (len(name.parts), len(received) + 1):
                    ranks.append((len(wanted) == len(received) == equal - 1, equal, similarity))
        return max(ranks, default=None)


def parse(text: str) -> Name:
    """Parse a name in a table, which may be a path of Windows, an absolute path or a URL."""
    path = _composed(text.strip()).replace("\\", "/")
    root = _ROOT.match(path)
    parts = [part for part in path[root.end() if root else 0 :].split("/") if part not in ("", ".")]
    is_foreign = bool(root) or ".." in parts
    while ".." in parts:
        parts = parts[parts.index("..") + 1 :]
    return Name(tuple(parts), is_foreign)


def is_photo(path: str) -> bool:
    """Return whether a file has the suffix of a photo and is not hidden."""
    return _suffix(path) in listing.SUFFIXES and not listing.is_hidden(path)


def _suffix(path: str) -> str:
    """Return the suffix of a file in lower case; empty if it has none. `pathlib` takes ten times as long."""
    stem, stop, suffix = path.rpartition("/")[2].rpartition(".")
    return (stop + suffix).lower() if stem else ""


def _composed(text: str) -> str:
    """Return a text in the Unicode form NFC; macOS decomposes accented letters."""
    return unicodedata.normalize("NFC", text)


def _folder(text: str) -> str:
    folder = str(PurePosixPath(_composed(text).strip("/")))
    return "" if folder == "." else folder


def _backwards(parts: Sequence[str]) -> list[str]:
    """Return the folders of a path, the last first, without regard to case."""
    return [part.casefold() for part in parts[-2::-1]]


def _key(path: str) -> str:
    """Return the name of a file without regard to case and to the spelling of its suffix."""
    name = _composed(path).casefold().rpartition("/")[2]
    suffix = _suffix(name)
    return name.removesuffix(suffix) + _SAME_FORMAT.get(suffix, suffix)


def _similarity(stored: str, name: str) -> int | None:
    """Return 2 for equal names, 1 if case or suffix are spelled otherwise, 0 without suffix, else None."""
    if stored == name:
        return 2
    if _key(stored) == _key(name):
        return 1
    return None if _suffix(name) in listing.SUFFIXES else 0
