"""Which photos are explained, and what their heat says in numbers."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.clean import photoset
from lib.core import metrics, schema, steps
from lib.evaluate import explanations
from lib.figures import photo_grids
from lib.networks import models
from lib.networks.backend import keras

SIZE = 8
CLASSES = ["ant", "bee", "cat"]


def make_settings(**gradcam):
    return schema.Params.model_validate(
        {"name": "x", "seed": 3, "source": {"kind": "sample", "name": "x"}, "gradcam": gradcam}
    )


def make_photos(count=12, split="test"):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"path": [f"deep/p{index}.png" for index in range(count)], "status": "kept"})
    table["label"] = [CLASSES[index % 3] for index in range(count)]
    table["split"] = ["train", "val", *[split] * (count - 2)]
    table.loc[0, "status"] = "corrupt"
    return photoset.Photos(table, random.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8), SIZE, CLASSES)


def make_predictions(photos, wrong=()):
    rows = photos.table[photos.table.split.isin(["val", "test"])][["path", "split", "label"]].copy()
    rows["predicted"] = [
        CLASSES[(CLASSES.index(label) + (row in wrong)) % 3] for row, label in rows.label.items()
    ]
    rows["confidence"] = np.linspace(0.4, 0.9, len(rows))
    return rows.reset_index(drop=True)


# Which photos


def test_wrong_ones_come_surest_first_and_right_ones_by_chance():
    photos = make_photos()
    predictions = make_predictions(photos, wrong=(3, 5, 7, 9))
    chosen = explanations.choose(photos, predictions, settings=make_settings(examples=3))
    assert chosen["wrong"].row.tolist() == [9, 7, 5]
    assert chosen["wrong"].path.tolist() == ["deep/p9.png", "deep/p7.png", "deep/p5.png"]
    assert [CLASSES[target] for target in chosen["wrong"].target] == chosen["wrong"].predicted.tolist()
    right = chosen["right"]
    assert (
        len(right) == 3 and set(right.row) <= {2, 4, 6, 8, 10, 11} and (right.label == right.predicted).all()
    )
    again = explanations.choose(photos, predictions, settings=make_settings(examples=3))["right"]
    pd.testing.assert_frame_equal(again, right)
    assert {
        tuple(
            explanations.choose(
                photos, predictions, settings=make_settings(examples=3).model_copy(update={"seed": seed})
            )["right"].row
        )
        for seed in range(8)
    } != {tuple(right.row)}


@pytest.mark.parametrize(
    ("wrong", "counts"),
    [((), (8, 0)), (range(12), (0, 8)), (range(2, 5), (7, 3))],
    ids=["all right", "all wrong", "few wrong"],
)
def test_as_many_as_there_are(wrong, counts):
    photos = make_photos()
    chosen = explanations.choose(photos, make_predictions(photos, wrong), settings=make_settings(examples=8))
    assert (len(chosen["right"]), len(chosen["wrong"])) == counts
    for group in chosen.values():
        assert {"path", "label", "predicted", "confidence", "row", "target"} <= set(group.columns)


def test_without_a_test_split_they_come_from_val():
    photos = make_photos(split="val")
    assert (
        len(
            explanations.choose(photos, make_predictions(photos), settings=make_settings(examples=64))[
                "right"
            ]
        )
        == 11
    )
    assert (
        len(
            explanations.choose(
                make_photos(), make_predictions(make_photos()), settings=make_settings(examples=64)
            )["right"]
        )
        == 10
    )


# Pictures


def shown(figure):
    """Return the photos and titles of a grid."""
    drawn = [axes for axes in figure.axes if axes.images]
    return [axes.images[0].get_array() for axes in drawn], [axes.get_title() for axes in drawn]


def test_grids_show_each_photo_beside_its_heat():
    photos = make_photos()
    rows = explanations.choose(photos, make_predictions(photos, (5, 9)), settings=make_settings())["wrong"]
    heats = np.zeros((2, SIZE, SIZE), np.float32)
    heats[1, 3, 4] = 1
    images, titles = shown(explanations.grid(photos, rows, heats=heats))
    np.testing.assert_array_equal(images[0], photos.images[9])
    np.testing.assert_array_equal(images[1], photo_grids.overlay(photos.images[9], heats[0]))
    np.testing.assert_array_equal(images[2], photos.images[5])
    np.testing.assert_array_equal(images[3], photo_grids.overlay(photos.images[5], heats[1]))
    # p9 is an ant taken for a bee, the ninth of eleven confidences from 0.4 to 0.9
    assert titles[:2] == ["p9.png", "bee 0.80\nlabel: ant"]


def test_a_single_photo_its_heat_and_both():
    photos = make_photos()
    rows = explanations.choose(photos, make_predictions(photos), settings=make_settings())["right"][:1]
    heats = np.linspace(0, 1, SIZE * SIZE).reshape(1, SIZE, SIZE)
    images, titles = shown(explanations.single(photos, rows, heats=heats))
    photo = photos.images[rows.row.iloc[0]]
    for image, expected in zip(
        images,
        (photo, photo_grids.heat_colours(heats[0]), photo_grids.overlay(photo, heats[0])),
        strict=True,
    ):
        np.testing.assert_array_equal(image, expected)
    assert titles[1] == "heat" and titles[2].startswith(rows.predicted.iloc[0]) and "label" not in titles[2]


def test_an_empty_group_has_no_picture():
    photos = make_photos()
    none = explanations.choose(photos, make_predictions(photos), settings=make_settings())["wrong"]
    heats = np.empty((0, SIZE, SIZE))
    assert explanations.grid(photos, none, heats=heats) is None
    assert explanations.single(photos, none, heats=heats) is None


# Numbers


def test_summary_solved_by_hand():
    shares = pd.DataFrame(
        [
            ("a", 0.8, 0.2, 0.5, True),
            ("b", 0.4, 0.3, 0.5, False),
            ("c", 0.9, 0.1, 0.6, True),
            ("d", np.nan, 0.9, 0.9, False),
        ],
        columns=["path", "inside", "even", "centre", "hit"],
    )
    found = explanations.summary(shares)
    assert found == {
        "photos": 4,
        "without_heat": 1,
        "inside": 0.525,
        "even": 0.375,
        "centre": 0.625,
        "hit": 0.5,
        "better_than_centre": 0.5,
        "interval": [round(value, 4) for value in metrics.interval(2, 4)],
    }


def test_summary_without_masks():
    columns = ["path", "inside", "even", "centre", "hit"]
    assert explanations.summary(pd.DataFrame(columns=columns)) == {"photos": 0}


def solvable():
    """A network whose class is the colour that is brightest, and whose heat is that colour."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(3, 1, use_bias=False, name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, use_bias=False, name=models.LOGITS)(x)
    network = keras.Model(inputs, keras.layers.Softmax()(x))
    network.set_weights([np.eye(3, dtype=np.float32)[None, None] / 10, np.eye(3, dtype=np.float32)])
    return network


