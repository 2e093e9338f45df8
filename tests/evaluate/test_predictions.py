"""Predictions: what the network says and what is kept of it, the forms that are handed in, and photos from a folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import model_card
from PIL import Image
from sklearn.metrics import log_loss

from lib.clean import photoset
from lib.core import files, metrics, schema
from lib.evaluate import inference, predictions
from lib.networks import models
from lib.networks.device import keras, tf
from lib.photos import decoding
from lib.train import dataset

CLASSES = ["ant", "bee", "cat"]


def make_photos(rows):
    """Photos by (path, label, split); what they show does not matter."""
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    return photoset.Photos(table, np.zeros((len(rows), 4, 4, 3), np.uint8), 4, CLASSES)


# What the network says

SIZE = 32


@keras.saving.register_keras_serializable("tests")
class Crowded(keras.layers.Layer):
    """Passes photos on as long as they are few enough for the memory that is left after so many calls."""

    def __init__(self, most=99, after=0, **kwargs):
        super().__init__(**kwargs)
        self.most, self.after, self.seen = most, after, []

    def call(self, inputs):
        self.seen.append(int(inputs.shape[0] or 0))
        if self.seen[-1] > self.most and len(self.seen) > self.after:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")
        return inputs


def make_network(*, size=4, scale=1 / 255, most=99, after=0):
    """A network that weighs every pixel, so that each change of a photo changes what it says."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(scale, name="scaling")(Crowded(most, after, name="crowded")(inputs))
    x = keras.layers.Dense(3, name=models.LOGITS)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Softmax()(x))


def noise(*, size=4, fit="crop", side=None, count=12):
    """Photos of noise, cut out of larger ones where `side` is given."""
    images = np.random.default_rng(1).integers(0, 256, (count, side or size, side or size, 3), np.uint8)
    table = pd.DataFrame({"split": "test", "sha1": [f"photo {row}" for row in range(count)]})
    return photoset.Photos(table, images, size, CLASSES, fit)


def said_by(network, images):
    return network(np.asarray(images, np.float32), training=False).numpy()


@pytest.fixture
def once(monkeypatch):
    """Counts how often photos are read for the network."""
    passes = []
    read = dataset.evaluation
    monkeypatch.setattr(
        dataset, "evaluation", lambda *args, **kwargs: passes.append(kwargs) or read(*args, **kwargs)
    )
    return passes


def test_predictions_are_those_of_the_network_in_the_order_of_the_rows(tmp_path):
    network, photos, rows = make_network(), noise(), np.array([10, 3, 7])
    said = inference.of_rows(network, photos, rows, folder=tmp_path, batch_size=2)
    assert said.dtype == np.float32 and said.shape == (3, 3)
    np.testing.assert_allclose(said, said_by(network, photos.images[rows]), atol=1e-6)


def test_larger_photos_are_cut_to_their_middle(tmp_path):
    network, photos, rows = make_network(), noise(side=8), np.arange(3)
    said = inference.of_rows(network, photos, rows, folder=tmp_path, batch_size=2)
    np.testing.assert_allclose(said, said_by(network, photos.full[:3, 2:6, 2:6]), atol=1e-6)


