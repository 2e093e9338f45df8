"""Labels: from folders and tables in the layouts that authors use."""

import unicodedata

import pandas as pd
import pytest

from lib.core.schema import Sample
from lib.photos import labels, listing

FOLDERS = Sample(kind="sample")


def tables(**tables):
    return Sample(kind="sample", tables=tables)


def labelled(**options):
    return tables(labelled={"file": "labels.csv", "photos": "photos", "label": "label"} | options)


def listed(raw, source=FOLDERS):
    """Return {path: (label, split, problem)}."""
    table = labels.find(listing.Folder(raw.folder), source)
    assert (
        list(table.columns) == labels.COLUMNS
        and list(table.path) == sorted(table.path)
        and table.path.is_unique
    )
    return {row.path: (row.label, row.split, row.problem) for row in table.itertuples()}


def refusal(raw, source=FOLDERS, error=ValueError):
    with pytest.raises(error) as caught:
        labels.find(listing.Folder(raw.folder), source)
    assert str(raw.folder) not in str(caught.value)
    return str(caught.value)


def put(raw, *paths):
    for path in paths:
        raw.put(path)


# Folders


def test_class_folders(raw):
    put(raw, "cat/1.jpg", "dog/1.JPG", "dog/2.jpeg")
    assert listed(raw) == {
        "cat/1.jpg": ("cat", "", ""),
        "dog/1.JPG": ("dog", "", ""),
        "dog/2.jpeg": ("dog", "", ""),
    }


def test_folders_that_all_files_share_are_no_classes(raw):
    put(raw, "archive/images/cat/1.jpg", "archive/images/dog/1.jpg", "archive/readme.txt")
    assert {label for label, _, _ in listed(raw).values()} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("Training", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("TEST", "test"),
        ("train.X1", "train"),
        ("val.X", "val"),
        ("train.X23", "train"),
    ],
)
def test_split_folders(raw, folder, split):
    put(raw, f"{folder}/cat/1.jpg", f"{folder}/dog/1.jpg", "train/cat/3.jpg", "train/dog/3.jpg")
    rows = listed(raw)
    assert rows[f"{folder}/cat/1.jpg"] == ("cat", split, "")
    assert rows["train/dog/3.jpg"] == ("dog", "train", "")


def test_parts_of_train_belong_together(raw):
    put(raw, "in100/train.X1/n01/1.jpg", "in100/train.X2/n02/1.jpg", "in100/val.X/n01/2.jpg")
    assert listed(raw) == {
        "in100/train.X1/n01/1.jpg": ("n01", "train", ""),
        "in100/train.X2/n02/1.jpg": ("n02", "train", ""),
        "in100/val.X/n01/2.jpg": ("n01", "val", ""),
    }


def test_train_alone_is_still_a_split_folder(raw):
    put(raw, "data/train/cat/1.jpg", "data/train/dog/1.jpg")
    assert set(listed(raw).values()) == {("cat", "train", ""), ("dog", "train", "")}


def test_flat_test_folder_is_to_be_predicted(raw):
    put(raw, "train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg")
    rows = listed(raw)
    assert rows["test/1.jpg"] == rows["test/2.jpg"] == ("", "predict", "")
    assert rows["train/cat/1.jpg"] == ("cat", "train", "")


def test_loose_photos_beside_class_folders_are_to_be_predicted(raw):
    put(raw, "cat/1.jpg", "dog/1.jpg", "unknown.jpg")
    assert listed(raw)["unknown.jpg"] == ("", "predict", "")


def test_photos_outside_the_split_folders_have_a_problem(raw):
    put(raw, "train/cat/1.jpg", "train/dog/1.jpg", "extra/cat/2.jpg")
    assert listed(raw)["extra/cat/2.jpg"] == ("", "", "it is outside the folders `train`")


def test_nested_files_belong_to_the_outermost_class(raw):
    put(raw, "cat/2023/may/1.jpg", "dog/1.jpg", "train.jpg")
    assert listed(raw)["cat/2023/may/1.jpg"] == ("cat", "", "")


def test_odd_class_names(raw):
    names = ["Éléphant d'Asie", 'a, "b"', "蝶", "#1", " x", "NA", "True", "007"]
    put(raw, *(f"{name}/1.jpg" for name in names))
    assert {label for label, _, _ in listed(raw).values()} == set(names)


