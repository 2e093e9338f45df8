"""Search for better parameters: many short trainings, each of them kept, and the best of them as parameters.

A study is named by everything that makes its trials comparable, so the same search goes on where it
stopped and another one starts anew beside it. Val chooses; the test split is not looked at.
"""

import dataclasses
import functools
import gc
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState

from lib.clean import photoset
from lib.core import cache, params, progress, steps
from lib.core.schema import Dimension, Params
from lib.networks import backbones
from lib.train import training
from lib.tune import spaces, studies

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FINISHED = ("complete", "pruned", "failed")
FEW = 20  # complete trials, below which importances are a guess


@dataclass(frozen=True)
class Search:
    """What a search has found so far.

    Attributes:
        study: its name.
        monitor: what a trial's value is: val_loss (less is better) or val_accuracy.
        space: what varied, by short name.
        changes: what all trials had changed, by dotted key.
        trials: one row per trial, as `table` gives it.
        importances: share of the values' variance that each varied parameter explains, by short
            name, largest first; empty where it is not known.
        note: one sentence on what the importances rest on, or why there are none.
    """

    study: str
    monitor: str
    space: dict[str, Dimension]
    changes: dict[str, object]
    trials: pd.DataFrame
    importances: dict[str, float]
    note: str

    @property
    def ranked(self) -> pd.DataFrame:
        """The complete trials, the best first, then the others."""
        return _ranked(self.trials, self.monitor)

    @property
    def best(self) -> dict:
        """The best trial: `number`, `value`, and `parameters` by dotted key."""
        row = self.ranked.iloc[0]
        values = spaces.by_parameter(self.space, {name: row[name] for name in self.space})
        return {"number": int(row.number), "value": float(row.value), "parameters": values}


def search(run: steps.Run, photos: photoset.Photos) -> Search:
    """Run the trials that are still to be run, one after the other, and say what all of them found.

    Trials that were interrupted are taken up again, with the values that they had and at the epoch that
    they had come to. With `tune.storage` any number of processes may search at once. TensorFlow keeps some
    memory of each network (measured: 3 MB of a small one, 70 MB of an EfficientNetLite0 that learns): a
    search that has filled the machine's goes on when it is run again.

    Args:
        run: the run, at the stage `06_tune`.
        photos: its photos; train learns, val gives a trial its value.

    Raises:
        ValueError: the space is empty or wrong (before any training), another process searches in this
            folder, the database cannot be reached, or no trial was completed.
    """
    settings = run.settings
    base = spaces.shared(settings)
    with studies.opened(
        f"{settings.name}-{_key(base, photos)}",
        monitor=base.train.monitor,
        seed=settings.seed,
        settings=settings.tune,
        folder=run.folder / "tune",
    ) as study:
        _Searcher(run, base, photos, study).run_all()
        found = _found(study, base)
    if not found.trials.state.eq("complete").any():
        raise ValueError(_nothing(found))
    return found


def _key(base: Params, photos: photoset.Photos) -> str:
    """Return the fingerprint of all that makes the values of trials comparable."""
    weights = {"weights": backbones.weights_identity(base.model.weights)}
    return cache.fingerprint(
        {name: dimension.model_dump() for name, dimension in base.tune.space.items()},
        base.model.model_dump() | weights,
        base.augment.model_dump(),
        base.train.model_dump(),
        base.seed,
        photos.identity("train", "val"),
        cache.code(*training.CODE, Path(training.__file__)),
    )


class _Failed(Exception):
    """A trial failed for a reason that is its own: the search goes on."""


