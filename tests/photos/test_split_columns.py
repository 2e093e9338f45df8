"""Splits in a column of a table: used if their names are known; tests/cases has more columns."""

import pandas as pd
import pytest

from lib.core.schema import Table
from lib.photos import split_columns


def splits(values, column="split", **options):
    """Return the splits of rows with these values, and the notes."""
    notes = []
    table = Table(**{"file": "labels.csv", "label": "label"} | options)
    data = pd.DataFrame({"filename": map(str, range(len(values))), "label": "owl", column: values}, dtype=str)
    return split_columns.of_rows(data, table, notes=notes), notes


def test_a_column_of_known_names_is_used():
    rows, notes = splits(["Train", "TEST", "", "holdout"])
    assert rows == ["train", "test", "", "test"]
    assert notes[0].startswith(
        "labels.csv: the column 'split' determines the splits (2 test, 1 train, 1 without"
    )


def test_a_column_without_train_or_with_other_values_is_not_used():
    for values in (["test", "val"], ["train", "bus"], ["0", "1"]):
        rows, notes = splits(values)
        assert rows == ["", ""] and "is not used" in notes[0]
    # not even mentioned: its name is not that of a column of splits
    assert splits(["train", "bus"], "vehicle") == (["", ""], [])


def test_the_parameters_come_first():
    assert splits(["train", "test"], split="val") == (["val", "val"], [])
    assert splits(["train", "test"], split_column=False) == (["", ""], [])
    assert splits(["train", "test"], label=None) == (["predict", "predict"], [])
    values = {"1": "test", 0: "train"}
    assert splits(["0", "1.0"], "flag", split_column="flag", split_values=values)[0] == ["train", "test"]
    with pytest.raises(ValueError, match=r"names of splits in the column 'flag'.*Received: 2"):
        splits(["0", "2"], "flag", split_column="flag", split_values=values)
