"""Photos to review, and the actions and decisions of a person."""

import numpy as np
import pandas as pd
from shared import scene

from lib.clean import decisions, review


def manifest(count=12):
    rows = [
        {"path": f"{label}/{number}.jpg", "label": label, "sha1": f"{number:040x}", "status": "kept"}
        for number, label in enumerate(["cat", "dog"] * (count // 2))
    ]
    return pd.DataFrame(rows)


def issues(table):
    other = {"cat": "dog", "dog": "cat"}
    rows = {
        "row": range(len(table)),
        "suggested": table.label.map(other),
        "score": np.linspace(1, 0, len(table)),
    }
    return pd.DataFrame(rows)


def images(table):
    return np.stack([scene(row, 40, 40) for row in range(len(table))])


def label_issues(folder, table=None, names=()):
    table = manifest() if table is None else table
    return review.label_issues(issues(table), table, images=images(table), folder=folder, names=dict(names))


def clusters(folder, groups=((0, 2, 4), (1, 3))):
    table = manifest()
    return review.clusters(groups, table, images=images(table), folder=folder, names={})


def decided(folder):
    sha1 = dict(zip(manifest().path, manifest().sha1, strict=True))
    return {
        path: (decision.kind, decision.label) for path, decision in decisions.of_each(folder, sha1).items()
    }


def type_in(gallery, text):
    """Add letters to the field as a front end does that sends each change."""
    for letter in text:
        gallery.letters.value += letter
