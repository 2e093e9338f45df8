"""List and read the files of a source."""

import functools
from pathlib import Path


class FolderListing:
    """The files of a folder.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cached_property
    def paths(self) -> list[str]:
        """The sorted paths of all regular files, relative to the folder, with `/`."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return the first `limit` bytes of a file, or all bytes."""
        with (self.folder / path).open("rb") as file:
            return file.read(-1 if limit is None else limit)
