"""Mirror images: classes that look alike without the orientation and have opposite sides."""

import numpy as np
import pytest

from lib.clean import mirrors


def embedded(random, *, side=0.0, kind=0, count=40, channels=30):
    """Return embeddings of photos and mirror images: of a kind, and with a side that the mirror turns."""
    centre = np.abs(np.random.default_rng(100 + kind).normal(2, 0.6, channels))
    direction = np.random.default_rng(7).normal(size=channels)
    photos = centre + random.normal(0, 0.3, (count, channels))
    turn = side * direction + random.normal(0, 0.1, (count, channels))
    return np.maximum(photos + turn, 0), np.maximum(photos - turn, 0)


def scored(*classes):
    random = np.random.default_rng(0)
    parts = [embedded(random, **given) for given in classes]
    vectors, flipped = (np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True))
    targets = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts])
    table = mirrors.score(vectors, flipped, targets=targets, units=np.arange(len(targets)))
    found = table[
        table.accuracy.le(mirrors.ALIKE_AT_MOST)
        & table.opposite.ge(mirrors.OPPOSITE_AT_LEAST)
        & table.p.le(mirrors.P_AT_MOST)
    ]
    assert len(table) == len(parts) * (len(parts) - 1) // 2
    return list(zip(found["first"], found["second"], strict=True))


def test_only_the_two_mirror_images_of_four_classes_are_found():
    left, right = {"side": 0.15}, {"side": -0.15}
    assert scored({"kind": 1}, left, {"kind": 2}, right) == [(1, 3)]


def test_classes_that_look_alike_without_a_side_are_not_found():
    assert scored({}, {}, {"kind": 1}) == []


def test_classes_with_the_same_side_are_not_found():
    assert scored({"side": 0.15}, {"side": 0.15}) == []


def test_classes_of_opposite_sides_that_differ_otherwise_are_not_found():
    assert scored({"side": 0.15}, {"side": -0.15, "kind": 1}) == []


def test_few_photos_prove_nothing():
    assert scored({"side": 0.15, "count": 3}, {"side": -0.15, "count": 3}) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("turn left", "turn right"),
        ("Left_Hand", "Right_Hand"),
        ("TurnLeft", "TurnRight"),
        ("lefthand", "righthand"),
        ("Pfeil links", "Pfeil rechts"),
        ("mano izquierda", "mano derecha"),
        ("tourner à gauche", "tourner à droite"),
        ("hand_L", "hand_R"),
        ("east", "west"),
        ("ccw", "cw"),
        ("counterclockwise", "clockwise"),
    ],
)
def test_names_with_opposite_words_are_mirror_images(first, second):
    classes = ["straight", first, second]
    assert mirrors.opposite_names(classes, "horizontal") == [(first, second)]


def test_letters_are_mirror_images_only_in_an_alphabet():
    letters = list("abcdefghijklmnopq")
    assert mirrors.opposite_names(letters, "horizontal") == [("b", "d"), ("p", "q")]
    assert mirrors.opposite_names(list("abcd"), "horizontal") == []
    assert mirrors.opposite_names(list("0123456789"), "horizontal and vertical") == [("6", "9")]
    assert mirrors.opposite_names(list("0123456789"), "horizontal") == []


def test_up_and_down_are_mirror_images_of_a_vertical_flip():
    assert mirrors.opposite_names(["down", "up"], "vertical") == [("down", "up")]
    assert mirrors.opposite_names(["up", "down"], "horizontal") == []


def test_names_of_species_and_of_things_are_no_opposites():
    classes = [
        "Eastern Meadowlark",
        "Western Meadowlark",
        "bright",
        "West Highland White Terrier",
        "copyright",
    ]
    assert mirrors.opposite_names(classes, "horizontal") == []
