"""Nearness in meaning: against NLTK's numbers, and a hierarchy small enough to solve by hand."""

import functools
import json
from pathlib import Path

import pytest

from lib.evaluate import wordnet

REFERENCE = json.loads((Path(__file__).parents[1] / "reference/wordnet.json").read_text())

# entity 1740 > thing 2000 > animal 3000 > pet 4000 > dog 7000 > puppy 8000; animal > beast 5000 > wolf 6000;
# thing > beast; beast > dog; Rex 9000 is an instance of dog; a verb and a part are no hypernyms.
NOTICE = "  1 This is the notice.  \n  2   \n  3 WordNet 3.0 Copyright 2006  \n"
NOUNS = """\
00001740 03 n 01 entity 0 001 ~ 00002000 n 0000 | what there is @ 00009999 n 0000
00002000 03 n 02 thing 0 object 0 002 @ 00001740 n 0000 ~ 00003000 n 0000 | a thing
00003000 05 n 01 animal 0 001 @ 00002000 n 0000 | an animal
00004000 05 n 01 pet 0 002 @ 00003000 n 0000 + 00001234 v 0101 | kept at home
00005000 05 n 01 beast 0 002 @ 00003000 n 0000 @ 00002000 n 0000 | kept nowhere
00006000 05 n 01 wolf 0 001 @ 00005000 n 0000 | a wolf
00007000 05 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 dog 0 003 %p 00006000 n 0000 @ 00004000 n 0000 @ 00005000 n 0000 | a dog
00008000 05 n 01 puppy 0 001 @ 00007000 n 0000 | a young dog
00009000 18 n 01 Rex 0 001 @i 00007000 n 0000 | a dog of that name
"""
ENTITY, THING, ANIMAL, PET, BEAST, WOLF, DOG, PUPPY, REX = (
    f"n{number:08}" for number in (1740, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000)
)


def forget():
    for function in vars(wordnet).values():
        if isinstance(function, functools._lru_cache_wrapper):
            function.cache_clear()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small hierarchy in place of WordNet."""
    monkeypatch.setattr(wordnet, "HIERARCHY", tmp_path / "made/nouns.npz")
    monkeypatch.setattr(wordnet, "LICENCE", tmp_path / "made/licence.txt")
    (tmp_path / "data.noun").write_text(NOTICE + NOUNS)
    wordnet.build(tmp_path)
    forget()
    yield tmp_path
    forget()


def test_the_reference_holds_many_pairs():
    assert len(REFERENCE) > 40


@pytest.mark.parametrize(
    ("first", "second", "path", "wu_palmer"),
    REFERENCE,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_similarities_are_those_of_nltk(first, second, path, wu_palmer):
    for pair in ((first, second), (second, first)):
        assert wordnet.path_similarity(*pair) == pytest.approx(path, abs=1e-12)
        assert wordnet.wu_palmer(*pair) == pytest.approx(wu_palmer, abs=1e-12)


def test_of_two_subsumers_the_better_one_counts():
    # A rickshaw and a convertible are both a wheeled vehicle and a conveyance with wheels: NLTK takes the first by name, 0.64.
    assert wordnet.wu_palmer("n03100240", "n03599486") == pytest.approx(0.72)
    assert wordnet.wu_palmer("n03599486", "n03100240") == pytest.approx(0.72)


def test_ids_of_nouns():
    assert wordnet.known("n01629819") and wordnet.known("n00001740")
    for label in (
        "n01629818",
        "01629819",
        "v01629819",
        "n1629819",
        "n016298190",
        "n" + "\u0661" * 8,
        "tabby",
        "",
        "n01629819\n",
    ):
        assert not wordnet.known(label), label
    for measure in (wordnet.path_similarity, wordnet.wu_palmer, wordnet.height):
        for pair in (("tabby", "n01629819"), ("n01629819", "tabby")):
            with pytest.raises(
                ValueError, match="id of a noun in WordNet 3.0, such as n01629819. Received: 'tabby'"
            ):
                measure(*pair)


def test_all_of_wordnet_is_there():
    pairs = wordnet._pairs()
    assert len(pairs) == 84_427 and len(wordnet._hypernyms()) == 82_115  # as WordNet's own statistics have it
    assert [noun for noun, above in wordnet._hypernyms().items() if not above] == [wordnet.ROOT]
    assert "Princeton" in wordnet.LICENCE.read_text() and "ALL copies" in wordnet.LICENCE.read_text()


# Solved by hand


@pytest.mark.parametrize(
    ("first", "second", "steps"),
    [
        (DOG, DOG, 0),
        (DOG, WOLF, 2),  # over beast
        (PUPPY, REX, 2),  # over dog; Rex is an instance
        (PUPPY, WOLF, 3),
        (PET, WOLF, 3),  # over animal: one up, two down
        (PET, BEAST, 2),
        (ENTITY, PUPPY, 4),  # over beast and thing, not over pet and animal
    ],
)
def test_path_similarity_by_hand(small, first, second, steps):
    assert wordnet.path_similarity(first, second) == 1 / (1 + steps)
    assert wordnet.path_similarity(second, first) == 1 / (1 + steps)


@pytest.mark.parametrize(
    ("first", "second", "depth", "steps"),
    [
        # beast, animal and pet are 2, 2 and 3 steps below entity on the shortest way, beast 3 on the longest
        (DOG, DOG, 5, 0),  # entity, thing, animal, pet or beast, dog
        (DOG, PET, 4, 1),
        (PUPPY, REX, 5, 2),
        (DOG, WOLF, 4, 2),  # of animal and beast, both 2 below entity, beast gives more
        (PET, WOLF, 3, 3),
        (ENTITY, PUPPY, 1, 4),
    ],
)
def test_wu_palmer_by_hand(small, first, second, depth, steps):
    assert wordnet.wu_palmer(first, second) == pytest.approx(2 * depth / (2 * depth + steps))
    assert wordnet.wu_palmer(second, first) == wordnet.wu_palmer(first, second)


@pytest.mark.parametrize(
    ("first", "second", "height"),
    [(PUPPY, PUPPY, 0), (DOG, DOG, 1), (PUPPY, REX, 1), (DOG, WOLF, 2), (PET, WOLF, 3), (ENTITY, WOLF, 5)],
)
def test_height_by_hand(small, first, second, height):
    assert wordnet.height(first, second) == wordnet.height(second, first) == height


def test_relatives_of_a_dog_are_lower_than_those_of_a_teapot():
    dogs = wordnet.height("n02085620", "n02094433")
    assert 0 < dogs < wordnet.height("n02085620", "n02123045") < wordnet.height("n02085620", "n04398044")


# The file


def test_built_twice_it_is_the_same_file(small, tmp_path):
    first = wordnet.HIERARCHY.read_bytes()
    wordnet.build(tmp_path)
    assert wordnet.HIERARCHY.read_bytes() == first
    assert sorted(file.name for file in wordnet.HIERARCHY.parent.iterdir()) == ["licence.txt", "nouns.npz"]


def test_the_notice_goes_with_it(small):
    assert wordnet.LICENCE.read_text() == "This is the notice.\n\nWordNet 3.0 Copyright 2006\n"


def test_what_is_no_wordnet_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="expected a folder with WordNet's data.noun. Received: .*nowhere"
    ):
        wordnet.build(tmp_path / "nowhere")
    (tmp_path / "data.noun").write_text(NOTICE.replace("3.0", "3.1") + NOUNS)
    with pytest.raises(ValueError, match="expected the data.noun of WordNet 3.0"):
        wordnet.build(tmp_path)
