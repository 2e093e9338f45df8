"""Ensembles: which runs are averaged, their mean predictions, and test-time augmentation."""

import numpy as np
import pandas as pd
import pytest
from evaluated_runs import CLASSES, finished, listed, predicted, record, results
from PIL import Image

from lib.clean import photoset
from lib.compare import comparison, ensembles
from lib.core import files, metrics
from lib.evaluate import inference, predictions
from lib.networks import models
from lib.networks.backend import keras
from lib.photos import decoding


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An empty folder of outputs."""
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    # these tests do not check intervals
    monkeypatch.setattr(metrics, "RESAMPLES", 5)
    (tmp_path / "outputs" / "data" / "birds").mkdir(parents=True)
    return tmp_path / "outputs"


def average(found, *names, augmented=False, folder=None):
    return ensembles.average(found, names, augmented=augmented, folder=folder, seed=1)


# Members


def test_by_default_all_runs_with_the_photos_of_the_best_on_val_are_averaged(outputs):
    finished(outputs, "a1", val="1100", test="1111")
    finished(outputs, "a2", val="1100", test="1111")
    finished(outputs, "b1", val="1110", test="1000", table=listed(first=50))
    finished(outputs, "b2", val="1000", test="1000", table=listed(first=50))
    finished(outputs, "alone", val="1111", table=listed(first=90))
    # the best run on val with the photos of another run, although it is worse on test
    assert ensembles.members(results(), []) == ["b1", "b2"]
    assert ensembles.members(results("a1", "a2", "b1"), []) == ["a1", "a2"]
    assert ensembles.members(results("a1", "b1", "alone"), []) == []


def test_runs_with_the_same_test_but_other_val_photos_are_not_averaged_by_default(outputs):
    other = listed()
    other.loc[other.split.eq("val"), "sha1"] += " moved"
    finished(outputs, "one")
    finished(outputs, "other", table=other)
    found = results()
    assert (
        list(comparison.groups(found).values()) == [["one", "other"]] and ensembles.members(found, []) == []
    )


def test_named_runs_that_can_be_averaged_are_kept_in_their_order(outputs):
    for name in ("one", "two", "three"):
        finished(outputs, name)
    assert ensembles.members(results(), ["two", "one"]) == ["two", "one"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one", "lost"], "must list evaluated runs of the comparison: broken, one. Received: lost$"),
        (["one"], "must list at least two different runs. Received: one$"),
        (["one", "one"], "must list at least two different runs. Received: one, one$"),
    ],
)
def test_named_runs_that_are_no_ensemble_are_an_error(names, message, outputs):
    finished(outputs, "one")
    finished(outputs, "broken")
    with pytest.raises(ValueError, match=message):
        ensembles.members(results(), names)


def moved(column, value, row=6):
    table = listed()
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"table": listed(classes=["ant", "cat"]), "classes": ["ant", "cat"]},
            r"different classes: 1 only in one \(such as bee\), 1 only in two \(such as cat\)$",
        ),
        (
            {"table": moved("sha1", "another")},
            r"different photos of test: 1 only in one \(such as 6.jpg\), 1 only in two \(such as 6.jpg\)$",
        ),
        (
            {"table": moved("sha1", "another", row=2)},
            r"different photos of val: 1 only in one \(such as 2.jpg\), 1 only in two \(such as 2.jpg\)$",
        ),
        (
            {"table": listed(test=5), "test": "11111"},
            r"test: 0 only in one, 1 only in two \(such as 9.jpg\)$",
        ),
        (
            {"table": moved("label", "bee")},
            r"labels of test: 1 only in one \(such as 6.jpg as ant\), 1 only in two \(such as 6.jpg as bee",
        ),
        ({"table": listed(test=0)}, "different headline splits: test in one, val in two$"),
    ],
)
def test_the_difference_is_named(other, message, outputs):
    finished(outputs, "one")
    finished(outputs, "two", **other)
    with pytest.raises(ValueError, match="^`compare.ensemble`: one and two cannot be averaged: .*" + message):
        ensembles.members(results(), ["one", "two"])


# Predictions


def test_the_mean_is_calibrated_on_val(outputs):
    table, random = listed(val=40, test=20), np.random.default_rng(0)
    for name in ("one", "two", "three"):
        values = {split: predicted(table, split, "1" * count) for split, count in (("val", 40), ("test", 20))}
        values = {split: mixed(part, random) for split, part in values.items()}
        finished(outputs, name, table=table, probabilities=values, val="1" * 40, test="1" * 20)
    found = results()
    made = average(found, "one", "two", "three")
    rows = [found[name].predictions for name in ("one", "two", "three")]
    mean = np.mean([predictions.probabilities(part, CLASSES) for part in rows], axis=0)
    targets = rows[0].label.eq("bee").to_numpy().astype(int)
    val = rows[0].split.eq("val").to_numpy()
    temperature = metrics.temperature(targets[val], mean[val])
    powers = mean ** (1 / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictions.probabilities(made.predictions, CLASSES), expected, atol=1e-6)
    assert made.report["temperature"] == pytest.approx(temperature, abs=1e-4) and temperature != 1
    assert (made.predictions.predicted == np.take(CLASSES, mean.argmax(axis=1))).all()
    assert made.report["test"]["top_1"] == (expected.argmax(axis=1) == targets)[~val].mean()
    assert made.report["test"]["log_loss"] == pytest.approx(
        -np.log(expected[np.arange(60), targets])[~val].mean(), abs=1e-5
    )
    assert made.report["val"]["n"] == 40 and made.report["members"] == ["one", "two", "three"]


def mixed(values, random):
    values = values * random.uniform(0.2, 3, values.shape)
    return values / values.sum(axis=1, keepdims=True)


def test_members_may_list_photos_and_classes_in_another_order(outputs):
    table, random = listed(), np.random.default_rng(0)
    for name, rows, classes in (
        ("one", table, CLASSES),
        ("two", table.sample(frac=1, random_state=3), CLASSES[::-1]),
    ):
        values = {split: mixed(predicted(rows, split, "1111", classes), random) for split in ("val", "test")}
        finished(outputs, name, table=rows, classes=classes, probabilities=values)
    found = results()
    made = average(found, "one", "two")
    one, two, both = (
        rows.set_index("path")[["p(ant)", "p(bee)"]].sort_index()
        for rows in (found["one"].predictions, found["two"].predictions, made.predictions)
    )
    assert both.index.tolist() == one.index.tolist() == two.index.tolist()
    expected = metrics.apply_temperature((one.to_numpy() + two.to_numpy()) / 2, made.report["temperature"])
    np.testing.assert_allclose(both, expected, atol=1e-4)


def test_its_predictions_have_the_columns_of_a_run(outputs, tmp_path):
    folder = finished(outputs, "one")
    finished(outputs, "two")
    made = average(results(), "one", "two")
    ensembles.write(made, tmp_path / "predictions.csv")
    again, own = predictions.read(tmp_path / "predictions.csv"), predictions.read(folder / "predictions.csv")
    assert list(again.columns) == list(own.columns) and again.path.tolist() == own.path.tolist()
    measured = (again.label == again.predicted)[again.split.eq("test")].mean()
    assert measured == made.report["test"]["top_1"]
    # every number is one that JSON can hold
    files.write_json(tmp_path / "report.json", made.report)


def test_it_is_compared_with_its_best_member_on_val(outputs):
    finished(outputs, "best", val="1111", test="00011")
    finished(outputs, "lucky", val="1110", test="11111")
    finished(outputs, "third", val="1101", test="11110")
    report = average(results(), "lucky", "third", "best").report
    gain = report["gain"]
    # two of three members are correct on all photos: 3 more than the best on val
    assert (gain["over"], gain["n"], gain["only_first"], gain["only_second"]) == ("best", 5, 3, 0)
    assert gain["difference"] == pytest.approx(0.6) and gain["p"] == pytest.approx(0.25)
    assert [row["name"] for row in report["each"]] == ["lucky", "third", "best", "ensemble"]
    assert [row["top_1"] for row in report["each"]] == [1.0, 0.8, 0.4, 1.0]
    assert [row["val_top_1"] for row in report["each"]] == [0.75, 0.75, 1.0, 1.0]


def test_runs_without_a_test_split_are_averaged_on_val(outputs):
    for name in ("one", "two"):
        finished(outputs, name, table=listed(test=0))
    made = average(results(), "one", "two")
    assert made.report["headline"] == "val" and made.predictions.split.eq("val").all()


def test_without_members_no_predictions_are_written(tmp_path):
    made = average({})
    assert made.report == {} and made.predictions is None
    assert list(made.table.columns) == ensembles.COLUMNS and made.table.empty
    (tmp_path / "predictions.csv").write_text("of an earlier ensemble")
    ensembles.write(made, tmp_path / "predictions.csv")
    ensembles.write(made, tmp_path / "predictions.csv")
    assert not (tmp_path / "predictions.csv").exists()


# Test-time augmentation


def scan(outputs, paths):
    """Read the photos of the source."""
    raw = outputs / "data" / "birds" / "raw"
    return decoding.scan(raw, paths, content="birds", folder=outputs / "scan", size=36, fit="crop")


@pytest.fixture
def seen(outputs):
    """Two runs of linear networks, with photos; the second flips them and has another order of classes."""
    raw = outputs / "data" / "birds" / "raw"
    raw.mkdir()
    table, random = listed(), np.random.default_rng(0)
    for path in table.path:
        Image.fromarray(random.integers(0, 256, (36, 36, 3), np.uint8)).save(raw / path, quality=100)
    files.write_json(outputs / "data" / "birds" / "source.json", {"content_sha256": "birds"})
    scanned, _ = scan(outputs, list(table.path))
    table["sha1"] = scanned.sha1
    for seed, flip, classes in ((1, "none", CLASSES), (2, "horizontal", CLASSES[::-1])):
        folder = finished(
            outputs,
            f"{flip}-run",
            table=table,
            classes=classes,
            card={"resize": 36, "temperature": 1.5, "weights_sha256": models.weights_sha256(network(seed))},
            augment={"flip": flip},
        )
        models.save(network(seed), folder / "model.keras")
        record(folder)
    return outputs


def network(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x)))


def test_each_network_predicts_its_photos_with_test_time_augmentation(seen, tmp_path):
    found = results()
    made = average(found, "none-run", "horizontal-run", augmented=True, folder=tmp_path)
    scanned, full = scan(seen, list(listed().path))
    own = photoset.Photos(scanned, full, 32, CLASSES)
    expected = []
    for seed, flip in ((1, "none"), (2, "horizontal")):
        raw = inference.of_rows(
            network(seed),
            own,
            rows=np.arange(1, 9),
            folder=tmp_path,
            batch_size=8,
            views=inference.views(True, flip=flip),
        )
        expected.append(metrics.apply_temperature(raw, 1.5)[:, :: 1 if flip == "none" else -1])
    each = made.report["each"]
    targets = np.array([1, 0] * 4)
    for values, row in zip(expected, each[:2], strict=True):
        assert row["log_loss"] == pytest.approx(-np.log(values[np.arange(8), targets])[4:].mean(), abs=1e-6)
    assert (made.predictions.predicted == np.take(CLASSES, np.mean(expected, axis=0).argmax(axis=1))).all()
    assert made.report["test_time_augmentation"] is True
    assert len(list((tmp_path / "cache").glob("predictions-*.npz"))) == 2
    plain = average(found, "none-run", "horizontal-run")
    # of predictions.csv
    assert plain.report["each"][0]["log_loss"] == pytest.approx(-np.log(0.8), abs=1e-6)


def test_missing_or_changed_photos_are_an_error(seen, tmp_path):
    found = results()
    (seen / "data/birds/raw/6.jpg").write_bytes((seen / "data/birds/raw/5.jpg").read_bytes())
    files.write_json(seen / "data" / "birds" / "source.json", {"content_sha256": "other birds"})
    with pytest.raises(
        ValueError, match="^the photos in data/birds have changed since the evaluation of none-run"
    ):
        average(found, "none-run", "horizontal-run", augmented=True, folder=tmp_path)
    (seen / "data" / "birds" / "source.json").unlink()
    with pytest.raises(
        FileNotFoundError,
        match="^the photos of none-run are missing in data/birds: run `make none-run-recipe` first, or set",
    ):
        average(found, "none-run", "horizontal-run", augmented=True, folder=tmp_path)


def test_the_table_of_members_is_that_of_the_report(outputs):
    finished(outputs, "one")
    finished(outputs, "two", test="1110")
    made = average(results(), "one", "two")
    assert isinstance(made.table, pd.DataFrame) and made.table.name.tolist() == ["one", "two", "ensemble"]
    assert made.table.top_1.tolist() == [row["top_1"] for row in made.report["each"]]
