"""The record of a source, `source.json`: its identity, its files, and when and how they were fetched."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, Self

from lib.core import files

FILE = "source.json"


class Origin(NamedTuple):
    """Where the photos of a source come from; see the attributes of `SourceRecord`."""

    kind: str
    archive: str | None = None
    archive_sha256: str | None = None
    skipped: int = 0
    licence: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceRecord:
    """The content of `source.json`.

    Attributes:
        kind: how the photos were fetched: kaggle, archive, drive, folder or sample.
        archive, archive_sha256: name and SHA-256 of the archive; None without an archive.
        skipped: number of links and devices in the original folder, which were not copied.
        licence: licence of the photos; None if it is unknown.
        declared: the keys of the parameters that identify the source, without folders and secrets.
        fingerprint: hash of the folder's listing or of the code that draws the sample; None for other kinds.
        fetched_at: time in UTC, as ISO 8601.
        files, bytes: number and size of the files in `raw/`.
        content_sha256: SHA-256 of the names and hashes of all files.
        notes: sentences on assumptions about the names in the archive.
    """

    kind: str
    archive: str | None
    archive_sha256: str | None
    skipped: int
    licence: str | None
    declared: dict[str, str | int]
    fingerprint: str | None
    fetched_at: str
    files: int
    bytes: int
    content_sha256: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Load the record of the photos in `folder/raw`; None if there are no photos or no valid record."""
        try:
            # Records of earlier versions have no notes.
            values = {"notes": []} | files.read_json(folder / FILE)
            record = cls(*(values[each.name] for each in fields(cls)))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if (folder / "raw").is_dir() else None

    def save(self, folder: Path) -> None:
        """Write `source.json` into a folder."""
        files.write_json(folder / FILE, asdict(self))
