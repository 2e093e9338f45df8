"""Tables that people really have are read as they are meant, or the error names the parameter to set."""

import pytest
import table_cases

from lib.core.schema import Sample
from lib.photos import labels, listing


def found(folder, parameters):
    """Return the result of `labels.find` for the table of a case."""
    folder.mkdir(exist_ok=True)
    tables = {"labelled": {"file": "labels.csv"} | parameters}
    return labels.find(listing.Folder(folder), Sample(kind="sample", tables=tables))


def read(folder, case, *arguments, **changes):
    """Return {path: label} and the notes of a case."""
    table = found(folder, case(folder, *arguments) | changes)
    assert set(table.problem) == {""}
    return dict(zip(table.path, table.label, strict=True)), table.attrs["notes"]


def refusal(folder, case, *arguments, **changes):
    """Return the message of the error that a case leads to."""
    with pytest.raises(ValueError) as caught:
        found(folder, case(folder, *arguments) | changes)
    assert str(folder) not in str(caught.value)
    return str(caught.value)


# Names of files


@pytest.mark.parametrize(
    ("case", "path"),
    [
        (table_cases.ids_without_suffix, "photos/a{number}f.jpg"),
        (table_cases.ids_with_full_stops, "photos/v1.{number}.png"),
        (table_cases.photos_in_several_folders, "part {third}/S{number}.jpg"),
        (table_cases.photos_in_a_list_of_folders, "part {third}/S{number}.jpg"),
        (table_cases.other_case_of_suffixes, "photos/IMG_{number}.{suffix}"),
        (table_cases.paths_of_windows, "photos/{label}/{number}.jpg"),
    ],
)
def test_names_are_matched_to_the_only_file_that_they_can_mean(tmp_path, case, path):
    expected = {
        path.format(number=number, third=number % 3, suffix=["JPG", "Jpeg"][number % 2], label=label): label
        for number, label in table_cases.labelled()
    }
    assert read(tmp_path, case)[0] == expected


def test_paths_of_another_machine_are_matched_by_their_ends(tmp_path):
    rows, notes = read(tmp_path, table_cases.paths_of_another_machine)
    assert rows == {
        f"photos/{label}/{number % 2}{number}.jpg": label for number, label in table_cases.labelled(8)
    }
    assert "8 of 8 names in labels.csv differ from the paths of the files, such as /home/ann" in notes[0]


def test_a_name_of_two_files_is_refused_with_both(tmp_path):
    message = refusal(tmp_path, table_cases.same_name_in_two_folders)
    assert "labels.csv lists '7', which can mean 2 files: left/7.jpg, right/7.jpg." in message
    assert "`photos`" in message


def test_the_photo_of_another_folder_does_not_take_the_place_of_a_missing_photo(tmp_path):
    message = refusal(tmp_path, table_cases.a_folder_that_is_not_there)
    assert "lists 4 of 8 files that are not in the source: yak/0.jpg, yak/1.jpg, yak/2.jpg ..." in message


def test_a_few_missing_files_have_a_problem(tmp_path):
    table = found(tmp_path, table_cases.a_few_missing_files(tmp_path))
    problems = dict(zip(table.path, table.problem, strict=True))
    missing = ["photos/3.jpg", "photos/8.jpg"]
    assert {path for path, problem in problems.items() if problem} == set(missing) and len(problems) == 20
    assert problems["photos/3.jpg"] == "labels.csv lists it, but there is no such file"
    assert table.attrs["notes"] == ["labels.csv lists 2 of 20 files that are not in photos/: 3.jpg, 8.jpg"]


# Splits


@pytest.mark.parametrize(
    ("values", "splits"),
    [
        (["train", "test"], ["train", "test"]),
        (["Training", "VALIDATION", "Testing"], ["train", "val", "test"]),
        (["train", "dev", "holdout"], ["train", "val", "test"]),
        (["Train set", "valid", "hold-out"], ["train", "val", "test"]),
        (["train", "eval"], ["train", "val"]),
        (["train", "dev", "eval"], ["train", "val", "test"]),
        (["Training", "PublicTest", "PrivateTest"], ["train", "val", "test"]),
        (["train", "", "test"], ["train", "", "test"]),
    ],
)
@pytest.mark.parametrize("column", ["split", "Usage", "my column"])
def test_a_column_of_known_splits_is_used_and_stated(tmp_path, values, splits, column):
    table = found(tmp_path, table_cases.splits(tmp_path, values, column))
    paths = {f"{number}.jpg": splits[number % len(splits)] for number in range(2 * len(splits))}
    assert dict(zip(table.path, table.split, strict=True)) == paths
    (note,) = table.attrs["notes"]
    assert (
        f"labels.csv: the column {column!r} determines the splits" in note and "split_column: false" in note
    )