def test_what_was_said_is_kept(tmp_path, once):
    network, photos, rows = make_network(), noise(), np.array([10, 3, 7])
    first = inference.of_rows(network, photos, rows, folder=tmp_path, batch_size=2)
    models.save(network, tmp_path / "model.keras")
    again = inference.of_rows(
        models.read(tmp_path / "model.keras"), photos, rows, folder=tmp_path, batch_size=3
    )
    np.testing.assert_array_equal(again, first)
    assert len(once) == 1 and len(list(tmp_path.glob("predictions-*.npz"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [10, 3]},
        {"rows": [3, 10, 7]},
        {"photos": {"fit": "squash"}},
        {"photos": {"side": 8}},
        {"views": inference.views(True, flip="none")},
        {"network": {"scale": 1 / 127}},
        {"bias": [1.0, 0.0, 0.0]},
        {"sha1": "another photo"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_result_is_in_the_key(change, tmp_path, once):
    options = {"folder": tmp_path, "batch_size": 2}
    inference.of_rows(make_network(), noise(), np.array([10, 3, 7]), **options)
    network, photos = make_network(**change.get("network", {})), noise(**change.get("photos", {}))
    network.get_layer(models.LOGITS).bias.assign(change.get("bias", [0.0, 0.0, 0.0]))
    photos.table.loc[3, "sha1"] = change.get("sha1", "photo 3")
    views = change.get("views", inference.PLAIN)
    inference.of_rows(network, photos, np.array(change.get("rows", [10, 3, 7])), views=views, **options)
    assert len(once) == 2


def test_no_photo_gives_no_prediction(tmp_path):
    said = inference.of_rows(make_network(), noise(), np.array([], int), folder=tmp_path, batch_size=2)
    assert said.shape == (0, 3) and not list(tmp_path.iterdir())


def test_the_batch_is_halved_where_memory_does_not_suffice(tmp_path):
    network, photos = make_network(most=3), noise()
    said = inference.of_rows(network, photos, np.arange(11), folder=tmp_path, batch_size=8)
    np.testing.assert_allclose(said, said_by(make_network(), photos.images[:11]), atol=1e-6)
    assert network.get_layer("crowded").seen[1:] == [8, 4, 2, 2, 2, 2, 2, 1]


def test_what_was_said_before_memory_ran_short_is_not_asked_again(tmp_path):
    network, photos = make_network(most=2, after=2), noise()  # one call builds it, one succeeds
    said = inference.of_rows(network, photos, np.arange(11), folder=tmp_path, batch_size=4)
    np.testing.assert_allclose(said, said_by(make_network(), photos.images[:11]), atol=1e-6)
    assert network.get_layer("crowded").seen[1:] == [4, 4, 2, 2, 2, 1]


def test_memory_that_does_not_suffice_for_one_photo_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="memory does not suffice to predict one photo of 4 pixels: close"):
        inference.of_rows(make_network(most=0), noise(), np.arange(5), folder=tmp_path, batch_size=4)
    assert not list(tmp_path.iterdir())


# Several views


@pytest.mark.parametrize(
    ("augmented", "flip", "expected"),
    [
        (False, "horizontal", [(1.0, False)]),
        (True, "none", [(1.0, False), (0.9, False)]),
        (True, "horizontal", [(1.0, False), (0.9, False), (1.0, True), (0.9, True)]),
        (True, "both", [(1.0, False), (0.9, False), (1.0, True), (0.9, True)]),
    ],
)
def test_photos_are_mirrored_only_where_training_mirrored_them(augmented, flip, expected):
    assert list(inference.views(augmented, flip=flip)) == expected
    assert inference.views(False, flip=flip) == inference.PLAIN


def test_several_views_give_the_mean_of_what_is_said_of_each(tmp_path):
    network, photos, rows = make_network(size=SIZE), noise(size=SIZE), np.array([5, 2, 9])
    views = inference.views(True, flip="horizontal")
    said = inference.of_rows(network, photos, rows, folder=tmp_path, batch_size=2, views=views)
    plain = photos.images[rows]
    # 90 % of 32 pixels: 28 of them, 2 cut from each side; Pillow enlarges each colour without rounding
    closer = np.stack([[enlarged(photo[2:30, 2:30, c]) for c in range(3)] for photo in plain])
    closer = closer.transpose(0, 2, 3, 1)
    expected = np.mean(
        [said_by(network, part) for part in (plain, closer, plain[:, :, ::-1], closer[:, :, ::-1])], axis=0
    )
    np.testing.assert_allclose(said, expected, atol=1e-5)
    assert np.abs(said - said_by(network, plain)).max() > 0.01


def enlarged(channel):
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def test_a_photo_and_its_mirror_image_are_told_the_same_by_mirrored_views(tmp_path):
    network, photos = make_network(size=SIZE), noise(size=SIZE, count=1)
    views = inference.views(True, flip="horizontal")
    turned = photoset.Photos(photos.table, photos.full[:, :, ::-1], SIZE, CLASSES)
    one, other = (
        inference.of_rows(network, seen, [0], folder=tmp_path / name, batch_size=1, views=views)
        for name, seen in (("one", photos), ("other", turned))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


# The table

LABELLED = make_photos(
    [
        ("a.jpg", "bee", "val"),
        ("b.jpg", "ant", "test"),
        ("c.jpg", "", ""),
        ("d.jpg", "cat", "test"),
        ("e.jpg", "", "predict"),
        ("f.jpg", "bee", "test"),
    ]
)
TEST = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])
VAL = np.array([[0.1, 0.2, 0.7]])


def test_table_lists_the_labelled_photos_by_split():
    rows = predictions.table(LABELLED, {"val": VAL, "test": TEST})
    assert list(rows.columns) == [
        "path",
        "split",
        "label",
        "predicted",
        "confidence",
        "p(ant)",
        "p(bee)",
        "p(cat)",
    ]
    assert rows.path.tolist() == ["a.jpg", "b.jpg", "d.jpg", "f.jpg"]
    assert rows.split.tolist() == ["val", "test", "test", "test"]
    assert rows.label.tolist() == ["bee", "ant", "cat", "bee"]
    assert rows.predicted.tolist() == ["cat", "ant", "ant", "bee"]
    assert rows.confidence.tolist() == [0.7, 0.6, 0.5, 0.7]
    np.testing.assert_array_equal(rows[predictions.columns(CLASSES)], np.concatenate([VAL, TEST]))


def test_hardest_are_those_whose_class_got_least():
    rows = predictions.table(LABELLED, {"val": VAL, "test": TEST})
    worst = predictions.hardest(rows, 3)
    assert worst.path.tolist() == ["d.jpg", "a.jpg", "b.jpg"]
    assert worst.probability_of_label.tolist() == [0.1, 0.2, 0.6]
    assert list(worst.columns) == ["path", "label", "predicted", "confidence", "probability_of_label"]
    assert len(predictions.hardest(rows, 99)) == 4


def test_the_log_loss_can_be_computed_again_from_the_file(tmp_path):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.2] * 3, 200).astype(np.float32)
    targets = random.integers(0, 3, 200)
    photos = make_photos([(f"{index}.jpg", CLASSES[target], "test") for index, target in enumerate(targets)])
    predictions.write(predictions.table(photos, {"test": probabilities}), tmp_path / "predictions.csv")
    rows = pd.read_csv(tmp_path / "predictions.csv")
    again = rows[[f"p({name})" for name in CLASSES]].to_numpy().clip(metrics.SMALLEST)
    measured = metrics.report(targets, probabilities, CLASSES)
    assert log_loss(rows.label, again / again.sum(axis=1, keepdims=True), labels=CLASSES) == pytest.approx(
        measured["log_loss"], abs=1e-5
    )
    assert (rows.label == rows.predicted).mean() == measured["top_1"]


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    table = pd.DataFrame({"path": ["x.jpg"], "label": ["001"], "split": ["test"]})
    photos = photoset.Photos(table, np.zeros((1, 4, 4, 3), np.uint8), 4, ["001", "NA"])
    predictions.write(predictions.table(photos, {"test": np.array([[0.4, 0.6]])}), tmp_path / "p.csv")
    row = predictions.read(tmp_path / "p.csv").iloc[0]
    assert (row.label, row.predicted, row.confidence) == ("001", "NA", 0.6)


