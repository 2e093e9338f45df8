"""Backbones by name: each gets its pixels as its weights expect them, and mistakes are explained."""

import inspect
import sys

import numpy as np
import pytest

from lib import prerequisites
from lib.core import schema
from lib.networks import backbones, backend, weights_files
from lib.networks.backend import keras

# The constructors of all models of keras.applications.
CONSTRUCTORS = {
    name: function
    for name, function in inspect.getmembers(keras.applications, inspect.isfunction)
    if name[0].isupper()
}
OWN = ["EfficientNetLite0", "ResNet18", "ResNeXt101_32x8d", "SimpleCNN"]


def build(name, *, weights=None, image_size=64, **simple_cnn):
    settings = {"backbone": name, "weights": weights, "image_size": image_size, "simple_cnn": simple_cnn}
    return backbones.build(schema.Model.model_validate(settings))


def pixels():
    return np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)


def scaled(name):
    inputs = keras.Input((4, 4, 3))
    return backend.outputs(keras.Model(inputs, backbones.scale(inputs, name)), pixels())


def test_the_registry_holds_every_model_of_keras_applications():
    assert sorted(backbones.REGISTRY) == sorted([*OWN, *CONSTRUCTORS])
    assert len(CONSTRUCTORS) > 30


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_scaling_is_that_of_the_family(name):
    family = sys.modules[CONSTRUCTORS[name].__module__]
    expected = family.preprocess_input(pixels().copy())
    np.testing.assert_allclose(scaled(name), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_model_of_keras_applications_has_no_classes_and_scales_as_published(name):
    """The published weights of some families belong to the network with its own scaling inside."""
    build = backbones.REGISTRY[name].build
    assert (build.func, build.keywords) == (CONSTRUCTORS[name], {"include_top": False})
    scales_itself = inspect.signature(CONSTRUCTORS[name]).parameters.get("include_preprocessing")
    assert scales_itself is None or scales_itself.default is True


def test_scaling_of_our_own():
    np.testing.assert_allclose(scaled("EfficientNetLite0"), (pixels() - 127) / 128, atol=1e-5)
    np.testing.assert_allclose(scaled("SimpleCNN"), pixels() / 255, atol=1e-6)
    torch = (pixels() / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    for name in ("ResNet18", "ResNeXt101_32x8d"):
        np.testing.assert_allclose(scaled(name), torch, atol=1e-5)


def test_a_network_that_scales_itself_still_does():
    """The published weights of MobileNetV3 belong to the network with its own scaling inside."""
    photos = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    inputs = keras.Input((64, 64, 3))
    ours = build("MobileNetV3Small", weights=None, image_size=64)
    whole = keras.Model(inputs, ours(backbones.scale(inputs, "MobileNetV3Small")))
    theirs = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(64, 64, 3))
    theirs.set_weights(ours.get_weights())
    expected = theirs(keras.applications.mobilenet_v3.preprocess_input(photos), training=False)
    np.testing.assert_allclose(whole(photos, training=False), expected, atol=1e-3 * np.std(expected))


def network(count=10):
    inputs = keras.Input((4,))
    x = inputs
    for _ in range(count - 1):
        x = keras.layers.Activation("linear")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("none", 0),
        ("all", 10),
        ("last 3 layers", 3),
        ("last 99 layers", 10),
        ("last 40 %", 4),
        ("last 25 %", 2),
        ("last 36.5 %", 4),
        ("last 100 %", 10),
        ("last 0 %", 0),
        ("last 4 %", 0),
    ],
)
def test_the_last_layers_learn(part, count):
    backbone = network()
    assert backbones.trainable_layers(backbone, part) == backbone.layers[10 - count :]


@pytest.mark.parametrize(
    ("name", "near"),
    [("MobilNetV2", "MobileNetV2"), ("efficientnetlite0", "EfficientNetLite0"), ("ResNet-50", "ResNet50")],
)
def test_an_unknown_name_suggests_a_known_one(name, near):
    with pytest.raises(
        ValueError,
        match=f"`model.backbone` must be a .*Received: {name}. Similar names: .*{near}",
    ):
        build(name, weights=None, image_size=64)


def test_an_unknown_name_without_similar_names():
    with pytest.raises(ValueError, match="Similar names: none"):
        backbones.scale(None, "qqqqqq")


