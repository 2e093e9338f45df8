"""Read CSV files from spreadsheets, and write CSV files in which no cell is a formula."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lib.core import files

# Spreadsheets interpret text that starts with these characters as a formula.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
MAX_BYTES = 200 * 10**6


def write(table: pd.DataFrame, path: Path, *, float_format: str | None = None) -> None:
    """Write a table as CSV, with an apostrophe before text that a spreadsheet would interpret as a formula.

    Args:
        table: the table; its index is not written.
        path: path of the file.
        float_format: format of floating-point numbers, such as `%.7g`; if `None`, all digits are written.
    """
    escaped = _map_texts(table, _with_apostrophe)
    # With this line terminator, pandas quotes a "\r" in a cell.
    files.write(
        path,
        lambda partial: escaped.to_csv(
            partial, index=False, lineterminator="\r\n", encoding="utf-8", float_format=float_format
        ),
    )


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Remove the apostrophes that `write` added to the text in a table."""
    return _map_texts(table, _without_apostrophe)


def _map_texts(table: pd.DataFrame, change: Callable[[object], object]) -> pd.DataFrame:
    """Apply a function to each cell of a copy of a table, except in numeric columns, for speed."""
    result = table.copy()
    for column in table.select_dtypes(exclude="number"):
        result[column] = table[column].map(change)
    return result


def _with_apostrophe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _without_apostrophe(cell: object) -> object:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(file: Path) -> pd.DataFrame:
    """Read a CSV file, and detect its separator (comma, semicolon or tab), line ends and encoding.

    Returns:
        A table of strings. The first line has the column names; lines with only empty cells are skipped.

    Raises:
        ValueError: if the file is empty or too large, or has a repeated column name, rows of different
            lengths or an unclosed quote.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(
            f"{file.name}: expected a table of at most {MAX_BYTES / 1e6:g} MB. "
            f"Received: {size / 1e6:.0f} MB. Remove columns that are not needed"
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
            "Expected: one line per photo, with balanced quotes"
        ) from None
    if not rows:
        raise ValueError(
            f"{file.name} is empty. Expected: a line with the column names, then one line per photo"
        )
    header = [name.strip() for name in rows[0]]
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise ValueError(f"{file.name} has two columns {repeated[0]!r}. Expected: unique column names")
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]:
        raise ValueError(
            f"{file.name}, row {wrong[0]}: expected {len(header)} columns. "
            f"Received: {len(rows[wrong[0] - 1])}"
        )
    return pd.DataFrame(rows[1:], columns=header, dtype=str)


def _text(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or else Latin-1, the encodings of spreadsheets."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")