def test_the_column_of_splits_can_be_switched_off(tmp_path):
    table = found(tmp_path, table_cases.splits(tmp_path, ["train", "test"]) | {"split_column": False})
    assert set(table.split) == {""} and table.attrs["notes"] == []


@pytest.mark.parametrize("values", [["0", "1"], ["gallery", "query"], ["fold a", "fold b", "fold c"]])
def test_a_column_of_other_values_is_named_with_the_parameters(tmp_path, values):
    table = found(tmp_path, table_cases.splits(tmp_path, values))
    assert set(table.split) == {""}
    (note,) = table.attrs["notes"]
    assert f"the column 'split' with the values {', '.join(values)} is not used" in note
    assert "`split_column` and `split_values`" in note


@pytest.mark.parametrize("values", [["0", "1"], ["0.0", "1.0"], ["False", "True"]])
def test_flags_are_splits_by_parameter(tmp_path, values):
    parameters = table_cases.splits(tmp_path, values, "is_test")
    keys = {False: "train", True: "test"} if values[0] == "False" else {0: "train", 1: "test"}
    table = found(tmp_path, parameters | {"split_column": "is_test", "split_values": keys})
    assert list(table.split) == ["train", "test", "train", "test"]


def test_unknown_values_of_the_column_in_the_parameters_are_refused(tmp_path):
    message = refusal(tmp_path, table_cases.splits, ["train", "gallery"], split_column="split")
    assert "in the column 'split', or values in `split_values`" in message and "Received: gallery" in message


def test_two_columns_of_splits_are_not_chosen_from(tmp_path):
    table_cases.splits(tmp_path, ["train", "test"])
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    swapped = [f"{line},{'test' if 'train' in line else 'train'}" for line in lines[1:]]
    table_cases.write(tmp_path, [f"{lines[0]},other", *swapped])
    table = found(tmp_path, {"label": "label"})
    assert set(table.split) == {""} and "several columns contain names of splits" in table.attrs["notes"][0]


# Labels


