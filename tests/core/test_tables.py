"""Tables that spreadsheets open, and tables that people made with them."""

import pandas as pd
import pytest

from lib.core import tables

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1+1", "''-1"]


def test_formulas_are_written_behind_an_apostrophe_and_read_back(tmp_path):
    table = pd.DataFrame({"path": [*FORMULAS, "plain", "'plain", ""], "number": range(len(FORMULAS) + 3)})
    tables.write(table, tmp_path / "table.csv")
    stored = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, encoding="utf-8")
    assert list(stored.path) == [*(f"'{text}" for text in FORMULAS), "plain", "'plain", ""]
    pd.testing.assert_frame_equal(tables.plain(stored), table)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_read_csv_reads_what_spreadsheets_write(tmp_path, encoding, separator, line_end):
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
        ("a,b,a\n1,2,3\n", "table.csv has two columns 'a'. Expected: each name once"),
        ("a,b\n1,2\n1\n", "table.csv, row 3: expected 2 columns. Received: 1"),
        ('a,b\n1,"' + "x" * 200_000, "table.csv cannot be read as a table: field larger than field limit"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message.replace(".", "[.]")):
        tables.read_csv(tmp_path / "table.csv")
