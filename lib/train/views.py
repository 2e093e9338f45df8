"""Embed augmented views of the training photos once, and train the head of a network on them.

View `v` of a photo is the photo as epoch `v` of a training without views sees it: augmented, with random
erasing, and blended by MixUp. The embeddings of a view are stored in the order of that epoch.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.clean import embeddings, photoset
from lib.core import cache, progress
from lib.core.schema import Params
from lib.networks import backbones, backend
from lib.networks.backend import keras
from lib.photos import decoding
from lib.train import augmentation, dataset
from lib.train.draws import Draws


@dataclass(frozen=True)
class Views:
    """The embeddings that a head is trained and validated on.

    Attributes:
        training: by number of the view, `float32` memory map of shape `(photos of train, channels)`, in the
            order of the epoch with this number.
        validation: the photos of val without augmentation, `float32` memory map of shape
            `(photos of val, channels)`.
    """

    training: Mapping[int, np.ndarray]
    validation: np.ndarray


def embed(photos: photoset.Photos, settings: Params, *, epochs: Iterable[int]) -> Views:
    """Embed the views of some epochs and the photos of val, or load those that are already stored.

    Each view is stored when it is finished: an interruption costs a part of a view.

    Args:
        photos: the photos of the run, with a folder for the cache. A view takes 5 kB per photo of train with
            1,280 channels.
        settings: the parameters of the run; `train.views` is the number of views, and the head begins with a
            layer of `models.POOLS`.
        epochs: the epochs to train, from 0 over all stages. Epoch `e` uses view `e % train.views`.
    """
    numbers = sorted({epoch % (settings.train.views or 1) for epoch in epochs})
    build = functools.cache(lambda: embeddings.network(settings.model, _pool(settings)))
    stored = {number: _stored(photos, settings, view=number, build=build) for number in numbers}
    return Views(stored, _stored(photos, settings, view=None, build=build))


def training(
    views: Mapping[int, np.ndarray],
    rows: np.ndarray,
    *,
    targets: np.ndarray,
    class_weights: np.ndarray,
    settings: Params,
    batch_size: int,
    parts: int = 1,
    smallest: int = 1,
    first_epoch: int,
) -> dataset.Batches:
    """Return the endless training batches of views, in the order of a training without views.

    Args:
        views: `Views.training`.
        rows, targets, class_weights, batch_size, parts, smallest, first_epoch: as `dataset.training`.
        settings: the parameters of the run, with which the views were embedded.

    Returns:
        Batches as those of `dataset.training`, with embeddings instead of photos.
    """
    seed, count = settings.seed, len(rows)
    slices = dataset.bounds(count, batch_size, parts=parts, smallest=smallest)
    weights = np.asarray(class_weights, np.float32)

    @functools.lru_cache(4)
    def order(epoch: int) -> np.ndarray:
        return dataset.order(seed, rows, epoch)

    @functools.lru_cache(4)
    def positions(view: int) -> np.ndarray:
        return np.argsort(order(view))

    def labels_of(view: int, picks: np.ndarray) -> np.ndarray:
        labels = dataset.one_hot(targets[picks], len(weights))
        if not settings.augment.mixup:
            return labels
        others = order(view)[augmentation.partner(positions(view)[picks], count)]
        own = augmentation.mixup_weights(settings.augment.mixup, Draws(seed, view, rows[picks]))
        wide = own[:, None].astype(np.float32)
        return wide * labels + (1 - wide) * dataset.one_hot(targets[others], len(weights))

    def make(number: int, chosen: np.ndarray | slice = dataset.ALL) -> tuple[np.ndarray, ...]:
        epoch, (start, end, factor) = first_epoch + number // len(slices), slices[number % len(slices)]
        view, picks = epoch % (settings.train.views or 1), order(epoch)[start:end][chosen]
        labels = labels_of(view, picks)
        return np.asarray(views[view])[positions(view)[picks]], labels, factor * (labels @ weights)

    return dataset.Batches(make, sizes=[end - start for start, end, _ in slices])


def _pool(settings: Params) -> str:
    return next(iter(settings.model.head.values())).layer


def _stored(
    photos: photoset.Photos, settings: Params, *, view: int | None, build: Callable[[], keras.Model]
) -> np.ndarray:
    """Return the embeddings of a view of train, or of val if it is `None`; compute them if missing."""
    if photos.folder is None:
        raise ValueError("expected photos with a folder to store embeddings. Received: folder=None")
    rows, model = photos.rows("val" if view is None else "train"), settings.model
    key = cache.fingerprint(
        [photos.full.shape, photos.size, photos.fit, photos.bit_depth, photos.table.sha1.iloc[rows].tolist()],
        None if view is None else [view, settings.seed, rows.tolist(), settings.augment.model_dump()],
        [model.backbone, model.scaling, model.simple_cnn.model_dump(), _pool(settings)],
        backbones.weights_identity(model.weights),
        backend.ENGINE,
        cache.code(__name__),
    )
    write = functools.partial(_write, photos, settings, view=view, build=build)
    return np.load(cache.folder(photos.folder / f"view-{key}", write) / embeddings.VECTORS, mmap_mode="r")


def _write(
    photos: photoset.Photos,
    settings: Params,
    folder: Path,
    *,
    view: int | None,
    build: Callable[[], keras.Model],
) -> None:
    """Write the embeddings of a view to a folder, a batch at a time."""
    count, title = len(photos.rows("val" if view is None else "train")), f"embed view {view}"
    network = build()
    with (
        _batches(photos, settings, view=view) as made,
        (folder / embeddings.VECTORS).open("wb") as file,
        progress.Bar(count, "embed val" if view is None else title) as bar,
    ):
        cache.begin_array(file, (count, *network.output_shape[1:]), dtype=np.float32)
        for number in itertools.count():
            if bar.done == count:
                break
            batch = made[number] if view is None else made[number][0]
            # A batch of another size would be compiled again.
            full = batch[np.arange(max(embeddings.BATCH_SIZE, len(batch))) % len(batch)]
            vectors = backend.outputs(network, full)[: len(batch)]
            file.write(vectors.astype(np.float32, copy=False).tobytes())
            decoding.release(photos.full)
            bar.step(len(batch))


def _batches(photos: photoset.Photos, settings: Params, *, view: int | None) -> dataset.Batches:
    """Return the batches of photos of a view, which are those of its epoch, or of val."""
    if view is None:
        return dataset.evaluation(photos.images, photos.rows("val"), batch_size=embeddings.BATCH_SIZE)
    return dataset.training(
        photos.full,
        photos.rows("train"),
        targets=photos.targets("train"),
        size=photos.size,
        class_weights=np.ones(len(photos.classes)),
        settings=settings.augment,
        batch_size=embeddings.BATCH_SIZE,
        seed=settings.seed,
        first_epoch=view,
    )
