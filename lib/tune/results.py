"""The results of a search: its trials, the best trial, and the importances of the parameters."""

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
# Importances are unreliable with fewer complete trials.
RELIABLE = 20
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class Search:
    """The results of a search so far.

    Attributes:
        study: name of the study.
        monitor: name of the monitored value, `val_loss` (lower is better) or `val_accuracy`.
        space: the varied parameters, by short name.
        changes: the values of `tune.changes`, by dotted key.
        trials: the result of `table`.
        importances: fraction of the variance of the monitored value that each varied parameter explains, by
            short name, largest first; empty if it cannot be computed.
        note: a sentence on the reliability of the importances, or the reason why they cannot be computed.
        summary: a sentence on the number of trials and of distinct combinations of values.
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
        """The complete trials, best first, then the others."""
        return ranked(self.trials, self.monitor)

    @property
    def best(self) -> dict:
        """The best trial: `number`, `value` and `parameters` by dotted key.

        `batch_size` is included if it was reduced because memory ran out.
        """
        row = self.ranked.iloc[0]
        values = spaces.by_parameter(self.space, {name: row[name] for name in self.space})
        best = {"number": int(row.number), "value": float(row.value), "parameters": values}
        if BATCH_SIZE not in self.space and pd.notna(row.get(BATCH_SIZE)):
            best[BATCH_SIZE] = int(row[BATCH_SIZE])
        return best


def best_value(values: Iterable[float], monitor: str) -> float:
    """Return the best value of the metric `monitor`, ignoring values that are not finite.

    Raises:
        ValueError: if no value is finite.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError(f"{monitor} is not a number in any epoch")
    return min(finite) if monitor == "val_loss" else max(finite)


def table(study: optuna.Study, settings: Params) -> pd.DataFrame:
    """List the trials of a study.

    Args:
        study: the study.
        settings: the parameters that all trials share.

    Returns:
        One row per trial, in order: `number`, `state` (complete, pruned, failed, running or waiting),
        `value` (the best monitored value on val so far; may be missing), `epochs` (completed), `seconds`
        (training time of these epochs), a column for each varied parameter, by its short name, and `problem`
        (the reason of a failure). If memory ran out in a trial, a column `batch_size` contains the reduced
        batch size; it is missing for the other trials.
    """
    space = settings.tune.space
    rows = [
        _row(number, attempt, space=space, monitor=settings.train.monitor)
        for number, attempt in sorted(studies.latest(study).items())
    ]
    smaller = [BATCH_SIZE] if BATCH_SIZE not in space and any(BATCH_SIZE in row for row in rows) else []
    columns = [*spaces.COLUMNS[:-1], *space, *smaller, spaces.COLUMNS[-1]]
    types = {"number": int, "value": float, "epochs": int, "seconds": float}
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(types)


def _row(number: int, attempt: FrozenTrial, *, space: dict[str, Dimension], monitor: str) -> dict:
    """Return the row of the last attempt at a trial."""
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
    """Return a sentence on the number of trials and of distinct combinations of values."""
    distinct, size = len(trials[list(space)].dropna().drop_duplicates()), spaces.size(space)
    if distinct == size:
        return f"{len(trials)} trials: all {size} combinations were tried"
    return f"{len(trials)} trials, {distinct} distinct combinations{f' of {size}' if size else ''}"


def ranked(trials: pd.DataFrame, monitor: str) -> pd.DataFrame:
    """Return the complete trials, best first, then the others."""
    order = trials.sort_values("value", ascending=monitor == "val_loss", kind="stable")
    return order.sort_values("state", key=lambda state: state.ne("complete"), kind="stable")


def of_study(study: optuna.Study, base: Params) -> Search:
    """Return the results of a study so far.

    Args:
        study: the study.
        base: the parameters that all trials share.
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
    """Return the fraction of the variance that each parameter explains, and a sentence on its reliability.

    The method is fANOVA (Hutter, Hoos and Leyton-Brown, 2014, ICML).
    """
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(set(values)) < 2:
        return {}, "Importances need at least two complete trials with different values."
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    fractions = {name: round(float(fraction), 4) for name, fraction in importances.items()}
    warning = f" They are unreliable with fewer than {RELIABLE}." if len(values) < RELIABLE else ""
    return fractions, f"Importances from {len(values)} complete trials.{warning}"


def no_result(result: Search) -> str:
    """Return the error message for a search without a complete trial."""
    failed = result.trials[result.trials.state.eq("failed")]
    counts = ", ".join(f"{count} {state}" for state, count in result.trials.state.value_counts().items())
    reason = f" The last failure: {failed.problem.iloc[-1]}." if len(failed) else ""
    return (
        f"the search needs at least one complete trial. Received: {counts}.{reason} Change `tune.space` or "
        "`tune.changes`. To repeat the same search, remove the folder `tune` of the run"
    )


def record(result: Search) -> dict:
    """Return the content of `tune.json`."""
    return {
        "study": result.study,
        "monitor": result.monitor,
        "trials": {state: int(count) for state, count in result.trials.state.value_counts().items()},
        "summary": result.summary,
        "space": {name: dimension.parameter for name, dimension in result.space.items()},
        "changes": result.changes,
        "best": result.best,
        "importances": {
            result.space[name].parameter: fraction for name, fraction in result.importances.items()
        },
        "note": result.note,
    }


def fragment(result: Search) -> str:
    """Return the best parameters as YAML for a parameter file. Comments describe their origin."""
    best = result.best
    lines = [
        f"# {result.monitor} {best['value']:.4f}: trial {best['number']} of {len(result.trials)} "
        f"of the study {result.study}"
    ]
    if result.changes:
        changes = ", ".join(f"{key} {json.dumps(value)}" for key, value in result.changes.items())
        lines.append(f"# all trials used these values of tune.changes: {changes}")
    if BATCH_SIZE in best:
        lines.append(f"# memory ran out: the batch size of this trial was {best[BATCH_SIZE]}")
    nested = params.nested(best["parameters"])
    return "\n".join([*lines, yaml.safe_dump(nested, sort_keys=False, allow_unicode=True).rstrip()])
