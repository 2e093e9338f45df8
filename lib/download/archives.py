"""Unpacking an archive from a stranger: all of it as plain files in a new folder, or nothing."""

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lib.core import files

MAX_MEMBERS = 2_000_000


MAX_BYTES = 200 * 10**9


MAX_RATIO = 100  # unpacked to packed; photos hardly shrink, a bomb shrinks a thousand times


BIG_MEMBER = 10 * 10**6  # smaller members may shrink as they like: a table of labels does, 200:1


BIG_ARCHIVE = 10**9


BLOCK = 4096  # what a small file takes on a disk, at least


MANY_MEMBERS = 100_000  # so many photos are never so small:


SMALLEST_MEAN = 64  # bytes


LONGEST_HEADER = 10**6  # bytes of a tar's names and remarks on a member, which are read as a whole


CHUNK = 2**20


DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeError,
)


METADATA = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


BEGINNINGS = {
    b"PK": "a zip that is cut off or damaged: download it again",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip file without a tar in it, or a damaged one",
}


class Member(NamedTuple):
    """One member of an archive, as its header describes it."""

    name: str
    is_folder: bool
    size: int
    packed: int | None  # a tar is packed as a whole
    problem: str | None  # what it is, if neither a plain file nor a folder
    entry: zipfile.ZipInfo | tarfile.TarInfo


