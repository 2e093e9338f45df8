"""Read CSV files of any origin, and write CSV files in which no cell is a formula."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lib.core import files

# Spreadsheets interpret text that starts with these characters as a formula; the last four are full-width.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# The first line with which a file informs Excel about its delimiter.
_SEPARATOR_LINE = re.compile(r'\s*"?sep=([^"\r\n])"?[ \t]*(\r\n|\r|\n|$)', re.IGNORECASE)
DELIMITERS = ",;\t|"
MAX_BYTES = 200 * 10**6
MAX_ROWS = 2 * 10**6
MAX_COLUMNS = 100_000
MAX_CELLS = 50 * 10**6
# First bytes of files that people take for CSV files.
_FORMATS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Excel workbook (.xls)",
    b"\x1f\x8b": "a gzip file",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a SQLite database",
    b"%PDF": "a PDF",
}


# Files of this project


def write(table: pd.DataFrame, path: Path, *, float_format: str | None = None) -> None:
    """Write a table as CSV, with an apostrophe before text that a spreadsheet would interpret as a formula.

    Args:
        table: the table; its index is not written.
        path: path of the file.
        float_format: format of floating-point numbers, such as `%.7g`; if `None`, all digits are written.
    """
    files.write(path, lambda partial: _save(table, partial, float_format=float_format))


def append(row: Mapping[str, Any], path: Path) -> None:
    """Append a row to a CSV file, with the column names before the first row."""
    _save(pd.DataFrame([row]), path, mode="a", header=not path.exists())


def _save(
    table: pd.DataFrame,
    path: Path,
    *,
    mode: Literal["w", "a"] = "w",
    header: bool = True,
    float_format: str | None = None,
) -> None:
    # With this line terminator, pandas quotes a "\r" in a cell.
    _map_texts(table, _with_apostrophe).to_csv(
        path,
        mode=mode,
        header=header,
        index=False,
        lineterminator="\r\n",
        encoding="utf-8",
        float_format=float_format,
    )


def read(path: Path, *, dtype: Any = str, na_values: Any = None) -> pd.DataFrame:
    """Read a table that `write` has written, without the apostrophes that it added.

    Args:
        path: path of the file.
        dtype: type of all columns, or `{column: type}`, as in pandas.
        na_values: texts that are missing values, `{column: texts}`; by default, empty cells are empty text.
    """
    table = pd.read_csv(path, dtype=dtype, na_values=na_values, keep_default_na=False, encoding="utf-8")
    return plain(table)


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Remove the apostrophes that `write` added to the text in a table."""
    return _map_texts(table, _without_apostrophe)


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of a table for display, with the text of its cells as `files.printable` returns it."""
    return _map_texts(table, lambda cell: files.printable(cell) if isinstance(cell, str) else cell)


def _map_texts(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Apply a function to each column name and cell of a copy, except in numeric columns, for speed."""
    result = table.copy()
    for column in table.select_dtypes(exclude="number"):
        result[column] = table[column].map(change)
    result.columns = pd.Index([change(column) for column in table.columns], name=table.columns.name)
    return result


def _with_apostrophe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _without_apostrophe(cell: object) -> object:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


# Files of other origins


def read_csv(file: Path) -> pd.DataFrame:
    """Read a CSV file of any origin; see `parse`."""
    with file.open("rb") as opened:
        return parse(opened.read(MAX_BYTES + 1), file.name)


