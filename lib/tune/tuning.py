"""Search for better parameters: many short trainings, each of them recorded, and the best as parameters.

A study is named by a fingerprint of everything that makes its trials comparable, so that the same search
continues and another one starts beside it. Val chooses; the test split is not used.
"""

import dataclasses
import functools
import gc
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

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
# With fewer complete trials importances are a guess.
FEW = 20
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class Search:
    """The results of a search so far.

    Attributes:
        study: its name.
        monitor: the value of a trial: val_loss (less is better) or val_accuracy.
        space: the varied parameters, by short name.
        changes: the parameters that all trials changed, by dotted key.
        trials: one row per trial, the result of `table`.
        importances: fraction of the values' variance that each varied parameter explains, by short
            name, largest first; empty if it is not known.
        note: one sentence on the basis of the importances, or why there are none.
        summary: one sentence on the number of trials and of distinct combinations of values.
    """

    study: str
    monitor: str
    space: dict[str, Dimension]
    changes: dict[str, object]
    trials: pd.DataFrame
    importances: dict[str, float]
    note: str
    summary: str

    @property
    def ranked(self) -> pd.DataFrame:
        """The complete trials, the best first, then the others."""
        return _ranked(self.trials, self.monitor)

    @property
    def best(self) -> dict:
        """The best trial: `number`, `value`, `parameters` by dotted key, and `batch_size` if memory allowed
        only a smaller one than the parameters'."""
        row = self.ranked.iloc[0]
        values = spaces.by_parameter(self.space, {name: row[name] for name in self.space})
        best = {"number": int(row.number), "value": float(row.value), "parameters": values}
        if BATCH_SIZE not in self.space and pd.notna(row.get(BATCH_SIZE)):
            best[BATCH_SIZE] = int(row[BATCH_SIZE])
        return best


