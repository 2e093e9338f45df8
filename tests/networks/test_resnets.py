"""ResNet-18 and ResNeXt-101: their features are torchvision's, their weights arrive whole or not at all."""

import functools
import hashlib
import http.server
import math
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from reference import torchvision_resnets

from lib.core import schema
from lib.networks import backbones, backend, checkpoints, resnets
from lib.networks.backend import keras

REFERENCE = Path(__file__).parents[1] / "reference"
SLIM = partial(
    resnets.network, partial(resnets.bottleneck, groups=32, group_width=8), (1, 2, 1, 1), name="slim"
)


@functools.cache
def reference(case):
    """Return torchvision's features, and the weights that it computed them with."""
    with np.load(REFERENCE / f"{case}.npz") as stored:
        stored = dict(stored)
    shapes = [tuple(map(int, shape.split())) for shape in stored["shapes"].tolist()]
    names = stored["names"].tolist()
    tensors = {
        name: torchvision_resnets.tensor(name, shape) for name, shape in zip(names, shapes, strict=True)
    }
    return stored["features"], tensors


def assert_same_as_torchvision(network, case):
    expected, tensors = reference(case)
    resnets.assign(network, tensors)
    photo = torchvision_resnets.photo(torchvision_resnets.SIZES[case])
    # A graph fuses a convolution with the operations after it.
    for call in (network, backend.native.function(network)):
        np.testing.assert_allclose(call(photo, training=False), expected, rtol=0, atol=1e-4 * expected.std())
    trainable = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    others = sum(tensor.size for name, tensor in tensors.items() if "running" in name or "fc." in name)
    assert trainable == sum(tensor.size for tensor in tensors.values()) - others
    return trainable


@pytest.fixture(scope="module")
def resnet18():
    return resnets.ResNet18(None, (None, None, 3))


@pytest.mark.parametrize("case", ["resnet18", "resnet18_odd"])
def test_resnet18_is_that_of_torchvision(resnet18, case):
    assert assert_same_as_torchvision(resnet18, case) == 11_176_512


def test_a_short_resnext_is_that_of_torchvision():
    assert_same_as_torchvision(SLIM(input_shape=(64, 64, 3)), "resnext_slim")


@pytest.mark.slow
def test_resnext101_is_that_of_torchvision():
    network = resnets.ResNeXt101_32x8d(None, (None, None, 3))
    assert assert_same_as_torchvision(network, "resnext101") == 86_742_336


def test_weights_from_a_pytorch_file(monkeypatch):
    _, tensors = reference("resnet18")
    monkeypatch.setattr(checkpoints, "load", {"some.pth": tensors}.get)
    backbone = resnets.ResNet18("some.pth", (64, 96, 3))
    assert backbone.output_shape == (None, 2, 3, 512)
    np.testing.assert_array_equal(
        backbone.get_layer("layer4_1_bn2").moving_mean, tensors["layer4.1.bn2.running_mean"]
    )


def small(groups=4, group_width=4):
    block = partial(resnets.bottleneck, groups=groups, group_width=group_width)
    return resnets.network(block, (1,), input_shape=(16, 16, 3), name="small")


def test_random_weights_have_the_variance_that_he_et_al_give():
    network = small(groups=32, group_width=8)
    kernel = network.get_layer("layer1_0_conv2").get_weights()[0]
    assert kernel.shape == (3, 3, 8, 256)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.03)
    assert abs(kernel).max() > 3 * kernel.std()  # not truncated


