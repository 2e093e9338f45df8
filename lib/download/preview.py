"""List the files that 01_download would fetch, as far as this is possible without fetching them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.core import privacy, schema
from lib.download import kaggle, local, packed, sources, transfer
from lib.download.record import SourceRecord
from lib.photos import listing


class Found(NamedTuple):
    """The files of a source, and a description of their place."""

    place: str
    listing: listing.Listing


@contextlib.contextmanager
def contents(source: schema.Source, data: Path) -> Iterator[Found | None]:
    """List the files of a source, in the original folder or archive or where they were fetched to.

    Args:
        source: parameters of the source.
        data: `outputs/data/<source.name>`; nothing is written.

    Yields:
        The files; None if they must be downloaded or drawn first.

    Raises:
        FileNotFoundError, ValueError: see `sources.fetch`.
    """
    if isinstance(source, schema.Folder):
        local.original(source, data)
        yield Found(f"folder {privacy.public(source.folder)}", local.contents(source))
        return
    # Raises an error if the archive does not exist.
    archive = _local_archive(source, data)
    if _is_fetched(source, data):
        yield Found(f"{data.parent.name}/{data.name}/raw", listing.Folder(data / "raw"))
    elif archive:
        encoding = getattr(source, "name_encoding", None)
        with packed.Packed(archive, name_encoding=encoding) as files:
            yield Found(f"archive {archive.name}", files)
    elif isinstance(source, schema.Kaggle) and not source.archive and (attached := kaggle.attached(source)):
        yield Found(f"attached data set {attached.name}", listing.Folder(attached))
    else:
        yield None


def _local_archive(source: schema.Source, data: Path) -> Path | None:
    """Return the path of the archive in the parameters, if it is on this machine."""
    if not isinstance(source, schema.ArchivedSource) or not source.archive:
        return None
    if transfer.is_url(source.archive):
        return None
    try:
        return local.find(source.archive, key="archive")
    except FileNotFoundError:
        # It can be deleted after it is unpacked.
        if _is_fetched(source, data):
            return None
        raise


def _is_fetched(source: schema.Source, data: Path) -> bool:
    """Return whether the photos of a source are in its folder."""
    record = SourceRecord.load(data)
    return record is not None and record.declared == sources.identity_of(source)


def download(source: schema.Source) -> str:
    """Describe the download of a source that is not fetched yet: its origin and the key that it needs."""
    if isinstance(source, schema.Sample):
        return f"the sample is drawn, with {source.photos_per_class} photos in the largest class"
    if isinstance(source, schema.ArchivedSource) and transfer.is_url(source.archive):
        return f"{privacy.without_secrets(source.archive)} will be downloaded, without a key"
    instead = f"or take an archive that you have: `make {source.name or '<name>'} ARCHIVE=path`"
    if isinstance(source, schema.Drive):
        return (
            f"the Google Drive folder {source.drive} will be downloaded, without a key; anyone with the link "
            f"must be able to view it; {instead}"
        )
    if isinstance(source, schema.Kaggle):
        kind, name = ("datasets", source.dataset) if source.dataset else ("competitions", source.competition)
        rules = "" if source.dataset else ", whose rules must be accepted there"
        return f"https://www.kaggle.com/{kind}/{name}{rules} will be downloaded, {_kaggle_key()}; {instead}"
    return "the source is fetched"


def _kaggle_key() -> str:
    """Describe the key that Kaggle's client would use."""
    if place := kaggle.key():
        return f"with the key in {place}"
    return (
        "but no key was found: create an API token at kaggle.com/settings and put it into "
        "~/.kaggle/kaggle.json or KAGGLE_API_TOKEN"
    )
