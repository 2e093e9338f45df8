"""Search for better parameters with many short trainings, and record all of them.

The name of a study contains a fingerprint of everything that its trials share. The same search therefore
continues its study, and a changed search starts a new study. Trials are selected on val; the test split is
not used.
"""

import dataclasses
import functools
import gc
import re

import optuna
import pandas as pd
from optuna.trial import TrialState

from lib.clean import photoset
from lib.core import cache, params, progress, steps, tables
from lib.core.schema import Params
from lib.networks import backbones
from lib.train import training
from lib.tune import results, spaces, studies


def search(run: steps.Run, photos: photoset.Photos) -> results.Search:
    """Run the remaining trials in sequence and return the results of all trials.

    An interrupted trial continues with the same values after its last completed epoch. A trial fails if its
    process is killed twice. With `tune.storage`, several processes may search at the same time. TensorFlow
    does not free all memory of a network (measured: 3 MB of a small network, 70 MB of a trained
    EfficientNetLite0). If a search runs out of memory, run it again to continue.

    Args:
        run: the run, at the step `06_tune`.
        photos: its photos. Trials are trained on train and evaluated on val.

    Raises:
        ValueError: if the space is empty or invalid (before any training), the database cannot be used, or no
            trial is complete.
    """
    settings = run.settings
    base = spaces.shared(settings)
    with studies.opened(
        f"{settings.name}-{key(base, photos)}",
        monitor=base.train.monitor,
        seed=settings.seed,
        settings=settings.tune,
        folder=run.folder / "tune",
    ) as study:
        with progress.Bar(base.tune.trials, "search") as bar:
            _Searcher(run, base, photos=photos, study=study, bar=bar).run_all()
        result = results.of_study(study, base)
    if not result.trials.state.eq("complete").any():
        raise ValueError(results.no_result(result))
    return result


def key(base: Params, photos: photoset.Photos) -> str:
    """Return the fingerprint of everything that the trials of a study share."""
    weights = {"weights": backbones.weights_identity(base.model.weights)}
    return cache.fingerprint(
        {name: dimension.model_dump() for name, dimension in base.tune.space.items()},
        base.model.model_dump() | weights,
        base.augment.model_dump(),
        base.train.model_dump(),
        base.seed,
        photos.identity("train", "val"),
        cache.code(training.__name__),
    )


class _Failed(Exception):
    """A trial failed because of its values. The search continues with the next trial."""


