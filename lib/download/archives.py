"""Unpack an untrusted archive into a new folder of plain files, completely or not at all."""

import contextlib
import errno
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, Self

from lib.core import files

MAX_MEMBERS = 2_000_000
MAX_BYTES = 200 * 10**9
# Ratio of the unpacked to the packed size: about 1 for photos, about 1,000 for a decompression bomb.
MAX_RATIO = 100
# Sizes in bytes above which the ratio is checked: that of a small table of labels can be 200.
BIG_MEMBER = 10 * 10**6
BIG_ARCHIVE = 10**9
# Minimum size of a file on a disk.
BLOCK = 4096
# Minimum mean size in bytes of the files in an archive with more than `MANY_MEMBERS` files.
MANY_MEMBERS = 100_000
SMALLEST_MEAN = 64
# Maximum size in bytes of a header with names and comments in a tar, which is read into memory at once.
LONGEST_HEADER = 10**6
CHUNK = 2**20
# RecursionError: tarfile reads successive headers by recursion.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    RecursionError,
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
# Whether this machine runs Windows, which reserves some names.
WINDOWS = os.name == "nt"
RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]|conin\$|conout\$)\s*(\..*)?", re.I)
# Flag of a zip member whose name is in UTF-8.
UTF_8 = 0x800
# Extra field of a zip member with its name in UTF-8.
UNICODE_PATH = 0x7075
BEGINNINGS = {
    b"PK": "a truncated or damaged zip: download it again",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip file that is damaged or contains no tar",
}


class Member(NamedTuple):
    """A member of an archive, as its header describes it; the name is in the Unicode form NFC."""

    name: str
    is_folder: bool
    size: int
    # None in a tar, which is compressed as a whole.
    packed: int | None
    # Kind of the member if it is neither a plain file nor a folder.
    problem: str | None
    open: Callable[[], IO[bytes]]


def require_file(path: Path) -> None:
    """Check that an archive is a file.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is a folder, a device or a pipe.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected an archive. Received: {path.name}, which does not exist")
    if not path.is_file():
        kind = "a folder (give it as kind: folder)" if path.is_dir() else "a device or a pipe"
        raise ValueError(f"{path.name}: expected a zip or tar archive. Received: {kind}")


def require_archive(path: Path) -> None:
    """Check that a file is a zip or tar, as far as its beginning and the directory of a zip show.

    Raises:
        FileNotFoundError, ValueError: as `extract`.
    """
    require_file(path)
    with opened(path):
        pass


def extract(
    path: Path, folder: Path, *, name_encoding: str | None = None, notes: list[str] | None = None
) -> list[str]:
    """Unpack a zip or tar (plain, gz, bz2, xz), recognized by its content, into a new folder.

    Permissions and dates in the archive are ignored. Names are decoded as UTF-8, even if a zip does not
    declare it, and brought to the Unicode form NFC. If an error is raised, `folder` is not created.

    Args:
        path: the archive.
        folder: the folder to create. Files are unpacked to `<folder>.partial` first.
        name_encoding: encoding of the names if they are not in UTF-8; if `None`, cp437 in a zip, as its
            specification demands, and Latin-1 in a tar.
        notes: list to which sentences on assumptions about the names are appended.

    Returns:
        The sorted paths of the unpacked files, relative to `folder`, with `/`.

    Raises:
        FileNotFoundError: if the archive does not exist.
        ValueError: if it is not a file, not a zip or tar, or damaged; if it contains a path outside the
            folder, a link, a device, an encrypted member, two members whose names are equal on this disk, a
            name that Windows cannot store (on Windows), or too many members or bytes; or if its compression
            ratio is that of a decompression bomb.
        NoSpace: a ValueError, if the content does not fit on the disk.
    """
    require_file(path)
    if folder.exists():
        raise ValueError(
            f"{path.name}: expected a new folder. Received: {folder.name}, which exists. Remove it first"
        )
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with explained(path):
            with opened(path) as archive:
                members = checked(path, archive, name_encoding=name_encoding, notes=notes)
                _write(path, members, folder=unfinished)
            unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(members)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the errors of a damaged or unusable archive as a ValueError with the reason."""
    try:
        yield
    except FileExistsError as error:
        names = f"{Path(error.filename).name!r}, which is equal to another name on this disk"
        raise _refusal(path, "names that differ on this disk", names) from error
    except NotImplementedError as error:
        raise _refusal(path, "a supported compression method", str(error)) from error
    except (*DAMAGE, OSError) as error:
        # The disk failed; the archive may be intact.
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise ValueError(
            f"{path.name}: expected an intact archive. Received: an archive that cannot be read to its end "
            f"({str(error) or type(error).__name__}). Download it again"
        ) from error