def search(run: steps.Run, photos: photoset.Photos) -> Search:
    """Run the trials that are left, one after the other, and return the results of all.

    Interrupted trials continue with their values at the epoch that they had reached; one whose process was
    killed twice has failed. With `tune.storage` any number of processes may search at once. TensorFlow keeps
    some memory of each network (measured: 3 MB of a small one, 70 MB of a trained EfficientNetLite0): a
    search that has filled the machine's memory continues when it is run again.

    Args:
        run: the run, at the step `06_tune`.
        photos: its photos; trials are trained on train, their value is measured on val.

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
        with progress.Bar(base.tune.trials, "search") as bar:
            _Searcher(run, base, photos=photos, study=study, bar=bar).run_all()
        result = _result(study, base)
    if not result.trials.state.eq("complete").any():
        raise ValueError(_nothing(result))
    return result


def _key(base: Params, photos: photoset.Photos) -> str:
    """Return the fingerprint of all that makes the values of trials comparable."""
    weights = {"weights": backbones.weights_identity(base.model.weights)}
    return cache.fingerprint(
        {name: dimension.model_dump() for name, dimension in spaces.dimensions(base.tune).items()},
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

    def __init__(
        self,
        run: steps.Run,
        base: Params,
        *,
        photos: photoset.Photos,
        study: optuna.Study,
        bar: progress.Bar,
    ):
        self.run, self.base, self.photos, self.study, self.bar = run, base, photos, study, bar
        self.space, self.monitor = spaces.dimensions(base.tune), base.train.monitor
        self.folder = run.folder / "tune" / study.study_name
        self.shown: set[int] = set()

    def run_all(self) -> None:
        """Run trials until there are as many as wanted, or no combination of values is left."""
        self._show_finished()
        while self._more():
            self.study.optimize(self._trial, n_trials=1, catch=_Failed)
            self._drop_weights(self._show_finished())
        if self._exhausted():
            self.bar.line(_summary(table(self.study, self.base), self.space))

    def _more(self) -> bool:
        optuna.storages.fail_stale_trials(self.study)
        states = [attempt.state for attempt in studies.latest(self.study).values()]
        if TrialState.WAITING in states:
            return True
        return len(states) < self.base.tune.trials and not self._exhausted()

    def _exhausted(self) -> bool:
        """Return whether every combination of the space has been drawn."""
        size = spaces.size(self.space)
        return size is not None and len(studies.tried(self.study, self.space)) >= size

    def _trial(self, trial: optuna.Trial) -> float:
        """Return the value of a trial.

        Raises:
            _Failed: the trial failed; its attribute `problem` says why.
        """
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
        number = studies.numbers(self.study)[trial.number]
        place = self.folder / f"{number:05}"
        # Free the networks of earlier trials.
        gc.collect()
        trained = training.fit(
            settings,
            self._photos_of(settings),
            folder=place,
            watch=functools.partial(self._watch, trial, settings, number=number),
        )
        self._record_batch_size(trial, settings, used=trained.batch_size)
        trained.history.to_csv(place / "history.csv", index=False)
        return _best(trained.history[self.monitor], self.monitor)

    def _known(self, values: dict) -> float | None:
        """Return the value of a complete trial with the same values: training repeats bit by bit."""
        for attempt in studies.latest(self.study).values():
            if attempt.state == TrialState.COMPLETE and spaces.values(self.space, attempt.params) == values:
                return attempt.value
        return None

    def _watch(
        self, trial: optuna.Trial, settings: Params, row: dict, batch_size: int, *, number: int
    ) -> None:
        """Record an epoch, and end the trial if the pruner says so."""
        self._record_batch_size(trial, settings, used=batch_size)
        trial.set_user_attr("epochs", row["epoch"])
        trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0) + row["seconds"], 1))
        file = self.folder / f"{number:05}" / "history.csv"
        pd.DataFrame([row]).to_csv(file, mode="a", header=not file.exists(), index=False)
        trial.report(row[self.monitor], row["epoch"])
        self.bar.step(0, f"trial {number}, epoch {row['epoch']}, {self.monitor} {row[self.monitor]:.3f}")
        if trial.should_prune():
            raise optuna.TrialPruned

    def _record_batch_size(self, trial: optuna.Trial, settings: Params, *, used: int) -> None:
        """Record the batch size of a trial if memory ran out with that of its parameters.

        Raises:
            ValueError: the batch size is one of the varied parameters.
        """
        wanted = settings.train.batch_size
        if used == wanted:
            return
        if any(dimension.parameter == "train.batch_size" for dimension in self.space.values()):
            raise ValueError(f"{wanted} photos do not fit into memory; {used} were used")
        trial.set_user_attr(BATCH_SIZE, used)

    def _photos_of(self, settings: Params) -> photoset.Photos:
        """Return the photos in the size of a trial's network: the run's, or resized for this one."""
        keys = ("image_size", "resize", "fit")
        if all(getattr(settings.model, key) == getattr(self.run.settings.model, key) for key in keys):
            return self.photos
        return photoset.load(dataclasses.replace(self.run, settings=settings))

    def _show_finished(self) -> pd.DataFrame:
        """Show the trials that have finished since the last time, and return the table of all."""
        rows = table(self.study, self.base)
        for row in rows[rows.state.isin(FINISHED) & ~rows.number.isin(self.shown)].to_dict("records"):
            self._show(row)
            self.shown.add(row["number"])
        return rows

    def _show(self, row: dict) -> None:
        """Add the line of a finished trial."""
        values = ", ".join(f"{name} {row[name]}" for name in self.space)
        result = {
            "complete": f"{self.monitor} {row['value']:.3f}",
            "pruned": f"pruned at {self.monitor} {row['value']:.3f}",
            "failed": f"failed: {row['problem']}",
        }[row["state"]]
        self.bar.step()
        batch_size = row.get(BATCH_SIZE) if BATCH_SIZE not in self.space else None
        note = f"  batch size {batch_size:.0f}" if pd.notna(batch_size) else ""
        self.bar.line(f"trial {row['number']:>3}  {result}  epochs {row['epochs']}  {values}{note}")

    def _drop_weights(self, rows: pd.DataFrame) -> None:
        """Remove the weights of all finished trials but the best: a thousand of them would fill a disk."""
        best = _ranked(rows, self.monitor).number.iloc[0]
        done = set(rows.number[rows.state.isin(FINISHED)]) - {best}
        for pattern in ("*/*/*.npz", "*/*/finished.json"):
            for path in self.folder.glob(pattern):
                if int(path.parts[-3]) in done:
                    path.unlink(missing_ok=True)


def _best(values: Iterable[float], monitor: str) -> float:
    """Return the best of some monitored values.

    Raises:
        ValueError: none of them is a number.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError(f"{monitor} is not a number in any epoch")
    return min(finite) if monitor == "val_loss" else max(finite)


def _problem(error: Exception) -> str:
    """Return an error as one line without the folders of this machine."""
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return re.sub(r"/(?:[^\s/:'\"]+/)+", "", " ".join(text.split()))[:300]


# Results


