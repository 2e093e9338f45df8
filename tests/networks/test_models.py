"""The network: built as the parameters say, and saved so that TensorFlow alone can use it."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from shared import ENGINES

from lib.core import schema
from lib.networks import backbones, backend, cards, models
from lib.networks.backend import keras

SIZE = 32
HEAD = {
    "pool": {"layer": "max_pooling"},
    "norm": {"layer": "batch_normalization"},
    "wide": {"layer": "dense", "units": 6, "activation": "relu", "l2": 0.01},
    "drop": {"layer": "dropout", "rate": 0.4},
    "classes": {"layer": "dense", "l2": 0.02},
}


def Tiny(weights, input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(x))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Tiny, backbones.CAFFE))


def settings(**change):
    return schema.Model.model_validate({"backbone": "Tiny", "weights": None, "image_size": SIZE, **change})


def build(classes=3, seed=1, **change):
    return models.build(settings(**change), classes=classes, seed=seed)


def pixels(count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.backend
def test_from_pixels_to_probabilities():
    network = build()
    assert network.input_shape == (None, SIZE, SIZE, 3) and network.output_shape == (None, 3)
    probabilities = keras.ops.convert_to_numpy(network(pixels(), training=False))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    logits = keras.Model(network.inputs, network.get_layer(models.LOGITS).output)(pixels(), training=False)
    softmax = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(probabilities, softmax, atol=1e-6)


def test_the_head_is_built_in_order():
    network = build(head=HEAD)
    names = [layer.name for layer in network.layers]
    assert names[-7:] == [
        "backbone",
        "head_pool",
        "head_norm",
        "head_wide",
        "head_drop",
        "logits",
        "probabilities",
    ]
    pool, norm, wide, drop, logits, _ = network.layers[-6:]
    assert [type(layer).__name__ for layer in (pool, norm)] == ["GlobalMaxPooling2D", "BatchNormalization"]
    assert (wide.units, wide.activation.__name__, float(wide.kernel_regularizer.l2)) == (
        6,
        "relu",
        pytest.approx(0.01),
    )
    assert drop.rate == 0.4
    assert (logits.units, logits.activation.__name__, float(logits.kernel_regularizer.l2)) == (
        3,
        "linear",
        pytest.approx(0.02),
    )


@pytest.mark.parametrize(
    ("layer", "kind"), [("average_pooling", "GlobalAveragePooling2D"), ("flatten", "Flatten")]
)
def test_other_ways_from_the_feature_map(layer, kind):
    network = build(head={"first": {"layer": layer}, "classes": {"layer": "dense"}})
    assert type(network.get_layer("head_first")).__name__ == kind
    assert network.get_layer(models.LOGITS).kernel_regularizer is None


def test_a_layer_set_to_null_is_left_out():
    network = build(head={name: layer for name, layer in HEAD.items() if name not in ("norm", "drop")})
    assert [layer.name for layer in network.layers][-5:] == [
        "backbone",
        "head_pool",
        "head_wide",
        "logits",
        "probabilities",
    ]


MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.15]
SCALED = {
    "backbone": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "unit": lambda x: x / 255,
    "measured": lambda x: (x / 255 - np.array(MEAN)) / np.array(STD),
}


@pytest.mark.parametrize("scaling", SCALED)
def test_scaling(scaling):
    network = models.build(settings(scaling=scaling), classes=3, seed=1, statistics=(MEAN, STD))
    seen = backend.outputs(keras.Model(network.inputs, network.get_layer("scaling").output), pixels())
    np.testing.assert_allclose(seen, SCALED[scaling](pixels()), atol=1e-4)
    inner = keras.Model(network.get_layer(models.BACKBONE).inputs, network.get_layer(models.BACKBONE).outputs)
    whole = keras.Model(network.inputs, network.get_layer("head_pool").input)
    np.testing.assert_allclose(whole(pixels(), training=False), inner(seen, training=False), atol=1e-3)


def test_measured_scaling_without_measurements_is_refused():
    with pytest.raises(
        ValueError, match="measured requires the mean and standard deviation.*`training.network`"
    ):
        build(scaling="measured")


def test_the_number_of_parameters_is_at_most_the_limit():
    count = build().count_params()
    assert build(max_parameters=count).count_params() == count
    with pytest.raises(ValueError, match=f"at most {count - 1:,} parameters. Received: {count:,}, with Tiny"):
        build(max_parameters=count - 1)


def test_the_seed_decides_the_weights():
    assert models.weights_sha256(build()) == models.weights_sha256(build())
    assert models.weights_sha256(build()) != models.weights_sha256(build(seed=2))


@pytest.mark.parametrize(
    ("weights", "mode", "part", "learn"),
    [
        (True, "inference", "all", ["conv"]),
        (True, "train", "all", ["conv", "norm"]),
        (False, "inference", "all", ["conv", "norm"]),
        (True, "inference", "none", []),
        (False, "train", "none", []),
        (False, "train", "last 1 layers", ["norm"]),
    ],
)
def test_the_trainable_layers(tmp_path, weights, mode, part, learn):
    (tmp_path / "w").touch()
    chosen = settings(weights=str(tmp_path / "w") if weights else None, batch_normalization=mode)
    network = models.build(chosen, classes=3, seed=0)
    models.unfreeze(network, "all", settings=chosen)  # replaces the earlier setting
    models.unfreeze(network, part, settings=chosen)
    backbone = network.get_layer(models.BACKBONE)
    assert [layer.name for layer in backbone.layers if layer.trainable and layer.weights] == learn
    assert network.get_layer(models.LOGITS).trainable
    before = np.asarray(backbone.get_layer("norm").moving_mean).copy()
    network(pixels(), training=True)
    assert (np.asarray(backbone.get_layer("norm").moving_mean) != before).any() == ("norm" in learn)


def test_trainable_parameters_are_counted_for_each_stage():
    network = build()
    run = schema.Params.model_validate(
        {
            "name": "x",
            "source": {"kind": "sample"},
            "model": settings().model_dump(),
            "train": {
                "stages": {
                    "a": {"trainable": "none", "epochs": 1, "learning_rate": 0.1},
                    "b": {"trainable": "all", "epochs": 2, "learning_rate": 0.2},
                }
            },
        }
    )
    table = models.learning(network, run)
    # the head has 4 x 3 + 3, the convolution 3 x 3 x 3 x 4 + 4, the normalisation 2 x 4 that learn
    assert table.parameters.tolist() == [15, 15 + 112 + 8]
    assert table.index.tolist() == ["a", "b"] and table.epochs.tolist() == [1, 2]


# Files


PARAMETERS = {"seed": 1, "source.class_names": None, "train": {"batch_size": 2}}


def publish(network, folder, *, temperature=1.25, class_names=("a", "b", "c"), **change):
    return models.publish(
        network,
        folder,
        settings=settings(**change),
        classes=["a", "b", "c"],
        class_names=list(class_names),
        training="key",
        batch_size=32,
        temperature=temperature,
        parameters=PARAMETERS,
    )


@pytest.mark.backend
def test_publish_writes_the_model_and_its_card(tmp_path):
    network = build()
    card = publish(network, tmp_path, temperature=1.23456)
    assert card == cards.load(tmp_path / "model.json")
    assert (card["backbone"], card["size"], card["resize"], card["fit"]) == ("Tiny", SIZE, SIZE, "crop")
    assert (card["classes"], card["training"], card["temperature"]) == (["a", "b", "c"], "key", 1.2346)
    assert card["parameter_count"] == network.count_params()
    assert card["weights_sha256"] == models.weights_sha256(network)
    assert card["parameters"] == PARAMETERS
    assert publish(network, tmp_path, resize=48)["resize"] == 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.keras"]


def test_publish_replaces_a_model_that_its_card_does_not_describe(tmp_path):
    network, other = build(), build(seed=2)
    publish(network, tmp_path)
    models.save(other, tmp_path / "model.keras")
    card = publish(network, tmp_path)
    assert models.weights_sha256(models.load(tmp_path / "model.keras", card)) == card["weights_sha256"]


def test_a_model_is_the_one_that_its_card_describes(tmp_path):
    network = build()
    card = publish(network, tmp_path)
    loaded = models.load(tmp_path / "model.keras", card)
    np.testing.assert_allclose(loaded(pixels(), training=False), network(pixels(), training=False), atol=1e-6)
    network.get_layer(models.LOGITS).bias.assign([0.0, 0.0, 1e-6])
    models.save(network, tmp_path / "model.keras")
    with pytest.raises(
        ValueError, match="model.keras is not the model that model.json describes: run 03_train again"
    ):
        models.load(tmp_path / "model.keras", card)


@pytest.mark.parametrize(
    ("scaling", "sentence"),
    [
        ("backbone", "as the published weights of Tiny expect it"),
        ("unit", "pixels / 255"),
        ("measured", "(pixels / 255 - mean) / standard_deviation of the training photos, per channel"),
    ],
)
def test_the_card_describes_the_scaling(tmp_path, scaling, sentence):
    measured = [1 / 3, 0.4, 0.5], [0.2, 0.25, 2 / 7]
    network = models.build(settings(scaling=scaling), classes=3, seed=1, statistics=measured)
    card = publish(network, tmp_path, scaling=scaling)
    assert card["scaling"] == sentence
    numbers = {"mean": [0.333333, 0.4, 0.5], "standard_deviation": [0.2, 0.25, 0.285714]}
    assert {name: card[name] for name in numbers if name in card} == (
        numbers if scaling == "measured" else {}
    )


def test_the_card_holds_the_names_of_the_classes(tmp_path):
    card = publish(build(), tmp_path, class_names=["ox", "cat", "owl"])
    assert (card["classes"], card["class_names"]) == (["a", "b", "c"], ["ox", "cat", "owl"])


@pytest.fixture
def mixed():
    """The precision of a GPU."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def precisions(network):
    """Return the precision of every layer that computes, in a network and in the networks inside it."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from precisions(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer.dtype_policy.name


def test_a_model_trained_in_16_bits_is_saved_in_32(mixed, tmp_path):
    network = models.build(settings(head=HEAD, scaling="measured"), classes=3, seed=1, statistics=(MEAN, STD))
    network.compile(keras.optimizers.SGD(0.01), keras.losses.CategoricalCrossentropy())
    network.train_on_batch(pixels(4), np.eye(3)[[0, 1, 2, 0]])
    models.unfreeze(network, "none", settings=settings())
    before = list(precisions(network))
    models.save(network, tmp_path / "model.keras")
    assert "mixed_float16" in before and list(precisions(network)) == before
    assert keras.mixed_precision.global_policy().name == "mixed_float16"
    loaded = models.read(tmp_path / "model.keras")
    assert set(precisions(loaded)) == {"float32"}
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in network.layers]
    assert models.weights_sha256(loaded) == models.weights_sha256(network)
    expected = keras.ops.convert_to_numpy(network(pixels(), training=False))
    assert expected.std() > 0.01
    np.testing.assert_allclose(loaded(pixels(), training=False), expected, atol=1e-3)
    keras.mixed_precision.set_global_policy("float32")
    exact = models.read(tmp_path / "model.keras")(pixels(), training=False)
    np.testing.assert_allclose(loaded(pixels(), training=False), exact, atol=1e-6)


@pytest.mark.parametrize("name", ["EfficientNetLite0", "ResNet18", "MobileNetV3Small", "ConvNeXtTiny"])
def test_backbones_that_were_built_in_16_bits_are_copied_in_32(mixed, name):
    """Their layers are of other kinds: in groups, by depth, scaled by weights, operations without a layer."""
    network = models.build(settings(backbone=name), classes=3, seed=1)
    copy = models.in_float32(network)
    assert set(precisions(copy)) == {"float32"} != set(precisions(network))
    assert models.weights_sha256(copy) == models.weights_sha256(network)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_saved_model_needs_keras_only_and_predicts_the_same_on_each_backend(tmp_path, engine):
    network = models.build(settings(head=HEAD, scaling="measured"), classes=3, seed=1, statistics=(MEAN, STD))
    models.save(network, tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels())
    code = """
        import sys
        sys.modules["lib"] = None  # importing it would fail
        import numpy as np, keras
        model = keras.models.load_model("model.keras", compile=False, safe_mode=True)
        probabilities = model(np.load("pixels.npy"), training=False)
        np.save("probabilities.npy", keras.ops.convert_to_numpy(probabilities))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": engine},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"), backend.outputs(network, pixels()), atol=1e-5
    )


@pytest.mark.backend
def test_code_in_a_model_file_is_refused(tmp_path):
    inputs = keras.Input((2,))
    mark = tmp_path / "was run"
    network = keras.Model(
        inputs,
        keras.layers.Lambda(
            lambda x, path=str(mark): __import__("pathlib").Path(path).touch() or x, output_shape=(2,)
        )(inputs),
    )
    mark.unlink(missing_ok=True)
    network.save(tmp_path / "code.keras")
    mark.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"[Ll]ambda"):
        models.read(tmp_path / "code.keras")
    assert not mark.exists()
