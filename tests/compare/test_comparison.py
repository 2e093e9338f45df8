"""The comparison: which runs are read, which can be compared, and intervals and tests of differences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluated_runs import CLASSES, finished, listed, predicted, results

from lib.compare import comparison
from lib.core import files, metrics

FILES = ["params.json", "manifest.csv", "model.json", "history.csv", "model.keras", "metrics.json"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A folder of outputs that contains other folders than runs."""
    folder = tmp_path / "outputs"
    for name in ("data/birds", "bench", "compare", "mine"):
        (folder / name).mkdir(parents=True)
    files.write_json(folder / "bench" / "provenance.json", {"steps": {}})
    files.write_json(folder / "compare" / "params.json", {})
    (folder / "README.md").write_text("runs")
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(folder))
    # these tests do not check bootstrap intervals
    monkeypatch.setattr(metrics, "RESAMPLES", 5)
    return folder


# Reading


def test_all_runs_are_read_if_no_name_is_passed(outputs):
    finished(outputs, "one")
    finished(outputs, "another", test="1110")
    found, problems = comparison.read()
    assert list(found) == ["another", "one"] and problems == {}
    assert (
        found["one"].headline == "test" and found["one"].classes == CLASSES and found["one"].source == "birds"
    )
    assert found["one"].megabytes == 2.5
    rows = found["one"].rows("test")
    assert rows.sha1.tolist() == ["photo 5", "photo 6", "photo 7", "photo 8"]
    assert list(results("one")) == ["one"]


@pytest.mark.parametrize("file", [*FILES, "predictions.csv"])
def test_an_unfinished_run_is_listed_with_the_missing_file(file, outputs):
    finished(outputs, "one")
    (finished(outputs, "broken") / file).unlink()
    found, problems = comparison.read()
    assert list(found) == ["one"] and problems == {"broken": f"unfinished: {file} missing"}


def test_a_run_whose_first_step_failed_is_listed(outputs):
    finished(outputs, "one")
    (outputs / "new").mkdir()
    (outputs / "new" / "01_download.failed.ipynb").write_text("{}")
    assert comparison.read()[1]["new"].startswith("unfinished: params.json, manifest.csv, model.json")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("metrics.json", "{", "Expecting property name"),
        ("metrics.json", "{}", "metrics.json has no headline, val. Execute the run again with this version"),
        ("params.json", '{"name": "x"}', "params.json has no source. Execute the run again"),
        (
            "metrics.json",
            '{"headline": "test", "val": {}, "test": {}}',
            "metrics.json has no n, intervals, top_1, precision_macro",
        ),
        ("history.csv", "", "No columns to parse"),
        ("history.csv", "epoch\n1\n", "history.csv has no seconds. Execute the run again"),
        (
            "predictions.csv",
            "path\nx\n",
            "predictions.csv has no column split, label, predicted: evaluate the run again",
        ),
        ("predictions.csv", "", "No columns to parse"),
        ("model.json", "{}", "model.json changed after the evaluation. Evaluate the run again"),
        ("manifest.csv", "path\n", "manifest.csv changed after the evaluation. Evaluate the run again"),
        ("provenance.json", '{"steps": {}}', "unfinished: the last evaluation was not completed"),
    ],
)
def test_a_run_that_cannot_be_read_is_listed_with_the_reason(file, text, reason, outputs):
    finished(outputs, "one")
    (finished(outputs, "broken") / file).write_text(text)
    found, problems = comparison.read()
    assert list(found) == ["one"] and reason in problems["broken"]
    table = comparison.table(found, problems)
    assert table.run.tolist() == ["one", "broken"] and reason in table.problem[1]
    assert table.iloc[1].drop(["run", "problem"]).isna().all()


def test_a_run_that_does_not_exist_is_an_error(outputs):
    finished(outputs, "one")
    with pytest.raises(
        FileNotFoundError,
        match="^`compare.runs` must list runs in outputs/: one. Received: two, compare$",
    ):
        comparison.read(["one", "two", "compare"])


