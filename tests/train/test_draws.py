"""Random numbers: uniform, independent, and the same whatever else is drawn."""

import zlib

import numpy as np
import pytest
from scipy import stats

from lib.train.draws import Draws

COUNT = 20_000
ROWS = np.arange(COUNT)


def test_numbers_are_uniform_from_0_to_1():
    values = Draws(3, 1, ROWS).uniform("angle")
    assert values.dtype == np.float64 and values.shape == (COUNT,)
    assert 0 <= values.min() < 0.001 and 0.999 < values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 0.01
    signed = Draws(3, 1, ROWS).signed("angle")
    np.testing.assert_array_equal(signed, 2 * values - 1)


def test_the_numbers_of_a_photo_over_the_epochs_are_uniform():
    values = [Draws(3, epoch, np.array([7])).uniform("angle")[0] for epoch in range(2000)]
    assert stats.kstest(values, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    "other",
    [
        Draws(4, 1, ROWS).uniform("angle"),
        Draws(3, 2, ROWS).uniform("angle"),
        Draws(3, 1, ROWS + 1).uniform("angle"),
        Draws(3, 1, ROWS).uniform("scale"),
        # The seed and the epoch are not interchangeable.
        Draws(1, 3, ROWS).uniform("angle"),
    ],
    ids=["seed", "epoch", "row", "name", "swapped"],
)
def test_numbers_of_another_seed_epoch_row_or_name_are_independent(other):
    values = Draws(3, 1, ROWS).uniform("angle")
    assert not (values == other).any()
    # The correlation of 20,000 independent pairs exceeds 0.03 in 2 of 100,000 cases.
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_a_photo_has_the_same_numbers_in_any_batch():
    alone = [Draws(3, 1, np.array([row])).uniform("hue")[0] for row in (5, 2, 9)]
    np.testing.assert_array_equal(Draws(3, 1, np.array([5, 2, 9])).uniform("hue"), alone)
    np.testing.assert_array_equal(Draws(3, 1, np.arange(10)).uniform("hue")[[5, 2, 9]], alone)


def splitmix64(key, position=0):
    """The same with whole numbers of Python."""
    whole = 2**64 - 1
    value = (key + 0x9E3779B97F4A7C15 * (position + 1)) & whole
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & whole
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & whole
    return value ^ (value >> 31)


def test_numbers_are_those_of_splitmix64():
    # The first number that the published program returns for the seed 0.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    for row in (0, 10**9):
        key = splitmix64(splitmix64(splitmix64(42) ^ 3) ^ row)
        expected = (splitmix64(key, zlib.crc32(b"order")) >> 11) / 2**53
        assert Draws(42, 3, np.array([row])).uniform("order").tolist() == [expected]


def test_large_seeds_are_taken_without_a_warning():
    assert (Draws(2**31 - 1, 9999, np.array([2**40])).uniform("order") < 1).all()


def test_noise_has_all_levels_and_depends_on_the_photo():
    draws = Draws(3, 1, np.array([5, 2]))
    noise = draws.noise(0, (101, 33, 3))
    assert noise.shape == (101, 33, 3) and noise.dtype == np.uint8
    counts = np.bincount(noise.ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > 0.01
    np.testing.assert_array_equal(Draws(3, 1, np.array([2, 5])).noise(1, (101, 33, 3)), noise)
    assert (draws.noise(1, (101, 33, 3)) != noise).mean() > 0.99
    assert draws.noise(0, (0, 4, 3)).shape == (0, 4, 3)
