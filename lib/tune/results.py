"""The results of a search: its trials, the best of them, and the importances of its parameters."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from lib.core import params
from lib.core.schema import Dimension, Params
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
        trials: one row per trial, as the result of `table`.
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
        return ranked(self.trials, self.monitor)

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


def best_value(values: Iterable[float], monitor: str) -> float:
    """Return the best of some monitored values.

    Raises:
        ValueError: none of them is a number.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError(f"{monitor} is not a number in any epoch")
    return min(finite) if monitor == "val_loss" else max(finite)


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
    space = settings.tune.space
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
    value = best_value(reported, monitor) if reported else math.nan
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


def summarise(trials: pd.DataFrame, space: dict[str, Dimension]) -> str:
    """Return one sentence on the number of trials and of distinct combinations of values."""
    distinct, size = len(trials[list(space)].dropna().drop_duplicates()), spaces.size(space)
    if distinct == size:
        return f"{len(trials)} trials: all {size} combinations were tried"
    return f"{len(trials)} trials, {distinct} distinct combinations{f' of {size}' if size else ''}"


def ranked(trials: pd.DataFrame, monitor: str) -> pd.DataFrame:
    """Return the complete trials, the best first, then the others."""
    order = trials.sort_values("value", ascending=monitor == "val_loss", kind="stable")
    return order.sort_values("state", key=lambda state: state.ne("complete"), kind="stable")


def of_study(study: optuna.Study, base: Params) -> Search:
    """Return the results of a study so far.

    Args:
        study: the study.
        base: the parameters that its trials share.
    """
    importances, note = _importances(study, base.seed)
    space, trials = base.tune.space, table(study, base)
    return Search(
        study=study.study_name,
        monitor=base.train.monitor,
        space=space,
        changes=params.flat(params.pick(base, "tune.changes")),
        trials=trials,
        importances=importances,
        note=note,
        summary=summarise(trials, space),
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


def no_result(result: Search) -> str:
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
