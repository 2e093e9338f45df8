"""Look at doubtful photos and decide: keep, exclude or relabel, by click or by key.

Each decision is in `exclusions.csv` or `relabels.csv` (see `lib.clean.decisions`) before the next photo
is shown. The widget remembers nothing itself: opened again, in this kernel or another, it shows what
the files say. Where nobody watches, it is not made at all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython import get_ipython

from lib.clean import decisions
from lib.clean.gallery import Gallery, Item
from lib.photos import labels

PER_PAGE = 8
MOST_PER_PAGE = 24  # of a large cluster


def interactive() -> bool:
    """Tell whether a person sits before this kernel.

    A front end says with each cell whether it can put a question to somebody. JupyterLab, Notebook,
    VS Code and Colab can; papermill, nbclient, nbconvert and nbval say no.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin", False))


def suspects(
    found: pd.DataFrame,
    table: pd.DataFrame,
    images: np.ndarray,
    *,
    folder: Path,
    names: Mapping[str, str] | None = None,
    most: int = 200,
    show: bool | None = None,
) -> Gallery | None:
    """Review the labels that look wrong.

    Args:
        found: what `label_issues.of_table` gives; the most doubtful photos are shown first.
        table: the manifest.
        images: `uint8` of shape `(rows of the manifest, height, width, 3)`, RGB.
        folder: the source's folder, with the files of decisions.
        names: what to call each label where people read (see `class_names.of_source`).
        most: photos of `found` to show; those that were decided on before follow.
        show: whether to show anything; `None`: where `interactive`.

    Returns:
        The widget, for the last line of a cell; `None` where it is not to be shown.
    """
    if not (interactive() if show is None else show):
        return None
    decided = decisions.of_each(folder, dict(zip(table.path, table.sha1, strict=True)))
    rows = {row.row: (row.suggested, f"doubt {row.score:.3f}") for row in found.head(most).itertuples()}
    before = np.flatnonzero(table.path.isin(decided))
    rows |= {row: ("", "decided before") for row in before if row not in rows}
    items = [_item(table, images, decided, row, *said) for row, said in rows.items()]
    pages = [items[start : start + PER_PAGE] for start in range(0, len(items), PER_PAGE)]
    return Gallery(pages, folder=folder, classes=labels.classes(table.label), names=names or {})


def clusters(
    groups: Sequence[Sequence[int]],
    table: pd.DataFrame,
    images: np.ndarray,
    *,
    folder: Path,
    names: Mapping[str, str] | None = None,
    most: int = 200,
    show: bool | None = None,
) -> Gallery | None:
    """Review near-duplicates, one cluster on a page.

    Args:
        groups: rows of each cluster, as `manifest.conflicts` and `manifest.clusters` give.
        most: clusters to show.
        table, images, folder, names, show: as `suspects`.

    Returns:
        As `suspects`.
    """
    if not (interactive() if show is None else show):
        return None
    decided = decisions.of_each(folder, dict(zip(table.path, table.sha1, strict=True)))
    pages = []
    for number, rows in enumerate(groups[:most]):
        note = f"cluster {number + 1}, {len(rows)} photos"
        items = [_item(table, images, decided, row, "", note, number) for row in rows]
        pages += [items[start : start + MOST_PER_PAGE] for start in range(0, len(items), MOST_PER_PAGE)]
    return Gallery(pages, folder=folder, classes=labels.classes(table.label), names=names or {})


def _item(table, images, decided, row, suggested, note, group=-1) -> Item:
    photo = table.iloc[row]
    earlier = decided.get(photo.path)
    label = earlier.note if earlier and earlier.kind == "relabel" and earlier.note else photo.label
    return Item(photo.path, photo.sha1, label, suggested, note, images[row], group)