def test_hidden_files_links_and_other_files_are_left_out(raw, tmp_path):
    put(
        raw,
        "cat/1.jpg",
        "dog/1.jpg",
        "cat/._1.jpg",
        ".hidden/2.jpg",
        "__MACOSX/cat/1.jpg",
        "cat/notes.txt",
        "cat/Thumbs.db",
        "dog/.DS_Store",
    )
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "3.jpg").write_bytes(b"x")
    (raw.folder / "cat/link.jpg").symlink_to(outside / "3.jpg")
    (raw.folder / "bird").symlink_to(outside)
    assert set(listed(raw)) == {"cat/1.jpg", "dog/1.jpg"}


@pytest.mark.parametrize(
    "paths",
    [[], ["cat/1.jpg"], ["1.jpg", "2.jpg"], ["a/cat/1.jpg", "a/cat/2.jpg"], ["notes/a.txt", "b/c.txt"]],
)
def test_fewer_than_two_classes(raw, paths):
    put(raw, *paths)
    assert "at least two classes" in refusal(raw)


def test_classes_are_sorted_numbers_by_value():
    assert labels.classes(["10", "9", "1", "9", ""]) == ["1", "9", "10"]
    assert labels.classes(["010", "9", "10"]) == ["9", "010", "10"]
    assert labels.classes(["b", "10", "9", "a"]) == ["10", "9", "a", "b"]
    assert labels.classes([]) == []


def test_numeric_class_folders(raw):
    put(raw, *(f"train/{number}/1.jpg" for number in range(12)))
    assert labels.classes(label for label, _, _ in listed(raw).values()) == [
        str(number) for number in range(12)
    ]


# Tables