@pytest.mark.parametrize("ones", [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_columns_of_classes_are_read_by_parameter(tmp_path, ones):
    rows, _ = read(tmp_path, table_cases.one_hot, ones, labels=["scab", "rust", "healthy"])
    assert list(rows.values()) == ["scab", "rust", "healthy"] * 2


@pytest.mark.parametrize("change", [{"label": "scab"}, {"label": "label"}, {}])
def test_columns_of_classes_without_the_parameter_are_refused(tmp_path, change):
    message = refusal(tmp_path, table_cases.one_hot, ("1.0", "0.0"), **change)
    assert "replace `label` by `labels: [scab, rust, healthy]`" in message


def test_a_row_without_a_single_1_has_a_problem(tmp_path):
    parameters = table_cases.one_hot(tmp_path) | {"labels": ["scab", "rust", "healthy"]}
    content = (tmp_path / "labels.csv").read_text()
    changes = {"0.jpg,1,0,0": "0.jpg,1,1,0", "1.jpg,0,1,0": "1.jpg,0,0,0", "2.jpg,0,0,1": "2.jpg,0.3,0,1"}
    for old, new in changes.items():
        content = content.replace(old, new)
    (tmp_path / "labels.csv").write_text(content)
    table = found(tmp_path, parameters)
    assert list(table.problem) == [
        "labels.csv has several labels for it: scab, rust",
        "labels.csv has no label for it: no 1 in the columns of the classes",
        "labels.csv has '0.3' in the column 'scab' instead of 0 or 1",
        "",
        "",
        "",
    ]
    assert list(table.label) == ["", "", "", "scab", "rust", "healthy"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0.0", "1.0", "0"], ["0", "1", "0"]),
        (["1.0", "2.0", "2.1"], ["1.0", "2.0", "2.1"]),
        (["1.0", "2.0", "a"], ["1.0", "2.0", "a"]),
        (["007", "1"], ["007", "1"]),
    ],
)
def test_whole_numbers_lose_their_point_only_if_all_labels_are_whole_numbers(tmp_path, labels, expected):
    rows, notes = read(tmp_path, table_cases.labels_of, labels)
    assert list(rows.values()) == expected
    assert any("were read as whole numbers" in note for note in notes) == (labels != expected)


@pytest.mark.parametrize(
    "labels",
    [
        ["scab", "rust", "scab rust", "rust scab", "scab|rust"],
        ["a", "b", "a;b"],
        ["a", "b", "b, a"],
        ["apple scab", "apple rust", "apple rust/apple scab"],
        ["left right", "right left"],
        ["cat", "dog", "Cat and dog"],
    ],
)
def test_combined_labels_are_noted(tmp_path, labels):
    _, notes = read(tmp_path, table_cases.labels_of, labels)
    (note,) = [note for note in notes if "look like combinations of several labels" in note]
    assert f"'{labels[-1]}'" in note


def test_labels_of_several_words_are_not_combinations(tmp_path):
    assert read(tmp_path, table_cases.labels_of, ["polar bear", "brown bear", "bear", "red fox"])[1] == []


def test_spellings_stay_classes_and_are_noted(tmp_path):
    labels = ["Healthy", "healthy", "Healthy.", "health y", "rust", "rusts"]
    rows, notes = read(tmp_path, table_cases.labels_of, labels)
    assert list(rows.values()) == labels and len(notes) == 2
    assert "'Healthy', 'Healthy.', 'health y' and 'healthy' are separate classes" in notes[0]
    assert "'rust' and 'rusts'" in notes[1]


# Files


@pytest.mark.parametrize(
    ("labels", "encoding", "note"),
    [
        (["Bär", "猫"], "utf-8", ""),
        (["Bär", "猫"], "utf-8-sig", ""),
        (["Bär", "猫"], "utf-16", ""),
        (["Bär", "猫"], "utf-32", ""),
        (["owl", "bar"], "utf-16-le", ""),
        (
            ["Swainson\u2019s hawk", "Œil \u2013 bœuf"],
            "cp1252",
            "read as Windows-1252: Swainson\u2019s, Œil, \u2013",
        ),
    ],
)
def test_encodings_are_detected(tmp_path, labels, encoding, note):
    table = found(tmp_path, table_cases.labels_of(tmp_path, labels, encoding=encoding))
    assert list(table.label) == labels and note in "".join(table.attrs["notes"])


@pytest.mark.parametrize(
    ("labels", "encoding"),
    [
        (["кошка", "собака"], "cp1251"),
        (["猫", "犬"], "cp932"),
        (["猫", "狗"], "gb18030"),
        (["Bär", "ça"], "mac_roman"),
        (["łoś", "żubr"], "cp1250"),
    ],
)
def test_other_encodings_are_read_by_parameter(tmp_path, labels, encoding):
    parameters = table_cases.labels_of(tmp_path, labels, encoding=encoding)
    assert list(found(tmp_path, parameters | {"encoding": encoding}).label) == labels
    # without the parameter, the assumption is stated, or no assumption is possible
    try:
        notes = found(tmp_path, parameters).attrs["notes"]
    except ValueError as error:
        notes = [str(error)]
    assert "`encoding` of the table" in notes[0]


def test_the_separator_line_of_excel_is_obeyed(tmp_path):
    assert read(tmp_path, table_cases.separator_line)[0] == {"0.jpg": "owl, barn", "1.jpg": "yak"}


def test_the_delimiter_divides_all_rows_alike(tmp_path):
    rows, _ = read(tmp_path, table_cases.semicolons_and_commas)
    assert rows == {"0.jpg": "owl", "1.jpg": "yak, white, old"}


def test_a_workbook_is_refused_with_advice(tmp_path):
    message = refusal(tmp_path, table_cases.workbook)
    assert "an Excel workbook (.xlsx)" in message and "save it as CSV" in message


def test_an_open_quote_is_named_with_its_line(tmp_path):
    parameters = table_cases.labels_of(tmp_path, ["owl", "yak", "owl"])
    table_cases.write(tmp_path, ["filename,label", "0.jpg,owl", '1.jpg,"yak', '2.jpg,"owl"'])
    with pytest.raises(ValueError, match=r"labels\.csv, line 3: expected balanced quotes"):
        found(tmp_path, parameters)
