"""EfficientNet-Lite0: its features are those of the original in PyTorch."""

import math
from pathlib import Path

import numpy as np
import pytest

from lib.networks import checkpoints, efficientnet_lite
from lib.networks.backend import keras

REFERENCE = Path(__file__).parents[1] / "reference" / "efficientnet_lite0.npy"


@pytest.fixture(scope="module")
def network():
    return efficientnet_lite.EfficientNetLite0("imagenet", (224, 224, 3))


@pytest.fixture(scope="module")
def tensors():
    return checkpoints.load(efficientnet_lite.published_weights())


def test_features_lead_to_the_logits_of_the_original(network, tensors):
    """The original's features are not stored, but its logits; its last layer is in the checkpoint."""
    images = np.random.default_rng(0).uniform(-1, 1, size=(4, 224, 224, 3)).astype(np.float32)
    features = keras.ops.convert_to_numpy(network(images, training=False)).mean(axis=(1, 2))
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    expected = np.load(REFERENCE)
    assert expected.std() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_number_of_parameters(network, tensors):
    classes = tensors["_fc.weight"].size + tensors["_fc.bias"].size
    assert network.count_params() + classes == sum(tensor.size for tensor in tensors.values() if tensor.ndim)
    trainable = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    # as published, with the classes: 4.7 million
    assert trainable + classes == 4_652_008


def test_other_sizes(monkeypatch, tensors):
    monkeypatch.setattr(checkpoints, "load", lambda path: tensors)
    backbone = efficientnet_lite.EfficientNetLite0("imagenet", (None, None, 3))
    for height, width in ((32, 32), (96, 64), (100, 100)):
        features = backbone(np.zeros((1, height, width, 3), np.float32), training=False)
        assert features.shape == (1, -(-height // 32), -(-width // 32), 1280)
    np.testing.assert_array_equal(backbone.get_layer("stem_norm").gamma, tensors["_bn0.weight"])


def test_without_weights_it_is_random():
    keras.utils.set_random_seed(1)
    one = efficientnet_lite.EfficientNetLite0(None, (32, 32, 3))
    kernel = one.get_layer("stem_conv").get_weights()[0]
    assert np.abs(kernel).max() > 0 and (np.asarray(one.get_layer("stem_norm").moving_variance) == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda copy: copy.pop("_bn0.running_mean"), "tensor _bn0.running_mean must have the shape .*none"),
        (
            lambda copy: copy.update({"_blocks.3._bn1.weight": np.ones(3, np.float32)}),
            r"tensor _blocks.3._bn1.weight must have the shape \(144,\). Received: \(3,\)",
        ),
    ],
    ids=["a tensor is missing", "a tensor has another shape"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(monkeypatch, tensors, change, message):
    copy = dict(tensors)
    change(copy)
    monkeypatch.setattr(checkpoints, "load", lambda path: copy)
    with pytest.raises(ValueError, match=message):
        efficientnet_lite.EfficientNetLite0("imagenet", (32, 32, 3))
