"""Read the splits of photos from a column of a table."""

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from lib.core import files
from lib.core.schema import Table

# Names of splits in lower case without spaces and punctuation. FER2013 calls val and test public and private.
SPLITS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "trainingset": "train",
    "trainval": "train",
    "tr": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "validationset": "val",
    "dev": "val",
    "development": "val",
    "publictest": "val",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "holdout": "test",
    "heldout": "test",
    "privatetest": "test",
}
# Names of a split that is the validation split, or the test split if there is another validation split.
EVALUATION = ("eval", "evaluation")
# Names of columns that may contain splits.
_SPLIT_COLUMN = re.compile(
    r"(data)?(split|set|subset|partition|fold|usage|phase)s?|(is)?(train|val|valid|validation|test)(ing)?"
)
_WHOLE_NUMBER = re.compile(r"\d+(\.0+)?")
# Maximum number of values in a message.
LISTED = 5


def of_rows(data: pd.DataFrame, table: Table, *, notes: list[str]) -> list[str]:
    """Return the split of each row of a table: `train`, `val`, `test` or `predict`, or empty.

    Args:
        data: the cells of the table.
        table: its parameters. If it has no column with labels, the split is `predict`. Otherwise, it is
            `split`, or that of the column `split_column`, which is detected by its values if it is `None`.
        notes: list to which sentences on the column are appended, whether it is used or not.

    Raises:
        ValueError: if a value of `split_column` is neither in `split_values` nor the name of a split.
    """
    if table.label is None and not table.labels:
        return ["predict"] * len(data)
    if table.split or table.split_column == "":
        return [table.split or ""] * len(data)
    column, splits = table.split_column, {}
    if column:
        splits = _split_values(data[column], table)
    else:
        column, splits = _detected(data, table, notes=notes)
    if not column:
        return [""] * len(data)
    result = [splits[_value(cell)] for cell in data[column]]
    counts = Counter(split or "without a split" for split in result)
    shown = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
    notes.append(
        f"{table.file}: the column {column!r} determines the splits ({shown}). `split_column: false` of the "
        "table ignores it"
    )
    return result


def _split_values(cells: pd.Series, table: Table) -> dict[str, str]:
    """Return the split of each value of the column in the parameters."""
    values = sorted({_value(cell) for cell in cells})
    known = {_value(value): split for value, split in table.split_values.items()} or _known(values)
    if unknown := [value for value in values if value and value not in known]:
        raise ValueError(
            f"{table.file}: expected names of splits in the column {table.split_column!r}, or values in "
            f"`split_values`, such as {{{unknown[0]}: test}}. Received: {_listed(unknown)}"
        )
    return {"": "", **known}


def _detected(data: pd.DataFrame, table: Table, *, notes: list[str]) -> tuple[str, dict[str, str]]:
    """Return the only column whose values are names of splits, and their splits; empty if there is none."""
    candidates: dict[str, dict[str, str]] = {}
    for column in [
        name for name in data.columns if name not in ("", table.filename, table.label, *table.labels)
    ]:
        named = bool(_SPLIT_COLUMN.fullmatch(_folded(column)))
        values = (
            sorted({_value(cell) for cell in data[column].unique()} - {""})
            if named or _few(data[column])
            else []
        )
        splits = _known(values)
        distinct = {splits[value] for value in values if value in splits}
        if values and len(splits) == len(values) and "train" in distinct and (named or len(distinct) > 1):
            candidates[column] = {"": "", **splits}
        elif named and 1 < len(values) <= 20:
            notes.append(
                f"{table.file}: the column {column!r} with the values {_listed(values)} is not "
                "used. If it divides the photos into splits, set `split_column` and `split_values`"
            )
    if len(candidates) > 1:
        notes.append(
            f"{table.file}: several columns contain names of splits, and none is used: "
            f"{', '.join(map(files.printable, candidates))}. Set `split_column` of the table"
        )
    return next(iter(candidates.items())) if len(candidates) == 1 else ("", {})


def _few(cells: pd.Series) -> bool:
    """Return whether a column has few values, in a sample of its rows."""
    return cells.iloc[:1000].nunique() <= 12


def _known(values: Iterable[str]) -> dict[str, str]:
    """Return the splits of those values that are names of splits."""
    known = {value: SPLITS[_folded(value)] for value in values if _folded(value) in SPLITS}
    other = "test" if "val" in known.values() else "val"
    return known | {value: other for value in values if _folded(value) in EVALUATION}


def _value(cell: str) -> str:
    """Return a cell of a split column in lower case, and a whole number without a decimal point."""
    text = cell.strip().casefold()
    return text.partition(".")[0] if _WHOLE_NUMBER.fullmatch(text) else text


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _listed(values: list[str]) -> str:
    """Format the first values as text."""
    return ", ".join(map(files.printable, values[:LISTED])) + (" ..." if len(values) > LISTED else "")