def table(study: optuna.Study, settings: Params) -> pd.DataFrame:
    """List the trials of a study.

    Args:
        study: the study.
        settings: the parameters that its trials share.

    Returns:
        One row per trial, in order: `number`, `state` (complete, pruned, failed, running or waiting),
        `value` (the best monitored value on val so far; missing if there is none), `epochs`, `seconds`
        (of the epochs), a column for each varied parameter, by its short name, and `problem` (why it
        failed). If memory ran out in any trial, a column `batch_size` holds the smaller batch size of such
        trials and is missing in the others.
    """
    space = spaces.dimensions(settings.tune)
    rows = [
        _row(number, attempt, space=space, monitor=settings.train.monitor)
        for number, attempt in sorted(studies.latest(study).items())
    ]
    smaller = [BATCH_SIZE] if BATCH_SIZE not in space and any(BATCH_SIZE in row for row in rows) else []
    columns = [*spaces.TAKEN[:-1], *space, *smaller, spaces.TAKEN[-1]]
    types = {"number": int, "value": float, "epochs": int, "seconds": float}
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(types)


def _row(number: int, attempt: FrozenTrial, *, space: dict[str, Dimension], monitor: str) -> dict:
    """Return the row of a trial's last attempt."""
    reported = [value for value in attempt.intermediate_values.values() if math.isfinite(value)]
    value = _best(reported, monitor) if reported else math.nan
    row = {
        "number": number,
        "state": STATES[attempt.state],
        "value": attempt.value if attempt.state == TrialState.COMPLETE else value,
        "epochs": attempt.user_attrs.get("epochs", 0),
        "seconds": attempt.user_attrs.get("seconds", 0.0),
        "problem": studies.problem(attempt),
    }
    if BATCH_SIZE in attempt.user_attrs:
        row[BATCH_SIZE] = attempt.user_attrs[BATCH_SIZE]
    return row | spaces.values(space, attempt.params)


def _summary(trials: pd.DataFrame, space: dict[str, Dimension]) -> str:
    """Return one sentence on the number of trials and of distinct combinations of values."""
    distinct, size = len(trials[list(space)].dropna().drop_duplicates()), spaces.size(space)
    if distinct == size:
        return f"{len(trials)} trials: all {size} combinations were tried"
    return f"{len(trials)} trials, {distinct} distinct combinations{f' of {size}' if size else ''}"


def _ranked(trials: pd.DataFrame, monitor: str) -> pd.DataFrame:
    order = trials.sort_values("value", ascending=monitor == "val_loss", kind="stable")
    return order.sort_values("state", key=lambda state: state.ne("complete"), kind="stable")


def _result(study: optuna.Study, base: Params) -> Search:
    importances, note = _importances(study, base.seed)
    space, trials = spaces.dimensions(base.tune), table(study, base)
    return Search(
        study=study.study_name,
        monitor=base.train.monitor,
        space=space,
        changes=_flat(params.pick(base, "tune.changes")),
        trials=trials,
        importances=importances,
        note=note,
        summary=_summary(trials, space),
    )


def _importances(study: optuna.Study, seed: int) -> tuple[dict[str, float], str]:
    """Return the fraction of the variance that each parameter explains, by fANOVA (Hutter, Hoos and
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
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _nothing(result: Search) -> str:
    """Say why there is no best trial."""
    failed = result.trials[result.trials.state.eq("failed")]
    counts = ", ".join(f"{count} {state}" for state, count in result.trials.state.value_counts().items())
    reason = f" The last failure: {failed.problem.iloc[-1]}" if len(failed) else ""
    return (
        f"no trial of the search is complete: {counts}.{reason} Change `tune.space` or `tune.changes`; "
        "to try the same once more, remove the folder `tune` of the run"
    )


def record(result: Search) -> dict:
    """Return the content of `tune.json`."""
    return {
        "study": result.study,
        "monitor": result.monitor,
        "trials": {state: int(count) for state, count in result.trials.state.value_counts().items()},
        "summary": result.summary,
        "space": {name: one.parameter for name, one in result.space.items()},
        "changes": result.changes,
        "best": result.best,
        "importances": {
            result.space[name].parameter: fraction for name, fraction in result.importances.items()
        },
        "note": result.note,
    }


def fragment(result: Search) -> str:
    """Return the best values of the varied parameters as YAML for a parameter file; comments say where they
    come from."""
    best = result.best
    lines = [
        f"# {result.monitor} {best['value']:.4f}: trial {best['number']} of {len(result.trials)} "
        f"of the study {result.study}"
    ]
    if result.changes:
        others = ", ".join(f"{key} {json.dumps(value)}" for key, value in result.changes.items())
        lines.append(f"# all trials had besides (tune.changes): {others}")
    if BATCH_SIZE in best:
        lines.append(f"# memory ran out: it was trained with a batch size of {best[BATCH_SIZE]}")
    nested = params.nested(best["parameters"])
    return "\n".join([*lines, yaml.safe_dump(nested, sort_keys=False, allow_unicode=True).rstrip()])
