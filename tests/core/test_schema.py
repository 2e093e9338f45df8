"""Schema: each kind of source and of layer has its own keys, and no file of a run is overwritten."""

import pydantic
import pytest
from pydantic import TypeAdapter

from lib.core import schema, steps

SOURCE = TypeAdapter(schema.Source)
LAYER = TypeAdapter(schema.HeadLayer)


@pytest.mark.parametrize(
    ("values", "section"),
    [
        ({"kind": "kaggle", "dataset": "a/b"}, schema.Kaggle),
        ({"kind": "kaggle", "competition": "c", "archive": "x.zip"}, schema.Kaggle),
        ({"kind": "archive", "archive": "x.zip"}, schema.Archive),
        ({"kind": "drive", "drive": "id", "archive": "x.zip", "sha256": "0" * 64}, schema.Drive),
        ({"kind": "folder", "folder": "x"}, schema.Folder),
        ({"kind": "sample", "photos_per_class": 8}, schema.Sample),
    ],
)
def test_sources(values, section):
    assert type(SOURCE.validate_python(values)) is section


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "sample", "archive": "x.zip"},
        {"kind": "folder", "folder": "x", "sha256": "0" * 64},
        {"kind": "archive"},
        {"kind": "archive", "archive": "x.zip", "photos_per_class": 37},
        {"kind": "drive", "drive": "", "archive": "x.zip"},
        {"kind": "kaggle", "dataset": "a/b", "archive": "https://host/x.zip"},
        {"layer": "flatten", "rate": 0.5},
        {"layer": "dropout"},
    ],
)
def test_keys_of_another_kind_and_missing_ones_are_refused(values):
    with pytest.raises(pydantic.ValidationError):
        (SOURCE if "kind" in values else LAYER).validate_python(values)


def test_no_file_of_a_run_can_be_that_of_the_predictions():
    written = {name for step in steps.ALL for name in (*step.reads, *step.writes)}
    assert {name for name in written if name.endswith(".csv")} <= set(schema.CSV_FILES)
    for name in (
        *written,
        *schema.CSV_FILES,
        "Manifest.csv",
        "report.html",
        "01_download.ipynb",
        "a/b.csv",
        ".csv",
    ):
        with pytest.raises(pydantic.ValidationError):
            schema.Predictions(file=name)
    assert schema.Predictions(file="test-1.csv").file == "test-1.csv"
    assert schema.Predictions().file not in schema.CSV_FILES
