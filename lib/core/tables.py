"""Write tables for spreadsheets so that no cell is run as a formula, and read those that people wrote."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lib.core import files

# A spreadsheet runs a text that starts with one of these as a formula.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")

# Bytes of a table that is read.
LARGEST_BYTES = 200 * 10**6


def write(table: pd.DataFrame, path: Path, *, float_format: str | None = None) -> None:
    """Write a table as CSV, with an apostrophe before each text that a spreadsheet would run.

    Args:
        table: the table; its index is not written.
        path: the file.
        float_format: how to write floating-point numbers, such as `%.7g`; `None`: with all their digits.
    """
    guarded = _map_texts(table, _with_apostrophe)
    # With this line terminator, a "\r" in a name is quoted.
    files.write(
        path,
        lambda partial: guarded.to_csv(
            partial, index=False, lineterminator="\r\n", encoding="utf-8", float_format=float_format
        ),
    )


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table read from a file of `write` with its texts as they were before."""
    return _map_texts(table, _without_apostrophe)


def _map_texts(table: pd.DataFrame, change: Callable[[object], object]) -> pd.DataFrame:
    """Return a copy of a table with each cell changed, but for columns of numbers, which may be many."""
    result = table.copy()
    for column in table.select_dtypes(exclude="number"):
        result[column] = table[column].map(change)
    return result


def _with_apostrophe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _without_apostrophe(cell: object) -> object:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(file: Path) -> pd.DataFrame:
    """Read a CSV file as text, whatever its separator, line ends and encoding.

    Returns:
        A table of texts, with the first line as the names of its columns; lines of empty cells are left out.

    Raises:
        ValueError: the file is empty or too large, names a column twice, has a row of another length or an
            open quote.
    """
    if (size := file.stat().st_size) > LARGEST_BYTES:
        raise ValueError(
            f"{file.name}: expected a table of at most {LARGEST_BYTES / 1e6:g} MB. "
            f"Received: {size / 1e6:.0f} MB. Leave out the columns that are not needed"
        )
    text = _text(file.read_bytes())
    first = (text.strip().splitlines() or [""])[0]
    separator = max(",;\t", key=first.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [row for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(
            f"{file.name} cannot be read as a table: {error}. "
            "Expected: one line per photo, with quotes in pairs"
        ) from None
    if not rows:
        raise ValueError(
            f"{file.name} is empty. Expected: a line with the column names, then one line per photo"
        )
    header = [name.strip() for name in rows[0]]
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise ValueError(f"{file.name} has two columns {repeated[0]!r}. Expected: each name once")
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]:
        raise ValueError(
            f"{file.name}, row {wrong[0]}: expected {len(header)} columns. "
            f"Received: {len(rows[wrong[0] - 1])}"
        )
    return pd.DataFrame(rows[1:], columns=header, dtype=str)


def _text(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or else Latin-1, which are what spreadsheets write."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")
