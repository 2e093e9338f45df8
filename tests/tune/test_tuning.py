"""The search: every trial is recorded, an interrupted trial continues, the best is selected on val."""

import math

import pandas as pd
import pytest
from search_builders import SPACE, STAGE, loss, make_photos, make_run, search

from lib.clean import photoset
from lib.networks import backbones, backend
from lib.networks.backend import keras
from lib.train import trainer
from lib.tune import results, spaces, studies, tuning

pytestmark = pytest.mark.usefixtures("outputs")


class Killed(BaseException):
    """Simulate a killed process: no code catches this error."""


def kept(folder, name):
    """Return the numbers of the trials that still have a file."""
    return sorted(int(path.parts[-3]) for path in folder.glob(f"tiny/tune/*/*/*/{name}"))


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# Trials


def test_every_trial_is_recorded_and_the_best_has_the_lowest_loss(fit):
    found = search(trials=6)
    table = found.trials
    assert list(table.columns) == [
        "number",
        "state",
        "value",
        "epochs",
        "seconds",
        "rate",
        "filters",
        "problem",
    ]
    assert [*table.columns] == [*spaces.COLUMNS[:-1], *SPACE, spaces.COLUMNS[-1]]
    assert table.number.tolist() == list(range(6)) and set(table.state) == {"complete"}
    for row in table.itertuples():
        value = (math.log10(row.rate) + 2) ** 2 + 1 / row.filters + 1 / 3
        assert row.value == pytest.approx(value) and row.problem == ""
    assert len({(row.rate, row.filters) for row in table.itertuples()}) == 6
    assert (table.epochs == 3).all() and (table.seconds == 6).all()
    best = table.loc[table.value.idxmin()]
    assert found.best == {
        "number": best.number,
        "value": best.value,
        "parameters": {"train.stages.all.learning_rate": best.rate, "model.simple_cnn.filters": best.filters},
    }
    assert found.ranked.value.is_monotonic_increasing
    tried = [(s.train.stages["all"].learning_rate, s.model.simple_cnn.filters) for s in fit.settings]
    assert tried == list(zip(table.rate, table.filters, strict=True))


def test_val_accuracy_is_maximised(fit):
    found = search(trials=4, train={"monitor": "val_accuracy"})
    assert found.best["value"] == found.trials.value.max() > found.trials.value.min()
    assert found.ranked.value.is_monotonic_decreasing


def test_the_value_is_that_of_the_best_epoch(fit):
    fit.loss = lambda settings, epoch: {1: 0.5, 2: 0.2, 3: 0.9}[epoch]
    assert search(trials=1).trials.value.tolist() == [0.2]


def test_only_the_best_trial_keeps_its_weights_and_all_keep_their_history(fit, outputs):
    found = search(trials=5)
    best = found.best["number"]
    for name in ("state.npz", "best-3.npz", "finished.json"):
        assert kept(outputs.folder, name) == [best]
    histories = sorted(outputs.folder.glob("tiny/tune/*/*/history.csv"))
    assert len(histories) == 5
    for number, path in enumerate(histories):
        assert pd.read_csv(path).val_loss.min() == pytest.approx(found.trials.value[number])


def test_changes_apply_to_all_trials(fit):
    found = search(trials=2, changes={"train": {"stages": {"all": {"epochs": 1}}}, "augment": {"zoom": 0.3}})
    assert found.trials.epochs.tolist() == [1, 1] and {s.augment.zoom for s in fit.settings} == {0.3}
    assert found.changes == {"train.stages.all.epochs": 1, "augment.zoom": 0.3}


def test_values_of_earlier_trials_are_not_trained_again(fit):
    space = {"filters": SPACE["filters"]}
    found = search(space=space, trials=8)
    assert len(found.trials) == 3 == len(fit.settings) == found.trials.filters.nunique()
    assert found.summary == "3 trials: all 3 combinations were tried" == results.record(found)["summary"]
    same(search(space=space, trials=8).trials, found.trials)
    assert search(space=space, trials=2, seed=4).summary == "2 trials, 2 distinct combinations of 3"
    assert search(trials=2).summary == "2 trials, 2 distinct combinations"