class _Searcher:
    """Runs the trials of a study that are left."""

    def __init__(self, run: steps.Run, base: Params, photos: photoset.Photos, study: optuna.Study):
        self.run, self.base, self.photos, self.study = run, base, photos, study
        self.space, self.monitor = base.tune.space, base.train.monitor
        self.folder = run.folder / "tune" / study.study_name

    def run_all(self) -> None:
        wanted = self.base.tune.trials
        with progress.Bar(wanted, "search") as self.bar:
            for row in table(self.study, self.base).to_dict("records"):
                if row["state"] in FINISHED:
                    self._say(row)
            while self._more(wanted):
                self.study.optimize(self._trial, n_trials=1, catch=_Failed)
                rows = table(self.study, self.base)
                self._say(rows[rows.number.eq(self.number)].to_dict("records")[0])
                self._drop_weights(rows)

    def _more(self, wanted: int) -> bool:
        optuna.storages.fail_stale_trials(self.study)
        states = [attempt.state for attempt in studies.latest(self.study).values()]
        return len(states) < wanted or TrialState.WAITING in states

    def _trial(self, trial: optuna.Trial) -> float:
        self.number = studies.numbers(self.study)[trial.number]
        try:
            return self._value(trial)
        except optuna.TrialPruned:
            raise
        except (KeyboardInterrupt, OSError, optuna.exceptions.StorageInternalError):
            # Not the trial's fault (a full disk is an OSError): it is tried again next time.
            studies.again(self.study, self.study.get_trials(deepcopy=False)[trial.number])
            raise
        except Exception as error:
            trial.set_user_attr("problem", _problem(error))
            raise _Failed from error

    def _value(self, trial: optuna.Trial) -> float:
        values = spaces.suggest(trial, self.space)
        settings = params.changed(self.base, spaces.by_parameter(self.space, values), origin="tune.space")
        if (known := self._known(values)) is not None:
            return known
        place = self.folder / f"{self.number:05}"
        gc.collect()  # of the networks of earlier trials
        watch = functools.partial(self._watch, trial, place)
        history = training.fit(settings, self._photos_of(settings), folder=place, watch=watch).history
        history.to_csv(place / "history.csv", index=False)
        return _best(history[self.monitor], self.monitor)

    def _known(self, values: dict) -> float | None:
        """Return the value of a complete trial with the same values: training is repeatable, so it need not be."""
        for attempt in studies.latest(self.study).values():
            if attempt.state == TrialState.COMPLETE and spaces.values(self.space, attempt.params) == values:
                return attempt.value
        return None

    def _watch(self, trial: optuna.Trial, place: Path, epoch: int, row: dict) -> None:
        """Record an epoch, and end the trial where the pruner says so."""
        trial.set_user_attr("epochs", epoch)
        trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0) + row["seconds"], 1))
        file = place / "history.csv"
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False)
        trial.report(row[self.monitor], epoch)
        self.bar.step(0, f"trial {self.number}, epoch {epoch}, {self.monitor} {row[self.monitor]:.3f}")
        if trial.should_prune():
            raise optuna.TrialPruned

    def _photos_of(self, settings: Params) -> photoset.Photos:
        """Return the photos in the form that a trial's network takes: the run's, or resized for this one."""
        keys = ("image_size", "resize", "fit")
        if all(getattr(settings.model, key) == getattr(self.run.settings.model, key) for key in keys):
            return self.photos
        return photoset.load(dataclasses.replace(self.run, settings=settings))

    def _say(self, row: dict) -> None:
        values = ", ".join(f"{name} {row[name]}" for name in self.space)
        result = {
            "complete": f"{self.monitor} {row['value']:.3f}",
            "pruned": f"pruned at {self.monitor} {row['value']:.3f}",
            "failed": f"failed: {row['problem']}",
        }[row["state"]]
        self.bar.step()
        self.bar.line(f"trial {row['number']:>3}  {result}  epochs {row['epochs']}  {values}")

    def _drop_weights(self, rows: pd.DataFrame) -> None:
        """Remove the weights of the finished trials but for the best one: a thousand of them would fill a disk."""
        best = _ranked(rows, self.monitor).number.iloc[0]
        done = set(rows.number[rows.state.isin(FINISHED)]) - {best}
        for pattern in ("*/*/*.npz", "*/*/finished.json"):
            for path in self.folder.glob(pattern):
                if int(path.parts[-3]) in done:
                    path.unlink(missing_ok=True)


