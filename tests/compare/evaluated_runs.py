"""Write the files of evaluated runs."""

import numpy as np
import pandas as pd
from shared import model_card

from lib.clean import manifest, photoset
from lib.compare import comparison
from lib.core import files, metrics, steps, tables
from lib.evaluate import predictions

CLASSES = ["ant", "bee"]


def listed(*, val=4, test=4, classes=CLASSES, prefix="", first=0):
    """Return a manifest: photos of two classes in turn, the first in train, which no comparison reads."""
    splits = ["train"] + ["val"] * val + ["test"] * test
    table = pd.DataFrame(
        {"path": [f"{prefix}{row + first}.jpg" for row in range(len(splits))], "split": splits}
    )
    table["label"] = [classes[row % len(classes)] for row in range(len(splits))]
    table["sha1"] = [f"photo {row + first}" for row in range(len(splits))]
    return table.reindex(columns=manifest.COLUMNS, fill_value="").assign(width=9, height=9, cluster=0)


def predicted(table, split, correct, classes=CLASSES, confidence=0.8):
    """Return probabilities for a split; `correct` has 1 for each photo classified correctly, otherwise 0."""
    rows = table[table.split.eq(split)]
    assert len(correct) == len(rows)
    targets = pd.Categorical(rows.label, classes).codes.astype(int)
    best = np.where([mark == "1" for mark in correct], targets, (targets + 1) % len(classes))
    values = np.full((len(rows), len(classes)), (1 - confidence) / (len(classes) - 1))
    values[np.arange(len(rows)), best] = confidence
    return values


def finished(
    outputs,
    name,
    *,
    val="1111",
    test="1111",
    table=None,
    classes=CLASSES,
    probabilities=None,
    card=None,
    **parameters,
):
    """Write the files of a run, with photos of val and test classified correctly (1) or not (0)."""
    folder = outputs / name
    table = listed(val=len(val), test=len(test)) if table is None else table
    marks = {"val": val, "test": test} if table.split.eq("test").any() else {"val": val}
    probabilities = probabilities or {
        split: predicted(table, split, correct, classes) for split, correct in marks.items()
    }
    photos = photoset.Photos(table, np.zeros((1, 32, 32, 3), np.uint8), 32, classes)
    report = {
        split: metrics.report(photos.targets(split), values, classes=classes)
        for split, values in probabilities.items()
    }
    parameters = {
        "name": f"{name}-recipe",
        "source": {"name": "birds"},
        "train": {"batch_size": 2},
        "augment": {"flip": "none"},
    } | parameters
    card = model_card(classes=classes, class_names=classes) | (card or {})
    folder.mkdir(parents=True)
    tables.write(table, folder / "manifest.csv")
    predictions.write(predictions.table(photos, probabilities), folder / "predictions.csv")
    pd.DataFrame({"epoch": [1, 2], "seconds": [10.25, 20.5]}).to_csv(folder / "history.csv", index=False)
    (folder / "model.keras").write_bytes(bytes(2_500_000))
    for file, value in (
        ("params", parameters),
        ("model", card),
        ("metrics", {"headline": list(marks)[-1], **report}),
    ):
        files.write_json(folder / f"{file}.json", value)
    record(folder)
    return folder


def record(folder):
    """Record that the run was evaluated with its present files."""
    hashes = {file: files.file_sha256(folder / file) for file in steps.EVALUATE.reads}
    files.write_json(folder / "provenance.json", {"steps": {"04_evaluate": {"read": hashes}}})


def results(*names):
    return comparison.read(names)[0]
