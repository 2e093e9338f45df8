"""Review label issues and near-duplicates in a notebook: keep, exclude or relabel, by mouse or keyboard.

Each decision is written to `exclusions.csv` or `relabels.csv` (see `lib.clean.decisions`) before the next
photo is shown. The widget does not store decisions: when it is opened again, in this or another kernel, it
shows the decisions in the files. No widget is built if the kernel has no front end, as with papermill.
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
# Maximum number of photos of a cluster on a page.
MOST_PER_PAGE = 24
# Maximum number of label issues, and of clusters, in a review.
MOST = 200


def interactive() -> bool:
    """Return whether a person uses this kernel through a front end.

    A front end sends `allow_stdin` with each cell: True from JupyterLab, Notebook, VS Code and Colab, False
    from papermill, nbclient, nbconvert and nbval.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin", False))


def label_issues(
    issues: pd.DataFrame,
    table: pd.DataFrame,
    *,
    images: np.ndarray,
    folder: Path,
    names: Mapping[str, str],
) -> Gallery | None:
    """Review label issues.

    Args:
        issues: the label issues of `label_issues.of_table`; the first 200 are shown, the most doubtful first,
            then all other photos with a decision.
        table: the manifest.
        images: `uint8` of shape `(rows of the manifest, height, width, 3)`, RGB.
        folder: the source's folder, with the files of decisions.
        names: the display name of each label (see `class_names.of_source`).

    Returns:
        The widget, for the last line of a cell; `None` if the kernel is not interactive.
    """
    if not interactive():
        return None
    decided = decisions.of_each(folder, dict(zip(table.path, table.sha1, strict=True)))
    first = issues.head(MOST)
    notes = [f"score {score:.3f}" for score in first.score]
    captions: dict[int, tuple[str, str]] = dict(
        zip(first.row, zip(first.suggested, notes, strict=True), strict=True)
    )
    for row in np.flatnonzero(table.path.isin(list(decided))).tolist():
        captions.setdefault(row, ("", "decided before"))
    items = [
        _item(table.iloc[row], images[row], decided=decided, suggested=suggested, note=note)
        for row, (suggested, note) in captions.items()
    ]
    pages = [items[start : start + PER_PAGE] for start in range(0, len(items), PER_PAGE)]
    return Gallery(pages, folder=folder, classes=labels.classes(table.label), names=names)


def clusters(
    groups: Sequence[Sequence[int]],
    table: pd.DataFrame,
    *,
    images: np.ndarray,
    folder: Path,
    names: Mapping[str, str],
) -> Gallery | None:
    """Review near-duplicates, with each cluster on separate pages.

    Args:
        groups: rows of each cluster, the result of `manifest.conflicts` or `manifest.clusters`; the first 200
            are shown.
        table, images, folder, names: see `label_issues`.

    Returns:
        See `label_issues`.
    """
    if not interactive():
        return None
    decided = decisions.of_each(folder, dict(zip(table.path, table.sha1, strict=True)))
    pages = []
    for number, rows in enumerate(groups[:MOST]):
        note = f"cluster {number + 1}, {len(rows)} photos"
        items = [
            _item(table.iloc[row], images[row], decided=decided, note=note, group=number) for row in rows
        ]
        pages += [items[start : start + MOST_PER_PAGE] for start in range(0, len(items), MOST_PER_PAGE)]
    return Gallery(pages, folder=folder, classes=labels.classes(table.label), names=names)


def _item(
    photo: pd.Series,
    picture: np.ndarray,
    *,
    decided: Mapping[str, decisions.Decision],
    note: str,
    suggested: str = "",
    group: int = -1,
) -> Item:
    """Return the item of a row of the manifest, with its label in the source."""
    earlier = decided.get(photo.path)
    label = earlier.note if earlier and earlier.kind == "relabel" and earlier.note else photo.label
    return Item(photo.path, photo.sha1, label, suggested, note, picture, group)