def opened(path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """Open an archive. The first bytes are checked, because `is_zipfile` accepts a tar that ends in a zip."""
    with path.open("rb") as file:
        beginning = file.read(512)
    try:
        if beginning.startswith(b"PK"):
            return zipfile.ZipFile(path)
        return tarfile.open(path, "r:*", tarinfo=_Header)
    except (*DAMAGE, OSError) as error:
        raise ValueError(
            f"{path.name}: expected a zip or tar archive. Received: {_kind(beginning)}. "
            "Download it again, or pack the photos as a zip"
        ) from error


class _Header(tarfile.TarInfo):
    """A header of a tar. It is refused if it could exhaust the memory or take too long to read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in METADATA and header.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        raise tarfile.ReadError("a sparse file")


def _kind(beginning: bytes) -> str:
    """Describe a file by its first bytes."""
    if not beginning:
        return "an empty file"
    if re.match(rb"\s*<(!doctype|html)", beginning, re.IGNORECASE):
        return "an HTML page, perhaps a login page saved instead of the archive"
    kinds = (kind for start, kind in BEGINNINGS.items() if beginning.startswith(start))
    return next(kinds, f"a file that begins with {beginning[:8]!r}")


def _members(
    archive: zipfile.ZipFile | tarfile.TarFile, *, name_encoding: str | None = None
) -> Iterator[Member]:
    """Yield the members of an archive in order."""
    if isinstance(archive, zipfile.ZipFile):
        decode = _zip_decoder(archive, name_encoding)
        for info in archive.infolist():
            sizes = info.file_size, info.compress_size
            opened = partial(archive.open, info)
            yield Member(decode(info), info.is_dir(), *sizes, _zip_problem(info), opened)
        return
    for entry in archive:
        content = partial(tarfile.ExFileObject, archive, entry)
        name = _tar_name(entry.name, str(archive.name), name_encoding)
        yield Member(name, entry.isdir(), entry.size, None, _tar_problem(entry), content)
    # For tarfile, a damaged header or a cut between two members is the end of the archive.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end is missing")


def _zip_decoder(archive: zipfile.ZipFile, name_encoding: str | None) -> Callable[[zipfile.ZipInfo], str]:
    """Return the function that decodes the name of a member, by one rule for the whole archive.

    Names without the flag of UTF-8 are in UTF-8 nevertheless if all of them can be decoded, as on macOS.
    """
    undeclared = [name for info in archive.infolist() if isinstance(name := _stored(info), bytes)]
    encoding = "utf-8" if all(map(_is_utf_8, undeclared)) else name_encoding or "cp437"

    def decode(info: zipfile.ZipInfo) -> str:
        name = _stored(info)
        text = name if isinstance(name, str) else _decode(name, encoding, str(archive.filename))
        return unicodedata.normalize("NFC", text)

    return decode


def _stored(info: zipfile.ZipInfo) -> str | bytes:
    """Return the name of a zip member if it is declared as UTF-8, else its bytes."""
    if info.flag_bits & UTF_8:
        return info.orig_filename
    # zipfile has decoded the bytes as cp437, which has all of them.
    name, extra = info.orig_filename.encode("cp437"), info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        # A field with the name in UTF-8, and the CRC of the name that it replaces.
        if kind == UNICODE_PATH and extra[5:9] == zlib.crc32(name).to_bytes(4, "little"):
            return extra[9 : 4 + size].decode()
        extra = extra[4 + size :]
    return name


def _is_utf_8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode(name: bytes, encoding: str, archive: str) -> str:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError:
        raise _refusal(
            Path(archive), f"names in {encoding}, as `source.name_encoding` says", f"{name!r:.200}"
        ) from None


def _tar_name(name: str, archive: str, name_encoding: str | None) -> str:
    """Return a name of a tar; if it is not UTF-8, tarfile has decoded it with surrogates."""
    if name_encoding and files.readable(name) != name:
        name = _decode(name.encode(errors="surrogateescape"), name_encoding, archive)
    return unicodedata.normalize("NFC", files.readable(name))


def _names_note(
    path: Path, archive: zipfile.ZipFile | tarfile.TarFile, name_encoding: str | None
) -> list[str]:
    """Return a note if the encoding of the names is an assumption. The members of a tar have been read."""
    if isinstance(archive, zipfile.ZipFile):
        decode, assumed = _zip_decoder(archive, name_encoding), "cp437 (the default of a zip)"
        stored = {info: name for info in archive.infolist() if isinstance(name := _stored(info), bytes)}
        names = [] if all(map(_is_utf_8, stored.values())) else list(map(decode, stored))
    else:
        assumed = "Latin-1"
        names = [files.readable(name) for name in archive.getnames() if files.readable(name) != name]
    examples = [files.printable(name) for name in names if not name.isascii()][:3]
    if name_encoding or not examples:
        return []
    return [
        f"the names in {path.name} are not in UTF-8 and were read as {assumed}: {', '.join(examples)}. If "
        "letters are wrong, set `source.name_encoding`, such as cp932, gb18030 or cp866"
    ]


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


def checked(
    path: Path,
    archive: zipfile.ZipFile | tarfile.TarFile,
    *,
    name_encoding: str | None = None,
    notes: list[str] | None = None,
) -> dict[str, Member]:
    """Check an archive as far as its headers allow, and return its files by path."""
    files: dict[str, Member] = {}
    folders: set[str] = set()
    total, packed = 0, path.stat().st_size
    for count, member in enumerate(_members(archive, name_encoding=name_encoding), 1):
        name = _path(path, member)
        if member.problem:
            raise _refusal(path, "plain files and folders only", f"{member.problem}, {member.name!r}")
        total += member.size
        if count > MAX_MEMBERS:
            raise _refusal(path, f"at most {MAX_MEMBERS:,} members", "more")
        if total > MAX_BYTES:
            raise _refusal(path, f"at most {MAX_BYTES / 1e9:g} GB unpacked", f"{total / 1e9:.1f} GB or more")
        _check_ratio(path, member.size, packed=member.packed, big=BIG_MEMBER, title=repr(member.name))
        # Empty files take almost no space in a tar, but a block each on the disk.
        on_disk = total + count * BLOCK
        _check_ratio(path, on_disk, packed=packed, big=BIG_ARCHIVE, title="total")
        if name in files and not member.is_folder:
            raise _refusal(path, "unique names of members", f"two members named {name!r}")
        if member.is_folder:
            folders.add(name)
        else:
            files[name] = member
    parents = (parent for name in (*files, *folders) for parent in _parents(name))
    if conflict := next((name for name in chain(folders, parents) if name in files), None):
        raise _refusal(path, "each name to be a file or a folder", f"{conflict!r}, which is both")
    if not files:
        raise _refusal(path, "an archive of photos", "an archive without a file")
    if len(files) > MANY_MEMBERS and total < SMALLEST_MEAN * len(files):
        received = f"{len(files):,} files of {total / len(files):.0f} bytes on average"
        raise _refusal(path, "an archive of photos", received)
    if notes is not None:
        notes += _names_note(path, archive, name_encoding)
    return files


def _check_ratio(path: Path, size: int, *, packed: int | None, big: int, title: str) -> None:
    if packed is not None and size > big and size > MAX_RATIO * packed:
        ratio = f"{size / max(packed, 1):,.0f}:1"
        raise _refusal(path, f"a compression of at most {MAX_RATIO}:1", f"{ratio} in {title}")


def _path(path: Path, member: Member) -> str:
    """Return the path of a member without `./` and double slashes, which tar writes."""
    name = member.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name)
    too_long = len(name) > 1000 or any(len(os.fsencode(part)) > 255 for part in parts)
    if outside or too_long or "\0" in name or not (parts or member.is_folder):
        raise _refusal(
            path, "paths inside the archive, with / and of a supported length", f"the member {name[:200]!r}"
        )
    if WINDOWS and (problem := next(filter(None, map(_windows_problem, parts)), None)):
        raise _refusal(path, "names that Windows can store", f"{name!r}, {problem}")
    return "/".join(parts)


def _windows_problem(part: str) -> str | None:
    """Return the reason why Windows cannot store a part of a path, or None."""
    if RESERVED.fullmatch(part):
        return "a name that Windows reserves for a device"
    if part.endswith((".", " ")):
        return "which ends with a full stop or a space"
    return "with a character that Windows does not allow" if re.search(r'[<>:"|?*\x00-\x1f]', part) else None


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _write(path: Path, members: dict[str, Member], *, folder: Path) -> None:
    """Write the members of an archive to a new folder."""
    needed = sum(member.size + BLOCK for member in members.values())
    files.require_space(folder.parent, needed, action=f"unpacking {path.name}")
    folder.mkdir()
    if _ignores_case(folder):
        _refuse_equal(path, members)
    for name, member in members.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source:
            written = _copy(source, target, limit=member.size)
        # The size in a header may be wrong.
        if written != member.size:
            received = "more" if written > member.size else f"{written:,}"
            raise _refusal(path, f"{member.size:,} bytes in {name!r}, as its header says", received)


def _ignores_case(folder: Path) -> bool:
    """Return whether the disk of a new folder does not distinguish `A` from `a`."""
    probe = folder / "a"
    probe.touch()
    try:
        return (folder / "A").exists()
    finally:
        probe.unlink()


def _refuse_equal(path: Path, names: Iterable[str]) -> None:
    """Raise a ValueError if names of files or folders are equal on a disk that ignores case."""
    spellings: dict[str, str] = {}
    for part in dict.fromkeys(part for name in names for part in (name, *_parents(name))):
        other = spellings.setdefault(part.casefold(), part)
        if other != part:
            raise _refusal(path, "names that differ on this disk", f"{other!r} and {part!r}")


def _copy(source: IO[bytes], target: Path, *, limit: int) -> int:
    """Copy at most `limit` bytes to a new file, and return the number of bytes read: more if more exist."""
    written = 0
    # Mode x: two names that differ in the archive may be the same on this disk.
    with target.open("xb") as file:
        while written <= limit and (chunk := source.read(CHUNK)):
            written += len(chunk)
            if written <= limit:
                file.write(chunk)
    return written


def _refusal(path: Path, expected: str, received: str) -> ValueError:
    return ValueError(
        f"{path.name}: expected {expected}. Received: {received}. Nothing was unpacked. "
        "If you trust the archive, unpack it yourself and give the photos as kind: folder"
    )