class _Searcher:
    """Run the remaining trials of a study."""

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
        self.space, self.monitor = base.tune.space, base.train.monitor
        self.folder = run.folder / "tune" / study.study_name
        self.shown: set[int] = set()

    def run_all(self) -> None:
        """Run trials until `tune.trials` is reached or all combinations of values have been tried."""
        self._show_finished()
        while self._more():
            self.study.optimize(self._trial, n_trials=1, catch=_Failed)
            self._drop_weights(self._show_finished())
        if self._exhausted():
            self.bar.line(results.summarise(results.table(self.study, self.base), self.space))

    def _more(self) -> bool:
        optuna.storages.fail_stale_trials(self.study)
        states = [attempt.state for attempt in studies.latest(self.study).values()]
        if TrialState.WAITING in states:
            return True
        return len(states) < self.base.tune.trials and not self._exhausted()

    def _exhausted(self) -> bool:
        """Return whether all combinations of the space have been sampled."""
        size = spaces.size(self.space)
        return size is not None and len(studies.combinations(self.study, self.space)) >= size

    def _trial(self, trial: optuna.Trial) -> float:
        """Return the value of a trial.

        Raises:
            _Failed: if the trial failed; its attribute `problem` contains the reason.
        """
        try:
            return self._value(trial)
        except optuna.TrialPruned:
            raise
        except (KeyboardInterrupt, OSError, optuna.exceptions.StorageInternalError):
            # Not caused by the values (a full disk is an OSError): the next search repeats the trial.
            studies.requeue(self.study, self.study.get_trials(deepcopy=False)[trial.number])
            raise
        except Exception as error:
            trial.set_user_attr("problem", _problem(error))
            raise _Failed from error

    def _value(self, trial: optuna.Trial) -> float:
        """Train with sampled values and return the best monitored value."""
        values = spaces.suggest(trial, self.space)
        settings = params.changed(self.base, spaces.by_parameter(self.space, values), origin="tune.space")
        if (known := self._known(values)) is not None:
            return known
        number = studies.numbers(self.study)[trial.number]
        folder = self.folder / f"{number:05}"
        # Free the networks of earlier trials.
        gc.collect()
        trained = training.fit(
            settings,
            self._photos_of(settings),
            folder=folder,
            watch=functools.partial(self._watch, trial, settings, number=number),
        )
        self._record_batch_size(trial, settings, used=trained.batch_size)
        tables.write(trained.history, folder / "history.csv")
        return results.best_value(trained.history[self.monitor], self.monitor)

    def _known(self, values: dict) -> float | None:
        """Return the value of a complete trial with the same values, since training is deterministic."""
        for attempt in studies.latest(self.study).values():
            if attempt.state == TrialState.COMPLETE and spaces.values(self.space, attempt.params) == values:
                return attempt.value
        return None

    def _watch(
        self, trial: optuna.Trial, settings: Params, row: dict, batch_size: int, *, number: int
    ) -> None:
        """Record an epoch, and stop the trial if the pruner prunes it."""
        self._record_batch_size(trial, settings, used=batch_size)
        trial.set_user_attr("epochs", row["epoch"])
        trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0) + row["seconds"], 1))
        file = self.folder / f"{number:05}" / "history.csv"
        tables.append(row, file)
        trial.report(row[self.monitor], row["epoch"])
        note = f"trial {number}, epoch {row['epoch']}, {self.monitor} {row[self.monitor]:.3f}"
        self.bar.step(0, note=note)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _record_batch_size(self, trial: optuna.Trial, settings: Params, *, used: int) -> None:
        """Record the batch size of a trial if it was reduced because memory ran out.

        Raises:
            ValueError: if the batch size is a varied parameter.
        """
        batch_size = settings.train.batch_size
        if used == batch_size:
            return
        if any(dimension.parameter == "train.batch_size" for dimension in self.space.values()):
            raise ValueError(f"out of memory with a batch size of {batch_size}; {used} would fit")
        trial.set_user_attr(results.BATCH_SIZE, used)

    def _photos_of(self, settings: Params) -> photoset.Photos:
        """Return the photos of the run, resized if the trial has another image size."""
        keys = ("image_size", "resize", "fit")
        if all(getattr(settings.model, key) == getattr(self.run.settings.model, key) for key in keys):
            return self.photos
        return photoset.load(dataclasses.replace(self.run, settings=settings))

    def _show_finished(self) -> pd.DataFrame:
        """Show the trials that have finished since the last call and return the table of all trials."""
        rows = results.table(self.study, self.base)
        for row in rows[rows.state.isin(results.FINISHED) & ~rows.number.isin(self.shown)].to_dict("records"):
            self._show(row)
            self.shown.add(row["number"])
        return rows

    def _show(self, row: dict) -> None:
        """Print the line of a finished trial."""
        values = ", ".join(f"{name} {row[name]}" for name in self.space)
        result = {
            "complete": f"{self.monitor} {row['value']:.3f}",
            "pruned": f"pruned at {self.monitor} {row['value']:.3f}",
            "failed": f"failed: {row['problem']}",
        }[row["state"]]
        self.bar.step()
        batch_size = row.get(results.BATCH_SIZE) if results.BATCH_SIZE not in self.space else None
        note = f"  batch size {batch_size:.0f}" if pd.notna(batch_size) else ""
        self.bar.line(f"trial {row['number']:>3}  {result}  epochs {row['epochs']}  {values}{note}")

    def _drop_weights(self, rows: pd.DataFrame) -> None:
        """Remove the weights of all finished trials except the best, to save disk space."""
        best = results.ranked(rows, self.monitor).number.iloc[0]
        removable = set(rows.number[rows.state.isin(results.FINISHED)]) - {best}
        for pattern in ("*/*/*.npz", "*/*/finished.json"):
            for path in self.folder.glob(pattern):
                if int(path.parts[-3]) in removable:
                    path.unlink(missing_ok=True)


def _problem(error: Exception) -> str:
    """Return the message of an error on a single line, without the folders of paths."""
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return re.sub(r"/(?:[^\s/:'\"]+/)+", "", " ".join(text.split()))[:300]