def test_no_run_at_all_is_an_error(outputs):
    with pytest.raises(
        FileNotFoundError, match="a comparison needs a run in outputs/. Run `make demo` first"
    ):
        comparison.read()
    (finished(outputs, "one") / "metrics.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"^a comparison needs an evaluated run. Received: one \(unfinished: metrics.json missing\)",
    ):
        comparison.read()


# Tables and groups


def test_the_table_has_the_metrics_of_the_files(outputs):
    folder = finished(outputs, "one", val="1110", test="1100")
    table = comparison.table(*comparison.read())
    assert list(table.columns) == comparison.COLUMNS and len(table) == 1
    row, measured = table.iloc[0], json.loads((folder / "metrics.json").read_text())["test"]
    assert (row.run, row.recipe, row.group, row.backbone) == ("one", "one-recipe", "birds", "Tiny")
    assert (row.image_size, row.parameters, row.megabytes, row.epochs, row.seconds) == (
        32,
        1234,
        2.5,
        2,
        30.8,
    )
    assert (row.split, row.n, row.top_1, row.val_top_1) == ("test", 4, 0.5, 0.75)
    assert [row.top_1_low, row.top_1_high] == measured["intervals"]["top_1"]
    assert [row.precision, row.recall, row.f1] == [
        measured[f"{name}_macro"] for name in ("precision", "recall", "f1")
    ]
    assert row.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2)
    # confidence 0.8, accuracy 0.5
    assert row.calibration_error == pytest.approx(0.3)


def test_the_best_of_a_group_is_the_best_on_val_even_if_another_is_better_on_test(outputs):
    finished(outputs, "lucky", val="1100", test="1111")
    finished(outputs, "chosen", val="1111", test="1000")
    finished(outputs, "middle", val="1110", test="1110")
    table = comparison.table(*comparison.read())
    assert table.run.tolist() == ["chosen", "middle", "lucky"]
    assert table.best_on_val.tolist() == [True, False, False]


def test_of_two_runs_with_the_same_accuracy_on_val_the_lower_log_loss_is_better(outputs):
    table = listed()
    for name, confidence in (("modest", 0.6), ("confident", 0.9)):
        finished(
            outputs,
            name,
            probabilities={
                split: predicted(
                    table, split, "1110", confidence=confidence if split == "test" else 1.5 - confidence
                )
                for split in ("val", "test")
            },
        )
    # a misclassified photo costs less at 0.6 than at 0.9
    assert comparison.groups(results())["birds"] == ["confident", "modest"]


def test_runs_with_other_photos_labels_or_splits_are_in_other_groups(outputs):
    renamed = listed()
    renamed.loc[7, "label"] = "ant" if renamed.label[7] == "bee" else "bee"
    finished(outputs, "a")
    finished(outputs, "b", table=listed(prefix="elsewhere/"), source={"name": "birds"})
    finished(outputs, "c", table=renamed)
    finished(outputs, "d", table=listed(first=1))
    finished(outputs, "e", table=listed(test=0).assign(split=lambda rows: rows.split), test="")
    finished(outputs, "f", table=listed(first=90), source={"name": "apes"})
    groups = comparison.groups(results())
    assert sorted(groups.values()) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    assert sorted(groups) == ["apes", "birds 1", "birds 2", "birds 3", "birds 4"]
    table = comparison.table(*comparison.read())
    assert {name: rows.run.tolist() for name, rows in table.groupby("group")} == groups
    assert table.set_index("run").split.to_dict() == dict.fromkeys("abcdf", "test") | {"e": "val"}


# Pairs


def answers(correct):
    """Return predictions for test photos classified correctly (1) or not (0)."""
    rows = pd.DataFrame(
        {"split": "test", "sha1": [f"photo {row:03}" for row in range(len(correct))], "label": "ant"}
    )
    rows["predicted"] = ["ant" if mark == "1" else "bee" for mark in correct]
    return rows.set_index(["split", "sha1", "label"], drop=False)