def parse(
    data: bytes, name: str, *, encoding: str | None = None, delimiter: str | None = None
) -> pd.DataFrame:
    """Parse a CSV file of any origin.

    The encoding and the delimiter are detected from the whole file: UTF-8, UTF-16, or else Windows-1252;
    comma, semicolon, tab or vertical bar. A first line `sep=;` is obeyed.

    Args:
        data: content of the file.
        name: name of the file, for error messages.
        encoding: encoding of the text, such as `cp932`; if `None`, it is detected.
        delimiter: character between two cells; if `None`, it is detected.

    Returns:
        A table of strings. The first line has the column names, without spaces around them; lines with only
        empty cells are skipped. `attrs["notes"]` lists sentences on assumptions.

    Raises:
        ValueError: if the file is empty, too large, in another format such as that of Excel or not in this
            encoding, or has a repeated column name, rows of different lengths or unbalanced quotes.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{name}: expected a table of at most {MAX_BYTES / 1e6:g} MB. Received: more. "
            "Remove columns that are not needed"
        )
    _refuse_other_formats(data, name)
    text, notes = _decode(data, name, encoding)
    skipped = 0
    if separator := _SEPARATOR_LINE.match(text):
        delimiter, text, skipped = delimiter or separator[1], text[separator.end() :], 1
    rows, lines = _rows(text, name, delimiter=delimiter or _delimiter(text), skipped=skipped)
    if not rows:
        raise ValueError(f"{name} is empty. Expected: a line with the column names, then one line per photo")
    header = [column.strip() for column in rows[0]]
    if repeated := [column for column, count in Counter(header).items() if column and count > 1]:
        raise ValueError(f"{name} has two columns {repeated[0]!r}. Expected: unique column names")
    table = pd.DataFrame(_of_width(rows[1:], lines[1:], name, width=len(header)), columns=header, dtype=str)
    table.attrs["notes"] = notes
    return table


def _refuse_other_formats(data: bytes, name: str) -> None:
    """Raise a ValueError if the file is a workbook or another file that is not text."""
    kind = next((kind for start, kind in _FORMATS.items() if data.startswith(start)), "")
    if data.startswith(b"PK\x03\x04"):
        is_ods = b"opendocument" in data[:200]
        kind = "an OpenDocument spreadsheet (.ods)" if is_ods else "an Excel workbook (.xlsx) or a zip"
    elif re.match(rb"(\xef\xbb\xbf)?\s*<(\?xml|!doctype|html|table)", data[:200], re.IGNORECASE):
        kind = "an HTML page or an XML file"
    if kind:
        raise ValueError(
            f"{name}: expected a CSV file, which is plain text. Received: {kind}. "
            "Open it in a spreadsheet program and save it as CSV (UTF-8)"
        )


def _decode(data: bytes, name: str, encoding: str | None) -> tuple[str, list[str]]:
    """Return the text of a file, and a note if its encoding is an assumption."""
    detected = encoding or _encoding(data)
    try:
        text = data.decode(detected)
    except UnicodeError as error:
        at = ""
        if isinstance(error, UnicodeDecodeError):
            line = data.count(b"\n", 0, error.start) + 1
            at = f" in line {line}"
        expected = encoding or "UTF-8 or Windows-1252"
        raise ValueError(
            f"{name}: expected text in {expected}. Received: bytes that it does not have{at}. Save the file "
            "as UTF-8, or set `encoding` of the table, such as cp1252 (Windows), mac_roman, cp932 (Japanese) "
            "or gb18030"
        ) from None
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise ValueError(
            f"{name}: expected a CSV file, which is plain text. Received: NUL characters, as in a binary "
            "file. If it is text in UTF-16, set `encoding: utf-16-le` of the table"
        )
    if encoding or detected != "cp1252":
        return text, []
    examples = dict.fromkeys(re.findall(r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*", text))
    shown = ", ".join(files.printable(word) for word in list(examples)[:3])
    return text, [
        f"{name} is not UTF-8 and was read as Windows-1252: {shown}. If letters are wrong, set `encoding` of "
        "the table, such as cp1250, cp1251, mac_roman, cp932 or gb18030"
    ]


def _encoding(data: bytes) -> str:
    """Return the encoding of a file as a whole: that of its byte order mark, UTF-8, or else Windows-1252."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a byte order mark, every second byte of Western text in UTF-16 is NUL.
    first = data[:200]
    if len(first) > 3 and len(data) % 2 == 0 and (not any(first[1::2]) or not any(first[::2])):
        return "utf-16-be" if first[0] == 0 else "utf-16-le"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _delimiter(text: str) -> str:
    """Return the delimiter with which most rows of the whole file have as many cells as the first."""
    header = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    candidates = [delimiter for delimiter in DELIMITERS if delimiter in header] or [","]
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda delimiter: _consistency(text, delimiter))


def _consistency(text: str, delimiter: str) -> tuple[float, int]:
    """Return the fraction of rows as wide as the first row, and its width; zeros if it is a single cell."""
    widths: Counter[int] = Counter()
    width = 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if any(map(str.strip, row)):
                width = width or len(row)
                widths[len(row)] += 1
    except csv.Error:
        return 0, 0
    return (widths[width] / widths.total(), width) if width > 1 else (0, 0)


def _rows(text: str, name: str, *, delimiter: str, skipped: int) -> tuple[list[list[str]], list[int]]:
    """Return the rows that are not empty, and the line in which each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    line, cells = skipped + 1, 0
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(row)
                lines.append(line)
                cells += len(row)
            _check_limits(name, rows=len(rows), columns=len(row), cells=cells)
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {line}: expected balanced quotes and cells of at most {csv.field_size_limit():,} "
            f"characters. Received: a row that begins in this line and cannot be read ({error}). Write a "
            'quote inside a quoted cell as ""'
        ) from None
    return rows, lines


def _check_limits(name: str, *, rows: int, columns: int, cells: int) -> None:
    limits = {"rows": (rows, MAX_ROWS), "columns": (columns, MAX_COLUMNS), "cells": (cells, MAX_CELLS)}
    for kind, (number, limit) in limits.items():
        if number > limit:
            raise ValueError(
                f"{name}: expected a table of at most {limit:,} {kind}. Received: more. Remove rows or "
                "columns that are not needed, or set `delimiter` of the table if it is another"
            )


def _of_width(rows: list[list[str]], lines: list[int], name: str, *, width: int) -> list[list[str]]:
    """Return the rows without surplus empty cells; raise a ValueError if one has another number of cells."""
    for index, row in enumerate(rows):
        if len(row) > width and not any(map(str.strip, row[width:])):
            rows[index] = row[:width]
        elif len(row) != width:
            raise ValueError(
                f"{name}, line {lines[index]}: expected {width} columns, as in the line with the column "
                f"names. Received: {len(row)}. Put cells that contain the delimiter in quotes"
            )
    return rows
