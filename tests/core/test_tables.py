"""Tables: text that is a formula is escaped, and CSV files of spreadsheets are read."""

import time

import pandas as pd
import pytest

from lib.core import tables

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1+1", "''-1"]


def test_formulas_are_written_after_an_apostrophe_and_read_back(tmp_path):
    table = pd.DataFrame({"path": [*FORMULAS, "plain", "'plain", ""], "number": range(len(FORMULAS) + 3)})
    tables.write(table, tmp_path / "table.csv")
    stored = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, encoding="utf-8")
    assert list(stored.path) == [*(f"'{text}" for text in FORMULAS), "plain", "'plain", ""]
    pd.testing.assert_frame_equal(tables.plain(stored), table)


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
