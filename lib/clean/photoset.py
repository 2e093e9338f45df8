"""The photos of a run as the network takes them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import embeddings, manifest
from lib.core import cache, files, steps
from lib.core.schema import Model
from lib.photos import decoding, labels

CHUNK = 32  # photos that are measured at a time


@dataclass(frozen=True)
class Photos:
    """The photos of a run as the network takes them.

    Attributes:
        table: the manifest.
        full: `uint8` memory map `(rows of the manifest, side, side, 3)`, RGB, what random crops are cut from.
        size: side of the network's input, in pixels.
        classes: the class names in order; a target is an index into them.
        fit: how the photos became squares, as `decoding.resize`.
        folder: keeps what is costly to compute of the photos; `None`: nowhere.
    """

    table: pd.DataFrame
    full: np.ndarray
    size: int
    classes: list[str]
    fit: str = "crop"
    folder: Path | None = None

    @property
    def images(self) -> np.ndarray:
        """The centre of each photo as the network takes it, a view of shape `(rows, size, size, 3)`."""
        return decoding.centre(self.full, self.size)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of the manifest in a split, `int64`."""
        return np.flatnonzero(self.table.split.eq(split))

    def targets(self, split: str) -> np.ndarray:
        """Return the class of each photo of a split, `int64`, in the order of `rows`."""
        return pd.Categorical(self.table.label.iloc[self.rows(split)], self.classes).codes.astype(np.int64)

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation per channel, R, G, B, over all pixels of the training photos, from 0 to 1.

        The deviation is that of the whole population, as torchvision's projects measure it. The sums are
        of whole numbers and thus exact: any machine gives the same bits.
        """
        rows, images = self.rows("train"), self.images
        sums = np.zeros((2, 3), np.int64)
        for start in range(0, len(rows), CHUNK):
            pixels = images[rows[start : start + CHUNK]].astype(np.uint16)  # their squares fit
            sums += [values.sum(axis=(0, 1, 2), dtype=np.int64) for values in (pixels, pixels**2)]
        mean, square = sums / (len(rows) * self.size**2)
        return (mean / 255).tolist(), (np.sqrt(np.maximum(square - mean**2, 0)) / 255).tolist()

    def embed(self, settings: Model) -> np.ndarray:
        """Return what a pretrained backbone says of the photos, as `embeddings.compute`, and as 02_clean has it already."""
        options = {"fit": self.fit, "folder": self.folder, "settings": settings}
        return embeddings.of_photos(self.table.sha1, self.full, size=self.size, **options)

    def identity(self, *names: str) -> str:
        """Return a fingerprint of what is in some splits: the photos' content and labels."""
        chosen = self.table[self.table.split.isin(names)]
        return cache.fingerprint(
            self.full.shape[1:], self.size, self.classes, chosen[["sha1", "label", "split"]].values.tolist()
        )


def load(run: steps.Run) -> Photos:
    """Open the photos of a run by its manifest, resizing them again only where the cache is gone."""
    table = manifest.read(run.need("manifest.csv"))
    content = files.read_json(run.need("source.json"))["content_sha256"]
    _, full = manifest.resized(run.data, run.settings, content, list(table.path))
    classes = labels.classes(table.label[table.split.eq("train")])
    return Photos(
        table, full, run.settings.model.image_size, classes, run.settings.model.fit, run.data / "cache"
    )
