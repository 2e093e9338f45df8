"""Inference: predictions of the photos of a run and of a folder, their cache, and test-time augmentation."""

import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shared import model_card

from lib.clean import photoset
from lib.core import files, metrics
from lib.evaluate import inference, predictions
from lib.networks import models
from lib.networks.backend import keras
from lib.photos import decoding

CLASSES = ["ant", "bee", "cat"]


# Photos of a run

SIZE = 32


@keras.saving.register_keras_serializable("tests")
class Crowded(keras.layers.Layer):
    """Passes photos on as long as they are few enough for the memory that is left after so many calls."""

    def __init__(self, most=99, after=0, **kwargs):
        super().__init__(**kwargs)
        self.most, self.after, self.seen = most, after, []

    def call(self, inputs):
        photos = inputs.shape[0]
        # Keras calls it with an unknown number too.
        self.seen.append(photos if isinstance(photos, int) else 0)
        if self.seen[-1] > self.most and len(self.seen) > self.after:
            raise MemoryError
        return inputs


def make_network(*, size=4, scale=1 / 255, most=99, after=0):
    """A network that weighs every pixel, so that each change of a photo changes its predictions."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(scale, name="scaling")(Crowded(most, after, name="crowded")(inputs))
    x = keras.layers.Dense(3, name=models.LOGITS)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Softmax()(x))
    # A compiled network would count the photos of its trace only.
    model.run_eagerly = True
    return model


def noise(*, size=4, fit="crop", side=None, count=12):
    """Make photos of noise, cropped from photos of the size `side`."""
    images = np.random.default_rng(1).integers(0, 256, (count, side or size, side or size, 3), np.uint8)
    table = pd.DataFrame({"split": "test", "sha1": [f"photo {row}" for row in range(count)]})
    return photoset.Photos(table, images, size, CLASSES, fit)


def predict(network, images):
    return keras.ops.convert_to_numpy(network(np.asarray(images, np.float32), training=False))


@pytest.fixture
def once(monkeypatch):
    """Lists the batch sizes of each pass over photos."""
    passes = []
    read = inference._predict
    monkeypatch.setattr(
        inference,
        "_predict",
        lambda *args, **kwargs: passes.append(kwargs["batch_size"]) or read(*args, **kwargs),
    )
    return passes


@pytest.mark.backend
def test_predictions_are_those_of_the_network_in_the_order_of_the_rows(tmp_path):
    network, photos, rows = make_network(), noise(), np.array([10, 3, 7])
    predicted = inference.of_rows(network, photos, rows=rows, folder=tmp_path, batch_size=2)
    assert predicted.dtype == np.float32 and predicted.shape == (3, 3)
    np.testing.assert_allclose(predicted, predict(network, photos.images[rows]), atol=1e-6)


@pytest.mark.parametrize(("count", "sizes"), [(11, [4, 4, 4]), (8, [4, 4]), (3, [3]), (1, [1])])
def test_a_small_last_batch_is_padded_instead_of_traced_again(tmp_path, count, sizes):
    network, photos = make_network(), noise()
    predicted = inference.of_rows(network, photos, rows=np.arange(count), folder=tmp_path, batch_size=4)
    np.testing.assert_allclose(predicted, predict(make_network(), photos.images[:count]), atol=1e-6)
    assert network.get_layer("crowded").seen[1:] == sizes


def test_an_error_while_photos_are_read_ends_the_threads(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("the disk is gone")

    monkeypatch.setattr(inference, "_view", fail)
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        inference.of_rows(make_network(), noise(), rows=np.arange(12), folder=tmp_path, batch_size=2)
    assert threading.active_count() == before


def test_larger_photos_are_cut_to_their_middle(tmp_path):
    network, photos, rows = make_network(), noise(side=8), np.arange(3)
    predicted = inference.of_rows(network, photos, rows=rows, folder=tmp_path, batch_size=2)
    np.testing.assert_allclose(predicted, predict(network, photos.full[:3, 2:6, 2:6]), atol=1e-6)


def test_predictions_are_cached(tmp_path, once):
    network, photos, rows = make_network(), noise(), np.array([10, 3, 7])
    first = inference.of_rows(network, photos, rows=rows, folder=tmp_path, batch_size=2)
    models.save(network, tmp_path / "model.keras")
    again = inference.of_rows(
        models.read(tmp_path / "model.keras"), photos, rows=rows, folder=tmp_path, batch_size=3
    )
    np.testing.assert_array_equal(again, first)
    assert len(once) == 1 and len(list(tmp_path.glob("predictions-*.npz"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [10, 3]},
        {"rows": [3, 10, 7]},
        {"photos": {"fit": "stretch"}},
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
    inference.of_rows(make_network(), noise(), rows=np.array([10, 3, 7]), **options)
    network, photos = make_network(**change.get("network", {})), noise(**change.get("photos", {}))
    network.get_layer(models.LOGITS).bias.assign(change.get("bias", [0.0, 0.0, 0.0]))
    photos.table.loc[3, "sha1"] = change.get("sha1", "photo 3")
    views = change.get("views", inference.PLAIN)
    inference.of_rows(network, photos, rows=np.array(change.get("rows", [10, 3, 7])), views=views, **options)
    assert len(once) == 2


def test_no_photo_gives_no_prediction(tmp_path):
    predicted = inference.of_rows(
        make_network(), noise(), rows=np.array([], int), folder=tmp_path, batch_size=2
    )
    assert predicted.shape == (0, 3) and not list(tmp_path.iterdir())


def test_the_batch_size_is_halved_when_memory_is_exhausted(tmp_path):
    network, photos = make_network(most=3), noise()
    predicted = inference.of_rows(network, photos, rows=np.arange(11), folder=tmp_path, batch_size=8)
    np.testing.assert_allclose(predicted, predict(make_network(), photos.images[:11]), atol=1e-6)
    assert network.get_layer("crowded").seen[1:] == [8, 4, 2, 2, 2, 2, 2, 2]


def test_batches_before_memory_was_exhausted_are_not_predicted_again(tmp_path):
    # the first call builds the network, the second succeeds
    network, photos = make_network(most=2, after=2), noise()
    predicted = inference.of_rows(network, photos, rows=np.arange(11), folder=tmp_path, batch_size=4)
    np.testing.assert_allclose(predicted, predict(make_network(), photos.images[:11]), atol=1e-6)
    assert network.get_layer("crowded").seen[1:] == [4, 4, 2, 2, 2, 2]


def test_memory_that_does_not_suffice_for_one_photo_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match="memory does not suffice to predict a single photo of 4 pixels. Close"
    ):
        inference.of_rows(make_network(most=0), noise(), rows=np.arange(5), folder=tmp_path, batch_size=4)
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
def test_photos_are_mirrored_only_if_training_mirrored_them(augmented, flip, expected):
    assert list(inference.views(augmented, flip=flip)) == expected
    assert inference.views(False, flip=flip) == inference.PLAIN


@pytest.mark.backend
def test_probabilities_are_averaged_over_the_views(tmp_path):
    network, photos, rows = make_network(size=SIZE), noise(size=SIZE), np.array([5, 2, 9])
    views = inference.views(True, flip="horizontal")
    predicted = inference.of_rows(network, photos, rows=rows, folder=tmp_path, batch_size=2, views=views)
    plain = photos.images[rows]
    # 90 % of 32 pixels: 28 of them, 2 cut from each side; Pillow enlarges each colour without rounding
    closer = np.stack([[enlarged(photo[2:30, 2:30, c]) for c in range(3)] for photo in plain])
    closer = closer.transpose(0, 2, 3, 1)
    expected = np.mean(
        [predict(network, part) for part in (plain, closer, plain[:, :, ::-1], closer[:, :, ::-1])], axis=0
    )
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    assert np.abs(predicted - predict(network, plain)).max() > 0.01


def enlarged(channel):
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def test_with_mirrored_views_a_photo_and_its_mirror_image_have_the_same_prediction(tmp_path):
    network, photos = make_network(size=SIZE), noise(size=SIZE, count=1)
    views = inference.views(True, flip="horizontal")
    mirrored = photoset.Photos(photos.table, photos.full[:, :, ::-1], SIZE, CLASSES)
    one, other = (
        inference.of_rows(network, seen, rows=[0], folder=tmp_path / name, batch_size=1, views=views)
        for name, seen in (("one", photos), ("other", mirrored))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


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
    chosen = {
        "evaluate": {"test_time_augmentation": augmented},
        "augment": {"flip": "horizontal"},
        "clean": {"minimum_side": 16},
    }
    files.write_json(folder / "params.json", chosen)
    return folder


def colours(folder, count):
    """Draw photos that have their class in their names."""
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
    monkeypatch.setattr(inference, "BATCH_SIZE", at_once)
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
    assert len(once) <= -(-14 // at_once) and set(once) <= {min(at_once, 14)}


def test_a_folder_in_which_nothing_can_be_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        files, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error", path))
    )
    rows = inference.of_folder(run, colours(tmp_path / "photos", 2))
    assert rows.problem.tolist() == ["the file cannot be opened: Input/output error"] * 2
    assert rows.label.tolist() == ["", ""]


@pytest.mark.backend
def test_a_folder_is_predicted_as_the_evaluation_predicts_its_photos(tmp_path):
    """The same files, through the cleaning and as a folder: the same squares, views and calibration."""
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
        predicted = inference.of_rows(
            network, seen, rows=np.arange(3), folder=tmp_path, batch_size=4, views=views
        )
        expected = metrics.apply_temperature(predicted, 2.0).max(axis=1).round(4)
        np.testing.assert_allclose(rows.confidence, expected, atol=1.1e-4)


def test_missing_models_and_folders_are_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="other has no model yet: run `make other` first"):
        inference.of_folder(tmp_path / "other", tmp_path)
    with pytest.raises(FileNotFoundError, match="PHOTOS must be a folder of photos. Received: .*nowhere"):
        inference.of_folder(run, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty contains no photo. Expected: files such as .jpg"):
        inference.of_folder(run, tmp_path / "empty")


def test_a_name_that_is_not_utf_8_is_written_and_does_not_stop_the_others(run, tmp_path):
    folder = colours(tmp_path / "photos", 2)
    named = os.fsencode(folder) + b"/papill\xf3n.png"
    try:
        Path(os.fsdecode(named)).write_bytes((folder / "001 bee.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    predictions.write(inference.of_folder(run, folder), tmp_path / "photo_predictions.csv")
    rows = pd.read_csv(tmp_path / "photo_predictions.csv")
    assert rows.filename.tolist() == ["000 ant.png", "001 bee.png", "papill\xf3n.png"]
    assert rows.label.tolist() == ["ant", "bee", "bee"]


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((1, 4000), "1 x 4000 pixels, smaller than 16"),
        ((4000, 15), "4000 x 15 pixels, smaller than 16"),
        ((1, 1), "1 x 1 pixels, smaller than 16"),
        ((16, 17), ""),
    ],
)
def test_a_photo_that_the_cleaning_leaves_out_as_small_is_named_with_its_size(size, problem, run, tmp_path):
    folder = colours(tmp_path / "photos", 2)
    Image.new("RGB", size, (0, 0, 255)).save(folder / "small.png")
    rows = inference.of_folder(run, folder)
    assert rows.problem.tolist() == ["", "", problem] and rows.label.tolist() == ["ant", "bee", "cat"]
    assert (rows.confidence > 0.9).all()


def test_records_without_a_smallest_side_have_none(run, tmp_path):
    chosen = files.read_json(run / "params.json")
    files.write_json(run / "params.json", {key: value for key, value in chosen.items() if key != "clean"})
    folder = colours(tmp_path / "photos", 1)
    Image.new("RGB", (1, 1)).save(folder / "small.png")
    assert inference.of_folder(run, folder).problem.tolist() == ["", ""]


def test_earlier_predictions_go_when_new_ones_begin(run, tmp_path, monkeypatch):
    earlier = tmp_path / "predictions.csv"
    earlier.write_text("of another folder")
    with pytest.raises(FileNotFoundError):
        inference.of_folder(run, tmp_path / "nowhere", replaces=earlier)
    assert earlier.exists()
    monkeypatch.setattr(decoding, "prepare", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        inference.of_folder(run, colours(tmp_path / "photos", 1), replaces=earlier)
    assert not earlier.exists()