@pytest.fixture
def failing(monkeypatch):
    """A function that lets the constructor of MobileNetV2 raise an error."""

    def fail(error):
        def construct(weights, input_shape):
            raise error

        entry = backbones.Backbone(construct, backbones.SIGNED)
        monkeypatch.setitem(backbones.REGISTRY, "MobileNetV2", entry)

    return fail


def test_a_failed_download_of_weights_has_advice(failing):
    error = Exception(
        "URL fetch failure on https://storage.googleapis.com/x.h5: None -- "
        "[Errno -2] Name or service not known"
    )
    failing(error)
    with pytest.raises(
        ValueError,
        match="MobileNetV2 could not be downloaded: URL fetch failure on https"
        ".*`WEIGHTS=file`.*`model.backbone=EfficientNetLite0`, whose weights come with the packages",
    ):
        build("MobileNetV2", weights="imagenet", image_size=64)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
        ValueError("Incomplete or corrupted file detected"),
    ],
)
def test_an_interrupted_download_has_advice(failing, error):
    failing(error)
    with pytest.raises(ValueError, match=f"MobileNetV2 could not be downloaded: {error}. Set a file"):
        build("MobileNetV2", weights="imagenet")
    with pytest.raises(ValueError, match=f"MobileNetV2 at 64 pixels could not be built: {error}"):
        build("MobileNetV2")


def test_a_backbone_of_our_own_is_one_entry(monkeypatch):
    def Tiny(weights, input_shape):
        inputs = keras.Input(input_shape)
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, 4)(inputs))

    scaling = backbones.Scaling(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0), bgr=True)
    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Tiny, scaling))
    assert build("Tiny", image_size=64).output_shape == (None, 16, 16, 2)
    expected = (pixels()[..., ::-1] - np.array([1, 2, 3])) / np.array([2, 4, 8])
    np.testing.assert_allclose(scaled("Tiny"), expected, atol=1e-5)


def test_simple_cnn_is_shaped_by_the_parameters():
    backbone = build("SimpleCNN", image_size=48, blocks=3, filters=5, kernel=7)
    assert backbone.output_shape == (None, 6, 6, 5)
    assert backbone.get_layer("block1_conv").kernel.shape == (7, 7, 3, 5)
    with pytest.raises(
        ValueError, match="SimpleCNN at 64 pixels could not be built: .*`model.weights` to null"
    ):
        build("SimpleCNN", weights="imagenet")


def test_the_schema_lists_every_backbone():
    assert sorted(schema.BACKBONES) == sorted(backbones.REGISTRY)
    assert set(weights_files.SUFFIXES) <= set(schema.BACKBONES)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_the_smallest_size_of_each_model_is_known(name):
    smallest = prerequisites.MINIMUM_SIZES.get(name, 32)
    with pytest.raises(ValueError, match=f"must be at least {smallest}x{smallest}"):
        CONSTRUCTORS[name](include_top=False, weights=None, input_shape=(smallest - 1, smallest - 1, 3))


def test_an_unsuitable_size_is_an_error():
    with pytest.raises(ValueError, match="InceptionV3 at 32 pixels could not be built: .*75"):
        build("InceptionV3", weights=None, image_size=32)


def test_a_missing_file_of_weights(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="`model.weights`: the file .*none.h5 does not exist. Expected: imagenet, null or the path",
    ):
        build("MobileNetV2", weights=str(tmp_path / "none.h5"), image_size=64)


def test_a_file_that_is_not_one_of_weights(tmp_path):
    (tmp_path / "text.weights.h5").write_text("not found")
    with pytest.raises(
        ValueError, match="MobileNetV2 at 32 pixels could not be built from text.weights.h5: "
    ):
        build("MobileNetV2", weights=str(tmp_path / "text.weights.h5"), image_size=32)


def test_a_file_of_weights_of_another_network(tmp_path):
    network().save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(
        ValueError, match="MobileNetV2 at 32 pixels could not be built from other.weights.h5: "
    ):
        build("MobileNetV2", weights=str(tmp_path / "other.weights.h5"), image_size=32)


def test_weights_from_a_file_arrive(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    random = build("MobileNetV2", weights=None, image_size=32)
    random.save_weights(tmp_path / "mine.weights.h5")
    loaded = build("MobileNetV2", weights="~/mine.weights.h5", image_size=32)
    for one, other in zip(loaded.get_weights(), random.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_identity_of_weights_is_their_content(tmp_path):
    assert backbones.weights_identity(None) is None and backbones.weights_identity("imagenet") == "imagenet"
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (backbones.weights_identity(str(tmp_path / name)) for name in "abc")
    assert one == same != other
