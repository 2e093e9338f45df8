"""Tables: text that is a formula is escaped, and CSV files of spreadsheets are read."""

import csv
import re
import time

import pandas as pd
import pytest

from lib.core import params, tables

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1", "'=1+1", "''-1"]


def test_formulas_are_written_after_an_apostrophe_and_read_back(tmp_path):
    table = pd.DataFrame({"path": [*FORMULAS, "plain", "'plain", ""], "number": range(len(FORMULAS) + 3)})
    tables.write(table, tmp_path / "table.csv")
    stored = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, encoding="utf-8")
    assert list(stored.path) == [*(f"'{text}" for text in FORMULAS), "plain", "'plain", ""]
    pd.testing.assert_frame_equal(tables.plain(stored), table)


def test_every_table_comes_back_as_it_was(tmp_path):
    texts = [
        *FORMULAS,
        "'",
        "''",
        "'a'",
        "a\rb",
        'a"b',
        "a,b",
        "a\nb",
        " a ",
        "",
        "NA",
        "007",
        "\ufeffx",
        "'\ufeff=",
    ]
    table = pd.DataFrame({"=path": texts, "'name": texts[::-1], "\t": texts})
    tables.write(table, tmp_path / "table.csv")
    pd.testing.assert_frame_equal(tables.read(tmp_path / "table.csv"), table)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n\uff1d"))]


def test_rows_are_appended_after_the_column_names(tmp_path):
    for label in ("=1", "owl"):
        tables.append({"label": label, "loss": 0.5}, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == b"label,loss\r\n'=1,0.5\r\nowl,0.5\r\n"
    table = tables.read(tmp_path / "table.csv", dtype={"label": str})
    assert table.to_dict("list") == {"label": ["=1", "owl"], "loss": [0.5, 0.5]}


def test_no_other_code_writes_a_table():
    writers = re.compile(r"\.to_csv\(|csv\.writer|DictWriter|np\.savetxt|\.to_excel\(")
    files = [*params.ROOT.glob("lib/**/*.py"), *params.ROOT.glob("notebooks/*.ipynb")]
    found = {
        str(path.relative_to(params.ROOT)): len(writers.findall(path.read_text("utf-8"))) for path in files
    }
    assert {path: count for path, count in found.items() if count} == {"lib/core/tables.py": 1}


def test_a_table_for_display_has_no_control_characters():
    table = pd.DataFrame({"a\x1b": ["x\x1b[31m", "\u202e"], "n": [1, 2]}, index=["first", "second"])
    shown = tables.printable(table)
    assert shown.to_dict("list") == {"a\\x1b": ["x\\x1b[31m", "\\u202e"], "n": [1, 2]}
    assert list(shown.index) == ["first", "second"] and table.iloc[0, 0] == "x\x1b[31m"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_read_csv_reads_the_formats_of_spreadsheets(tmp_path, encoding, separator, line_end):
    lines = [["path", " label "], ["a.jpg", "Bär"], ["", " "], ["007", '"x ""y"""']]
    text = line_end.join(separator.join(line) for line in lines)
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    table = tables.read_csv(tmp_path / "table.csv")
    assert list(table.columns) == ["path", "label"]
    assert table.to_numpy().tolist() == [["a.jpg", "Bär"], ["007", 'x "y"']]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty. Expected: a line with the column names"),
        (" \n,\n", "table.csv is empty"),
        ("a,b,a\n1,2,3\n", "table.csv has two columns 'a'. Expected: unique column names"),
        ("a,b,,,a\n", "table.csv has two columns 'a'"),
        ('a,b\n1,2\n\n3,"4"x\n', "table.csv, line 4: expected balanced quotes"),
        ('a,b\n"1\n2",3\n4,"5\n', "table.csv, line 4: expected balanced quotes"),
        ("sep=;\na;b\n1;2\n3\n", "table.csv, line 4: expected 2 columns"),
        ("a,b\n1,\x002\n", "Received: NUL characters, as in a binary file"),
        ("<!DOCTYPE html><table>", "Received: an HTML page or an XML file"),
        ("a,b\n1,2\n1\n", "table.csv, line 3: expected 2 columns, as in the line with the column names. "),
        (
            'a,b\n1,"' + "x" * 200_000,
            "table.csv, line 2: expected balanced quotes and cells of at most 131,072",
        ),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message.replace(".", "[.]")):
        tables.read_csv(tmp_path / "table.csv")


