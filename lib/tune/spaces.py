"""The space of a search: what varies between which values, checked before any training."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import get_args

from lib.core import params, reference
from lib.core.schema import Dimension, Params

SECTIONS = ("model", "augment", "train")  # what decides the result of a training
TAKEN = ("number", "state", "value", "epochs", "seconds", "problem")  # columns of the table of trials
DIGITS = 6  # significant ones of a drawn number, so that a file can hold it as it was
MOST_CORNERS = 4096
EXAMPLE = """
tune:
  trials: 20
  space:
    rate: {parameter: train.stages.head.learning_rate, low: 1.0e-4, high: 1.0e-2, log: true}
    batch: {parameter: train.batch_size, choices: [16, 32, 64]}"""


def shared(settings: Params) -> Params:
    """Return the parameters that all trials of a search share, after checking its space.

    Args:
        settings: the run's parameters.

    Raises:
        ValueError: there is nothing to vary; `tune.changes` or a dimension names what is no
            parameter, or none that a training depends on; a parameter refuses a value of the space.
    """
    if other := sorted(set(settings.tune.changes) - set(SECTIONS)):
        raise ValueError(f"`tune.changes` may change {', '.join(SECTIONS)}. Received: {', '.join(other)}")
    base = params.changed(settings, settings.tune.changes, origin="tune.changes")
    base = params.changed(base, {"train.resume_stages": []})
    space = base.tune.space
    if not space:
        raise ValueError(
            f"`tune.space` is empty: say in params/{settings.name}.yaml what a search varies, such as\n{EXAMPLE}"
        )
    for name, dimension in space.items():
        _check(base, name, dimension)
    keys = [dimension.parameter for dimension in space.values()]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"`tune.space` varies {twice[0]} twice: one dimension for each parameter")
    for corner in _corners(space):
        params.changed(base, corner, origin="tune.space")
    return base


def suggest(trial, space: Mapping[str, Dimension]) -> dict:
    """Draw a value for each dimension.

    Args:
        trial: the `optuna.Trial` that draws and remembers.
        space: the dimensions by short name.

    Returns:
        The values by short name, as `values` gives them.
    """
    for name, dimension in space.items():
        low, high, step = dimension.low, dimension.high, dimension.step
        if dimension.choices:
            trial.suggest_categorical(name, dimension.choices)
        elif _whole(dimension):
            trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=dimension.log)
        else:
            trial.suggest_float(name, low, high, step=step, log=dimension.log)
    return values(space, trial.params)


def values(space: Mapping[str, Dimension], drawn: Mapping) -> dict:
    """Return drawn values as parameters take them: whole where they are, else of few digits.

    Args:
        space: the dimensions by short name.
        drawn: values by short name; those that are missing stay so.
    """
    return {name: _tidy(dimension, drawn[name]) for name, dimension in space.items() if name in drawn}


def by_parameter(space: Mapping[str, Dimension], given: Mapping) -> dict:
    """Return values by the dotted keys of their parameters instead of by short names."""
    return {space[name].parameter: value for name, value in given.items()}


def _check(base, name, dimension) -> None:
    where, key = f"`tune.space.{name}`", dimension.parameter
    if name in TAKEN:
        raise ValueError(f"{where} is called as a column of trials.csv: choose another name")
    if key.split(".")[0] not in SECTIONS:
        raise ValueError(f"{where} varies {key}. A search may vary what is in {', '.join(SECTIONS)}")
    if lost := _lost(base.model_dump(), key):
        raise ValueError(f"{where}: there is no parameter {key}. {lost}")
    if dimension.choices:
        return
    if not _kinds(key) & {int, float}:
        raise ValueError(f"{where}: {key} is not a number: give `choices` instead of `low` and `high`")
    given = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
    if _whole(dimension) and any(value % 1 for value in given):
        raise ValueError(f"{where}: {key} is a whole number. Received: {', '.join(map(str, given))}")


def _lost(inside, key: str) -> str:
    """Say where a dotted key leaves the parameters; empty where it ends at one, or leads into a part that is off."""
    for part in key.split("."):
        if inside is None:
            return ""
        if not isinstance(inside, Mapping):
            return f"There is nothing below {key.partition(f'.{part}')[0]}"
        if part not in inside:
            near = difflib.get_close_matches(part, inside, n=1)
            return f"{f'Did you mean `{near[0]}`? ' if near else ''}Instead of {part} there are: {', '.join(inside)}"
        inside = inside[part]
    return ""


def _kinds(key: str) -> set[type]:
    """Return the plain types that the parameter at a dotted key may have."""
    parameter = reference.parameter(key)
    return _plain(parameter.annotation) if parameter else set()


def _plain(annotation) -> set[type]:
    inner = get_args(annotation)
    return {annotation} if isinstance(annotation, type) and not inner else set().union(*map(_plain, inner))


def _whole(dimension: Dimension) -> bool:
    return float not in _kinds(dimension.parameter)


def _tidy(dimension: Dimension, value):
    if dimension.choices:
        return value
    if _whole(dimension):
        return int(value)
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)


def _corners(space: Mapping[str, Dimension]) -> Iterator[dict]:
    """Yield the combinations of outermost values and choices, by dotted key; where there are too many, those
    that differ in one dimension from the first or the last."""
    edges = {
        one.parameter: [_tidy(one, value) for value in one.choices or (one.low, one.high)]
        for one in space.values()
    }
    if math.prod(map(len, edges.values())) <= MOST_CORNERS:
        yield from (dict(zip(edges, corner, strict=True)) for corner in itertools.product(*edges.values()))
        return
    for end in (0, -1):
        corner = {key: sides[end] for key, sides in edges.items()}
        yield from (corner | {key: side} for key, sides in edges.items() for side in sides)
