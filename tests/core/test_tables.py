"""Tables: those that people wrote are read quickly or refused."""

import time

import pytest

from lib.core import tables


def test_many_columns_are_read_in_linear_time(tmp_path):
    header = ",".join(f"column{number}" for number in range(60_000))
    (tmp_path / "wide.csv").write_text(f"{header}\n{header}\n")
    began = time.process_time()
    assert tables.read_csv(tmp_path / "wide.csv").shape == (1, 60_000)
    assert time.process_time() - began < 5


def test_a_repeated_column_is_named(tmp_path):
    (tmp_path / "twice.csv").write_text("a,b,,,a\n")
    with pytest.raises(ValueError, match=r"twice.csv has two columns 'a'. Expected: each name once"):
        tables.read_csv(tmp_path / "twice.csv")


def test_a_table_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "large.csv").write_text("a,b\n" * 500)
    monkeypatch.setattr(tables, "LARGEST_BYTES", 2000)
    assert len(tables.read_csv(tmp_path / "large.csv")) == 499
    monkeypatch.setattr(tables, "LARGEST_BYTES", 1999)
    with pytest.raises(ValueError, match=r"large.csv: expected a table of at most .* MB. Received: 0 MB"):
        tables.read_csv(tmp_path / "large.csv")
