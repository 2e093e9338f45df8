"""The tree of folders, and the evidence in names and numbers."""

import pytest

from lib.photos import folder_tree


def level(*paths, splits=None):
    """Return the names of the folders on the first level."""
    return folder_tree.names(folder_tree.tree([f"{path}/1.jpg" for path in paths], splits).children)


def test_folders_that_repeat_a_level_are_skipped():
    (outer,) = folder_tree.tree(
        ["seg_train/seg_train/cat/1.jpg", "seg_train/seg_train/dog/1.jpg"], None
    ).children
    assert folder_tree.names(outer.children) == ["cat", "dog"] and outer.total() == 2
    assert level("cat", "dog", "all/cat", "all/dog") == ["cat", "dog"]
    assert level("cat", "dog", "all/cat", "all/owl") == ["cat", "dog", "all"]
    assert level("cat", "dog", "train/cat", "train/dog") == ["cat", "dog", "train"]
    assert level("cat", "dog", "held/cat", "held/dog", splits={"held": "test"}) == ["cat", "dog", "held"]


def test_names_that_spell_an_accent_differently_are_the_same():
    assert level("\u00e9", "e\u0301") == ["\u00e9"]


def test_the_folders_below_skip_a_single_folder():
    root = folder_tree.tree(["a/images/cat/1.jpg", "a/images/dog/1.jpg", "b/images/1.jpg"], None)
    assert folder_tree.below(root.children) == ["cat", "dog"]
    assert folder_tree.below(root.children[1:]) == ["images"]


@pytest.mark.parametrize(
    ("names", "is_series"),
    [
        (["leaf 1", "leaf 2"], True),
        (["Tray1", "tray22"], True),
        (["class1", "class2"], False),
        (["n01629819", "n01644900"], False),
        (["1", "2"], False),
        (["cat", "dog"], False),
        (["leaf 1"], False),
    ],
)
def test_a_numbered_series(names, is_series):
    assert folder_tree.is_series(names) == is_series


def test_most_names_of_a_level_are_evidence():
    assert folder_tree.carry(["cam1", "cam2", "cam3", "cam4", "den"])
    assert not folder_tree.carry(["cam1", "den"]) and not folder_tree.carry([])


def test_sets_of_names_are_alike_if_most_names_are_in_several():
    assert folder_tree.alike([{"a", "b", "c"}, {"a", "b"}, set()])
    assert not folder_tree.alike([{"a", "b"}, {"a", "c", "d"}]) and not folder_tree.alike([{"a"}, {"a"}])
