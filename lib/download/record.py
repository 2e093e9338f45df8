"""The record of a source, `source.json`: what was asked for, what arrived, when and how."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self

from lib.core import files

FILE = "source.json"


class Arrival(NamedTuple):
    """How the photos of a source arrived."""

    kind: str
    archive: str | None = None
    archive_sha256: str | None = None
    skipped: int = 0
    licence: str | None = None


@dataclass(frozen=True)
class SourceRecord:
    """What `source.json` holds.

    Attributes:
        kind: how the photos arrived: kaggle, archive, drive, folder or sample.
        archive, archive_sha256: name and hash of the archive; None without one.
        skipped: number of links and devices that a copied folder was copied without.
        licence: licence of the photos; None if it is unknown.
        declared: what was asked for, without paths.
        fingerprint: hash of the folder's listing or of the code that draws the sample; None for other kinds.
        fetched_at: time in UTC, as ISO 8601.
        files, bytes: number and size of the files in `raw/`.
        content_sha256: hash of the names and bytes of all files.
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

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the record of the photos in `folder/raw`; None if there are no photos or no valid record."""
        try:
            values = files.read_json(folder / FILE)
            record = cls(*(values[field.name] for field in fields(cls)))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if (folder / "raw").is_dir() else None

    def save(self, folder: Path) -> None:
        """Write `source.json` into a folder."""
        files.write_json(folder / FILE, asdict(self))
