"""Images that belong to photos: pairs in a folder, and folders of masks."""

import pytest

from lib.photos import companions, listing


@pytest.mark.parametrize(
    ("photo", "other", "pattern"),
    [
        ("benign (1).png", "benign (1)_mask.png", "*_mask.*"),
        ("a.jpg", "a_seg.png", "*_seg.*"),
        ("a.jpg", "a-label.png", "*-label.*"),
        ("a.jpg", "a_gt.png", "*_gt.*"),
        ("a.jpg", "a_mask_1.png", "*_mask*.*"),
        ("a.JPG", "a.Mask.png", "*.Mask.*"),
        ("a", "a_mask", "*_mask"),
    ],
)
def test_pairs_are_noted_with_the_pattern_that_leaves_them_out(photo, other, pattern):
    (note,) = companions.notes([f"x/{photo}", f"x/{other}"])
    assert note.startswith("1 files pair up with photos") and f'`source.ignore: ["{pattern}"]`' in note
    is_ignored = listing.matcher([pattern])
    assert is_ignored(f"x/{other}") and not is_ignored(f"x/{photo}")


@pytest.mark.parametrize("paths", [["x/gas_mask.jpg"], ["x/a.jpg", "y/a_mask.jpg"], ["a.jpg", "a_1.jpg"], []])
def test_files_without_a_partner_are_not_noted(paths):
    assert companions.notes(paths) == []


def test_a_folder_of_masks_is_noted():
    (note,) = companions.notes(["images/cat/1.jpg", "Masks/cat/1.png", "Masks/cat/9.png"])
    assert note.startswith("`Masks/` contains 1 files with the names of photos") and '["Masks"]' in note
    assert companions.notes(["mask/1.jpg", "no mask/2.jpg"]) == []