def test_a_pair_solved_by_hand():
    """Fagerland, Lydersen and Laake, 2014, on the airways of 21 children before and after transplantation."""
    one, other = answers("1" + "1" + "0" * 7 + "0" * 12), answers("1" + "0" + "1" * 7 + "0" * 12)
    found = comparison.paired(one, other)
    assert (found["n"], found["only_first"], found["only_second"]) == (21, 1, 7)
    assert found["difference"] == pytest.approx(-6 / 21)
    # of 8 throws of a coin at most 1 or at least 7 heads: 2 * (1 + 8) of 256, as statsmodels' mcnemar
    assert found["p"] == pytest.approx(18 / 256)
    assert [round(found[side], 3) for side in ("low", "high")] == [-0.507, -0.026]
    shuffled = comparison.paired(one, other.sample(frac=1, random_state=1))
    assert shuffled == found
    mirrored = comparison.paired(other, one)
    assert mirrored["low"] == pytest.approx(-found["high"]) and mirrored["p"] == found["p"]


@pytest.mark.parametrize(
    ("both", "first", "second", "neither", "published"),
    [
        # Newcombe, 1998
        (36, 12, 2, 0, (0.0569, 0.3404)),
        # Altman, Machin, Bryant and Gardner, 2000, table 6.2
        (14, 5, 0, 22, (0.011, 0.226)),
    ],
)
def test_intervals_as_published(both, first, second, neither, published):
    interval = comparison.newcombe(both=both, first=first, second=second, neither=neither)
    assert interval == pytest.approx(published, abs=6e-4)


def test_equal_predictions_have_no_difference_but_an_interval():
    found = comparison.paired(answers("1110"), answers("1110"))
    assert (found["difference"], found["p"]) == (0, 1) and found["low"] < 0 < found["high"]
    perfect = comparison.paired(answers("1111"), answers("1111"))
    assert (perfect["difference"], perfect["p"]) == (0, 1) and perfect["low"] < -0.2


def test_pairs_compare_the_runs_of_a_group_with_its_best_on_val(outputs):
    finished(outputs, "best", val="1111", test="1100")
    finished(outputs, "other", val="1110", test="0111", table=listed().sample(frac=1, random_state=0))
    finished(outputs, "alone", table=listed(first=50))
    found = comparison.pairs(results())
    assert list(found.columns) == comparison.PAIR and len(found) == 1
    row = found.iloc[0]
    assert (row.group, row.best, row.run, row.n) == ("birds 2", "best", "other", 4)
    assert row.difference == pytest.approx(0.25)
    assert comparison.pairs(results("best", "alone")).empty


def test_pairs_count_the_photos_that_only_one_run_classifies_correctly(outputs):
    finished(outputs, "best", val="1111", test="11110")
    finished(outputs, "other", val="1110", test="00011")
    row = comparison.pairs(results()).iloc[0]
    assert (row.only_best, row.only_run) == (3, 1)
    assert row.difference == pytest.approx(-0.4) and row.p == pytest.approx(10 / 16)


# Writing


def test_the_written_files_can_be_read(outputs, tmp_path):
    finished(outputs, "best", test="1100")
    finished(outputs, "other", val="1110")
    (finished(outputs, "broken") / "metrics.json").unlink()
    found = comparison.read()
    table, pairs = comparison.table(*found), comparison.pairs(found[0])
    comparison.write(tmp_path, runs=table, in_pairs=pairs, ensemble={})
    again = pd.read_csv(tmp_path / "comparison.csv", keep_default_na=False, na_values={"top_1": ""})
    assert again.run.tolist() == ["best", "other", "broken"] and again.top_1[:2].tolist() == [0.5, 1.0]
    record = files.read_json(tmp_path / "comparison.json")
    assert record["groups"] == {"birds": ["best", "other"]} and record["ensemble"] is None
    assert record["not_compared"] == {"broken": "unfinished: metrics.json missing"}
    assert record["pairs"] == [pairs.iloc[0].to_dict()]
    assert not any(
        str(place) in (tmp_path / "comparison.json").read_text() for place in (outputs, Path.home())
    )
