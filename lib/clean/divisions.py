"""Store the division of a source into splits, so that all of its runs use the same one."""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.core import cache, files, params
from lib.core.schema import Params

SPLITS = ("train", "val", "test")
# Parameters that change which photos are kept together, the splits that the source defines, or the sizes of
# the splits. Others, such as `clean.exclude`, only remove photos.
KEYS = (
    "seed",
    "split.val",
    "split.test",
    "split.group",
    "source.tables",
    "source.layout",
    "source.splits",
    "clean.embeddings",
    "clean.near_duplicate_bits",
    "clean.near_duplicate_cosine",
    "clean.near_duplicate_correlation",
)


def parameters(settings: Params) -> dict:
    """Return the parameters that a division depends on, by dotted key."""
    return {key: params.pick(settings, key) for key in KEYS}


def path(data: Path, settings: Params) -> Path:
    """Return the path of the file of a division in the folder of a source."""
    return data / f"division-{cache.fingerprint(parameters(settings))}.npz"


def load(data: Path, settings: Params) -> pd.Series:
    """Load the division of a source; it is empty if it does not exist yet.

    If the file is damaged, a message is printed, and the file is removed.

    Args:
        data: the source's folder.
        settings: the run's parameters.

    Returns:
        The split of each photo, `train`, `val` or `test`, indexed by the SHA-1 of its file.
    """
    stored = cache.load_arrays(path(data, settings))
    if stored is None:
        return pd.Series(dtype=str)
    return pd.Series(np.array(SPLITS, object)[stored["split"]], stored["sha1"].astype(str))


def store(data: Path, settings: Params, table: pd.DataFrame) -> None:
    """Add the photos of a manifest to the division of its source; photos in other runs stay in it.

    Args:
        data, settings: see `load`. The lock of the source must be held since `load`.
        table: the manifest, with the columns `sha1` and `split`.
    """
    current = table[table.split.isin(SPLITS)].set_index("sha1").split
    merged = pd.concat([load(data, settings), current])
    merged = merged[~merged.index.duplicated(keep="last")].sort_index()
    arrays = {
        "sha1": merged.index.to_numpy().astype("S40"),
        "split": np.array([SPLITS.index(split) for split in merged], np.uint8),
    }
    files.write(path(data, settings), lambda partial: np.savez(partial, **arrays))
