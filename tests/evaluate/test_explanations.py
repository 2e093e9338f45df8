"""Explanations: the choice of photos, the figures, and the energy of heatmaps inside masks."""

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


# The choice of photos


def choose(photos, predictions, *, names=None, **gradcam):
    settings = make_settings(**gradcam)
    return explanations.choose(photos, predictions, settings=settings, names=names or {})


def test_correct_photos_are_drawn_at_random_and_misclassified_ones_by_their_confidence():
    photos = make_photos()
    predictions = make_predictions(photos, wrong=(3, 5, 7, 9))
    chosen = choose(photos, predictions, examples=3)
    assert chosen.correct.tolist() == [True] * 3 + [False] * 3
    correct, misclassified = chosen[chosen.correct], chosen[~chosen.correct]
    assert misclassified.row.tolist() == [9, 7, 5]
    assert misclassified.path.tolist() == ["deep/p9.png", "deep/p7.png", "deep/p5.png"]
    assert [CLASSES[target] for target in chosen.target] == chosen.predicted.tolist()
    assert set(correct.row) <= {2, 4, 6, 8, 10, 11} and (correct.label == correct.predicted).all()
    pd.testing.assert_frame_equal(choose(photos, predictions, examples=3), chosen)
    draws = set()
    for seed in range(8):
        settings = make_settings(examples=3).model_copy(update={"seed": seed})
        drawn = explanations.choose(photos, predictions, settings=settings, names={})
        draws.add(tuple(drawn.row[drawn.correct]))
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("wrong", "counts"),
    [((), (8, 0)), (range(12), (0, 8)), (range(2, 5), (7, 3))],
    ids=["all correct", "all misclassified", "few misclassified"],
)
def test_the_numbers_of_photos_are_limited(wrong, counts):
    photos = make_photos()
    chosen = choose(photos, make_predictions(photos, wrong), examples=8)
    assert (chosen.correct.sum(), (~chosen.correct).sum()) == counts


@pytest.mark.parametrize(("split", "count"), [("val", 11), ("test", 10)])
def test_without_a_test_split_the_photos_come_from_val(split, count):
    photos = make_photos(split=split)
    assert len(choose(photos, make_predictions(photos), examples=64)) == count


# Figures


def shown(figure):
    """Return the photos and titles of a grid."""
    drawn = [axes for axes in figure.axes if axes.images]
    return [axes.images[0].get_array() for axes in drawn], [axes.get_title() for axes in drawn]


