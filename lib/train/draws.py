"""Random numbers that depend only on the seed, the epoch and the photo.

They are counter-based: a number is a hash of its position instead of the successor of another number. Batch
size, number of threads and backend thus change nothing.
"""

import zlib

import numpy as np

# The increment of splitmix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2660193.2660195).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """The random numbers of some photos in one epoch.

    Args:
        seed, epoch: whole numbers from 0 up.
        rows: what identifies each photo, whole numbers from 0 up, of shape `(n,)`.
    """

    def __init__(self, seed: int, epoch: int, rows: np.ndarray):
        key: np.ndarray = np.array([seed], np.uint64)
        for value in (epoch, rows):
            key = _hash(key) ^ np.asarray(value, np.uint64)
        self._keys = _hash(key)

    def uniform(self, name: str) -> np.ndarray:
        """Return a number from 0 to 1 for each photo, `float64` of shape `(n,)`, 1 excluded.

        Args:
            name: the use of the numbers; those of different names are independent.
        """
        # The upper 53 bits, all that a float64 holds.
        return (_hash(self._keys, zlib.crc32(name.encode())) >> 11) * 2.0**-53

    def signed(self, name: str) -> np.ndarray:
        """Return a number from -1 to 1 for each photo, as `uniform`."""
        return 2 * self.uniform(name) - 1

    def noise(self, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return noise for the photo at a position in `rows`, `uint8` of the given shape, 0 to 255."""
        count = int(np.prod(shape))
        # A hash has eight bytes. The positions of names end at 2**32.
        positions = np.arange(2**32, 2**32 + -(-count // 8), dtype=np.uint64)
        return _hash(self._keys[index], positions).view(np.uint8)[:count].reshape(shape)


def _hash(keys: np.ndarray, position: int | np.ndarray = 0) -> np.ndarray:
    """Return the output of splitmix64 at a position of the sequences that start at the keys."""
    # Unlike numbers, arrays wrap around without a warning.
    values: np.ndarray = keys + GOLDEN * (np.atleast_1d(np.asarray(position, np.uint64)) + np.uint64(1))
    values = (values ^ (values >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> 27)) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> 31)
