"""Embed photos with a pretrained backbone, find their nearest neighbours and project them onto a map.

Near-duplicates, outliers, label issues and nearest neighbours use the same embeddings, so that photos are
embedded only once. They are resized to the same side first, so that distances are comparable in all runs.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from lib.core import cache, prefetch, progress, schema
from lib.networks import backbones, backend, models
from lib.networks.backend import keras
from lib.photos import decoding

# Side of the embedded photos, in pixels.
SIDE = 128
# EfficientNetLite0 with its ImageNet weights.
BACKBONE = schema.Model(image_size=SIDE)
# Number of photos in a batch; other values only change the rounding errors.
BATCH_SIZE = 32
# Average number of photos in a cell of the index.
CELL = 1000
# Maximum number of photos for which all pairs are compared.
ONE_CELL = 5000
# Number of cells in which the neighbours of a photo are searched.
NEAREST_CELLS = 5
# Number of photos that are compared at a time, to limit the memory.
ROWS_AT_ONCE = 256
# Maximum number of photos on a map: more points take long to compute and are hard to distinguish.
MAPPED = 2000
# Number of principal components that t-SNE is applied to.
COMPONENTS = 50
VECTORS = "vectors.npy"


def compute(
    images: np.ndarray,
    *,
    content: Sequence[str],
    folder: Path,
    settings: schema.Model,
    pool: str = "average_pooling",
) -> np.ndarray:
    """Embed photos, or load the stored embeddings of the same photos by the same backbone.

    Args:
        images: `uint8` of shape `(n, side, side, 3)`, RGB; a memory map is read a batch at a time. They are
            resized to `settings.image_size`, by area averaging if they shrink and bilinearly if they grow.
        content: strings that identify the pixels: one for each photo, such as its SHA-1, and others for
            everything else that the pixels depend on, such as the fit to squares.
        folder: folder of the cache; the result takes 5 kB per photo with EfficientNetLite0.
        settings: name, weights, image size and scaling of the backbone.
        pool: a key of `models.POOLS`, the layer that turns the output of the backbone into a vector.

    Returns:
        A read-only `float32` memory map of shape `(n, channels)`, in the order of the photos, not normalized.
        With EfficientNetLite0, it has 1,280 channels, 0 or larger.

    Raises:
        ValueError, FileNotFoundError: see `backbones.build`; also if the scaling is `measured`.
    """
    key = cache.fingerprint(
        [images.shape, list(content)],
        [settings.backbone, settings.image_size, settings.scaling, settings.simple_cnn.model_dump(), pool],
        backbones.weights_identity(settings.weights),
        cache.code(__name__),
    )
    stored = cache.folder(
        folder / f"embeddings-{key}", lambda partial: _embed(images, settings, partial / VECTORS, pool=pool)
    )
    return np.load(stored / VECTORS, mmap_mode="r")


def of_photos(
    sha1: Iterable[str],
    full: np.ndarray,
    *,
    fit: str,
    folder: Path,
    bit_depth: int | None = None,
    settings: schema.Model = BACKBONE,
    size: int | None = None,
    pool: str = "average_pooling",
) -> np.ndarray:
    """Embed the photos of a manifest. Calls with the same photos and backbone load the same stored result.

    Args:
        sha1: SHA-1 of each photo's file.
        full: the photos, resized to squares, `uint8` of shape `(n, side, side, 3)`, RGB.
        fit: `crop`, `stretch` or `pad`, the method by which they were resized.
        bit_depth: bit depth from which photos with more than 8 bits were scaled, if any.
        folder, settings, pool: see `compute`.
        size: side in pixels of the centre crop to embed; if `None`, the full square.

    Returns, Raises:
        See `compute`.
    """
    images = full if size is None else decoding.centre(full, size)
    content = [*sha1, *[f"{bit_depth} bits"] * (bit_depth is not None), fit, str(full.shape[1])]
    return compute(images, content=content, folder=folder, settings=settings, pool=pool)


def network(settings: schema.Model, pool: str = "average_pooling") -> keras.Model:
    """Build the embedding network: scaling, backbone, and a layer of `models.POOLS`.

    Returns:
        A model with the input `(n, image_size, image_size, 3)`, RGB, 0 to 255, and the output
        `(n, channels)`, `float32`.
    """
    inputs = keras.Input((settings.image_size, settings.image_size, 3), name="photo")
    features = backbones.build(settings)(models.scale(inputs, settings), training=False)
    return keras.Model(inputs, models.POOLS[pool](dtype="float32", name="embedding")(features))


def _embed(images: np.ndarray, settings: schema.Model, path: Path, *, pool: str) -> None:
    """Write the embeddings of photos to an `.npy` file, a batch at a time."""
    weights = backbones.weights_identity(settings.weights)
    model = _last_network(settings.model_dump_json(), weights, pool)
    starts, batch_size = range(0, len(images), BATCH_SIZE), min(BATCH_SIZE, len(images))

    def resized(start: int) -> np.ndarray:
        batch = images[start : start + BATCH_SIZE]
        batch = np.stack([decoding.resize(image, size=settings.image_size, fit="stretch") for image in batch])
        return prefetch.padded(batch.astype(np.float32), batch_size)

    with (
        path.open("wb") as file,
        progress.Bar(len(images), "embed") as bar,
        decoding.single_thread(),
        contextlib.closing(prefetch.in_order(resized, starts)) as batches,
    ):
        cache.begin_array(file, (len(images), *model.output_shape[1:]), dtype=np.float32)
        for start, batch in zip(starts, batches, strict=True):
            count = min(BATCH_SIZE, len(images) - start)
            file.write(backend.outputs(model, batch)[:count].tobytes())
            decoding.release(images)
            bar.step(count)


@functools.lru_cache(maxsize=1)
def _last_network(settings: str, weights: str | None, pool: str) -> keras.Model:
    """Return the network of the last call, which is traced already, if settings and weights are the same."""
    return network(schema.Model.model_validate_json(settings), pool)


def neighbours(embeddings: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest neighbours of each photo by the cosine similarity of embeddings.

    Up to 5,000 photos are compared by brute force. Larger sets are divided by k-means into cells of about
    1,000 photos, and each photo is compared with those in the five nearest cells (inverted file index: Jegou,
    Douze and Schmid, 2011, https://inria.hal.science/inria-00514462), which may miss distant neighbours.

    Args:
        embeddings: `float32` of shape `(n, channels)`; a memory map is read a part at a time.
        count: number of neighbours of each photo.

    Returns:
        The rows of the neighbours, `int64`, and their cosine similarities, `float32`, both of shape
        `(n, count)`, the nearest first, without the photo itself. Missing neighbours are -1 in both.
    """
    cells = _cells(embeddings)
    rows = np.full((len(embeddings), count), -1, np.int64)
    cosines = np.full((len(embeddings), count), -2, np.float32)
    for cell in range(cells.max(initial=-1) + 1):
        members = np.flatnonzero(cells[:, 0] == cell)
        if not len(members):
            continue
        queries = np.flatnonzero((cells == cell).any(axis=1))
        units = normalize(embeddings[members])
        for start in range(0, len(queries), ROWS_AT_ONCE):
            part = queries[start : start + ROWS_AT_ONCE]
            similarities = normalize(embeddings[part]) @ units.T
            # A photo is not its own neighbour.
            similarities[part[:, None] == members] = -2
            # (queries, count): positions in `members`.
            best = np.argpartition(-similarities, min(count, len(members)) - 1, axis=1)[:, :count]
            # (queries, 2 count): the neighbours in earlier cells, then those in this cell.
            candidates = np.concatenate([rows[part], members[best]], axis=1)
            nearest = np.take_along_axis(similarities, best, axis=1)
            similarities = np.concatenate([cosines[part], nearest], axis=1)
            best = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
            rows[part] = np.take_along_axis(candidates, best, axis=1)
            cosines[part] = np.take_along_axis(similarities, best, axis=1)
    rows[cosines < -1.5] = -1
    return rows, np.clip(cosines, -1, 1)