# Photos without labels


def unlabelled(*paths, **form):
    photos = make_photos([("x.jpg", "ant", "train"), *((path, "", "predict") for path in paths)])
    probabilities = np.eye(3)[np.arange(len(paths)) % 3] * 0.55553 + 0.14815
    return predictions.unlabelled(photos, probabilities, schema.Predictions(**form))


def test_unlabelled_photos_stand_in_natural_order():
    rows = unlabelled("test/Image_10.jpg", "test/Image_2.jpg", "test/Image_1.jpg")
    assert list(rows.columns) == ["filename", "label", "confidence"]
    assert rows.filename.tolist() == ["Image_1.jpg", "Image_2.jpg", "Image_10.jpg"]
    assert rows.label.tolist() == ["cat", "bee", "ant"]
    assert rows.confidence.tolist() == [0.7037] * 3


def test_the_columns_are_named_as_the_task_wants():
    rows = unlabelled("b.jpg", "a.jpg", filename="id", label="species", confidence=None)
    assert list(rows.columns) == ["id", "species"]
    assert rows.id.tolist() == ["a.jpg", "b.jpg"] and rows.species.tolist() == ["bee", "ant"]


def test_photos_of_one_name_are_told_apart_by_their_path():
    assert unlabelled("one/a.jpg", "two/a.jpg", "two/b.jpg").filename.tolist() == [
        "one/a.jpg",
        "two/a.jpg",
        "two/b.jpg",
    ]


def test_no_unlabelled_photo_gives_an_empty_table():
    photos = make_photos([("x.jpg", "ant", "train")])
    rows = predictions.unlabelled(photos, np.empty((0, 3), np.float32), schema.Predictions())
    assert list(rows.columns) == ["filename", "label", "confidence"] and rows.empty


# A folder