def test_inside_masks_solved_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    photos = make_photos()
    photos.images[:] = 0
    # p2 is a cat: blue, 30 on the object and 10 beside it
    photos.images[2, 0, 0, 2] = 30
    photos.images[2, 7, 7, 2] = 10
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:4] = 255
    folder = tmp_path / "data" / "x" / "masks"
    folder.mkdir(parents=True)
    # p1 is in val
    for name in ("p2", "p1", "another"):
        Image.fromarray(mask).save(folder / f"{name}.png")
    settings = make_settings(masks="masks")
    shares = explanations.inside_masks(
        solvable(), photos, settings=settings, run=steps.Run(settings, steps.GRADCAM)
    )
    assert shares.path.tolist() == ["deep/p2.png"]
    row = shares.iloc[0]
    assert (row.inside, row.even, row.centre, row.hit) == (pytest.approx(0.75), 0.5, pytest.approx(0.5), True)


def test_without_masks_there_is_nothing_to_measure():
    assert explanations.inside_masks(None, make_photos(), settings=make_settings(), run=None).empty


def test_missing_masks_are_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    settings = make_settings(masks="nowhere")
    with pytest.raises(FileNotFoundError, match="`gradcam.masks`: there is no nowhere"):
        explanations.inside_masks(
            solvable(), make_photos(), settings=settings, run=steps.Run(settings, steps.GRADCAM)
        )


# A photo of one's own


CARD = {
    "size": SIZE,
    "resize": SIZE,
    "fit": "crop",
    "classes": CLASSES,
    "class_names": CLASSES,
    "temperature": 2.0,
}


def test_a_photo_of_ones_own(tmp_path):
    Image.new("RGB", (30, 20), (0, 200, 100)).save(tmp_path / "mine.png")
    settings = make_settings(photo=str(tmp_path / "mine.png"))
    images, titles = shown(explanations.own_photo(solvable(), CARD, photos=make_photos(), settings=settings))
    assert images[0].shape == (SIZE, SIZE, 3) and (images[0] == (0, 200, 100)).all()
    # logits 0, 20, 10 divided by the temperature of 2; probabilities below 1e-7 count as that
    assert (
        titles[0] == "mine.png"
        and titles[1] == "bee 0.99"
        and titles[2] == "cat 0.01"
        and titles[3] == "ant 0.00"
    )


def test_classes_are_called_by_their_names():
    card = CARD | {"class_names": ["Ameise", "Biene", "Katze"]}
    figure = explanations.own_photo(solvable(), card, photos=make_photos(), settings=make_settings())
    assert [title.split()[0] for title in shown(figure)[1][1:]] == ["Biene", "Ameise", "Katze"]
    photos = make_photos()
    names = dict(zip(CLASSES, card["class_names"], strict=True))
    predictions = make_predictions(photos, wrong=(3,))
    chosen = explanations.choose(photos, predictions, settings=make_settings(examples=3), names=names)
    assert (chosen["wrong"].label.tolist(), chosen["wrong"].predicted.tolist()) == (["Ameise"], ["Biene"])
    assert chosen["wrong"].target.tolist() == [1] and set(chosen["right"].label) <= set(names.values())


def test_without_one_it_is_the_first_kept_photo():
    photos = make_photos()
    figure = explanations.own_photo(solvable(), CARD, photos=photos, settings=make_settings())
    images, titles = shown(figure)
    np.testing.assert_array_equal(images[0], photos.images[1])
    assert titles[0] == "p1.png" and len(images) == 4


def test_a_missing_or_broken_photo_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`gradcam.photo`: there is no file .*none.jpg. Expected: the path of a photo"
    ):
        explanations.own_photo(
            solvable(), CARD, photos=make_photos(), settings=make_settings(photo=str(tmp_path / "none.jpg"))
        )
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="`gradcam.photo`: broken.jpg cannot be read: not a photo"):
        explanations.own_photo(
            solvable(), CARD, photos=make_photos(), settings=make_settings(photo=str(tmp_path / "broken.jpg"))
        )