def make_maps(count):
    return np.random.default_rng(1).random((count, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize(("wrong", "rows"), [((5, 9), (3, 1)), ((), (4, 0)), (range(12), (0, 4))])
def test_the_upper_rows_of_the_grid_are_correct_and_the_lower_ones_misclassified(wrong, rows):
    photos = make_photos()
    chosen = choose(photos, make_predictions(photos, wrong), examples=11)
    maps = make_maps(len(chosen))
    figure = explanations.grid(photos, chosen, maps=maps)
    images, titles = shown(figure)
    for index, row in enumerate(chosen.row):
        np.testing.assert_array_equal(images[2 * index], photos.images[row])
        np.testing.assert_array_equal(
            images[2 * index + 1], photo_grids.overlay(photos.images[row], maps[index])
        )
        assert titles[2 * index] == f"p{row}.png"
    # the titles of the overlays in each row of the grid
    overlays = np.array([axes.get_title() for axes in figure.axes]).reshape(-1, 3, 2)[..., 1]
    kinds = [{"label" in title for title in row if title} for row in overlays]
    assert kinds == [{False}] * rows[0] + [{True}] * rows[1]


def test_the_title_of_an_overlay_is_the_prediction_and_the_label_if_that_differs():
    photos = make_photos()
    chosen = choose(photos, make_predictions(photos, (9,)))
    titles = shown(explanations.grid(photos, chosen, maps=make_maps(len(chosen))))[1]
    # p9 is an ant taken for a bee, the ninth of eleven confidences from 0.4 to 0.9
    assert titles[-2:] == ["p9.png", "bee 0.80\nlabel: ant"]
    row = chosen.iloc[0]
    assert titles[1] == f"{row.label} {row.confidence:.2f}"


def test_the_example_is_the_first_photo_its_heatmap_and_their_overlay():
    photos = make_photos()
    chosen = choose(photos, make_predictions(photos))
    maps = make_maps(len(chosen))
    images, titles = shown(explanations.example(photos, chosen, maps=maps))
    photo = photos.images[chosen.row.iloc[0]]
    expected = (photo, photo_grids.colour_heatmap(maps[0]), photo_grids.overlay(photo, maps[0]))
    np.testing.assert_array_equal(images, expected)
    assert titles[:2] == [f"p{chosen.row.iloc[0]}.png", "Grad-CAM heatmap"]
    assert titles[2].startswith(chosen.predicted.iloc[0]) and "label" not in titles[2]


def test_without_photos_there_are_no_figures():
    photos = make_photos()
    nothing = choose(photos, make_predictions(photos)[:0])
    assert explanations.grid(photos, nothing, maps=make_maps(0)) is None
    assert explanations.example(photos, nothing, maps=make_maps(0)) is None


# Energy inside masks


def test_summary_solved_by_hand():
    measured = pd.DataFrame(
        [
            ("a", 0.8, 0.2, 0.5, True),
            ("b", 0.4, 0.3, 0.5, False),
            ("c", 0.9, 0.1, 0.6, True),
            ("d", np.nan, 0.9, 0.9, False),
        ],
        columns=explanations.MEASURES,
    )
    assert explanations.summary(measured) == {
        "photos": 4,
        "all_zero": 1,
        "energy_inside": 0.525,
        "energy_uniform": 0.375,
        "energy_centre": 0.625,
        "pointing_game": 0.5,
        "better_than_centre": 0.5,
        "interval": [round(value, 4) for value in metrics.interval(2, 4)],
    }


def test_summary_without_masks():
    assert explanations.summary(pd.DataFrame(columns=explanations.MEASURES)) == {"photos": 0}


def solvable():
    """A network whose class is the colour that is brightest, and whose heatmap is that colour."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(3, 1, use_bias=False, name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, use_bias=False, name=models.LOGITS)(x)
    network = keras.Model(inputs, keras.layers.Softmax()(x))
    network.set_weights([np.eye(3, dtype=np.float32)[None, None] / 10, np.eye(3, dtype=np.float32)])
    return network


def test_energy_inside_masks_solved_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    photos = make_photos()
    photos.images[:] = 0
    # p2 is a cat: blue, 30 on the object and 10 beside it; p5 too, with its maximum beside the object
    photos.images[2, 0, 0, 2], photos.images[2, 7, 7, 2] = 30, 10
    photos.images[5, 0, 0, 2], photos.images[5, 7, 7, 2] = 10, 30
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:2] = 255
    folder = tmp_path / "data" / "x" / "masks"
    folder.mkdir(parents=True)
    # p1 is in val
    for name in ("p2", "p5", "p1", "another"):
        Image.fromarray(mask).save(folder / f"{name}.png")
    run = steps.Run(make_settings(masks="masks"), steps.GRADCAM)
    measured = explanations.energy_inside_masks(solvable(), photos, run)
    assert measured.path.tolist() == ["deep/p2.png", "deep/p5.png"]
    assert measured.energy_inside.tolist() == pytest.approx([0.75, 0.25])
    assert measured.energy_uniform.tolist() == [0.25, 0.25] and measured.hit.tolist() == [True, False]
    line = np.exp(-0.5 * ((np.arange(SIZE) - 3.5) / 2) ** 2)
    assert measured.energy_centre.tolist() == pytest.approx([line[:2].sum() / line.sum()] * 2)


def test_without_masks_there_is_nothing_to_measure():
    run = steps.Run(make_settings(), steps.GRADCAM)
    assert explanations.energy_inside_masks(None, make_photos(), run).empty


def test_missing_masks_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    run = steps.Run(make_settings(masks="nowhere"), steps.GRADCAM)
    with pytest.raises(FileNotFoundError, match="`gradcam.masks`: nowhere does not exist"):
        explanations.energy_inside_masks(solvable(), make_photos(), run)


# A photo of the user


CARD = {
    "size": SIZE,
    "resize": SIZE,
    "fit": "crop",
    "classes": CLASSES,
    "class_names": CLASSES,
    "temperature": 2.0,
}


def run_of(**gradcam):
    return steps.Run(make_settings(**gradcam), steps.GRADCAM)


def test_the_photo_of_the_user_is_explained_for_its_most_probable_classes(tmp_path):
    Image.new("RGB", (30, 20), (0, 200, 100)).save(tmp_path / "mine.png")
    run = run_of(photo=str(tmp_path / "mine.png"))
    images, titles = shown(explanations.own_photo(solvable(), CARD, photos=make_photos(), run=run))
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
    figure = explanations.own_photo(solvable(), card, photos=make_photos(), run=run_of())
    assert [title.split()[0] for title in shown(figure)[1][1:]] == ["Biene", "Ameise", "Katze"]
    photos = make_photos()
    names = dict(zip(CLASSES, card["class_names"], strict=True))
    chosen = choose(photos, make_predictions(photos, wrong=(3,)), names=names, examples=3)
    misclassified = chosen.iloc[-1]
    assert (misclassified.label, misclassified.predicted, misclassified.target) == ("Ameise", "Biene", 1)
    assert set(chosen.label) <= set(names.values())


def test_without_a_photo_of_the_user_it_is_the_first_kept_photo():
    photos = make_photos()
    figure = explanations.own_photo(solvable(), CARD, photos=photos, run=run_of())
    images, titles = shown(figure)
    photo = photos.images[1]
    np.testing.assert_array_equal(images[0], photo)
    assert titles[0] == "p1.png"
    # the heatmap of a class is its colour; the classes are in the order of their probabilities
    ranking = np.argsort(-photo.mean(axis=(0, 1)))
    assert [title.split()[0] for title in titles[1:]] == [CLASSES[target] for target in ranking]
    for image, target in zip(images[1:], ranking, strict=True):
        colour = photo[..., target] / photo[..., target].max()
        np.testing.assert_allclose(image, photo_grids.overlay(photo, colour), atol=1)


def test_a_missing_or_broken_photo_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`gradcam.photo`: .*none.jpg does not exist. Expected: the path of a photo"
    ):
        explanations.own_photo(
            solvable(),
            CARD,
            photos=make_photos(),
            run=run_of(photo=str(tmp_path / "none.jpg")),
        )
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="`gradcam.photo`: broken.jpg cannot be read: not a photo"):
        explanations.own_photo(
            solvable(),
            CARD,
            photos=make_photos(),
            run=run_of(photo=str(tmp_path / "broken.jpg")),
        )
