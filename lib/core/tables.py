"""Tables that people open in a spreadsheet: written whole, and so that none of their cells is run."""

import re
from pathlib import Path

import pandas as pd

from lib.core import cache

# A spreadsheet runs what starts with one of these as a formula: such cells are written behind an apostrophe.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, a text that a spreadsheet would run behind an apostrophe."""
    guarded = table.map(_with_apostrophe)
    # so that a "\r" in a name is quoted
    cache.write(
        path, lambda partial: guarded.to_csv(partial, index=False, lineterminator="\r\n", encoding="utf-8")
    )


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that was read from such a file with its texts as they were before."""
    return table.map(_without_apostrophe)


def _with_apostrophe(cell):
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _without_apostrophe(cell):
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell
