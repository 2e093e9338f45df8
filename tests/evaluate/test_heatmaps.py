"""Grad-CAM heatmaps of networks that can be solved by hand, masks, and the energy inside them."""

import os
import tracemalloc
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.core import schema
from lib.evaluate import heatmaps
from lib.networks import backbones, models
from lib.networks.backend import keras

SIZE = 8
layers = keras.layers


def Tiny(weights, input_shape):
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, 4, padding="same", activation="relu", name="conv")(inputs)
    return keras.Model(inputs, layers.BatchNormalization(name="norm")(x))


def solvable(kernel):
    """A network whose feature map is the photo divided by 255; the logits are its mean times the kernel."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(3, 1, use_bias=False, name="features")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(2, use_bias=False, name=models.LOGITS)(x)
    network = keras.Model(inputs, layers.Activation("softmax")(x))
    network.get_layer("features").set_weights([np.eye(3, dtype=np.float32)[None, None] / 255])
    network.get_layer(models.LOGITS).set_weights([np.array(kernel, np.float32)])
    return network


def photos(count=3, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.backend
def test_the_heatmap_of_a_linear_network_is_the_feature_map_times_the_weights():
    kernel = [[1, -1], [2, 0.5], [-1, 0.2]]
    targets = np.array([0, 1, 0])
    maps = heatmaps.compute(solvable(kernel), photos(), targets=targets)
    expected = np.maximum(np.einsum("nhwc,cn->nhw", photos() / 255, np.array(kernel)[:, targets]), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    assert maps.dtype == np.float32 and maps.shape == (3, SIZE, SIZE)
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.backend
def test_each_class_has_its_own_heatmap():
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    # red is evidence for class 0, green for class 1
    image[0, 1, 2, 0], image[0, 6, 5, 1] = 200, 200
    network = solvable([[1, 0], [0, 1], [0, 0]])
    maxima = [
        np.unravel_index(
            heatmaps.compute(network, image, targets=np.array([target]))[0].argmax(), (SIZE, SIZE)
        )
        for target in (0, 1)
    ]
    assert maxima == [(1, 2), (6, 5)]


def test_without_evidence_for_the_class_the_heatmap_is_all_zero():
    maps = heatmaps.compute(solvable([[-1, 1], [-1, 1], [-1, 1]]), photos(), targets=np.array([0, 0, 1]))
    assert (maps[:2] == 0).all() and maps[2].max() == 1


def build(**change):
    chosen = schema.Model.model_validate({"backbone": "Tiny", "weights": None, "image_size": 32, **change})
    return models.build(chosen, classes=3, seed=1)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Tiny, backbones.SIGNED))


CLASSES = {"classes": {"layer": "dense"}}
HEADS = {
    "pooling": {"pool": {"layer": "average_pooling"}, **CLASSES},
    "batch normalisation first": {
        "norm": {"layer": "batch_normalization"},
        "pool": {"layer": "max_pooling"},
        **CLASSES,
    },
    "flatten": {
        "drop": {"layer": "dropout", "rate": 0.5},
        "flat": {"layer": "flatten"},
        "wide": {"layer": "dense", "units": 5, "activation": "relu"},
        **CLASSES,
    },
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.backend
def test_any_head_is_explained_within_bounds(tiny, head):
    network = build(head=HEADS[head])
    assert heatmaps.feature_map(network).shape == (None, 8, 8, 4)
    before = [value.copy() for value in network.get_weights()]
    images = photos(6, 32)
    maps = heatmaps.compute(network, images, targets=np.arange(6) % 3)
    assert maps.shape == (6, 32, 32) and maps.min() >= 0 and maps.max() <= 1
    assert (maps.max(axis=(1, 2)) > 0.99).any()
    # In training mode, the statistics would move.
    for mine, theirs in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Dropout is off.
    np.testing.assert_array_equal(heatmaps.compute(network, images, targets=np.arange(6) % 3), maps)


def test_the_size_of_the_batch_changes_nothing(tiny, monkeypatch):
    network = build(head=HEADS["batch normalisation first"])
    targets = np.arange(5) % 3
    whole = heatmaps.compute(network, photos(5, 32), targets=targets)
    monkeypatch.setattr(heatmaps, "BATCH_SIZE", 2)
    single = heatmaps.compute(network, photos(5, 32), targets=targets)
    np.testing.assert_allclose(whole, single, atol=1e-4)


def test_a_frozen_network_is_explained_as_well(tiny, tmp_path):
    network = build(head=HEADS["pooling"])
    targets = np.arange(3)
    expected = heatmaps.compute(network, photos(3, 32), targets=targets)
    network.trainable = False
    models.save(network, tmp_path / "model.keras")
    frozen = models.read(tmp_path / "model.keras")
    np.testing.assert_allclose(heatmaps.compute(frozen, photos(3, 32), targets=targets), expected, atol=1e-5)


def test_without_photos_there_are_no_heatmaps():
    assert heatmaps.compute(solvable(np.ones((3, 2))), photos(0), targets=np.array([], int)).shape == (
        0,
        8,
        8,
    )


def test_a_coarse_map_is_enlarged_bilinearly():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.AveragePooling2D(4)(inputs))
    x = layers.Dense(2, use_bias=False, name=models.LOGITS, kernel_initializer="ones")(x)
    images = photos(1)
    heatmap = heatmaps.compute(keras.Model(inputs, layers.Softmax()(x)), images, targets=np.array([0]))[0]
    coarse = images[0].astype(np.float32).sum(axis=-1).reshape(2, 4, 2, 4).mean(axis=(1, 3))
    expected = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(heatmap, expected / expected.max(), atol=1e-5)


def test_a_network_without_a_feature_map_is_refused():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, layers.Softmax()(layers.Dense(2, name=models.LOGITS)(inputs)))
    with pytest.raises(
        ValueError, match="a layer pools or flattens a feature map. Received: a network without"
    ):
        heatmaps.compute(network, photos(), targets=np.zeros(3, int))


# Against masks


def test_the_energy_inside_a_mask():
    heatmap = np.array([[1.0, 3.0], [0.0, 4.0]])
    mask = np.array([[True, False], [True, True]])
    assert heatmaps.energy_inside(heatmap, mask) == 5 / 8
    assert heatmaps.energy_inside(heatmap, np.zeros((2, 2), bool)) == 0
    assert heatmaps.energy_inside(heatmap, np.ones((2, 2), bool)) == 1
    assert np.isnan(heatmaps.energy_inside(np.zeros((2, 2)), mask))


@pytest.mark.parametrize("size", [8, 9])
def test_the_baseline_is_a_centred_gaussian(size):
    prior = heatmaps.centred_gaussian(size)
    assert prior.shape == (size, size)
    np.testing.assert_allclose(prior, prior[::-1, ::-1])
    np.testing.assert_allclose(prior, prior.T)
    middle = (size - 1) / 2
    assert prior[2, 3] == pytest.approx(
        np.exp(-((2 - middle) ** 2 + (3 - middle) ** 2) / (2 * (size / 4) ** 2))
    )


def draw_masks(folder):
    folder.mkdir()
    mask = np.zeros((20, 40), np.uint8)
    # the left half is the object
    mask[:, :20] = 255
    Image.fromarray(mask).save(folder / "one.png")
    # of 1 bit
    Image.fromarray(mask.T > 0).save(folder / "two.png")
    return folder


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_masks_are_read_as_the_photos_are_resized(tmp_path, kind):
    path = draw_masks(tmp_path / "masks")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
            for file in path.iterdir():
                archive.write(file, file.name)
        path = tmp_path / "masks.zip"
    result = heatmaps.masks(path, ["two", "absent", "one"], size=10, fit="crop")
    assert list(result) == ["two", "one"]
    assert result["one"].dtype == bool and result["one"].shape == (10, 10)
    assert result["one"][:, :5].all() and not result["one"][:, 5:].any()
    assert result["two"][:5].all() and not result["two"][5:].any()
    padded = heatmaps.masks(path, ["one"], size=8, fit="pad")["one"]
    assert padded[2:6, :4].all() and padded.sum() == 16


def test_missing_masks_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`gradcam.masks`: masks does not exist. Expected: a folder or a zip"
    ):
        heatmaps.masks(tmp_path / "masks", ["one"], size=8, fit="crop")


def packed(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return path


def test_a_mask_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmaps, "LARGEST_PACKED", 10_000)
    path = packed(tmp_path / "masks.zip", one_png=bytes(2_000_000), two_png=bytes(9_000))
    with pytest.raises(
        ValueError, match=r"`gradcam.masks`: one.png would unpack from .* to 2,000,000 bytes. .* 100 times"
    ):
        heatmaps.masks(path, ["one"], size=8, fit="crop")
    # the ratio of a small mask does not matter, and a mask without a photo is not read
    with pytest.raises(ValueError, match="`gradcam.masks`: the mask of two cannot be read"):
        heatmaps.masks(path, ["two"], size=8, fit="crop")
    assert heatmaps.masks(path, ["three"], size=8, fit="crop") == {}


@pytest.mark.parametrize("ratio", [1, 2, 50])
def test_a_large_mask_that_is_compressed_less_is_read(tmp_path, monkeypatch, ratio):
    monkeypatch.setattr(heatmaps, "LARGEST_PACKED", 100)
    noise = np.random.default_rng(0).bytes(2_000)
    path = packed(tmp_path / "masks.zip", one_png=noise + bytes(len(noise) * (ratio - 1)))
    # it is no picture, which is seen only after it was unpacked
    with pytest.raises(ValueError, match="`gradcam.masks`: the mask of one cannot be read"):
        heatmaps.masks(path, ["one"], size=8, fit="crop")


def test_all_masks_together_are_limited_too(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmaps, "LARGEST_PACKED", 1_000)
    path = packed(tmp_path / "masks.zip", **{f"{number}_png": bytes(1_000) for number in range(11)})
    monkeypatch.setattr(heatmaps, "LARGEST_RATIO", 10)
    stems = [str(number) for number in range(11)]
    with pytest.raises(ValueError, match=r"`gradcam.masks`: 11 masks would unpack from .* to 11,000 bytes"):
        heatmaps.masks(path, stems, size=8, fit="crop")
    with pytest.raises(ValueError, match="`gradcam.masks`: the mask of 0 cannot be read"):
        heatmaps.masks(path, stems, size=8, fit="crop", limit=10)


def test_a_zip_that_hides_the_size_of_a_mask_is_not_unpacked_further(tmp_path):
    path = packed(tmp_path / "masks.zip", one_png=bytes(50_000_000))
    size = (50_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (20).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(ValueError, match="`gradcam.masks`: the mask of one cannot be read"):
        heatmaps.masks(path, ["one"], size=8, fit="crop")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_only_as_many_masks_as_asked_for_are_read(tmp_path):
    path = draw_masks(tmp_path / "masks")
    (path / "zero.png").write_bytes(b"not read")
    assert list(heatmaps.masks(path, ["two", "one", "zero"], size=8, fit="crop", limit=2)) == ["two", "one"]


def test_an_encrypted_mask_is_named(tmp_path):
    path = packed(tmp_path / "masks.zip", one_png=b"x" * 100)
    data = bytearray(path.read_bytes())
    for start, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(start) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the mask of one cannot be read: .*encrypted"):
        heatmaps.masks(path, ["one"], size=8, fit="crop")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ValueError, match="expected a folder or a zip of masks. Received: pipe.zip"):
        heatmaps.masks(tmp_path / "pipe.zip", ["one"], size=8, fit="crop")
    (tmp_path / "masks").mkdir()
    os.mkfifo(tmp_path / "masks/one.png")
    assert heatmaps.masks(tmp_path / "masks", ["one"], size=8, fit="crop") == {}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_mask_larger_than_a_photo_may_be_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(heatmaps.decoding, "LARGEST_BYTES", 50)
    path = draw_masks(tmp_path / "masks")
    if kind == "zip":
        path = packed(tmp_path / "masks.zip", one_png=(path / "one.png").read_bytes())
    with pytest.raises(ValueError, match="one.png has .* bytes. Expected: at most 50 bytes"):
        heatmaps.masks(path, ["one"], size=8, fit="crop")


def test_a_file_that_is_no_zip_is_named(tmp_path):
    (tmp_path / "masks.tar").write_bytes(b"x" * 600)
    with pytest.raises(
        ValueError,
        match="`gradcam.masks`: expected a folder or a zip of masks. Received: masks.tar, which is not a zip",
    ):
        heatmaps.masks(tmp_path / "masks.tar", ["one"], size=8, fit="crop")