def test_statistics_follow_the_photos_as_in_pytorch():
    network = small()
    photos = np.random.default_rng(0).normal(size=(4, 16, 16, 3))
    stem = keras.Model(network.inputs[0], network.get_layer("conv1").output)(photos)
    network(photos, training=True)
    mean = network.get_layer("bn1").moving_mean
    np.testing.assert_allclose(mean, 0.1 * np.mean(stem, axis=(0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer1.2.conv1.weight": np.ones((64, 64, 3, 3))},
            "has no tensor layer1.2.conv1.weight",
        ),
        (
            {"layer2.0.conv1.weight": np.ones((128, 64, 1, 1))},
            r"its tensor layer2.0.conv1.weight must have the shape \(128, 64, 3, 3\). "
            r"Received: \(128, 64, 1, 1\)",
        ),
        ({"layer4.0.downsample.1.bias": None}, "its tensor layer4.0.downsample.1.bias must .*none"),
    ],
    ids=["ResNet-34", "ResNet-50", "a tensor is missing"],
)
def test_a_checkpoint_of_another_network(resnet18, change, message):
    tensors = reference("resnet18")[1] | change
    with pytest.raises(ValueError, match=message):
        resnets.assign(resnet18, {name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_weights_that_keras_saved(monkeypatch, tmp_path):
    networks = iter([small(), small()])
    monkeypatch.setattr(resnets, "network", lambda *_, **__: next(networks))
    saved = resnets.ResNet18(None, (16, 16, 3))
    saved.save_weights(tmp_path / "mine.weights.h5")
    loaded = resnets.ResNet18(str(tmp_path / "mine.weights.h5"), (16, 16, 3))
    for one, other in zip(loaded.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("native", [True, False], ids=["TensorFlow computes the groups", "XLA does"])
def test_grouped_convolutions_learn(monkeypatch, native):
    """One step of gradient descent; its gradient is compared with a difference of losses."""
    if not native:
        monkeypatch.setattr(backend, "_has_native_groups", lambda: False)
    keras.utils.set_random_seed(0)
    backbone = small()
    classes = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(backbone.output))
    network = keras.Model(backbone.inputs[0], classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.1), loss)
    photos, targets = np.random.default_rng(0).normal(size=(8, 16, 16, 3)), np.arange(8) % 2
    start = network.get_weights()
    network.train_on_batch(photos, targets)
    grouped = network.get_layer("layer1_0_conv2")
    index = next(i for i, weight in enumerate(network.weights) if weight is grouped.kernel)
    gradient = (start[index] - network.get_weights()[index]) / 0.1
    assert gradient.shape == (3, 3, 4, 16)
    assert (abs(gradient).reshape(-1, 4, 4).max(axis=(0, 2)) > 1e-5).all()  # each group learns

    @backend.native.function
    def loss_of():
        return loss(targets, network(photos, training=True))

    def loss_at(step):
        network.set_weights(start)
        grouped.kernel.assign(start[index] + step * gradient)
        return float(loss_of())

    step = 1e-2 / np.linalg.norm(gradient)
    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert slope == pytest.approx((gradient**2).sum(), rel=0.03)


def compiled(network):
    """Return whether XLA compiles a part of the network."""
    graph = (
        backend.native.function(network)
        .get_concrete_function(backend.native.TensorSpec((1, 16, 16, 3)))
        .graph
    )
    return any("_XlaMustCompile" in node.attr for node in graph.as_graph_def().node)


def test_a_network_that_was_loaded_computes_its_groups_natively(monkeypatch, tmp_path):
    built = keras.Sequential([keras.Input((16, 16, 3)), small()])
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    photos = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    expected = built(photos, training=False)
    assert compiled(loaded)  # by Keras
    np.testing.assert_allclose(loaded(photos, training=False), expected, rtol=1e-4, atol=1e-5)
    assert resnets.compute_groups_natively(loaded) is loaded
    assert compiled(loaded) != backend._has_native_groups() and compiled(loaded) == compiled(built)
    np.testing.assert_allclose(loaded(photos, training=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", ["an error", "other numbers"])
def test_groups_are_left_to_keras_where_tensorflow_cannot(monkeypatch, wrong):
    right = backend.native.nn.convolution

    def convolution(*given):
        if wrong == "an error":
            raise backend.native.errors.InvalidArgumentError(
                None, None, "Gradients for grouped convolutions are not supported"
            )
        return right(*given) * 1.1

    monkeypatch.setattr(backend.native.nn, "convolution", convolution)
    assert not backend._has_native_groups.__wrapped__()


def test_the_last_layers_learn(resnet18):
    layers = backbones.trainable_layers(resnet18, "last 30 layers")
    names = [layer.name for layer in layers]
    assert (
        len(layers) == 30
        and names[-1] == "layer4_1_relu"
        and "layer4_0_conv1" in names
        and "conv1" not in names
    )


# Downloads, from a server on this machine


class Server:
    """Gives files and counts how often it is asked."""

    def __init__(self):
        self.files, self.asked, self.longer = {}, [], 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                content = server.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"") + server.longer))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/models/"


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    monkeypatch.setattr(resnets, "ADDRESS", server.address)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server.http:
        yield server
        server.http.shutdown()


CONTENT = b"weights" * 1000
FILE = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


def kept(tmp_path):
    return sorted(path.name for path in tmp_path.glob("keras/models/*"))


def test_a_file_is_downloaded_once(server, tmp_path):
    server.files[f"/models/{FILE}"] = CONTENT
    for _ in range(2):
        path = resnets.download(FILE)
        assert path == tmp_path / "keras/models" / FILE and path.read_bytes() == CONTENT
    assert server.asked == [f"/models/{FILE}"] and kept(tmp_path) == [FILE]


def test_half_a_file_of_an_earlier_download_is_replaced(server, tmp_path):
    server.files[f"/models/{FILE}"] = CONTENT
    (tmp_path / "keras/models").mkdir(parents=True)
    (tmp_path / "keras/models" / FILE).write_bytes(CONTENT[:-1])
    assert resnets.download(FILE).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "longer", "message"),
    [
        (b"<html>Log in</html>", 0, "differs from its name"),
        (CONTENT[:-7], 7, "retrieval incomplete"),
        (None, 0, "404"),
    ],
    ids=["something else", "cut off", "not there"],
)
def test_a_file_with_another_hash_is_removed(server, tmp_path, content, longer, message):
    server.files[f"/models/{FILE}"], server.longer = content, longer
    with pytest.raises(ValueError, match=f"fetch failure: .*{server.address}{FILE}.*{message}"):
        resnets.download(FILE)
    assert kept(tmp_path) == []


def test_a_failed_download_of_weights_has_advice(server):
    with pytest.raises(
        ValueError,
        match="the ImageNet weights of ResNet18 could not be downloaded: "
        ".*resnet18-f37072fd.pth.*WEIGHTS=file",
    ):
        backbones.build(schema.Model(backbone="ResNet18", weights="imagenet", image_size=32))


@pytest.mark.parametrize(
    ("name", "file"), [("ResNet18", "resnet18"), ("ResNeXt101_32x8d", "resnext101_32x8d")]
)
def test_the_published_weights_are_those_of_the_network(monkeypatch, name, file):
    asked = []
    monkeypatch.setattr(resnets, "network", lambda *_, **given: given["name"])
    monkeypatch.setattr(resnets, "download", lambda file: asked.append(file))
    monkeypatch.setattr(checkpoints, "load", lambda path: {})
    monkeypatch.setattr(resnets, "assign", lambda model, tensors: asked.append(model))
    getattr(resnets, name)("imagenet", (32, 32, 3))
    assert asked[0].startswith(f"{file}-") and asked[1] == file
