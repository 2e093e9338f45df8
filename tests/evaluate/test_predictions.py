"""Predictions: the table of labelled photos, and the tables of unlabelled photos."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from lib.clean import photoset
from lib.core import files, metrics, schema
from lib.evaluate import predictions

CLASSES = ["ant", "bee", "cat"]


def make_photos(rows):
    """Photos by (path, label, split); what they show does not matter."""
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    return photoset.Photos(table, np.zeros((len(rows), 4, 4, 3), np.uint8), 4, CLASSES)


# The table

LABELLED = make_photos(
    [
        ("a.jpg", "bee", "val"),
        ("b.jpg", "ant", "test"),
        ("c.jpg", "", ""),
        ("d.jpg", "cat", "test"),
        ("e.jpg", "", "predict"),
        ("f.jpg", "bee", "test"),
    ]
)
TEST = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]])
VAL = np.array([[0.1, 0.2, 0.7]])


def test_table_lists_the_labelled_photos_by_split():
    rows = predictions.table(LABELLED, {"val": VAL, "test": TEST})
    assert list(rows.columns) == [
        "path",
        "split",
        "label",
        "predicted",
        "confidence",
        "p(ant)",
        "p(bee)",
        "p(cat)",
    ]
    assert rows.path.tolist() == ["a.jpg", "b.jpg", "d.jpg", "f.jpg"]
    assert rows.split.tolist() == ["val", "test", "test", "test"]
    assert rows.label.tolist() == ["bee", "ant", "cat", "bee"]
    assert rows.predicted.tolist() == ["cat", "ant", "ant", "bee"]
    assert rows.confidence.tolist() == [0.7, 0.6, 0.5, 0.7]
    np.testing.assert_array_equal(predictions.probabilities(rows, CLASSES), np.concatenate([VAL, TEST]))
    np.testing.assert_array_equal(predictions.probabilities(rows, ["cat"])[:, 0], [0.7, 0.1, 0.1, 0.1])
    assert predictions.classes(rows) == CLASSES


def test_the_hardest_examples_are_misclassified_photos_by_their_loss_and_then_correct_ones():
    # e.jpg is correct although its loss is larger than that of the misclassified a.jpg
    photos = make_photos([(f"{name}.jpg", "ant", "test") for name in "abcde"])
    probabilities = np.array(
        [[0.39, 0.4, 0.21], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.36, 0.32, 0.32]]
    )
    rows = predictions.table(photos, {"test": probabilities})
    hardest = predictions.hardest(rows, 4)
    assert hardest.path.tolist() == ["c.jpg", "d.jpg", "a.jpg", "e.jpg"]
    assert hardest.correct.tolist() == [False, False, False, True]
    np.testing.assert_allclose(hardest.loss, -np.log([0.1, 0.2, 0.39, 0.36]))
    assert predictions.hardest(rows, 2).path.tolist() == ["c.jpg", "d.jpg"]
    assert predictions.hardest(rows, 99).path.tolist() == ["c.jpg", "d.jpg", "a.jpg", "e.jpg", "b.jpg"]


def test_the_mean_loss_of_all_photos_is_the_log_loss():
    rows = predictions.table(LABELLED, {"test": TEST})
    report = metrics.report(np.array([0, 2, 1]), TEST, classes=CLASSES)
    assert predictions.hardest(rows, 99).loss.mean() == pytest.approx(report["log_loss"])


def test_the_file_of_the_hardest_examples_has_the_number_in_its_name(tmp_path):
    rows = predictions.hardest(predictions.table(LABELLED, {"test": TEST}), 2)
    assert predictions.write_hardest(rows, tmp_path, count=5) == "hardest_examples_top5.json"
    (tmp_path / "hardest_examples.png").write_bytes(b"picture")
    assert predictions.write_hardest(rows, tmp_path, count=20) == "hardest_examples_top20.json"
    # the file of the earlier number is gone
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"hardest_examples_top20.json", "hardest_examples.png"}
    assert files.read_json(tmp_path / "hardest_examples_top20.json") == [
        {
            "path": "d.jpg",
            "label": "cat",
            "predicted": "ant",
            "correct": False,
            "confidence": 0.5,
            "loss": 2.3026,
        },
        {
            "path": "b.jpg",
            "label": "ant",
            "predicted": "ant",
            "correct": True,
            "confidence": 0.6,
            "loss": 0.5108,
        },
    ]


def test_the_log_loss_can_be_recomputed_from_the_file(tmp_path):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.2] * 3, 200).astype(np.float32)
    targets = random.integers(0, 3, 200)
    photos = make_photos([(f"{index}.jpg", CLASSES[target], "test") for index, target in enumerate(targets)])
    predictions.write(predictions.table(photos, {"test": probabilities}), tmp_path / "predictions.csv")
    rows = pd.read_csv(tmp_path / "predictions.csv")
    again = rows[[f"p({name})" for name in CLASSES]].to_numpy().clip(metrics.EPSILON)
    measured = metrics.report(targets, probabilities, classes=CLASSES)
    assert log_loss(rows.label, again / again.sum(axis=1, keepdims=True), labels=CLASSES) == pytest.approx(
        measured["log_loss"], abs=1e-5
    )
    assert (rows.label == rows.predicted).mean() == measured["top_1"]


def test_the_file_has_seven_significant_digits_of_a_probability(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet([0.2] * 3, 3)
    predictions.write(predictions.table(LABELLED, {"test": probabilities}), tmp_path / "predictions.csv")
    rows = predictions.read(tmp_path / "predictions.csv")
    # the error is at most half a unit of the seventh digit
    np.testing.assert_allclose(predictions.probabilities(rows, CLASSES), probabilities, rtol=5e-7)


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    table = pd.DataFrame({"path": ["x.jpg"], "label": ["001"], "split": ["test"]})
    photos = photoset.Photos(table, np.zeros((1, 4, 4, 3), np.uint8), 4, ["001", "NA"])
    predictions.write(predictions.table(photos, {"test": np.array([[0.4, 0.6]])}), tmp_path / "p.csv")
    row = predictions.read(tmp_path / "p.csv").iloc[0]
    assert (row.label, row.predicted, row.confidence) == ("001", "NA", 0.6)


# Photos without labels


def unlabelled(*paths, **form):
    photos = make_photos([("x.jpg", "ant", "train"), *((path, "", "predict") for path in paths)])
    probabilities = np.eye(3)[np.arange(len(paths)) % 3] * 0.55553 + 0.14815
    return predictions.unlabelled(photos, probabilities, columns=schema.Predictions(**form))


def test_unlabelled_photos_are_in_natural_order():
    rows = unlabelled("test/Image_10.jpg", "test/Image_2.jpg", "test/Image_1.jpg")
    assert list(rows.columns) == ["filename", "label", "confidence"]
    assert rows.filename.tolist() == ["Image_1.jpg", "Image_2.jpg", "Image_10.jpg"]
    assert rows.label.tolist() == ["cat", "bee", "ant"]
    assert rows.confidence.tolist() == [0.7037] * 3


def test_the_columns_are_named_as_the_task_wants():
    rows = unlabelled("b.jpg", "a.jpg", filename="id", label="species", confidence=None)
    assert list(rows.columns) == ["id", "species"]
    assert rows.id.tolist() == ["a.jpg", "b.jpg"] and rows.species.tolist() == ["bee", "ant"]


def test_photos_with_the_same_name_have_their_paths():
    assert unlabelled("one/a.jpg", "two/a.jpg", "two/b.jpg").filename.tolist() == [
        "one/a.jpg",
        "two/a.jpg",
        "two/b.jpg",
    ]


def test_no_unlabelled_photo_gives_an_empty_table():
    photos = make_photos([("x.jpg", "ant", "train")])
    rows = predictions.unlabelled(photos, np.empty((0, 3), np.float32), columns=schema.Predictions())
    assert list(rows.columns) == ["filename", "label", "confidence"] and rows.empty


def test_texts_that_a_spreadsheet_would_run_are_guarded_and_come_back(tmp_path):
    classes = ["=1+1", "'-x", "-wing", "@home", "plain"]
    table = pd.DataFrame({"path": [f"+{index}.jpg" for index in range(5)], "label": classes, "split": "test"})
    photos = photoset.Photos(table, np.zeros((5, 4, 4, 3), np.uint8), 4, classes)
    rows = predictions.table(photos, {"test": np.eye(5)[::-1] * 0.8 + 0.04})
    predictions.write(rows, tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))] and "'=1+1" in cells
    again = predictions.read(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(again, rows)
    assert predictions.classes(again) == classes


def test_unlabelled_photos_and_those_of_a_folder_are_guarded_too(tmp_path):
    photos = make_photos([("x.jpg", "ant", "train"), ("=1+1.jpg", "", "predict")])
    rows = predictions.unlabelled(photos, np.eye(3)[:1], columns=schema.Predictions())
    predictions.write(rows, tmp_path / "test_predictions.csv")
    assert (tmp_path / "test_predictions.csv").read_text().splitlines()[1] == "'=1+1.jpg,ant,1"


# The template

TO_PREDICT = make_photos(
    [
        ("x.jpg", "ant", "train"),
        ("y.jpg", "bee", "train"),
        ("z.jpg", "cat", "train"),
        ("test/b.jpg", "", "predict"),
        ("test/a.jpg", "", "predict"),
        ("test/broken.jpg", "", ""),
    ]
)
PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])


def filled(raw, content, **options):
    raw.put("deep/sample.csv", content.encode())
    columns = schema.Predictions(template="deep/sample.csv", **options)
    predictions.check_template(raw.folder, TO_PREDICT.table, columns)
    return predictions.unlabelled(TO_PREDICT, PROBABILITIES, columns=columns, raw=raw.folder)


def test_a_template_determines_the_rows_and_their_order(raw, tmp_path):
    rows = filled(raw, "id,breed\na,ant\nb,ant\n")
    predictions.write(rows, tmp_path / "submission.csv")
    assert (tmp_path / "submission.csv").read_text().split() == ["id,breed", "a,cat", "b,ant"]
    assert rows.attrs["notes"] == []


def test_probabilities_are_in_the_columns_of_their_classes(raw):
    rows = filled(raw, "cat,image,bee,ant\n0,test/b.jpg,0,0\n0,A.JPG,0,0\n", filename="image")
    assert rows.to_dict("list") == {
        "cat": [0.1, 0.7],
        "image": ["test/b.jpg", "A.JPG"],
        "bee": [0.3, 0.2],
        "ant": [0.6, 0.1],
    }


def test_a_template_with_the_column_of_one_class_gets_its_probability(raw):
    assert filled(raw, "id,cat\nb,0.5\n").cat.tolist() == [0.1]


def test_a_template_with_the_columns_of_the_parameters(raw):
    rows = filled(raw, "confidence,filename,label\n0,b,x\n")
    assert rows.to_dict("list") == {"confidence": [0.6], "filename": ["b"], "label": ["ant"]}


def test_photos_without_a_prediction_and_photos_that_are_not_in_the_template_are_noted(raw, tmp_path):
    rows = filled(raw, "id,label\nbroken,x\nb,x\n")
    predictions.write(rows, tmp_path / "submission.csv")
    assert (tmp_path / "submission.csv").read_text().split() == ["id,label", "broken,", "b,ant"]
    assert rows.attrs["notes"] == [
        "1 photos of the template have no prediction: test/broken.jpg",
        "1 photos without labels are not in the template: test/a.jpg",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,ant,bee,dog\nb,0,0,0\n", "1 columns of no class (dog), 1 classes without a column (cat)"),
        ("id\nb\n", "3 classes without a column (ant, bee, cat)"),
        (
            "id,label\nb,x\nq,x\n",
            "for each of its 2 rows. Received for 'q': none (1 such rows)",
        ),
        ("id,label\nx,x\n", "Received for 'x': none"),
        ("", "sample.csv is empty"),
    ],
)
def test_templates_that_cannot_be_filled(raw, content, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        filled(raw, content)
    assert "sample.csv" in str(caught.value)


def test_a_template_is_a_file_of_the_source(raw):
    raw.put("sample_submission.csv")
    raw.put("../secret.csv", b"id,label\n")
    for name, error in (
        ("../secret.csv", ValueError),
        ("/etc/passwd", ValueError),
        ("none.csv", FileNotFoundError),
    ):
        with pytest.raises(error, match="`evaluate.predictions.template`"):
            predictions.check_template(raw.folder, TO_PREDICT.table, schema.Predictions(template=name))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "predictions.csv").write_text("path,label\nx,ant\n")
    with pytest.raises(
        ValueError, match="predictions.csv has no column split, predicted: evaluate the run again"
    ):
        predictions.read(tmp_path / "predictions.csv")


@pytest.mark.parametrize("header", [None, "filename,label,confidence,problem"])
def test_new_files_and_earlier_predictions_of_a_folder_can_be_replaced(tmp_path, header):
    if header:
        (tmp_path / "predictions.csv").write_text(f"{header}\na.jpg,ant,0.5,\n")
    predictions.require_replaceable(tmp_path / "predictions.csv")


@pytest.mark.parametrize("header", ["", "a,b", "path,split,label", "filename,label,confidence,problem,more"])
def test_other_files_cannot_be_replaced(tmp_path, header):
    (tmp_path / "notes.csv").write_text(f"{header}\n")
    with pytest.raises(ValueError, match="notes.csv: expected a new file, or a file with the columns"):
        predictions.require_replaceable(tmp_path / "notes.csv")
    with pytest.raises(ValueError, match="a file or folder that predict did not write"):
        predictions.require_replaceable(tmp_path)
