"""The files of an archive that is not unpacked are those of the unpacked folder."""

import io
import tarfile

import pytest
from download_builders import make_zip

from lib.download import packed
from lib.photos import listing

MEMBERS = [("b/2.jpg", b"\xff\xd8\xff2"), ("a/1", b"\xff\xd8\xff1"), ("a/x.csv", b"filename\n")]


def make_tar(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in MEMBERS:
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [lambda path: make_zip(path, MEMBERS), make_tar], ids=["zip", "tar"])
def test_an_archive_is_listed_and_read(tmp_path, make):
    with packed.Packed(make(tmp_path / "photos")) as contents:
        assert contents.paths == ["a/1", "a/x.csv", "b/2.jpg"] and not contents.others
        assert contents.read("a/x.csv") == b"filename\n" and contents.read("a/x.csv", 4) == b"file"
        # In the order of the archive.
        heads = contents.heads(["a/1", "b/2.jpg"], 4)
        assert list(heads) == [("b/2.jpg", b"\xff\xd8\xff2"), ("a/1", b"\xff\xd8\xff1")]
        assert listing.photos(contents) == ["a/1", "b/2.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_unusable_archives_are_refused(tmp_path):
    (tmp_path / "text.zip").write_bytes(b"text")
    with pytest.raises(ValueError, match="text.zip: expected a zip or tar archive"):
        packed.Packed(tmp_path / "text.zip")
    with pytest.raises(ValueError, match="paths inside the archive"):
        packed.Packed(make_zip(tmp_path / "a.zip", [("../x.jpg", b"x")]))
    with pytest.raises(FileNotFoundError, match="gone.zip"):
        packed.Packed(tmp_path / "gone.zip")


def test_a_damaged_member_is_an_error_with_the_archive(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("1.jpg", b"content of a photo")])
    path.write_bytes(path.read_bytes().replace(b"content", b"CONTENT"))
    with (
        packed.Packed(path) as contents,
        pytest.raises(ValueError, match="a.zip: expected an intact archive"),
    ):
        contents.read("1.jpg")
