"""SimpleCNN: it computes its blocks, and mistakes are explained."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from lib.core import schema
from lib.networks import simple_cnn


def build(input_shape, *, weights=None, **options):
    return simple_cnn.SimpleCNN(weights, input_shape, options=schema.SimpleCNN(**options))


def block(photo, kernel, bias):
    """Compute a block in NumPy: convolution with zeros around, ReLU, the maximum of each 2 x 2."""
    maps = [
        sum(correlate2d(photo[..., k], kernel[..., k, out], mode="same") for k in range(photo.shape[-1]))
        for out in range(kernel.shape[-1])
    ]
    x = np.maximum(np.stack(maps, axis=-1) + bias, 0)
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    return x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max(axis=(1, 3))


@pytest.mark.parametrize("kernel", [3, 5])
def test_it_computes_its_blocks(kernel):
    network = build((11, 8, 3), blocks=2, filters=4, kernel=kernel)
    draw = np.random.default_rng(kernel)
    network.set_weights([draw.normal(size=weight.shape) for weight in network.get_weights()])
    photo = draw.normal(size=(11, 8, 3))
    one, one_bias, two, two_bias = network.get_weights()
    expected = block(block(photo, one, one_bias), two, two_bias)
    assert expected.shape == (2, 2, 4) and expected.max() > 0
    np.testing.assert_allclose(network(photo[None], training=False)[0], expected, rtol=1e-4, atol=1e-4)


def test_its_size_as_the_parameters_have_it_by_default():
    network = build((224, 224, 3))
    assert network.output_shape == (None, 14, 14, 32)
    assert network.count_params() == (27 * 32 + 32) + 3 * (9 * 32 * 32 + 32)
    kernel = network.get_layer("block4_conv").get_weights()[0]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.05)  # He et al.: 2 / fan-in


def test_photos_too_small_for_the_blocks():
    assert build((32, 40, 3), blocks=5).output_shape == (None, 1, 1, 32)
    with pytest.raises(
        ValueError, match="6 blocks .*`model.image_size` of at least 64, .*blocks` of at most 5"
    ):
        build((32, 40, 3), blocks=6)


def test_there_are_no_published_weights():
    with pytest.raises(ValueError, match="SimpleCNN has no ImageNet weights: set `model.weights` to null"):
        build((32, 32, 3), weights="imagenet")


def test_weights_from_a_file(tmp_path):
    path = str(tmp_path / "mine.weights.h5")
    saved = build((16, 16, 3), blocks=2, filters=4)
    saved.save_weights(path)
    loaded = build((32, 32, 3), weights=path, blocks=2, filters=4)
    for one, other in zip(loaded.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for other in ({"blocks": 3, "filters": 4}, {"blocks": 2, "filters": 5}, {"blocks": 2, "kernel": 5}):
        with pytest.raises(ValueError):
            build((16, 16, 3), weights=path, **other)