def test_the_value_of_an_earlier_trial_is_reused_if_no_new_values_are_sampled(fit, monkeypatch):
    monkeypatch.setattr(studies, "MAX_SAMPLES", 1)
    found = search(space={"filters": SPACE["filters"]}, trials=6)
    repeated = found.trials[found.trials.epochs.eq(0)]
    assert len(repeated) and len(fit.settings) == found.trials.filters.nunique()
    assert (found.trials.groupby("filters").value.nunique() == 1).all()


def test_photos_are_resized_for_the_trials_that_need_it(fit, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        photoset, "load", lambda run: loaded.append(run.settings.model.image_size) or "resized"
    )
    space = {"size": {"parameter": "model.image_size", "choices": [32, 48]}}
    search(space=space, trials=5)
    sizes = [settings.model.image_size for settings in fit.settings]
    assert sorted(sizes) == [32, 48] and loaded == [48]
    assert [photos == "resized" for photos in map(str, fit.photos)] == [size == 48 for size in sizes]


# Resuming


def test_a_finished_search_is_not_repeated(fit):
    one = search(trials=3)
    ran = list(fit.ran)
    two = search(trials=3)
    assert fit.ran == ran and len(ran) == 9
    same(one.trials, two.trials)
    assert one.best == two.best and one.study == two.study


def test_more_trials_continue_with_new_values(fit, outputs):
    search(trials=2)
    more = search(trials=5)
    assert more.trials.rate.nunique() == 5
    outputs("another")
    same(more.trials, search(trials=5).trials)


def test_fewer_trials_than_exist_are_no_error(fit):
    search(trials=3)
    assert len(search(trials=1).trials) == 3 and len(fit.ran) == 9


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt, OSError("the disk is full")])
def test_an_interrupted_trial_continues_after_its_last_epoch(fit, outputs, error):
    def stop(settings, epoch):
        if len(fit.ran) == 4:  # in the second epoch of the second trial
            raise error
        return loss(settings, epoch)

    fit.loss = stop
    with pytest.raises(error if isinstance(error, type) else OSError):
        search(trials=3)
    fit.loss = loss
    found = search(trials=3)
    assert fit.ran == [(f"{trial:05}", epoch) for trial in range(3) for epoch in (1, 2, 3)]  # no epoch twice
    assert found.trials.epochs.tolist() == [3, 3, 3] and found.trials.seconds.tolist() == [6, 6, 6]
    assert all(len(pd.read_csv(path)) == 3 for path in outputs.folder.glob("tiny/tune/*/*/history.csv"))
    outputs("another")
    same(found.trials, search(trials=3).trials)


def test_a_trial_that_kills_its_process_twice_has_failed_and_the_search_continues(fit):
    def kill(settings, epoch):
        if settings.model.simple_cnn.filters == 16:
            raise Killed
        return loss(settings, epoch)

    fit.loss = kill
    space = {"filters": SPACE["filters"]}
    for _ in range(2):
        with pytest.raises(Killed):
            search(space=space, trials=3)
    found = search(space=space, trials=3)
    failed = found.trials[found.trials.state.eq("failed")]
    assert failed.filters.tolist() == [16] and failed.problem.tolist() == ["the process was killed twice"]
    assert found.trials.state.value_counts().to_dict() == {"complete": 2, "failed": 1}
    assert found.summary == "3 trials: all 3 combinations were tried"


def test_a_reduced_batch_size_is_recorded(fit):
    assert "batch_size" not in search(trials=1).trials
    fit.fits = 3
    found = search(trials=2)
    assert found.trials.batch_size.fillna(0).tolist() == [0, 3]
    smaller = search(trials=1, seed=3)
    assert smaller.best["batch_size"] == 3 == results.record(smaller)["best"]["batch_size"]
    assert "# memory ran out: the batch size of this trial was 3" in results.fragment(smaller).splitlines()