TABLES = {
    "plain": b"filename,label\n1.jpg,cat\n2.jpg,dog\n",
    "bom": b"\xef\xbb\xbffilename,label\n1.jpg,cat\n2.jpg,dog\n",
    "semicolons": b"filename;label\n1.jpg;cat\n2.jpg;dog\n",
    "tabs": b"filename\tlabel\n1.jpg\tcat\n2.jpg\tdog\n",
    "crlf": b"filename,label\r\n1.jpg,cat\r\n2.jpg,dog\r\n",
    "old mac": b"filename,label\r1.jpg,cat\r2.jpg,dog\r",
    "no last line end": b"filename,label\n1.jpg,cat\n2.jpg,dog",
    "blank lines": b"\nfilename,label\n\n1.jpg,cat\n2.jpg,dog\n\n",
    "spaces": b" filename , label \n 1.jpg , cat \n2.jpg,dog\n",
    "another column": b"id,filename,label\n0,1.jpg,cat\n1,2.jpg,dog\n",
    "quoted": b'"filename","label"\n"1.jpg","cat"\n"2.jpg","dog"\n',
    "UTF-16 of a spreadsheet": "\ufefffilename\tlabel\r\n1.jpg\tcat\r\n2.jpg\tdog\r\n".encode("utf-16-le"),
    "UTF-16, big end first": "\ufefffilename,label\n1.jpg,cat\n2.jpg,dog\n".encode("utf-16-be"),
    "rows of blanks": b"filename,label\n1.jpg,cat\n , \n2.jpg,dog\n  \n",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_tables_of_every_kind(raw, content):
    put(raw, "photos/1.jpg", "photos/2.jpg")
    raw.put("labels.csv", content)
    assert listed(raw, labelled()) == {"photos/1.jpg": ("cat", "", ""), "photos/2.jpg": ("dog", "", "")}


def test_tables_with_commas_and_letters_in_names(raw):
    put(raw, "photos/a, b.jpg", "photos/ö.jpg")
    raw.put("labels.csv", 'filename,label\n"a, b.jpg","cat, ""big"""\nö.jpg,Bär\n'.encode())
    assert listed(raw, labelled()) == {
        "photos/a, b.jpg": ('cat, "big"', "", ""),
        "photos/ö.jpg": ("Bär", "", ""),
    }


def test_tables_in_latin_1(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg")
    raw.put("labels.csv", "filename,label\n1.jpg,Bär\n2.jpg,Élan\n".encode("latin-1"))
    assert {label for label, _, _ in listed(raw, labelled()).values()} == {"Bär", "Élan"}


def test_labels_stay_text(raw):
    put(raw, *(f"photos/{number}.jpg" for number in range(1, 6)))
    raw.put("labels.csv", b"filename,label\n1.jpg,007\n2.jpg,NA\n3.jpg,1e5\n4.jpg,True\n5.jpg,=1+1\n")
    assert [label for label, _, _ in listed(raw, labelled()).values()] == ["007", "NA", "1e5", "True", "=1+1"]


def test_an_accented_letter_may_be_one_sign_or_two(raw):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    put(raw, f"photos/{decomposed}1.jpg", f"photos/{composed}2.jpg", "photos/3.jpg")
    lines = f"filename,label\n{composed}1.jpg,{composed}\n{decomposed}2.jpg,{decomposed}\n3.jpg,cat\n"
    raw.put("labels.csv", lines.encode())
    rows = listed(raw, labelled())
    assert set(rows) == {f"photos/{decomposed}1.jpg", f"photos/{composed}2.jpg", "photos/3.jpg"}
    assert {label for label, _, _ in rows.values()} == {composed, "cat"}


def test_folders_that_spell_an_accent_differently_are_one_class(raw):
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    put(raw, f"train/{names[0]}/1.jpg", f"test/{names[1]}/1.jpg", "train/cat/1.jpg")
    assert {label for label, _, _ in listed(raw).values()} == {names[0], "cat"}


def test_other_files_are_counted(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg", "elsewhere/4.PNG", "elsewhere/5.png", "IMG_1")
    put(raw, "photos/notes.txt", "photos/._1.jpg")
    (raw.folder / "empty").mkdir()
    raw.put("labels.csv", b"filename,label\n1.jpg,cat\n2.jpg,dog\n")
    table = labels.find(listing.Folder(raw.folder), labelled())
    expected = [(".png not in the table", 2), (".csv", 1), (".txt", 1), ("empty folder", 1), ("hidden", 1)]
    assert list(labels.others(listing.Folder(raw.folder), table).items()) == [*expected, ("no suffix", 1)]
    assert len(table) == 3


def test_two_tables_one_without_labels(raw):
    put(raw, "train/1.jpg", "train/2.jpg", "test/1.jpg")
    raw.put("a.csv", b"filename,label\n1.jpg,cat\n2.jpg,dog\n")
    raw.put("b.csv", b"filename\n1.jpg\n")
    source = tables(
        known={"file": "a.csv", "photos": "train", "label": "label", "split": "val"},
        asked={"file": "b.csv", "photos": "test"},
    )
    assert listed(raw, source) == {
        "train/1.jpg": ("cat", "val", ""),
        "train/2.jpg": ("dog", "val", ""),
        "test/1.jpg": ("", "predict", ""),
    }


def test_photos_that_no_table_lists(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/sub/3.jpg", "elsewhere/4.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg,cat\n2.jpg,dog\n")
    rows = listed(raw, labelled())
    assert rows["photos/sub/3.jpg"] == ("", "", "no table lists it") and "elsewhere/4.jpg" not in rows


def test_rows_twice_with_the_same_label_count_once(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg,cat\n1.jpg,cat\n2.jpg,dog\n./1.jpg,cat\n")
    assert listed(raw, labelled()) == {"photos/1.jpg": ("cat", "", ""), "photos/2.jpg": ("dog", "", "")}


@pytest.mark.parametrize(
    "rows",
    [b"1.jpg,cat\n1.jpg,dog\n", b"1.jpg,cat\n1.jpg,dog\n1.jpg,dog\n", b"1.jpg,cat\n1.jpg,dog\n1.jpg,cat\n"],
)
def test_a_photo_with_two_labels_is_a_problem(raw, rows):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg")
    raw.put("labels.csv", b"filename,label\n" + rows + b"2.jpg,cat\n3.jpg,dog\n")
    problem = listed(raw, labelled())["photos/1.jpg"][2]
    assert "two labels" in problem and "cat" in problem and "dog" in problem


def test_an_empty_label_is_a_problem(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg, \n2.jpg,cat\n3.jpg,dog\n")
    assert listed(raw, labelled())["photos/1.jpg"] == ("", "", "labels.csv has no label for it")


def test_a_table_with_a_header_alone(raw):
    put(raw, "cat/1.jpg")
    raw.put("labels.csv", b"filename,label\n")
    assert "at least two classes" in refusal(raw, labelled(photos=""))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"filename,species\n1.jpg,cat\n",
            "labels.csv has no column 'label'. Its columns: 'filename', 'species'",
        ),
        (b"file,label\n1.jpg,cat\n", "labels.csv has no column 'filename'"),
        (b"", "labels.csv is empty"),
        (b"\xef\xbb\xbf \n", "labels.csv is empty"),
        (b"filename,label\n1.jpg,cat\n2.jpg\n", "labels.csv, line 3: expected 2 columns, as in the line"),
        (b"filename,label\n1.jpg,cat,x\n", "labels.csv, line 2: expected 2 columns, as in the line"),
        (
            b"filename,label\ngone.jpg,cat\n1.jpg,dog\n",
            "lists 1 of 2 files that are not in photos/: gone.jpg",
        ),
        (b"filename,label\n../../etc/passwd,cat\n", "lists '../../etc/passwd'"),
        (b"filename,label\n/etc/passwd,cat\n", "lists '/etc/passwd'"),
        (b"filename,label\n..\\none.jpg,cat\n", "lists '..\\\\none.jpg'"),
        (b"filename,label\n,cat\n", "lists ''"),
        (b"filename,label\nsub,cat\n", "not in photos/: sub"),
        (b"filename,label\n" + b"x" * 5000 + b",cat\n", "lists 1 of 1 files that are not in photos/: xxx"),
        (b"filename,label,label\n1.jpg,cat,dog\n", "labels.csv has two columns 'label'"),
        (b'""\n""\n', "labels.csv is empty"),
        (b'filename,label\n1.jpg,"' + b"x" * 200_000, "labels.csv, line 2: expected balanced quotes"),
    ],
)
def test_tables_that_cannot_be_used(raw, content, words):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/sub/3.jpg")
    raw.put("labels.csv", content)
    assert words in refusal(raw, labelled())


def test_a_missing_table_lists_those_there_are(raw):
    put(raw, "photos/1.jpg", "deep/other.csv")
    message = refusal(raw, labelled(), error=FileNotFoundError)
    assert "no labels.csv" in message and "deep/other.csv" in message


@pytest.mark.parametrize(
    "setting", [{"file": "../labels.csv"}, {"photos": ".."}, {"photos": "../../x"}, {"photos": "/etc"}]
)
def test_tables_and_folders_outside_the_source(raw, setting):
    put(raw, "photos/1.jpg", "1.jpg", "../1.jpg", "../../x/1.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg,cat\n")
    raw.put("../labels.csv", b"filename,label\n1.jpg,cat\n")
    message = refusal(raw, labelled(**setting))
    assert "inside the source" in message and repr(next(iter(setting.values()))) in message


def test_links_that_a_table_names_are_refused(raw, tmp_path):
    put(raw, "photos/1.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (raw.folder / "photos/2.jpg").symlink_to(tmp_path / "secret.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg,cat\n2.jpg,dog\n")
    assert "2.jpg" in refusal(raw, labelled())


# A part of the classes


def part(*names, **keys):
    return Sample(kind="sample", classes=list(names), **keys)


def test_a_part_of_the_classes_can_be_chosen(raw):
    put(raw, "train/cat/1.jpg", "train/dog/1.jpg", "train/fox/1.jpg", "val/fox/2.jpg", "test/1.jpg")
    table = labels.find(listing.Folder(raw.folder), part("dog", "cat"))
    assert table.path.tolist() == ["test/1.jpg", "train/cat/1.jpg", "train/dog/1.jpg"]
    assert table.label.tolist() == ["", "cat", "dog"] and table.attrs["left_out"] == 2
    assert table.index.tolist() == [0, 1, 2]
    everything = labels.find(listing.Folder(raw.folder), FOLDERS)
    assert len(everything) == 5 and everything.attrs["left_out"] == 0


def test_a_part_of_the_classes_of_a_table_keeps_photos_without_a_label(raw):
    put(raw, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg", "photos/4.jpg")
    raw.put("labels.csv", b"filename,label\n1.jpg,1\n2.jpg,2\n3.jpg,3\n")
    source = part("1", "3", tables={"labelled": {"file": "labels.csv", "photos": "photos", "label": "label"}})
    assert listed(raw, source) == {
        "photos/1.jpg": ("1", "", ""),
        "photos/3.jpg": ("3", "", ""),
        "photos/4.jpg": ("", "", "no table lists it"),
    }


def test_a_class_that_there_is_not(raw):
    put(raw, "n01629819/1.jpg", "n01644900/1.jpg", "n02000000/1.jpg")
    message = refusal(raw, part("n01644900", "n0162981"))
    assert "`source.classes` contains 'n0162981', but no photo has this label" in message
    assert "the 3 labels, such as n01629819" in message
    assert "such as n01629819, n01644900, n02000000" in refusal(raw, part("x"))
    assert "at least two classes. Received: n02000000" in refusal(raw, part("n02000000"))


def test_targets_are_the_numbers_of_the_classes():
    targets = labels.targets(pd.Series(["10", "9", "10"]), ["9", "10"])
    assert targets.tolist() == [1, 0, 1] and targets.dtype == "int64"
    assert labels.targets([], ["9"]).shape == (0,)
