"""Tables of labels: several tables, groups, and files of any listing; tests/cases has more tables."""

import re
import time

import pytest

from lib.core import tables
from lib.core.schema import Sample
from lib.photos import label_tables


class Files:
    """A listing of files that are on no disk."""

    def __init__(self, **contents):
        self.contents = {
            name.replace("__", "/").replace("_csv", ".csv"): text for name, text in contents.items()
        }

    @property
    def paths(self):
        return sorted(self.contents)

    def read(self, path, limit=None):
        return self.contents[path].encode()[:limit]


def listed(text, *photos, group=None, **options):
    """Return the rows of a table with the columns of `options`, as tuples, and their notes."""
    listing = Files(labels_csv=text)
    listing.contents |= dict.fromkeys(photos, "")
    parameters = {"t": {"file": "labels.csv", "label": "label"} | options}
    table = label_tables.rows(listing, Sample(kind="sample", tables=parameters).tables, group=group)
    assert list(table.columns) == ["path", "label", "split", "problem", "group"]
    return list(table.itertuples(index=False, name=None)), table.attrs["notes"]


def test_rows_come_from_a_listing_alone():
    rows, notes = listed(
        "filename,label\n1.jpg,owl\n2.jpg,yak\n", "1.jpg", "2.jpg", "3.png", ".4.jpg", "5.txt"
    )
    assert rows == [
        ("1.jpg", "owl", "", "", ""),
        ("2.jpg", "yak", "", "", ""),
        ("3.png", "", "", "no table lists it", ""),
    ]
    assert notes == []


def test_groups_come_from_their_column():
    text = "filename,label,patient\n1.jpg,owl, p1 \n2.jpg,yak,\n"
    assert [row[4] for row in listed(text, "1.jpg", "2.jpg", group="patient")[0]] == ["p1", ""]
    assert [row[4] for row in listed(text, "1.jpg", "2.jpg", group="camera")[0]] == ["", ""]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("1.jpg,owl,train,p\n1.jpg,yak,train,p\n", "the tables have two labels for it: owl, yak"),
        ("1.jpg,owl,train,p\n1.jpg,owl,test,p\n", "the tables have two splits for it: test, train"),
        ("1.jpg,owl,train,p\n1.jpg,owl,train,q\n", "the tables have two groups for it: p, q"),
        ("1.jpg,owl,train,p\n1.jpg,owl,train,\n", ""),
        ("1.jpg,owl,train,p\n1,owl,train,p\n", ""),
    ],
)
def test_rows_that_contradict_one_another(lines, problem):
    text = f"filename,label,split,patient\n{lines}2.jpg,yak,train,q\n"
    rows, _ = listed(text, "1.jpg", "2.jpg", group="patient")
    assert [row[3] for row in rows] == [problem, ""]


def test_two_names_of_one_file_are_refused():
    with pytest.raises(
        ValueError, match=re.escape("lists 'cat/1.jpg' and 'dog/1.jpg', which can both mean only '1.jpg'")
    ):
        listed("filename,label\ncat/1.jpg,cat\ndog/1.jpg,cat\n", "1.jpg")


def test_half_of_the_files_may_not_be_missing():
    text = "filename,label\n1.jpg,owl\n2.jpg,yak\n"
    with pytest.raises(
        ValueError, match=r"lists 1 of 2 files .*: 2\.jpg\. Check `file`, `photos` and `filename`"
    ):
        listed(text, "1.jpg")
    rows, _ = listed(f"{text}3.jpg,owl\n", "1.jpg", "3.jpg")
    assert rows[1] == ("2.jpg", "yak", "", "labels.csv lists it, but there is no such file", "")


def test_columns_of_a_table_to_predict_are_not_labels():
    listing = Files(
        known_csv="filename,label\n1.jpg,owl\n2.jpg,yak\n", asked_csv="id,male,female\n3,1,0\n4,0,1\n"
    )
    listing.contents |= dict.fromkeys(("1.jpg", "2.jpg", "3.jpg", "4.jpg"), "")
    parameters = {
        "known": {"file": "known.csv", "label": "label"},
        "asked": {"file": "asked.csv", "filename": "id"},
    }
    table = label_tables.rows(listing, Sample(kind="sample", tables=parameters).tables)
    assert list(table.split) == ["", "", "predict", "predict"]


def test_constant_columns_and_probabilities_are_no_classes():
    for cells in ("1,0", "0,0", "0.5,0.5"):
        rows, _ = listed(f"filename,cat,dog\n1.jpg,{cells}\n2.jpg,{cells}\n", "1.jpg", "2.jpg", label=None)
        assert [row[2] for row in rows] == ["predict", "predict"]


def test_columns_of_classes_are_found_beside_other_flags():
    text = "filename,indoors,MEL,NV,BCC,UNK,valid\n" + "".join(
        f"{n}.jpg,{n % 2},{int(n % 3 == 0)},{int(n % 3 == 1)},{int(n % 3 == 2)},0,{n // 3}\n"
        for n in range(6)
    )
    with pytest.raises(ValueError, match=re.escape("`labels: [MEL, NV, BCC, UNK]`")):
        listed(text, *(f"{n}.jpg" for n in range(6)), label="MEL")


def test_names_with_escape_sequences_are_shown_without_them():
    _, notes = listed(
        "filename,label\n1,a\x1b[31m b\n2,b a\x1b[31m\n3,x\n", "1.jpg", "2.jpg", "3\x1b.jpg", "3.jpg"
    )
    assert notes and "\x1b" not in "".join(notes)


def test_many_rows_are_matched_in_linear_time():
    count = 20_000
    text = "id,label\n" + "".join(f"{number},{number % 2}\n" for number in range(count))
    began = time.process_time()
    rows, _ = listed(text, *(f"part{number % 7}/{number}.jpg" for number in range(count)), filename="id")
    assert len(rows) == count and time.process_time() - began < 10


def test_a_table_that_is_too_large_is_read_only_in_part(monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 10)
    monkeypatch.setattr(label_tables, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"labels\.csv: expected a table of at most"):
        listed("filename,label\n1.jpg,owl\n", "1.jpg")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": ["a", "b"]}, "Received: both"),
        ({"label": None, "labels": ["a"]}, "two or more different names"),
        ({"split": "train", "split_column": "x"}, "expected `split` or `split_column`"),
        ({"split_values": {1: "test"}}, "`split_values` needs `split_column`"),
        ({"encoding": "utf-9"}, "expected an encoding of Python"),
        ({"delimiter": "ab"}, "at most 1 character"),
    ],
)
def test_parameters_that_contradict_one_another(options, words):
    with pytest.raises(ValueError, match=words):
        listed("filename,label\n", **options)