def extract(path: Path, folder: Path) -> list[str]:
    """Unpack a zip or tar (plain, gz, bz2, xz), recognised by its content, into a new folder.

    Permissions and dates in the archive are ignored, and a name that is not UTF-8 is read as Latin-1. On
    any failure nothing is left at `folder`.

    Args:
        path: the archive.
        folder: where its content goes; it must not exist yet. While unpacking, `<folder>.partial` is used.

    Returns:
        The paths of the files written, relative to `folder`, with `/`, sorted.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is no zip or tar, or damaged; it holds a path that leaves the folder, a link, a device,
            an encrypted member, two members with one name, too many members or bytes, or shrinks as a bomb does.
        NoSpace: a ValueError; its content does not fit on the disk.
    """
    path, folder = Path(path), Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"expected an archive. Received: {path.name}, which does not exist")
    if folder.exists():
        raise ValueError(
            f"{path.name}: expected a new folder. Received: {folder.name}, which exists. Remove it first"
        )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _open(path) as archive:
            members = _check(path, archive)
            _write(path, archive, members=members, folder=partial)
        partial.replace(folder)
    except FileExistsError as error:
        names = f"{Path(error.filename).name!r}, which this disk takes for another's"
        raise _refusal(path, "names that differ on this disk", names) from error
    except NotImplementedError as error:
        raise _refusal(path, "a common compression", str(error)) from error
    except (*DAMAGE, OSError) as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL):  # the disk's error, not the archive's
            raise
        raise ValueError(
            f"{path.name}: expected an undamaged archive. Received: one that cannot be read to its end "
            f"({str(error) or type(error).__name__}). Download it again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(members)


def _open(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """Open by content: a zip begins with PK (`is_zipfile` also takes a tar whose last member is a zip)."""
    beginning = b""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(512)
    try:
        if beginning.startswith(b"PK"):
            return zipfile.ZipFile(path)
        return tarfile.open(path, "r:*", tarinfo=_Header)
    except (*DAMAGE, OSError) as error:
        raise ValueError(
            f"{path.name}: expected a zip or tar archive. Received: {_kind(path, beginning)}. "
            "Download it again, or pack the photos as a zip"
        ) from error


class _Header(tarfile.TarInfo):
    """A header of a tar, refused where reading it could fill the memory or take for ever."""

    @classmethod
    def frombuf(cls, *given):
        header = super().frombuf(*given)
        if header.type in METADATA and header.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, *_):
        raise tarfile.ReadError("a sparse file")


def _kind(path: Path, beginning: bytes) -> str:
    if path.is_dir():
        return "a folder (give it as kind: folder)"
    if not beginning:
        return "an empty file"
    if re.match(rb"\s*<(!doctype|html)", beginning, re.IGNORECASE):
        return "an HTML page, perhaps a login page saved instead of the archive"
    kinds = (kind for start, kind in BEGINNINGS.items() if beginning.startswith(start))
    return next(kinds, f"a file that begins with {beginning[:8]!r}")


def _members(archive: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    if isinstance(archive, tarfile.TarFile):
        for entry in archive:
            yield Member(entry.name, entry.isdir(), entry.size, None, _tar_problem(entry), entry)
        # tarfile takes a broken header, or a cut between two members, for the end
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")
    else:
        for entry in archive.infolist():
            sizes = entry.file_size, entry.compress_size
            yield Member(entry.filename, entry.is_dir(), *sizes, _zip_problem(entry), entry)


def _tar_problem(entry: tarfile.TarInfo) -> str | None:
    if entry.issym() or entry.islnk():
        return "a link"
    if entry.isdev():
        return "a device"
    plain = entry.isdir() or entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
    return "a file of an unusual kind" if entry.issparse() or not plain or entry.size < 0 else None


def _zip_problem(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & 0x1:
        return "an encrypted file"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind in (0, stat.S_IFREG, stat.S_IFDIR):
        return None
    return "a link" if kind == stat.S_IFLNK else "a device"


def _check(path: Path, archive: zipfile.ZipFile | tarfile.TarFile) -> dict[str, Member]:
    """Return the files by their paths, after everything that can be known before writing was checked."""
    files, folders, total, packed = {}, set(), 0, path.stat().st_size
    for count, member in enumerate(_members(archive), 1):
        parts = _parts(path, member)
        if member.problem:
            raise _refusal(path, "plain files and folders only", f"{member.problem}, {member.name!r}")
        total += member.size
        if count > MAX_MEMBERS:
            raise _refusal(path, f"at most {MAX_MEMBERS:,} members", "more")
        if total > MAX_BYTES:
            raise _refusal(path, f"at most {MAX_BYTES / 1e9:g} GB unpacked", f"{total / 1e9:.1f} GB or more")
        _check_ratio(path, member.size, packed=member.packed, big=BIG_MEMBER, where=repr(member.name))
        on_disk = total + count * BLOCK  # a few bytes of a tar are a thousand empty files
        _check_ratio(path, on_disk, packed=packed, big=BIG_ARCHIVE, where="all in all")
        name = "/".join(parts)
        if name in files and not member.is_folder:
            raise _refusal(path, "one member of each name", f"two called {name!r}")
        if member.is_folder:
            folders.add(name)
        else:
            files[name] = member
    above = (parent for name in (*files, *folders) for parent in _parents(name))
    if clash := next((name for name in chain(folders, above) if name in files), None):
        raise _refusal(path, "each name to be a file or a folder", f"{clash!r}, which is both")
    if not files:
        raise _refusal(path, "an archive of photos", "an archive without a file")
    if len(files) > MANY_MEMBERS and total < SMALLEST_MEAN * len(files):
        received = f"{len(files):,} files of {total / len(files):.0f} bytes on average"
        raise _refusal(path, "an archive of photos", received)
    return files


def _check_ratio(path: Path, size: int, *, packed: int | None, big: int, where: str) -> None:
    if packed is not None and size > big and size > MAX_RATIO * packed:
        ratio = f"{size / max(packed, 1):,.0f}:1"
        raise _refusal(path, f"a compression of at most {MAX_RATIO}:1", f"{ratio} in {where}")


def _parts(path: Path, member: Member) -> list[str]:
    """Split a member's path; `./` and doubled slashes, which tar writes, say nothing."""
    name = files.readable(member.name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name)
    too_long = len(name) > 1000 or any(len(os.fsencode(part)) > 255 for part in parts)
    if outside or too_long or "\0" in name or not (parts or member.is_folder):
        raise _refusal(
            path, "paths inside the archive, with / and not too long", f"the member {name[:200]!r}"
        )
    return parts


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _write(path: Path, archive, *, members: dict[str, Member], folder: Path) -> None:
    needed = sum(member.size + BLOCK for member in members.values())
    files.require_space(folder.parent, needed, what=f"unpacking {path.name}")
    folder.mkdir()
    for name, member in members.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        zipped = isinstance(archive, zipfile.ZipFile)
        with archive.open(member.entry) if zipped else archive.extractfile(member.entry) as source:
            written = _copy(source, target, limit=member.size)
        if written != member.size:  # headers lie
            received = "more" if written > member.size else f"{written:,}"
            raise _refusal(path, f"{member.size:,} bytes in {name!r}, as its header says", received)


def _copy(source, target: Path, *, limit: int) -> int:
    """Copy at most `limit` bytes into a new file; return how many came, more than `limit` if there are more."""
    written = 0
    with target.open("xb") as file:  # x: never over another member that this disk takes for the same name
        while written <= limit and (chunk := source.read(CHUNK)):
            written += len(chunk)
            if written <= limit:
                file.write(chunk)
    return written


def _refusal(path: Path, expected: str, received: str) -> ValueError:
    return ValueError(
        f"{path.name}: expected {expected}. Received: {received}. Nothing was unpacked. If you trust the archive, "
        "unpack it yourself and give the photos as kind: folder"
    )
