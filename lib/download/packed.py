"""Read the files of an archive without unpacking it."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.download import archives


class Packed(contextlib.ExitStack):
    """The files of an archive, see `lib.photos.listing.Listing`; closed at the end of a `with` block.

    Args:
        path: a zip or tar.
        name_encoding: see `archives.extract`.

    Raises:
        FileNotFoundError, ValueError: see `archives.extract`.
    """

    def __init__(self, path: Path, *, name_encoding: str | None = None):
        super().__init__()
        archives.require_file(path)
        self._archive = path
        with archives.explained(path):
            archive = archives.opened(path)
            self.callback(archive.close)
            self._members = archives.checked(path, archive, name_encoding=name_encoding)
        self.paths = sorted(self._members)
        self.others: Counter[str] = Counter()

    def read(self, path: str, limit: int | None = None) -> bytes:
        with archives.explained(self._archive), self._members[path].open() as file:
            return file.read(-1 if limit is None else limit)

    def heads(self, paths: Iterable[str], limit: int) -> Iterator[tuple[str, bytes]]:
        # To go back in a compressed tar, it is read again from its beginning.
        wanted = set(paths)
        return ((path, self.read(path, limit)) for path in self._members if path in wanted)