def test_a_trial_whose_batch_size_does_not_fit_has_failed(fit):
    space = {"batch": {"parameter": "train.batch_size", "choices": [32, 8]}}
    fit.fits = 8
    found = search(space=space, trials=2)
    failed = found.trials[found.trials.state.eq("failed")]
    assert failed.problem.tolist() == ["out of memory with a batch size of 32; 8 would fit"]
    assert failed.batch.tolist() == [32] and found.best["parameters"] == {"train.batch_size": 8}
    # It ends after its first epoch.
    assert len(fit.ran) == 4 and "batch_size" not in found.trials


def test_a_trial_that_was_trained_when_the_process_ended_is_loaded(fit, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(results, "best_value", lambda values, monitor: (_ for _ in ()).throw(Killed))
        search(trials=1)
    assert search(trials=1).trials.state.tolist() == ["complete"] and len(fit.ran) == 3


def study_key(photos=None, **options):
    return tuning.key(spaces.shared(make_run(**options).settings), photos or make_photos())


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"rate": SPACE["rate"] | {"low": 2e-3}, "filters": SPACE["filters"]}},
        {"space": {"rate": SPACE["rate"]}},
        {"model": {"fit": "stretch"}},
        {"train": {"label_smoothing": 0.2}},
        {"changes": {"augment": {"zoom": 0.3}}},
        {"seed": 2},
        {"photos": make_photos(seed=1)},
    ],
)
def test_a_change_that_makes_values_incomparable_results_in_another_study(change):
    assert study_key() != study_key(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 2},
        {"sampler": "tpe"},
        {"pruner": "median"},
        {"storage": "sqlite:///x.db"},
        {"changes": {"augment": {"zoom": 0.15}}},  # the default
        {"photos": make_photos(count=14)},  # more test photos
    ],
)
def test_other_changes_continue_the_study(change):
    assert study_key() == study_key(**change)


def test_another_study_is_independent_of_the_first(fit):
    one, two = search(trials=1), search(trials=1, seed=2)
    assert one.study != two.study and one.study.startswith("tiny-") and len(two.trials) == 1
    assert search(trials=1).study == one.study and len(fit.ran) == 6


def test_two_folders_share_a_study_through_a_database(fit, outputs):
    everywhere = outputs.folder.parent
    storage = f"sqlite:///{everywhere / 'shared.db'}"
    search(trials=2, storage=storage)
    outputs("another")
    found = search(trials=5, storage=storage)
    assert len(found.trials) == 5 and found.trials.rate.nunique() == 5
    assert [folder for folder, _ in fit.ran[::3]] == [f"{n:05}" for n in range(5)]
    weights = {int(path.parts[-3]) for path in everywhere.glob("*/tiny/tune/*/*/*/state.npz")}
    assert found.best["number"] in weights and weights <= {
        0,
        1,
        found.best["number"],
    }  # each folder keeps its own


# Pruned and failed trials


def test_a_trial_that_is_worse_than_the_others_ends_early(fit):
    found = search(trials=12, pruner="median")
    pruned = found.trials[found.trials.state.eq("pruned")]
    assert len(pruned) and (pruned.epochs < 3).all() and (pruned.number >= 5).all()
    assert found.trials.value[found.best["number"]] == found.best["value"]
    for (
        row
    ) in pruned.itertuples():  # by hand: worse than the median of the complete ones before it, at its epoch
        before = found.trials[found.trials.state.eq("complete") & (found.trials.number < row.number)]
        at_epoch = before.value - 1 / 3 + 1 / row.epochs
        assert row.value > at_epoch.median()