def arrange(embeddings: np.ndarray | None, rows: np.ndarray, *, folder: Path, seed: int) -> pd.DataFrame:
    """Project embeddings onto two dimensions so that similar photos are close to each other.

    The method is t-SNE (van der Maaten and Hinton, 2008, https://jmlr.org/papers/v9/vandermaaten08a.html) of
    the first 50 principal components. Distances between groups that are far apart have no meaning.

    Args:
        embeddings: `float32` of shape `(n, channels)`; if `None`, the result is empty.
        rows: `int64` of shape `(m,)`, the photos to project; if there are more than 2,000, a random sample.
        folder: folder of the cache.
        seed: random seed, 0 or larger.

    Returns:
        A table with the columns `x` and `y`, indexed by the rows of the photos.
    """
    if embeddings is None:
        return pd.DataFrame(columns=["x", "y"], dtype=np.float32)
    if len(rows) > MAPPED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAPPED, replace=False))
    units = normalize(embeddings[rows])
    digest = hashlib.sha256(units.tobytes()).hexdigest()
    key = cache.fingerprint(digest, seed, cache.code(__name__))
    stored = cache.arrays(folder / f"map-{key}.npz", lambda: {"positions": _map(units, seed)})
    return pd.DataFrame(stored["positions"], index=rows, columns=["x", "y"])


def _map(units: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of unit vectors on a map, `float32` of shape `(n, 2)`."""
    components = PCA(min(COMPONENTS, *units.shape), random_state=seed).fit_transform(units)
    # t-SNE needs more photos than its perplexity.
    if len(units) < 10:
        return components[:, :2]
    return TSNE(perplexity=min(30, len(units) / 4), init="pca", random_state=seed).fit_transform(components)


def _cells(embeddings: np.ndarray) -> np.ndarray:
    """Return the nearest cells of each photo, its own first, `int64` `(n, cells)`; few photos have one."""
    if len(embeddings) <= ONE_CELL:
        return np.zeros((len(embeddings), 1), np.int64)
    centres = len(embeddings) // CELL
    sample = np.linspace(0, len(embeddings) - 1, min(len(embeddings), 50 * centres)).astype(np.int64)
    means = MiniBatchKMeans(centres, batch_size=4096, n_init=1, max_iter=10, random_state=0)
    means.fit(normalize(embeddings[sample]))
    parts = range(0, len(embeddings), ROWS_AT_ONCE)
    distances = (means.transform(normalize(embeddings[start : start + ROWS_AT_ONCE])) for start in parts)
    return np.concatenate([np.argsort(part, axis=1)[:, :NEAREST_CELLS] for part in distances])
