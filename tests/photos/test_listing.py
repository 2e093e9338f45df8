"""The listing of a folder: regular files, and their first bytes."""

from lib.photos.listing import FolderListing


def test_regular_files_are_listed_and_read(raw, tmp_path):
    raw.put("b/2.jpg", b"photo")
    raw.put("a.csv", b"x,y\n")
    (raw.folder / "link.jpg").symlink_to(raw.folder / "b/2.jpg")
    (raw.folder / "empty").mkdir()
    listing = FolderListing(raw.folder)
    assert listing.paths == ["a.csv", "b/2.jpg"]
    assert listing.read("b/2.jpg") == b"photo" and listing.read("b/2.jpg", 2) == b"ph"