def test_a_failed_trial_is_recorded_with_its_reason_and_the_search_continues(fit, outputs):
    def failing(settings, epoch):
        if len(fit.settings) == 1:
            return math.nan if epoch == 2 else 1.0
        if len(fit.settings) == 2:
            raise RuntimeError(f"no memory\n  at {outputs.folder}/kernels/file.cc:3")
        return loss(settings, epoch)

    fit.loss = failing
    found = search(trials=4)
    assert found.trials.state.tolist() == ["failed", "failed", "complete", "complete"]
    assert found.trials.problem.tolist() == [
        "the loss of epoch 2 is nan: lower the learning rate of stage all",
        "RuntimeError: no memory at file.cc:3",
        "",
        "",
    ]
    assert found.trials.epochs.tolist() == [1, 0, 3, 3]
    assert found.ranked.number.tolist()[2:] == [0, 1] and kept(outputs.folder, "state.npz") == [
        found.best["number"]
    ]
    assert (
        search(trials=4).trials.state.tolist() == found.trials.state.tolist()
    )  # the failed trials are not repeated


def test_a_search_without_a_complete_trial_is_an_error(fit):
    fit.loss = lambda settings, epoch: math.nan
    with pytest.raises(
        ValueError,
        match="at least one complete trial. Received: 2 failed. The last failure: the loss of epoch 1 is",
    ):
        search(trials=2)
    assert fit.ran == []


def test_an_invalid_space_is_refused_before_any_training(fit):
    with pytest.raises(ValueError, match=r"`tune.space` needs at least one parameter"):
        search(space={})
    with pytest.raises(ValueError, match=r"tune.space: `train.batch_size`.*Received: 0"):
        search(space={"batch": {"parameter": "train.batch_size", "low": 0, "high": 9}})
    assert not fit.settings


# Output


def test_a_search_prints_one_line_per_trial_and_no_warnings(fit, monkeypatch, capfd, recwarn):
    bars = []
    original = tuning.progress.Bar
    monkeypatch.setattr(tuning.progress, "Bar", lambda *args: bars.append(original(*args)) or bars[-1])
    fit.loss = lambda settings, epoch: math.nan if len(fit.settings) == 2 else 0.5
    found = search(trials=2)
    row = found.trials.iloc[0]
    assert bars[0].lines == [
        f"trial   0  val_loss 0.500  epochs 3  rate {row.rate}, filters {row['filters']}",
        f"trial   1  failed: the loss of epoch 1 is nan: lower the learning rate of stage all  epochs 0  "
        f"rate {found.trials.rate[1]}, filters {found.trials['filters'][1]}",
    ]
    search(trials=2)
    assert bars[1].lines == bars[0].lines and bars[1].done == 2
    assert capfd.readouterr() == ("", "") and not recwarn.list


# A real training


def Tiny(weights, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Conv2D(2, 3, 4)(inputs))


@pytest.fixture
def eager(monkeypatch):
    """A small network and training steps without tracing."""
    monkeypatch.setitem(backbones.REGISTRY, "Tiny", backbones.Backbone(Tiny, backbones.SIGNED))
    backend.prepare(0)
    backend.native.config.run_functions_eagerly(True)
    yield
    backend.native.config.run_functions_eagerly(False)


def test_a_killed_training_continues_after_its_last_epoch(eager, outputs, monkeypatch):
    stages = {"all": STAGE | {"epochs": 2}}
    options = {"space": {"rate": SPACE["rate"]}, "model": {"backbone": "Tiny"}, "train": {"stages": stages}}
    epochs = []
    original = trainer.Trainer.end_epoch

    def end_epoch(self, stage, logs, *, epoch, callbacks):
        original(self, stage, logs, epoch=epoch, callbacks=callbacks)
        epochs.append(epoch)
        if len(epochs) == 1:  # the epoch is saved
            raise Killed

    monkeypatch.setattr(trainer.Trainer, "end_epoch", end_epoch)
    with pytest.raises(Killed):
        search(trials=1, **options)
    found = search(trials=1, **options)
    assert epochs == [1, 2] and found.trials.epochs.tolist() == [2]  # as many as without the kill
    (history,) = outputs.folder.glob("tiny/tune/*/00000/history.csv")
    assert found.best["value"] == pd.read_csv(history).val_loss.min()
    assert kept(outputs.folder, "best-*.npz") == kept(outputs.folder, "state.npz") == [0]
    assert list(outputs.folder.glob("tiny/tune/*/*/*/tensorboard/*/*/events*"))
