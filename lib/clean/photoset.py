"""Load the kept photos of a run as input of a network."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import embeddings, manifest
from lib.core import cache, files, steps
from lib.core.schema import Model
from lib.photos import decoding, labels

# Number of photos that are summed at a time, to limit the memory.
CHUNK = 32


@dataclass(frozen=True)
class Photos:
    """The photos of a run.

    Attributes:
        table: the manifest.
        full: `uint8` memory map `(rows of the manifest, side, side, 3)`, RGB, the input of random crops.
        size: side of the network's input, in pixels.
        classes: the class names in order; a target is an index into them.
        fit: `crop`, `stretch` or `pad`, see `decoding.resize`.
        folder: folder of the cache; if `None`, no results are cached.
        bit_depth: bit depth from which photos with more than 8 bits were scaled; `None` if there are none.
    """

    table: pd.DataFrame
    full: np.ndarray
    size: int
    classes: list[str]
    fit: str = "crop"
    folder: Path | None = None
    bit_depth: int | None = None

    @property
    def images(self) -> np.ndarray:
        """The centre crop of each photo, a view of shape `(rows, size, size, 3)`."""
        return decoding.centre(self.full, self.size)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of the manifest in a split, `int64`."""
        return np.flatnonzero(self.table.split.eq(split))

    def targets(self, split: str) -> np.ndarray:
        """Return the class of each photo of a split, `int64`, in the order of `rows`."""
        return labels.targets(self.table.label.iloc[self.rows(split)], self.classes)

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, R, G, B, over all pixels of the training photos, 0 to 1.

        The standard deviation is that of the population, as in torchvision's references. Integers are summed,
        so the result is exact and bit-identical on all machines.
        """
        rows, images = self.rows("train"), self.images
        sums = np.zeros((2, 3), np.int64)
        for start in range(0, len(rows), CHUNK):
            # The square of an 8-bit value fits into 16 bits.
            pixels = images[rows[start : start + CHUNK]].astype(np.uint16)
            sums += [values.sum(axis=(0, 1, 2), dtype=np.int64) for values in (pixels, pixels**2)]
        mean, square = sums / (len(rows) * self.size**2)
        return (mean / 255).tolist(), (np.sqrt(np.maximum(square - mean**2, 0)) / 255).tolist()

    def embed(self, settings: Model) -> np.ndarray:
        """Return the embeddings of the photos by a pretrained backbone, loaded if 02_clean computed them.

        Args:
            settings: the backbone; the head begins with a layer of `models.POOLS`.

        Raises:
            ValueError: if `folder` is `None`.
        """
        if self.folder is None:
            raise ValueError("expected photos with a folder to store embeddings. Received: folder=None")
        return embeddings.of_photos(
            self.table.sha1,
            self.full,
            fit=self.fit,
            bit_depth=self.bit_depth,
            folder=self.folder,
            settings=settings,
            size=self.size,
            pool=next(iter(settings.head.values())).layer,
        )

    def identity(self, *names: str) -> str:
        """Return a fingerprint of the photos of some splits: their content and labels."""
        rows = self.table.loc[self.table.split.isin(names), ["sha1", "label", "split"]]
        prepared = [self.full.shape[1:], self.size, self.bit_depth]
        return cache.fingerprint(prepared, self.classes, rows.values.tolist())


def load(run: steps.Run) -> Photos:
    """Load the photos in the manifest of a run; they are decoded again only if the cache was removed."""
    table = manifest.read(run.need("manifest.csv"))
    content = files.read_json(run.need("source.json"))["content_sha256"]
    scanned, full = manifest.resized(run.data, run.settings, content=content, paths=list(table.path))
    classes = labels.classes(table.label[table.split.eq("train")])
    model = run.settings.model
    bit_depth = manifest.depth(scanned, run.settings)
    return Photos(table, full, model.image_size, classes, model.fit, run.data / "cache", bit_depth)
