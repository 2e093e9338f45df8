"""Archives of unknown origin: unpacked completely, or refused without leaving files."""

import io
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import namedtuple

import pytest

from lib.core import files
from lib.download import archives

PHOTO = os.urandom(300)


def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tar_entry(name, kind):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "a.jpg"
    return entry


def zip_entry(name, mode):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, mode << 16
    return entry


def refusal(tmp_path, archive):
    """Return the message of the refusal, after checking that nothing was left."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError) as caught:
        archives.extract(archive, tmp_path / "raw")
    assert sorted(tmp_path.rglob("*")) == before
    assert archive.name in str(caught.value) and str(tmp_path) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_extract_goes_by_content_and_returns_the_files(tmp_path, mode):
    members = [("b/2.jpg", PHOTO), ("./a/1.jpg", b""), ("__MACOSX/._1.jpg", b"x"), ("a//ö ü.png", PHOTO * 9)]
    archive = tmp_path / "photos.data"
    make_zip(archive, members) if mode == "zip" else make_tar(archive, members, mode)
    files = archives.extract(archive, tmp_path / "raw")
    assert files == ["__MACOSX/._1.jpg", "a/1.jpg", "a/ö ü.png", "b/2.jpg"]
    assert (tmp_path / "raw/b/2.jpg").read_bytes() == PHOTO
    assert (tmp_path / "raw/a/ö ü.png").read_bytes() == PHOTO * 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.data", "raw"]


def test_extract_ignores_permissions(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [(zip_entry("1.jpg", stat.S_IFREG | 0o4777), PHOTO)])
    archives.extract(archive, tmp_path / "raw")
    assert not (tmp_path / "raw/1.jpg").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


def test_a_name_that_is_not_utf_8_is_read_as_latin_1(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("B\udce4r/1.jpg", PHOTO), ("Bär/2.jpg", PHOTO)])
    assert archives.extract(archive, tmp_path / "raw") == ["Bär/1.jpg", "Bär/2.jpg"]
    assert (tmp_path / "raw/Bär/1.jpg").read_bytes() == PHOTO


class RawName(zipfile.ZipInfo):
    """A member of a zip whose name is written as it is, without the flag of UTF-8."""

    def __init__(self, name, extra=b""):
        super().__init__(name.hex())
        self.raw, self.extra = name, extra

    def _encodeFilenameFlags(self):
        return self.raw, self.flag_bits


def names_in(tmp_path, *names, **options):
    """Return the unpacked names of a zip whose names are bytes, and the notes."""
    notes = []
    archive = make_zip(tmp_path / "a.zip", [(name, PHOTO) for name in names])
    return archives.extract(archive, tmp_path / "raw", notes=notes, **options), notes


def raw_names(encoding, *names):
    return [RawName(name.encode(encoding)) for name in names]


def test_names_of_macos_are_composed(tmp_path):
    decomposed = [
        unicodedata.normalize("NFD", name) for name in ("Éléphant/1.jpg", "Bär/1.jpg", "chat/1.jpg")
    ]
    assert names_in(tmp_path, *raw_names("utf-8", *decomposed)) == (
        ["Bär/1.jpg", "chat/1.jpg", "Éléphant/1.jpg"],
        [],
    )
    assert (tmp_path / "raw/Éléphant/1.jpg").read_bytes() == PHOTO


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp932", "表/猫.jpg"), ("gb18030", "狗.jpg"), ("cp866", "кошка.jpg"), ("cp850", "Bär.jpg")],
)
def test_names_in_other_encodings_are_read_by_parameter(tmp_path, encoding, name):
    # all names are decoded alike, although this one could be UTF-8
    names = [*raw_names(encoding, name), RawName(b"a.jpg")]
    assert names_in(tmp_path, *names, name_encoding=encoding) == (sorted(["a.jpg", name]), [])


def test_the_assumed_encoding_of_names_is_stated(tmp_path):
    names, notes = names_in(tmp_path, *raw_names("cp437", "Bär.jpg"), "猫.jpg")
    assert names == ["Bär.jpg", "猫.jpg"]
    (note,) = notes
    assert (
        "the names in a.zip are not in UTF-8 and were read as cp437 (the default of a zip): Bär.jpg." in note
    )
    assert "`source.name_encoding`" in note


def test_names_that_the_parameter_cannot_decode_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [(RawName(b"\xff\xff.jpg"), PHOTO)])
    with pytest.raises(ValueError, match=r"a\.zip: expected names in gb18030, as `source\."):
        archives.extract(archive, tmp_path / "raw", name_encoding="gb18030")


@pytest.mark.parametrize("is_current", [True, False])
def test_the_field_with_a_name_in_utf_8_counts_if_it_is_current(tmp_path, is_current):
    name, text = "Bär.jpg".encode("cp850"), "Bär.jpg".encode()
    field = b"\x01" + (zlib.crc32(name) + (not is_current)).to_bytes(4, "little") + text
    extra = struct.pack("<HH", archives.UNICODE_PATH, len(field)) + field
    names, notes = names_in(tmp_path, RawName(name, extra), name_encoding="latin-1")
    assert names == (["Bär.jpg"] if is_current else ["B\x84r.jpg"]) and notes == []


def test_names_of_a_tar_are_decoded_by_parameter(tmp_path):
    name = "表/猫.jpg".encode("cp932").decode(errors="surrogateescape")
    decomposed = unicodedata.normalize("NFD", "Bär.jpg")
    archive = make_tar(tmp_path / "a.tar", [(name, PHOTO), (decomposed, PHOTO)])
    assert archives.extract(archive, tmp_path / "raw", name_encoding="cp932") == ["Bär.jpg", "表/猫.jpg"]
    notes = []
    archive = make_tar(tmp_path / "b.tar", [("B\udce4r.jpg", PHOTO)])
    assert archives.extract(archive, tmp_path / "other", notes=notes) == ["Bär.jpg"]
    assert "were read as Latin-1: Bär.jpg" in notes[0]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_differ_by_their_unicode_form_are_refused(tmp_path, make):
    names = [unicodedata.normalize(form, "Bär.jpg") for form in ("NFC", "NFD")]
    archive = make(tmp_path / "a.bin", [(name, PHOTO) for name in names])
    assert "expected unique names of members" in refusal(tmp_path, archive)


@pytest.mark.parametrize(
    "names", [["Cat/1.jpg", "cat/2.jpg"], ["a/B.jpg", "a/b.JPG"], ["STRASSE/1.jpg", "straße/1.jpg"]]
)
def test_names_that_differ_by_case_are_refused_if_the_disk_ignores_case(tmp_path, monkeypatch, names):
    archive = make_zip(tmp_path / "a.zip", [(name, PHOTO) for name in names])
    monkeypatch.setattr(archives, "_ignores_case", lambda folder: True)
    message = refusal(tmp_path, archive)
    assert (
        "expected names that differ on this disk" in message and repr(names[1].split("/")[0])[:-1] in message
    )
    monkeypatch.undo()
    assert archives.extract(archive, tmp_path / "raw") == sorted(names)


def test_this_disk_is_asked_whether_it_ignores_case(tmp_path):
    expected = (tmp_path.parent / tmp_path.name.upper()).exists()
    assert archives._ignores_case(tmp_path) == expected and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("aux.jpg", "a name that Windows reserves for a device"),
        ("CON/1.jpg", "a name that Windows reserves for a device"),
        ("lpt1 .tar.jpg", "a name that Windows reserves for a device"),
        ("cat /1.jpg", "which ends with a full stop or a space"),
        ("cat./1.jpg", "which ends with a full stop or a space"),
        ("what?.jpg", "with a character that Windows does not allow"),
        ("a\x1b.jpg", "with a character that Windows does not allow"),
        ("auxiliary.jpg", ""),
        ("com.jpg", ""),
    ],
)
def test_names_that_windows_cannot_store_are_refused_on_windows(tmp_path, monkeypatch, name, problem):
    archive = make_zip(tmp_path / "a.zip", [(name, PHOTO)])
    monkeypatch.setattr(archives, "WINDOWS", True)
    if problem:
        message = refusal(tmp_path, archive)
        assert "expected names that Windows can store" in message and problem in message
    monkeypatch.setattr(archives, "WINDOWS", not problem)
    assert archives.extract(archive, tmp_path / "raw") == [name]


def test_two_names_that_become_one_are_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("B\udce4r.jpg", PHOTO), ("Bär.jpg", PHOTO)])
    assert "expected unique names of members" in refusal(tmp_path, archive)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", [("x.jpg", PHOTO)]).read_bytes()
    archive = make_tar(tmp_path / "a.tar", [("1.jpg", PHOTO), ("inner.zip", inner)])
    assert zipfile.is_zipfile(archive)
    assert archives.extract(archive, tmp_path / "raw") == ["1.jpg", "inner.zip"]


def test_folders_of_tar_are_not_files(tmp_path):
    members = [(tar_entry(name, tarfile.DIRTYPE), b"") for name in (".", "./a", "./a")] + [
        ("./a/1.jpg", PHOTO)
    ]
    assert archives.extract(make_tar(tmp_path / "a.tar", members), tmp_path / "raw") == ["a/1.jpg"]


OUTSIDE = "expected paths inside the archive"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.jpg", "../x.jpg"], OUTSIDE),
        (["1.jpg", "a/../../x.jpg"], OUTSIDE),
        (["1.jpg", "a/.."], OUTSIDE),
        (["1.jpg", "/tmp/x.jpg"], OUTSIDE),
        (["1.jpg", "C:\\x.jpg"], OUTSIDE),
        (["1.jpg", "C:/x.jpg"], OUTSIDE),
        (["1.jpg", "a\\x.jpg"], OUTSIDE),
        (["1.jpg", "..\\x.jpg"], OUTSIDE),
        (["1.jpg", "x" * 300], OUTSIDE),
        (["1.jpg", "x/" * 600 + "1.jpg"], OUTSIDE),
        (["1.jpg", "./1.jpg"], "expected unique names of members. Received: two members named '1.jpg'"),
        (["a", "a/1.jpg"], "expected each name to be a file or a folder. Received: 'a'"),
        (["a/b/c/1.jpg", "a/b"], "expected each name to be a file or a folder. Received: 'a/b'"),
        (["a", "a/"], "expected each name to be a file or a folder. Received: 'a'"),
        ([], "expected an archive of photos. Received: an archive without a file"),
    ],
)
def test_hostile_names_are_refused(tmp_path, make, names, message):
    if make is make_tar:
        members = [
            (tar_entry(name, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE), b"")
            for name in names
        ]
    else:
        members = [(name, b"") for name in names]
    assert message in refusal(tmp_path, make(tmp_path / "bad.bin", members))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a link, 'x.jpg'"),
        (tarfile.LNKTYPE, "a link, 'x.jpg'"),
        (tarfile.FIFOTYPE, "a device, 'x.jpg'"),
        (tarfile.CHRTYPE, "a device, 'x.jpg'"),
        (tarfile.BLKTYPE, "a device, 'x.jpg'"),
        (b"Z", "a file of an unusual kind, 'x.jpg'"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, message):
    archive = make_tar(tmp_path / "bad.tar", [("a.jpg", PHOTO), (tar_entry("x.jpg", kind), b"")])
    assert f"expected plain files and folders only. Received: {message}" in refusal(tmp_path, archive)


def test_a_negative_size_in_a_tar_is_refused(tmp_path):
    entry = tar_entry("x.jpg", tarfile.REGTYPE)
    entry.size = -1
    content = entry.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tarfile.BLOCKSIZE)
    (tmp_path / "bad.tar").write_bytes(content)
    assert "Received: a file of an unusual kind, 'x.jpg'" in refusal(tmp_path, tmp_path / "bad.tar")


@pytest.mark.parametrize(("kind", "message"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a device")])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind, message):
    archive = make_zip(tmp_path / "bad.zip", [("a.jpg", PHOTO), (zip_entry("x.jpg", kind | 0o777), b"/etc")])
    assert f"Received: {message}, 'x.jpg'" in refusal(tmp_path, archive)


def patched(path, *, signature, offset, value):
    """Overwrite bytes of the first header with that signature."""
    content = bytearray(path.read_bytes())
    start = content.index(signature) + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


def test_an_encrypted_member_is_refused(tmp_path):
    archive = make_zip(tmp_path / "bad.zip", [("a.jpg", PHOTO)])
    patched(archive, signature=b"PK\x01\x02", offset=8, value=b"\x01\x00")
    assert "Received: an encrypted file, 'a.jpg'" in refusal(tmp_path, archive)


def test_an_unknown_compression_is_refused(tmp_path):
    archive = make_zip(tmp_path / "bad.zip", [("a.jpg", PHOTO)])
    patched(archive, signature=b"PK\x01\x02", offset=10, value=b"\x63\x00")
    assert "expected a supported compression method" in refusal(tmp_path, archive)


@pytest.mark.parametrize("declared", [100, 200_000])
def test_a_header_with_a_wrong_size_is_refused(tmp_path, declared):
    archive = make_zip(tmp_path / "bad.zip", [("a.jpg", b"x" * 1000)])
    patched(archive, signature=b"PK\x01\x02", offset=24, value=struct.pack("<I", declared))
    message = refusal(tmp_path, archive)
    assert "Bad CRC" in message or "200,000 bytes in 'a.jpg', as its header says. Received: 1,000" in message


def test_no_more_than_declared_is_written(tmp_path):
    assert archives._copy(io.BytesIO(b"x" * 50), tmp_path / "a", limit=10) == 50
    assert (tmp_path / "a").stat().st_size <= 10


def test_a_big_member_that_shrinks_as_a_bomb_does_is_refused(tmp_path):
    archive = make_zip(tmp_path / "bomb.zip", [("a.jpg", bytes(11 * 10**6))])
    assert "expected a compression of at most 100:1. Received: " in refusal(tmp_path, archive)


def test_a_big_member_that_shrinks_as_photos_do_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BIG_ARCHIVE", 10**6)
    content = os.urandom(200_000) + bytes(11 * 10**6)
    archive = make_zip(tmp_path / "a.zip", [("a.bmp", content)])
    assert 50 < len(content) / archive.stat().st_size < 100
    assert archives.extract(archive, tmp_path / "raw") == ["a.bmp"]
    assert (tmp_path / "raw/a.bmp").read_bytes() == content


def test_the_limit_of_the_compression_is_100_to_1(tmp_path):
    limits = {"packed": 10**6, "big": 10**7, "title": "a.jpg"}
    archives._check_ratio(tmp_path / "a.zip", 10**8, **limits)
    with pytest.raises(ValueError, match="at most 100:1"):
        archives._check_ratio(tmp_path / "a.zip", 10**8 + 1, **limits)


def test_a_small_member_may_shrink(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("labels.csv", bytes(10**6))])
    assert archives.extract(archive, tmp_path / "raw") == ["labels.csv"]


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_an_archive_that_shrinks_as_a_bomb_does_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(archives, "BIG_ARCHIVE", 10**6)
    members = [(f"{number}.jpg", bytes(10**6)) for number in range(3)]
    archive = tmp_path / f"bomb.{suffix}"
    make_zip(archive, members) if suffix == "zip" else make_tar(archive, members, "w:gz")
    assert "in total" in refusal(tmp_path, archive)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_MEMBERS", 2, "expected at most 2 members"), ("MAX_BYTES", 500, "GB unpacked. Received: ")],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_limits(tmp_path, monkeypatch, make, limit, value, message):
    monkeypatch.setattr(archives, limit, value)
    archive = make(tmp_path / "big.bin", [(f"{number}.jpg", PHOTO) for number in range(3)])
    assert message in refusal(tmp_path, archive)


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(0, 0, 100))
    message = refusal(tmp_path, make_zip(tmp_path / "a.zip", [("1.jpg", PHOTO)]))
    assert "unpacking a.zip: expected 4.4 kB of free disk space. Received: 0.1 kB" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"PK\x03\x04" + b"x" * 100, "a truncated or damaged zip"),
        (b"\xff\xd8\xff\xe0" + b"x" * 600, "a file that begins with b'\\xff\\xd8\\xff\\xe0xxxx'"),
    ],
)
def test_other_files_are_described(tmp_path, content, message):
    path = tmp_path / "download.zip"
    path.write_bytes(content)
    assert f"download.zip: expected a zip or tar archive. Received: {message}" in refusal(tmp_path, path)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "photos").mkdir()
    assert "Received: a folder (give it as kind: folder)" in refusal(tmp_path, tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match=r"Received: no\.zip, which does not exist"):
        archives.extract(tmp_path / "no.zip", tmp_path / "raw")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_cut_off_anywhere_is_refused(tmp_path, mode):
    whole = make_tar(tmp_path / "a.tar", [(f"{n}.jpg", os.urandom(700)) for n in range(4)], mode).read_bytes()
    for length in (len(whole) // 3, len(whole) // 2, 3 * 512):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        assert "Download it again" in refusal(tmp_path, tmp_path / "a.tar")


def test_a_broken_header_within_a_tar_does_not_pass_for_its_end(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("1.jpg", PHOTO), ("2.jpg", PHOTO)])
    patched(archive, signature=b"2.jpg", offset=0, value=b"X")
    assert "expected an intact archive" in refusal(tmp_path, archive)


def test_a_damaged_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [("1.jpg", PHOTO), ("2.jpg", PHOTO)], zipfile.ZIP_STORED)
    patched(archive, signature=PHOTO[:20], offset=30, value=b"damage")
    assert "Received: an archive that cannot be read to its end (Bad CRC" in refusal(tmp_path, archive)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "raw").mkdir()
    assert "Received: raw, which exists" in refusal(
        tmp_path, make_zip(tmp_path / "a.zip", [("1.jpg", PHOTO)])
    )


def test_the_leftovers_of_a_killed_run_go(tmp_path):
    (tmp_path / "raw.partial").mkdir()
    (tmp_path / "raw.partial/half.jpg").write_bytes(b"")
    assert archives.extract(make_zip(tmp_path / "a.zip", [("1.jpg", PHOTO)]), tmp_path / "raw") == ["1.jpg"]
    assert not (tmp_path / "raw.partial").exists()


def chain_of_headers(kind, count):
    """Return a tar whose headers of names follow one another without an end."""
    entry = tarfile.TarInfo("1.jpg")
    entry.type, entry.size = kind, tarfile.BLOCKSIZE
    content = b"12 path=1.jpg\n".ljust(tarfile.BLOCKSIZE, b"\0") if kind == tarfile.XHDTYPE else b"1.jpg"
    return (entry.tobuf() + content.ljust(tarfile.BLOCKSIZE, b"\0")) * count


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("first", [b"", tarfile.TarInfo("0.jpg").tobuf()])
def test_a_long_chain_of_headers_is_refused(tmp_path, kind, first):
    (tmp_path / "a.tar").write_bytes(first + chain_of_headers(kind, 5000))
    assert "Received: " in refusal(tmp_path, tmp_path / "a.tar")
