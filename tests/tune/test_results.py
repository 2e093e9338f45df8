"""The results of a search: the best trial, its values as parameters, and the importances."""

import json
import math

import pandas as pd
import pytest
import yaml
from search_builders import SPACE, STAGE, make_photos, make_run, search

from lib.core import params
from lib.tune import results, tuning

pytestmark = pytest.mark.usefixtures("outputs")


def test_a_pruned_trial_is_never_the_best(fit):
    table = pd.DataFrame({"number": [0, 1], "state": ["complete", "pruned"], "value": [0.5, 0.1]})
    assert results.ranked(table, "val_loss").number.tolist() == [0, 1]
    assert results.ranked(table.assign(value=[0.1, 0.5]), "val_accuracy").number.tolist() == [0, 1]


def test_the_best_value_ignores_values_that_are_not_finite():
    assert results.best_value([math.nan, 0.5, 0.7, math.inf], "val_loss") == 0.5
    assert results.best_value([math.nan, 0.5, 0.7, math.inf], "val_accuracy") == 0.7
    with pytest.raises(ValueError, match="val_loss is not a number in any epoch"):
        results.best_value([math.nan], "val_loss")


def test_the_record_is_valid_json_without_folders(fit, outputs):
    search_run = make_run(trials=4, changes={"model": {"weights": str(outputs.folder / "weights.h5")}})
    (outputs.folder / "weights.h5").write_bytes(b"x")
    found = tuning.search(search_run, make_photos())
    record = results.record(found)
    text = json.dumps(record, allow_nan=False)
    assert str(outputs.folder) not in text and str(outputs.folder) not in results.fragment(found)
    assert record["trials"] == {"complete": 4} and record["best"] == found.best
    assert record["space"] == {name: one["parameter"] for name, one in SPACE.items()}
    assert record["changes"] == {"model.weights": "weights.h5"}
    assert set(record["importances"]) == set(record["space"].values())


def test_the_fragment_contains_the_best_values(fit):
    found = search(trials=4, changes={"train": {"stages": {"all": {"epochs": 2}}}})
    text = results.fragment(found)
    best = found.best
    lines = text.splitlines()
    assert (
        lines[0] == f"# val_loss {best['value']:.4f}: trial {best['number']} of 4 of the study {found.study}"
    )
    assert lines[1] == "# all trials used these values of tune.changes: train.stages.all.epochs 2"
    settings = make_run().settings
    changed = params.changed(settings, yaml.safe_load(text))
    assert changed.train.stages["all"].learning_rate == best["parameters"]["train.stages.all.learning_rate"]
    assert changed.model.simple_cnn.filters == best["parameters"]["model.simple_cnn.filters"]
    assert list(yaml.safe_load(text)) == ["train", "model"]
    assert params.changed(settings, best["parameters"]) == changed


def test_importances_rank_the_parameters(fit):
    fit.loss = lambda settings, epoch: 10 * (math.log10(settings.train.stages["all"].learning_rate) + 2) ** 2
    found = search(trials=20, train={"stages": {"all": STAGE | {"epochs": 1}}})
    assert list(found.importances) == ["rate", "filters"]  # nothing depends on the filters
    assert found.importances["rate"] > 0.9 and sum(found.importances.values()) == pytest.approx(1, abs=1e-3)
    assert found.note == "Importances from 20 complete trials."


def test_importances_are_unknown_or_unreliable_with_few_trials(fit):
    note = "Importances need at least two complete trials with different values."
    one = search(trials=1)
    assert (one.importances, one.note) == ({}, note)
    fit.loss = lambda settings, epoch: 1.0
    equal = search(trials=3, seed=5)
    assert (equal.importances, equal.note) == ({}, note)
    fit.loss = lambda settings, epoch: len(fit.ran)
    note = "Importances from 2 complete trials. They are unreliable with fewer than 20."
    assert search(trials=2, seed=6).note == note