def test_many_columns_are_read_in_linear_time(tmp_path):
    header = ",".join(f"column{number}" for number in range(60_000))
    (tmp_path / "wide.csv").write_text(f"{header}\n{header}\n")
    began = time.process_time()
    assert tables.read_csv(tmp_path / "wide.csv").shape == (1, 60_000)
    assert time.process_time() - began < 5


def test_a_table_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "large.csv").write_text("a,b\n" * 500)
    monkeypatch.setattr(tables, "MAX_BYTES", 2000)
    assert len(tables.read_csv(tmp_path / "large.csv")) == 499
    monkeypatch.setattr(tables, "MAX_BYTES", 1999)
    with pytest.raises(
        ValueError, match=r"large.csv: expected a table of at most 0.001999 MB. Received: more"
    ):
        tables.read_csv(tmp_path / "large.csv")


def test_the_limit_of_a_table_is_200_megabytes(tmp_path):
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(201_500_100)
    with pytest.raises(ValueError, match=r"at most 200 MB. Received: more. Remove columns"):
        tables.read_csv(tmp_path / "large.csv")


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (
            b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet",
            "OpenDocument",
        ),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "an Excel workbook (.xlsx) or a zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)"),
        (b"\x1f\x8b\x08", "a gzip file"),
    ],
)
def test_files_of_other_formats_are_refused_with_advice(beginning, kind):
    with pytest.raises(ValueError, match=re.escape(kind)) as caught:
        tables.parse(beginning + bytes(99), "labels.csv")
    assert "labels.csv: expected a CSV file" in str(caught.value) and "save it as CSV (UTF-8)" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("limit", "kind"), [("MAX_ROWS", "rows"), ("MAX_COLUMNS", "columns"), ("MAX_CELLS", "cells")]
)
def test_the_size_of_a_table_is_limited(monkeypatch, limit, kind):
    text = "a,b,c\n" + "1,2,3\n" * 9
    monkeypatch.setattr(tables, limit, {"rows": 10, "columns": 3, "cells": 30}[kind])
    assert tables.parse(text.encode(), "large.csv").shape == (9, 3)
    monkeypatch.setattr(tables, limit, {"rows": 9, "columns": 2, "cells": 29}[kind])
    with pytest.raises(
        ValueError, match=rf"large\.csv: expected a table of at most \d+ {kind}\. Received: more"
    ):
        tables.parse(text.encode(), "large.csv")


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("a|b\n1|x,y\n", ["a", "b"], ["1", "x,y"]),
        ("a;b\n1,5;x\n2,5;y\n", ["a", "b"], ["1,5", "x"]),
        ("a,b\n1,x;y\n2,z\n", ["a", "b"], ["1", "x;y"]),
        ("a b\n1 x\n", ["a b"], ["1 x"]),
        ('"a;b",c\n1,2\n', ["a;b", "c"], ["1", "2"]),
        ("a,b\n1,2,,\n", ["a", "b"], ["1", "2"]),
        ('"sep=|"\r\na|b\r\n1|2\r\n', ["a", "b"], ["1", "2"]),
        ("SEP=\t\na\tb\n1\t2\n", ["a", "b"], ["1", "2"]),
        ("sep,b\n1,2\n", ["sep", "b"], ["1", "2"]),
    ],
)
def test_the_delimiter_is_detected_from_the_whole_file(text, columns, first):
    table = tables.parse(text.encode(), "labels.csv")
    assert list(table.columns) == columns and list(table.iloc[0]) == first


def test_the_delimiter_and_the_encoding_can_be_set():
    table = tables.parse("a,b;c\nя,1;2\n".encode("cp1251"), "labels.csv", encoding="cp1251", delimiter=";")
    assert table.to_dict("list") == {"a,b": ["я,1"], "c": ["2"]} and table.attrs["notes"] == []
    with pytest.raises(ValueError, match=r"expected text in utf-8\. Received: bytes .* in line 2"):
        tables.parse("a\nBär".encode("latin-1"), "labels.csv", encoding="utf-8")
