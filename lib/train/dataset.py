"""Feed photos to the network: batches that depend on the seed and the epoch, and on nothing else."""

from collections.abc import Sequence

import numpy as np

from lib.core.schema import Augment
from lib.networks.device import tf
from lib.train import augmentation

AUTOTUNE = tf.data.AUTOTUNE


def training(
    images: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    targets: Sequence[int] | np.ndarray,
    size: int,
    class_weights: Sequence[float] | np.ndarray,
    settings: Augment | None,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Make the endless stream of training batches.

    The order of the photos and every random change follow from `(seed, epoch, batch)`: a stream that
    starts at epoch 7 has the batches of the stream from epoch 0 there, so that an interrupted training
    continues with the batches that it would have seen.

    Args:
        images: `uint8` of shape `(all, side, side, 3)`, RGB, or `float32` embeddings of shape
            `(all, channels)`; a memory map is read a batch at a time.
        rows: the rows of `images` to train on.
        targets: the class of each of these, from 0.
        size: side of the photos in the batches, in pixels: what is left of a larger one after its crop.
        class_weights: weight of each class in the loss.
        settings: the random changes; `None` for none, which embeddings need.
        batch_size: photos in a batch; the last of an epoch may be smaller.
        seed: a whole number from 0 up.
        first_epoch: the epoch that the stream starts with, from 0.

    Returns:
        Batches `(photos, labels, weights)`: `float32` `(n, size, size, 3)` from 0 to 255, or embeddings,
        `float32` `(n, classes)` one-hot or blended, `float32` `(n,)`. An epoch has
        `ceil(len(rows) / batch_size)`.
    """
    all_rows, all_targets = tf.constant(rows, tf.int64), tf.constant(targets, tf.int64)
    weights = tf.constant(class_weights, tf.float32)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(rows)), [seed, number])
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
        return batches.map(lambda index, picks: (tf.random.fold_in([seed, number], index), picks))

    def finish(seed_of_batch: tf.Tensor, picks: tf.Tensor, photos: tf.Tensor) -> tuple[tf.Tensor, ...]:
        seeds = tf.random.split(seed_of_batch, 2)
        labels = tf.one_hot(tf.gather(all_targets, picks), len(class_weights))
        if settings is None:
            photos = tf.cast(photos, tf.float32)
        else:
            photos = augmentation.images(photos, settings, seed=seeds[0], size=size)
        if settings and settings.mixup:
            photos, labels = augmentation.mixup(photos, labels, alpha=settings.mixup, seed=seeds[1])
        return photos, labels, tf.linalg.matvec(labels, weights)

    stream = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch)
    stream = stream.map(
        lambda seed_of_batch, picks: (seed_of_batch, picks, _read(images, tf.gather(all_rows, picks)))
    )
    return stream.map(finish, num_parallel_calls=AUTOTUNE).prefetch(AUTOTUNE)


def evaluation(
    images: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    *,
    targets: Sequence[int] | np.ndarray | None = None,
    classes: int = 0,
    batch_size: int,
) -> tf.data.Dataset:
    """Make one pass over photos in the order given, never shuffled or changed.

    Args:
        images, rows, targets, batch_size: as `training`.
        classes: the number of classes, if there are targets.

    Returns:
        Batches of photos, `float32` `(n, size, size, 3)` from 0 to 255, or of `(photos, one-hot labels)`.
    """
    stream = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64)).batch(batch_size)
    stream = stream.map(lambda picks: tf.cast(_read(images, picks), tf.float32))
    if targets is not None:
        labels = tf.data.Dataset.from_tensor_slices(np.eye(classes, dtype=np.float32)[np.asarray(targets)])
        stream = tf.data.Dataset.zip(stream, labels.batch(batch_size))
    return stream.prefetch(AUTOTUNE)


def filled(batches: tf.data.Dataset, size: int, *, weight: float | None = None) -> tf.data.Dataset:
    """Pad every batch to one size with photos that do not count, as several devices that share it need.

    Args:
        batches: `(photos, labels, weights)`, or `(photos, labels)` with weights of 1, the results of
            `training` and `evaluation`, none larger than `size`.
        size: the batch size, a multiple of the number of devices.
        weight: factor of the weights; by default the one that keeps the mean of each batch as it was.

    Returns:
        Batches `(photos, labels, weights)` of that size. The padding repeats photos of the batch, with labels
        that are 0 for every class and weight 0.
    """

    def fill(photos: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
        count = tf.shape(photos)[0]
        own, picks = tf.range(size) < count, tf.range(size) % count
        weights = tf.ones([size]) if weights is None else tf.gather(weights, picks)
        factor = tf.cast(size / count, tf.float32) if weight is None else weight
        parts = (
            tf.gather(photos, picks),
            tf.where(own[:, None], tf.gather(labels, picks), 0.0),
            tf.where(own, weights * factor, 0.0),
        )
        return tuple(tf.ensure_shape(part, [size, *part.shape[1:]]) for part in parts)

    return batches.map(fill, num_parallel_calls=AUTOTUNE).prefetch(AUTOTUNE)


def _read(images: np.ndarray, picks: tf.Tensor) -> tf.Tensor:
    """Read rows of the photo cache, which may be larger than memory."""
    photos = tf.numpy_function(lambda numbers: images[numbers], [picks], images.dtype, stateful=False)
    photos.set_shape([None, *images.shape[1:]])
    return photos


def class_weights(targets: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """Return `float32` weights inverse to the classes' numbers of photos, whose mean over the photos is 1."""
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (classes * np.maximum(counts, 1))).astype(np.float32)