def _best(values, monitor: str) -> float:
    """Return the best of some monitored values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError(f"{monitor} is not a number in any epoch")
    return min(finite) if monitor == "val_loss" else max(finite)


def _problem(error: Exception) -> str:
    """Return an error as one line without the folders of this machine."""
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return re.sub(r"/(?:[^\s/:'\"]+/)+", "", " ".join(text.split()))[:300]


# What was found


def table(study: optuna.Study, settings: Params) -> pd.DataFrame:
    """List the trials of a study.

    Args:
        study: the study.
        settings: the parameters that its trials share.

    Returns:
        One row per trial, in order: `number`, `state` (complete, pruned, failed, running or waiting),
        `value` (the best monitored value on val so far; missing where there is none), `epochs`, `seconds`
        (of the epochs), a column for each varied parameter, by its short name, and `problem` (why it
        failed).
    """
    space, monitor = settings.tune.space, settings.train.monitor
    columns = [*spaces.TAKEN[:-1], *space, spaces.TAKEN[-1]]
    rows = []
    for number, attempt in sorted(studies.latest(study).items()):
        reported = [value for value in attempt.intermediate_values.values() if math.isfinite(value)]
        value = _best(reported, monitor) if reported else math.nan
        if attempt.state == TrialState.COMPLETE:
            value = attempt.value
        notes = {"epochs": 0, "seconds": 0.0, "problem": ""} | attempt.user_attrs
        row = {"number": number, "state": STATES[attempt.state], "value": value, **notes}
        rows.append(row | spaces.values(space, attempt.params))
    types = {"number": int, "value": float, "epochs": int, "seconds": float}
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(types)


def _ranked(trials: pd.DataFrame, monitor: str) -> pd.DataFrame:
    order = trials.sort_values("value", ascending=monitor == "val_loss", kind="stable")
    return order.sort_values("state", key=lambda state: state.ne("complete"), kind="stable")


def _found(study: optuna.Study, base: Params) -> Search:
    shares, note = _importances(study, base.seed)
    return Search(
        study=study.study_name,
        monitor=base.train.monitor,
        space=base.tune.space,
        changes=_flat(params.pick(base, "tune.changes")),
        trials=table(study, base),
        importances=shares,
        note=note,
    )


def _importances(study: optuna.Study, seed: int) -> tuple[dict[str, float], str]:
    """Return the share of the variance that each parameter explains, by fANOVA (Hutter, Hoos and
    Leyton-Brown 2014, ICML), and a sentence on it."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(set(values)) < 2:
        return {}, "Importances need at least two complete trials with different values."
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = {name: round(float(share), 4) for name, share in shares.items()}
    few = " So few say little." if len(values) < FEW else ""
    return shares, f"Importances from {len(values)} complete trials.{few}"


def _flat(values: Mapping, above: str = "") -> dict:
    """Return the values of a nested mapping by dotted key."""
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _nothing(found: Search) -> str:
    """Say why there is no best trial."""
    failed = found.trials[found.trials.state.eq("failed")]
    counts = ", ".join(f"{count} {state}" for state, count in found.trials.state.value_counts().items())
    reason = f" The last failure: {failed.problem.iloc[-1]}" if len(failed) else ""
    return (
        f"no trial of the search is complete: {counts}.{reason} Change `tune.space` or `tune.changes`; to try "
        f"the same once more, remove the folder `tune` of the run"
    )


def record(found: Search) -> dict:
    """Return the content of `tune.json`."""
    return {
        "study": found.study,
        "monitor": found.monitor,
        "trials": {state: int(count) for state, count in found.trials.state.value_counts().items()},
        "space": {name: one.parameter for name, one in found.space.items()},
        "changes": found.changes,
        "best": found.best,
        "importances": {found.space[name].parameter: share for name, share in found.importances.items()},
        "note": found.note,
    }


def fragment(found: Search) -> str:
    """Return the best values of what varied as YAML, to paste into a parameter file; comments say where they come from."""
    best = found.best
    lines = [
        f"# {found.monitor} {best['value']:.4f}: trial {best['number']} of {len(found.trials)} of the study {found.study}"
    ]
    if found.changes:
        others = ", ".join(f"{key} {json.dumps(value)}" for key, value in found.changes.items())
        lines.append(f"# all trials had besides (tune.changes): {others}")
    nested = params.nested(best["parameters"])
    return "\n".join([*lines, yaml.safe_dump(nested, sort_keys=False, allow_unicode=True).rstrip()])
