"""Decisions: a person's decision is applied to the photo that the person saw, and to no other photo."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lib.clean import decisions

SHA1 = {
    path: f"{number:040x}" for number, path in enumerate(["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"])
}


def table(**columns):
    """Return the four photos as the manifest has them when decisions are applied."""
    paths = list(SHA1)
    rows = {"path": paths, "label": [path[:3] for path in paths], "split": "", "status": "kept"}
    rows |= {"detail": "", "relabelled_from": "", "sha1": list(SHA1.values())}
    return pd.DataFrame(rows | columns)


def applied(folder, before=None, *, partial=False):
    """Return {path: (label, status, detail or earlier label)} of the changes, and the notes."""
    before = table() if before is None else before
    original = before.copy()
    after, notes = decisions.apply(before, folder, partial=partial)
    pd.testing.assert_frame_equal(before, original)
    columns = ["label", "status", "detail", "relabelled_from"]
    changed = after[(after[columns] != before[columns]).any(axis=1)]
    assert not (changed.detail.ne("") & changed.relabelled_from.ne("")).any()
    return {
        row.path: (row.label, row.status, row.detail or row.relabelled_from) for row in changed.itertuples()
    }, notes


def exclude(folder, path, **options):
    decisions.exclude(folder, path, **{"sha1": SHA1.get(path, ""), "reason": ""} | options)


def relabel(folder, path, label, **options):
    values = {"sha1": SHA1.get(path, ""), "label": label, "source_label": path[:3]}
    decisions.relabel(folder, path, **values | options)


def text(folder, file):
    return (folder / file).read_text(encoding="utf-8")


# Applying


def test_an_excluded_photo_and_its_reason(tmp_path):
    exclude(tmp_path, "cat/1.jpg", reason="blurred")
    exclude(tmp_path, "dog/2.jpg")
    assert applied(tmp_path) == (
        {
            "cat/1.jpg": ("cat", "excluded", "excluded by hand: blurred"),
            "dog/2.jpg": ("dog", "excluded", "excluded by hand"),
        },
        [],
    )


def test_a_relabelled_photo_is_kept_with_its_earlier_label(tmp_path):
    relabel(tmp_path, "cat/1.jpg", "dog")
    relabel(tmp_path, "dog/1.jpg", "dog")
    assert applied(tmp_path) == ({"cat/1.jpg": ("dog", "kept", "cat")}, [])
    assert decisions.of_each(tmp_path, SHA1)["dog/1.jpg"].kind == "keep"


def test_without_files_nothing_changes(tmp_path):
    assert applied(tmp_path / "none") == ({}, []) and decisions.of_each(tmp_path / "none", SHA1) == {}


def test_the_index_and_the_order_of_the_table_stay(tmp_path):
    exclude(tmp_path, "cat/1.jpg")
    after, _ = decisions.apply(table().sample(frac=1, random_state=1), tmp_path, partial=False)
    assert list(after.index) == list(table().sample(frac=1, random_state=1).index)
    assert after.path[after.status.eq("excluded")].tolist() == ["cat/1.jpg"]


def test_a_damaged_photo_stays_damaged(tmp_path):
    exclude(tmp_path, "cat/1.jpg")
    relabel(tmp_path, "cat/2.jpg", "dog")
    before = table(status=["corrupt", "small", "kept", "kept"])
    assert applied(tmp_path, before) == ({}, [])


def test_a_label_by_hand_replaces_a_missing_or_contradictory_label(tmp_path):
    relabel(tmp_path, "cat/1.jpg", "dog")
    relabel(tmp_path, "cat/2.jpg", "cat")
    before = table(status=["mislabelled", "mislabelled", "kept", "kept"], label=["", "cat", "dog", "dog"])
    assert applied(tmp_path, before)[0] == {
        "cat/1.jpg": ("dog", "kept", "(none)"),
        "cat/2.jpg": ("cat", "kept", "cat"),
    }


def test_copies_share_a_decision_unless_they_have_their_own(tmp_path):
    before = table(sha1=["a" * 40, "a" * 40, "a" * 40, "b" * 40], label=["cat", "cat", "dog", "dog"])
    exclude(tmp_path, "cat/1.jpg", sha1="a" * 40)
    changes, _ = applied(tmp_path, before)
    # The copy with the label dog is kept.
    assert set(changes) == {"cat/1.jpg", "cat/2.jpg"}
    relabel(tmp_path, "cat/2.jpg", "cat", sha1="a" * 40)
    assert set(applied(tmp_path, before)[0]) == {"cat/1.jpg"}


def test_a_photo_to_predict_can_be_excluded_but_not_labelled(tmp_path):
    before = table(label=["", "", "dog", "cat"], split=["predict", "predict", "", ""])
    exclude(tmp_path, "cat/1.jpg")
    relabel(tmp_path, "cat/2.jpg", "dog")
    changes, notes = applied(tmp_path, before)
    assert list(changes) == ["cat/1.jpg"]
    assert notes == [
        "1 photo (cat/2.jpg) without a label in the source, to be predicted: relabelling is not applied"
    ]


# Decisions that are not applied


def test_a_file_that_changed_since_is_reported_and_left_alone(tmp_path):
    exclude(tmp_path, "cat/1.jpg", sha1="f" * 40)
    relabel(tmp_path, "cat/2.jpg", "dog", sha1="f" * 40)
    exclude(tmp_path, "dog/1.jpg", sha1=SHA1["dog/1.jpg"].upper())
    changes, notes = applied(tmp_path)
    assert list(changes) == ["dog/1.jpg"] and len(notes) == 1
    assert "2 photos" in notes[0] and "cat/1.jpg" in notes[0] and "changed since the decision" in notes[0]


def test_photos_that_are_not_in_the_source_are_a_note(tmp_path):
    for number in range(5):
        exclude(tmp_path, f"gone/{number}.jpg")
    exclude(tmp_path, "old/1.jpg", sha1=SHA1["dog/1.jpg"])
    changes, notes = applied(tmp_path)
    assert changes == {} and notes == [
        "6 photos (gone/0.jpg, gone/1.jpg, gone/2.jpg ...) in the decisions but not in the source: "
        "not applied"
    ]
    for number in range(5):
        decisions.forget(tmp_path, f"gone/{number}.jpg")
    assert "old/1.jpg (now dog/1.jpg)" in applied(tmp_path)[1][0]


def test_a_label_that_no_photo_has(tmp_path):
    relabel(tmp_path, "cat/1.jpg", "dgo")
    with pytest.raises(
        ValueError,
        match=r"relabels.csv: expected one of the 2 labels .* for cat/1.jpg, such as dog. Received: 'dgo'",
    ):
        decisions.apply(table(), tmp_path, partial=False)
    relabel(tmp_path, "cat/1.jpg", "zebra")
    with pytest.raises(ValueError, match=r"such as cat, dog. Received: 'zebra'"):
        decisions.apply(table(), tmp_path, partial=False)


def test_a_part_of_the_source(tmp_path):
    relabel(tmp_path, "cat/1.jpg", "elk")
    exclude(tmp_path, "elk/1.jpg")
    reason = "relabelled by hand to elk, which `source.classes` leaves out"
    assert applied(tmp_path, partial=True) == ({"cat/1.jpg": ("cat", "excluded", reason)}, [])


def test_a_photo_in_both_files_is_excluded_with_a_note(tmp_path):
    (tmp_path / "exclusions.csv").write_text("path\ncat/1.jpg\n")
    (tmp_path / "relabels.csv").write_text("path,label\ncat/1.jpg,dog\n")
    changes, notes = applied(tmp_path)
    assert changes == {"cat/1.jpg": ("cat", "excluded", "excluded by hand")}
    assert notes == ["1 photo (cat/1.jpg) in exclusions.csv and in relabels.csv: excluded"]


# Writing


def test_later_decisions_win_and_a_photo_is_in_one_file(tmp_path):
    exclude(tmp_path, "cat/1.jpg")
    exclude(tmp_path, "cat/2.jpg")
    relabel(tmp_path, "cat/1.jpg", "dog")
    assert list(decisions.read(tmp_path, "exclusions.csv").path) == ["cat/2.jpg"]
    assert decisions.of_each(tmp_path, SHA1)["cat/1.jpg"] == decisions.Decision(
        "relabel", SHA1["cat/1.jpg"], "dog", "cat"
    )
    exclude(tmp_path, "cat/1.jpg", reason="no cat")
    assert decisions.read(tmp_path, "relabels.csv").empty
    decisions.forget(tmp_path, "cat/1.jpg")
    decisions.forget(tmp_path, "cat/2.jpg")
    assert decisions.of_each(tmp_path, SHA1) == {} and applied(tmp_path) == ({}, [])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_decision_writes_no_other_file_than_its_own(tmp_path):
    decisions.forget(tmp_path, "cat/1.jpg")
    assert not list(tmp_path.iterdir())
    exclude(tmp_path, "cat/1.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["exclusions.csv"]
    exclude(tmp_path, "cat/1.jpg", reason="blurred")
    decisions.forget(tmp_path, "cat/2.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["exclusions.csv"]


def test_the_kinds_of_decisions(tmp_path):
    relabel(tmp_path, "cat/1.jpg", "dog")
    relabel(tmp_path, "dog/1.jpg", "cat")
    relabel(tmp_path, "dog/2.jpg", "dog")
    exclude(tmp_path, "cat/2.jpg")
    kinds = {path: decision.kind for path, decision in decisions.of_each(tmp_path, SHA1).items()}
    assert kinds == {
        "cat/1.jpg": "relabel",
        "dog/1.jpg": "relabel",
        "dog/2.jpg": "keep",
        "cat/2.jpg": "exclude",
    }


def test_the_files_are_plain_csv(tmp_path):
    relabel(tmp_path, "cat/ä, 1.jpg", "dog", sha1="a" * 40)
    line = '"cat/ä, 1.jpg",' + "a" * 40 + ",dog,cat"
    assert text(tmp_path, "relabels.csv").split() == ["path,sha1,label,from", *line.split()]


def test_other_rows_and_columns_of_a_hand_stay(tmp_path):
    (tmp_path / "exclusions.csv").write_text("who;path;reason\nAnna;cat/1.jpg;dark\nBen;cat/2.jpg;\n")
    exclude(tmp_path, "dog/1.jpg", reason="dark")
    rows = decisions.read(tmp_path, "exclusions.csv")
    assert list(rows.columns) == ["path", "sha1", "reason", "who"] and list(rows.who) == ["Anna", "Ben", ""]
    decisions.forget(tmp_path, "cat/1.jpg")
    assert list(decisions.read(tmp_path, "exclusions.csv").who) == ["Ben", ""]


@pytest.mark.parametrize(
    ("moment", "excluded", "relabelled"),
    [(0, ["cat/1.jpg", "dog/1.jpg"], []), (2, ["cat/1.jpg", "dog/1.jpg"], ["cat/1.jpg"])],
)
def test_an_interrupt_while_writing_loses_no_decision(tmp_path, monkeypatch, moment, excluded, relabelled):
    exclude(tmp_path, "cat/1.jpg")
    exclude(tmp_path, "dog/1.jpg")
    # The writer flushes the file and then the folder; on Windows only the file.
    moment = moment // 2 if os.name == "nt" else moment
    flush, number = os.fsync, itertools.count()

    def interrupted(descriptor):
        if next(number) == moment:
            raise KeyboardInterrupt
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        relabel(tmp_path, "cat/1.jpg", "dog")
    assert list(decisions.read(tmp_path, "exclusions.csv").path) == excluded
    assert list(decisions.read(tmp_path, "relabels.csv").path) == relabelled
    assert not list(tmp_path.glob(".*"))


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    exclude(tmp_path, "cat/1.jpg")
    before = text(tmp_path, "exclusions.csv")
    code = (
        "import os; from pathlib import Path; from lib.clean import decisions; "
        "os.fsync = lambda descriptor: os._exit(9); "
        "decisions.exclude(Path(), 'cat/2.jpg', sha1='', reason='')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 9
    (partial,) = tmp_path.glob(".partial-*")
    assert "cat/2.jpg" in partial.read_text() and text(tmp_path, "exclusions.csv") == before
    exclude(tmp_path, "cat/2.jpg")
    assert list(decisions.of_each(tmp_path, SHA1)) == ["cat/1.jpg", "cat/2.jpg"]


@pytest.mark.parametrize("label", ["", None])
def test_a_relabel_needs_a_label(tmp_path, label):
    with pytest.raises(ValueError, match=r"expected the new label of cat/1.jpg. Received: .*`exclude`"):
        relabel(tmp_path, "cat/1.jpg", label)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffpath;label\r\ncat/1.jpg;dog\r\n".encode(),
        b"label\tpath\ncat\tdog/1.jpg\ndog\tcat/1.jpg\n",
        b" path , label ,sha1\n\n./cat/1.jpg, dog ,\n\n",
        b"path,label\ncat/1.jpg,cat\ncat/1.jpg,dog\n",
        b'"path","label"\r"cat/1.jpg","dog"\r',
    ],
)
def test_the_formats_of_spreadsheets(tmp_path, content):
    (tmp_path / "relabels.csv").write_bytes(content)
    assert applied(tmp_path)[0]["cat/1.jpg"] == ("dog", "kept", "cat")


def test_latin_1(tmp_path):
    (tmp_path / "exclusions.csv").write_bytes("path,reason\nbär/1.jpg,überbelichtet\n".encode("latin-1"))
    before = table(path=["bär/1.jpg", *list(SHA1)[1:]])
    assert applied(tmp_path, before)[0]["bär/1.jpg"][2] == "excluded by hand: überbelichtet"


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"path,sha1,reason\n"])
def test_an_empty_file_decides_nothing(tmp_path, content):
    (tmp_path / "exclusions.csv").write_bytes(content)
    assert applied(tmp_path) == ({}, [])
    exclude(tmp_path, "cat/1.jpg")
    assert list(applied(tmp_path)[0]) == ["cat/1.jpg"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "exclusions.csv",
            "file,reason\na,b\n",
            "exclusions.csv has no column 'path'. Received: 'file', 'reason'. Expected: path, sha1, reason",
        ),
        ("exclusions.csv", "path,path\na,b\n", "exclusions.csv has two columns 'path'"),
        ("relabels.csv", "path,sha1\na,b\n", "relabels.csv has no column 'label'"),
        (
            "relabels.csv",
            "path,label\na,\nb,cat\n",
            r"relabels.csv has no label for 1 photo \(a\).*exclusions.csv",
        ),
        (
            "exclusions.csv",
            "path,reason\na,b,c\n",
            "exclusions.csv, line 2: expected 2 columns, as in the line with",
        ),
        (
            "exclusions.csv",
            "path\n../a.jpg\n",
            "exclusions.csv: expected paths of photos inside the source. Received: '../a.jpg'",
        ),
        ("exclusions.csv", "path\n/etc/passwd\n", "Received: '/etc/passwd'"),
        ("relabels.csv", "path,label\n,dog\n", "relabels.csv: expected paths .* Received: ''"),
    ],
)
def test_an_unreadable_file_is_an_error_before_anything_is_written(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        decisions.apply(table(), tmp_path, partial=False)
    with pytest.raises(ValueError, match=message):
        exclude(tmp_path, "cat/1.jpg")
    with pytest.raises(ValueError, match=message):
        relabel(tmp_path, "cat/1.jpg", "dog")
    assert {path.name for path in tmp_path.iterdir()} == {file} and text(tmp_path, file) == content


NASTY = [
    "=cmd|' /C calc'!A0.jpg",
    "+1.jpg",
    "-1.jpg",
    "@x.jpg",
    "'=x.jpg",
    "''-y.jpg",
    "'quoted'.jpg",
    'a"b,c;d.jpg',
    "a\nb\r.jpg",
    " lead.jpg",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_that_a_spreadsheet_would_run_or_break_come_back(tmp_path, name):
    before = table(path=[name, *list(SHA1)[1:]], label=["-1", "-1", "=2", "=2"])
    decisions.relabel(tmp_path, name, sha1="0" * 40, label="=2", source_label="-1")
    changes, notes = applied(tmp_path, before)
    assert changes == {name: ("=2", "kept", "-1")} and notes == []
    exclude(tmp_path, name, sha1="0" * 40, reason="=1+1")
    assert applied(tmp_path, before)[0] == {name: ("-1", "excluded", "excluded by hand: =1+1")}
    rows = pd.read_csv(tmp_path / "exclusions.csv", dtype=str, keep_default_na=False)
    assert not any(cell[:1] in ("=", "+", "-", "@") for cell in np.ravel(rows.to_numpy()))


def test_a_decision_on_another_file_or_on_a_photo_that_is_gone_does_not_hold(tmp_path):
    for path in ("cat/1.jpg", "dog/1.jpg", "dog/9.jpg"):
        exclude(tmp_path, path, sha1=SHA1.get(path, "f" * 40))
    (tmp_path / "relabels.csv").write_text("path,label\ncat/2.jpg,dog\n")
    replaced = SHA1 | {"cat/1.jpg": "e" * 40}
    # A decision without a SHA-1 always holds.
    assert set(decisions.of_each(tmp_path, replaced)) == {"dog/1.jpg", "cat/2.jpg"}