@pytest.fixture
def run(tmp_path):
    """A finished run whose network names the brightest of the three colours."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(10 / 255)(keras.layers.GlobalAveragePooling2D()(inputs))
    return publish(keras.Model(inputs, keras.layers.Softmax()(x)), tmp_path / "run")


def publish(network, folder, *, size=4, resize=4, augmented=False, temperature=2.0):
    sha256 = models.weights_sha256(network)
    card = model_card(
        size=size, resize=resize, classes=CLASSES, temperature=temperature, weights_sha256=sha256
    )
    models.save(network, folder / "model.keras")
    files.write_json(folder / "model.json", card)
    chosen = {"evaluate": {"test_time_augmentation": augmented}, "augment": {"flip": "horizontal"}}
    files.write_json(folder / "params.json", chosen)
    return folder


def colours(folder, count):
    """Draw photos whose names say which class they are."""
    folder.mkdir()
    for number in range(count):
        colour = [0, 0, 0]
        colour[number % 3] = 255
        Image.new("RGB", (30, 20), tuple(colour)).save(folder / f"{number:03} {CLASSES[number % 3]}.png")
    return folder


def test_a_folder_of_photos(run, tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name, colour in (("deep/green.png", (0, 255, 0)), ("red.jpg", (255, 0, 0))):
        Image.new("RGB", (30, 20), colour).save(folder / name, quality=100)
    (folder / "broken.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("not a photo")
    rows = inference.of_folder(run, folder)
    assert list(rows.columns) == ["filename", "label", "confidence", "problem"]
    rows = rows.set_index("filename")
    assert rows.index.tolist() == ["broken.jpg", "deep/green.png", "red.jpg"]
    assert rows.label.tolist() == ["", "bee", "ant"]
    assert rows.problem["broken.jpg"].startswith("not a photo") and (rows.problem[1:] == "").all()
    # logits 10 and 0 and 0, divided by the temperature of 2
    assert rows.confidence["deep/green.png"] == pytest.approx(np.exp(5) / (np.exp(5) + 2), abs=1e-3)
    assert rows.confidence["broken.jpg"] == 0


@pytest.mark.parametrize("at_once", [1, 3, 4, 32])
def test_a_few_photos_at_a_time_give_one_row_per_file_in_order(at_once, run, tmp_path, monkeypatch, once):
    monkeypatch.setattr(inference, "AT_ONCE", at_once)
    folder = colours(tmp_path / "photos", 9)
    for name in ("000.jpg", "004 b.jpg", "004 c.jpg", "004 d.jpg", "009.jpg"):
        (folder / name).write_bytes(b"")
    rows = inference.of_folder(run, folder)
    assert rows.filename.tolist() == sorted(path.name for path in folder.iterdir())
    broken = rows[rows.problem.ne("")]
    assert broken.problem.tolist() == ["the file is empty"] * 5
    assert broken.label.eq("").all() and broken.confidence.eq(0).all()
    read = rows[rows.problem.eq("")]
    assert read.filename.map(lambda name: name[4:7]).tolist() == read.label.tolist() == CLASSES * 3
    assert len(once) <= -(-14 // at_once) and all(kwargs["batch_size"] == at_once for kwargs in once)


def test_a_folder_in_which_nothing_can_be_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error", path))
    )
    rows = inference.of_folder(run, colours(tmp_path / "photos", 2))
    assert rows.problem.tolist() == ["the file cannot be opened: Input/output error"] * 2
    assert rows.label.tolist() == ["", ""]


def test_a_folder_is_seen_as_the_evaluation_sees_its_photos(tmp_path):
    """The same files, once through the cleaning and once as a folder: the same squares, views and calibration."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate([(400, 300), (90, 120), (40, 40)]):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    network = make_network(size=SIZE)
    models.save(network, tmp_path / "plain.keras")
    names = sorted(path.name for path in folder.iterdir())
    table, full = decoding.scan(folder, names, content="abc", folder=tmp_path / "cache", size=36, fit="crop")
    seen = photoset.Photos(table, full, SIZE, CLASSES)
    for augmented in (False, True):
        run = publish(network, tmp_path / f"run {augmented}", size=SIZE, resize=36, augmented=augmented)
        rows = inference.of_folder(run, folder)
        views = inference.views(augmented, flip="horizontal")
        said = inference.of_rows(network, seen, np.arange(3), folder=tmp_path, batch_size=4, views=views)
        expected = metrics.apply_temperature(said, 2.0).max(axis=1).round(4)
        np.testing.assert_allclose(rows.confidence, expected, atol=1.1e-4)


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="other has no model yet: run `make other` first"):
        inference.of_folder(tmp_path / "other", tmp_path)
    with pytest.raises(FileNotFoundError, match="PHOTOS must be a folder of photos. Received: .*nowhere"):
        inference.of_folder(run, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no photo. Expected files such as .jpg"):
        inference.of_folder(run, tmp_path / "empty")
