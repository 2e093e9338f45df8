"""Messages on folders: names are quoted and counted."""

import pytest

from lib.photos import folder_messages
from lib.photos.folder_tree import Node


def nodes(*names):
    return [Node(("top", name), ["1", "2"]) for name in names]


def test_few_names_are_listed_and_the_others_counted():
    assert folder_messages.listed(["a", "b"]) == "`a`, `b`"
    assert folder_messages.named(nodes(*"abcdef", "a")) == "`a`, `b`, `c`, `d` and 2 more"


def test_readings_have_counts_and_the_parameter():
    assert (
        folder_messages.reading("*/CLASS", nodes("a", "b")) == "`*/CLASS`: 2 classes (`a`, `b`) of 4 photos"
    )
    with pytest.raises(
        ValueError, match="read in 2 ways, because x. `A`: a; `B`: b. Set `source.layout` to `A` or `B`"
    ):
        folder_messages.refuse(["`A`: a", "`B`: b"], "x")


def test_a_single_one_of_few_variants_is_recommended():
    few = folder_messages.variants(nodes("a", "b"), ["cat"], below="CLASS", split_depth=1)
    assert few.endswith("such as `source.layout: SPLIT/a/CLASS`, so that no scene is in two splits")
    many = folder_messages.variants(nodes(*"abcdefg"), ["cat"], below="CLASS", split_depth=0)
    assert "source.layout" not in many and "`a`, `b`, `c`, `d` and 3 more contain" in many
