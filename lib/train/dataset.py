"""Feed photos to the network: batches that depend only on the seed and on their number.

Threads prepare the next batches with NumPy and OpenCV while the network computes, on any backend of Keras.
"""

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from lib.core.schema import Augment
from lib.networks.backend import keras
from lib.photos import decoding
from lib.train import augmentation
from lib.train.draws import Draws

THREADS = min(os.cpu_count() or 1, 8)
ALL = slice(None)


class Batches(keras.utils.PyDataset):
    """Batches by number, of which threads prepare the next few ahead of their use.

    Pass them to Keras's `fit` and `evaluate`, read them in a loop, or read a single batch, as `batches[3]`.
    Besides the batch in use, at most `threads` batches are in memory, and a few copies in TensorFlow's own
    queue during `fit`. A `with` block ends the threads, and keeps OpenCV from starting more of its own.

    Args:
        make: returns the batch of a number from 0 up; called in several threads.
        count: the number of batches; `None` if they never end.
        sizes: for `filled`, the number of photos in each batch of an epoch. `make` then takes the positions
            of photos in the batch as a second argument, and returns only these.
        threads: the number of threads.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        count: int | None = None,
        sizes: Sequence[int] = (),
        threads: int = THREADS,
    ):
        super().__init__()
        self.make, self.count, self.sizes, self.threads = make, count, sizes, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._prepared: dict[int, Future] = {}
        self._lock, self._exits = threading.Lock(), contextlib.ExitStack()
        self._error: Exception | None = None

    @property
    def num_batches(self) -> int | None:
        """The number of batches, by the name that Keras uses."""
        return self.count

    def __getitem__(self, number: int) -> Any:
        """Return a batch, and begin to prepare those that follow.

        Raises:
            IndexError: there are fewer batches.
        """
        end = number + self.threads + 1
        window = range(number, end if self.count is None else min(end, self.count))
        if not window:
            raise IndexError(f"there are {self.count} batches. Received: number {number}")
        with self._lock:
            for other in set(self._prepared).difference(window):
                self._prepared.pop(other).cancel()
            for other in window:
                if other not in self._prepared:
                    self._prepared[other] = self._pool.submit(self.make, other)
            batch = self._prepared.pop(number)
        try:
            return batch.result()
        except Exception as error:
            self._error = error
            raise

    def __enter__(self) -> Self:
        self._exits.enter_context(decoding.single_thread())
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """End the threads; raise the error of a batch itself instead of that in which TensorFlow wraps it."""
        self._exits.close()
        self._pool.shutdown(cancel_futures=True)
        original, self._error = self._error, None
        if original and error is not original and str(original) in str(error):
            raise original from None


def training(
    images: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    targets: Sequence[int] | np.ndarray,
    size: int,
    class_weights: Sequence[float] | np.ndarray,
    settings: Augment | None,
    batch_size: int,
    parts: int = 1,
    smallest: int = 1,
    seed: int,
    first_epoch: int = 0,
    threads: int = THREADS,
) -> Batches:
    """Return the endless training batches.

    The order of the photos depends on the seed and the epoch, and the changes of a photo on these and its row
    only. Batches from epoch 7 on are thus those that follow when batches begin at epoch 0: an interrupted
    training continues with the batches that it would have seen. With MixUp, photos are blended in the pairs
    that follow one another in the order of the epoch.

    Args:
        images: `uint8` of shape `(all, side, side, 3)`, RGB, or `float32` embeddings of shape
            `(all, channels)`; a memory map is read a row at a time.
        rows: the rows of `images` to train on.
        targets: the class of each of these, from 0.
        size: side of the photos in the batches, in pixels, at most that of `images`.
        class_weights: weight of each class in the loss.
        settings: the random changes; `None` for none, which embeddings need.
        batch_size, parts, smallest: see `bounds`.
        seed: a whole number from 0 up.
        first_epoch: the epoch of the first batch, from 0.
        threads: the number of threads; it does not change the batches.

    Returns:
        Batches `(photos, labels, weights)`: `float32` `(n, size, size, 3)` from 0 to 255, or embeddings,
        `float32` `(n, classes)` one-hot or blended, `float32` `(n,)`. The mean of the weighted losses over
        the batches of a step is the mean over its photos.
    """
    # A plain view: the rows of a memory map are slow to make.
    images, rows, targets = np.asarray(images), np.asarray(rows), np.asarray(targets)
    weights = np.asarray(class_weights, np.float32)
    slices = bounds(len(rows), batch_size, parts=parts, smallest=smallest)
    pairs = settings is not None and settings.mixup > 0

    order_of = functools.lru_cache(2)(functools.partial(order, seed, rows))

    def make(number: int, chosen: np.ndarray | slice = ALL) -> tuple[np.ndarray, ...]:
        epoch, (start, end, factor) = first_epoch + number // len(slices), slices[number % len(slices)]
        needed = np.arange(start, end)[chosen]
        own: np.ndarray | slice = ALL
        if pairs:
            # The other photo of a pair is needed too, even if it is in another batch or process.
            positions, needed = needed, np.unique([needed & ~1, needed | 1])
            needed = needed[needed < len(rows)]
            own = np.searchsorted(needed, positions)
        picks = order_of(epoch)[needed]
        labels = one_hot(targets[picks], len(weights))
        if settings is None:
            photos = images[rows[picks]].astype(np.float32, copy=False)
        else:
            draws = Draws(seed, epoch, rows[picks])
            photos = augmentation.images(images, rows[picks], settings=settings, draws=draws, size=size)
            if pairs:
                photos, labels = augmentation.mixup(photos, labels, alpha=settings.mixup, draws=draws)
        return photos[own], labels[own], factor * (labels[own] @ weights)

    return Batches(make, sizes=[end - start for start, end, _ in slices], threads=threads)


def bounds(
    count: int, batch_size: int, *, parts: int = 1, smallest: int = 1
) -> list[tuple[int, int, np.float32]]:
    """Divide the photos of an epoch into batches.

    Args:
        count: number of photos.
        batch_size: photos in a batch.
        parts: number of batches in a step of the optimizer, which accumulates their gradients. The photos of
            the last step are divided evenly too, and repeated if they are fewer than `parts`.
        smallest: minimum number of photos in a batch. If the batches of the last step would have fewer, its
            photos join the step before: batch normalization learns nothing from a single photo.

    Returns:
        For each batch of the epoch the positions of its first photo and after its last, and a factor of its
        weights, which is the size of the batch relative to the mean of its step.
    """
    edges = [*range(0, count, batch_size * parts), count]
    if len(edges) > 2 and smallest > 1 and edges[-1] - edges[-2] < smallest * parts:
        del edges[-2]
    result = []
    for first, last in itertools.pairwise(edges):
        starts = [first + (last - first) * part // parts for part in range(parts + 1)]
        step = [(start, max(start + 1, end)) for start, end in itertools.pairwise(starts)]
        total = sum(end - start for start, end in step)
        result += [(start, end, np.float32((end - start) * parts / total)) for start, end in step]
    return result


def evaluation(
    images: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    targets: Sequence[int] | np.ndarray | None = None,
    classes: int = 0,
    batch_size: int,
) -> Batches:
    """Return the batches of one pass over photos in the order given, without shuffling and changes.

    Args:
        images, rows, targets, batch_size: as `training`.
        classes: the number of classes, if there are targets.

    Returns:
        Batches of photos, `float32` `(n, size, size, 3)` from 0 to 255, or of `(photos, one-hot labels)`.
    """
    images, rows = np.asarray(images), np.asarray(rows, np.int64)

    def make(number: int, chosen: np.ndarray | slice = ALL) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        part = np.arange(len(rows))[number * batch_size : (number + 1) * batch_size][chosen]
        photos = images[rows[part]].astype(np.float32, copy=False)
        return photos if targets is None else (photos, one_hot(np.asarray(targets)[part], classes))

    sizes = [end - start for start, end, _ in bounds(len(rows), batch_size)]
    return Batches(make, count=len(sizes), sizes=sizes)


def filled(
    batches: Batches, size: int, *, weight: float | None = None, part: tuple[int, int] = (0, 1)
) -> Batches:
    """Pad every batch to one size with photos that do not count, as several devices that divide it need.

    Args:
        batches: `(photos, labels, weights)`, or `(photos, labels)` with weights of 1, the results of
            `training` and `evaluation`, none larger than `size`.
        size: the batch size, a multiple of the number of devices.
        weight: factor of the weights; by default the one that keeps the mean of each batch as it was.
        part: the number of this process and the number of processes, which divide `size`. Only the rows of
            this process are made and returned.

    Returns:
        Batches `(photos, labels, weights)` of that size. The padding repeats photos of the batch, with labels
        that are 0 for every class and weight 0.
    """
    process, processes = part
    rows = np.split(np.arange(size), processes)[process]

    def make(number: int) -> tuple[np.ndarray, ...]:
        count = batches.sizes[number % len(batches.sizes)]
        chosen, picks = np.unique(rows % count, return_inverse=True)
        photos, labels, *weights = batches.make(number, chosen)
        own = (rows < count).astype(np.float32)
        factor = own * np.float32(size / count if weight is None else weight)
        return photos[picks], labels[picks] * own[:, None], weights[0][picks] * factor if weights else factor

    return Batches(make, count=batches.count)


def class_weights(targets: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """Return `float32` weights inverse to the classes' numbers of photos, whose mean over the photos is 1."""
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (classes * np.maximum(counts, 1))).astype(np.float32)


def order(seed: int, rows: np.ndarray, epoch: int) -> np.ndarray:
    """Return the order of the photos in an epoch: positions in `rows`, `int64` of shape `(n,)`."""
    return np.argsort(Draws(seed, epoch, rows).uniform("order"), kind="stable")


def one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return the labels of some photos, `float32` of shape `(n, classes)`, from their classes from 0 up."""
    labels = np.zeros((len(targets), classes), np.float32)
    labels[np.arange(len(targets)), targets] = 1
    return labels
