"""The space of a search: what varies between which values, checked before any training."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import get_args

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lib.core import params, reference
from lib.core.schema import Dimension, Params

# The sections that decide the result of a training.
SECTIONS = ("model", "augment", "train")
# Columns of the table of trials.
TAKEN = ("number", "state", "value", "epochs", "seconds", "problem")
# Significant digits of a drawn number, few enough that a file holds it exactly.
DIGITS = 6
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
        ValueError: the space is empty; `tune.changes` or a dimension names an unknown parameter, or one
            that no training depends on; a parameter refuses a value of the space.
    """
    if other := sorted(set(settings.tune.changes) - set(SECTIONS)):
        raise ValueError(f"`tune.changes` may change {', '.join(SECTIONS)}. Received: {', '.join(other)}")
    base = params.changed(settings, settings.tune.changes, origin="tune.changes")
    base = params.changed(base, {"train.resume_stages": []})
    space = base.tune.space
    if not space:
        raise ValueError(
            f"`tune.space` is empty: say in params/{settings.name}.yaml what a search varies, "
            f"such as\n{EXAMPLE}"
        )
    for name, dimension in space.items():
        _check(base, name, dimension)
    keys = [dimension.parameter for dimension in space.values()]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"`tune.space` varies {twice[0]} twice: one dimension for each parameter")
    for corner in _corners(space):
        params.changed(base, corner, origin="tune.space")
    return base


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> dict:
    """Draw a value for each dimension.

    Args:
        trial: the trial, which remembers its values.
        space: the dimensions by short name.

    Returns:
        The values by short name, as the result of `values`.
    """
    for name, one in distributions(space).items():
        if isinstance(one, CategoricalDistribution):
            trial.suggest_categorical(name, one.choices)
        elif isinstance(one, IntDistribution):
            trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
        elif isinstance(one, FloatDistribution):
            trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    return values(space, trial.params)


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Return the distribution that each dimension is drawn from, by short name."""
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    low, high = _limits(dimension)
    if _whole(dimension):
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=dimension.step)


def size(space: Mapping[str, Dimension]) -> int | None:
    """Return the number of combinations that a space holds; `None` if it is not finite."""
    counts = [_count(one) for one in distributions(space).values()]
    return None if None in counts else math.prod(count for count in counts if count)


def _count(one: BaseDistribution) -> int | None:
    if isinstance(one, CategoricalDistribution):
        return len(set(one.choices))
    if isinstance(one, IntDistribution):
        return (one.high - one.low) // one.step + 1
    if isinstance(one, FloatDistribution) and one.step:
        return round((one.high - one.low) / one.step) + 1
    return 1 if one.single() else None


def values(space: Mapping[str, Dimension], drawn: Mapping) -> dict:
    """Return drawn values as parameters take them: whole numbers as such, others with few digits.

    Args:
        space: the dimensions by short name.
        drawn: values by short name; some may be missing.
    """
    return {name: _tidy(dimension, drawn[name]) for name, dimension in space.items() if name in drawn}


def by_parameter(space: Mapping[str, Dimension], values: Mapping) -> dict:
    """Return values by the dotted keys of their parameters instead of by short names."""
    return {space[name].parameter: value for name, value in values.items()}


def _check(base: Params, name: str, dimension: Dimension) -> None:
    """Check one dimension.

    Raises:
        ValueError: as `shared`.
    """
    key, label = dimension.parameter, f"`tune.space.{name}`"
    if name in TAKEN or (name == "batch_size" and key != "train.batch_size"):
        raise ValueError(f"{label} is called as a column of trials.csv: choose another name")
    if key.split(".")[0] not in SECTIONS:
        raise ValueError(f"{label} varies {key}. A search may vary what is in {', '.join(SECTIONS)}")
    if unknown := _unknown(base.model_dump(), key):
        raise ValueError(f"{label}: there is no parameter {key}. {unknown}")
    if dimension.choices:
        return
    if not _kinds(key) & {int, float}:
        raise ValueError(f"{label}: {key} is not a number: give `choices` instead of `low` and `high`")
    numbers = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
    if _whole(dimension) and any(value % 1 for value in numbers):
        raise ValueError(f"{label}: {key} is a whole number. Received: {', '.join(map(str, numbers))}")


def _unknown(section: object, key: str) -> str:
    """Say at which part a dotted key leaves the parameters; return an empty text if it is a parameter, or
    belongs to a section that is switched off."""
    for part in key.split("."):
        if section is None:
            return ""
        if not isinstance(section, Mapping):
            return f"There is nothing below {key.partition(f'.{part}')[0]}"
        if part not in section:
            near = difflib.get_close_matches(part, section, n=1)
            hint = f"Did you mean `{near[0]}`? " if near else ""
            return f"{hint}Instead of {part} there are: {', '.join(section)}"
        section = section[part]
    return ""


def _kinds(key: str) -> set[type]:
    """Return the plain types that the parameter at a dotted key may have."""
    parameter = reference.parameter(key)
    return _plain(parameter.annotation) if parameter else set()


def _plain(annotation: object) -> set[type]:
    inner = get_args(annotation)
    return {annotation} if isinstance(annotation, type) and not inner else set().union(*map(_plain, inner))


def _whole(dimension: Dimension) -> bool:
    return float not in _kinds(dimension.parameter)


def _limits(dimension: Dimension) -> tuple[float, float]:
    if dimension.low is None or dimension.high is None:
        raise ValueError(f"{dimension.parameter} needs `low` and `high`. Received: choices")
    return dimension.low, dimension.high


def _tidy(dimension: Dimension, value: int | float | str | bool) -> int | float | str | bool:
    if dimension.choices:
        return value
    if _whole(dimension):
        return int(value)
    low, high = _limits(dimension)
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _corners(space: Mapping[str, Dimension]) -> Iterator[dict]:
    """Yield the combinations of outermost values and choices, by dotted key; if there are too many, those
    that differ in one dimension from the first or the last."""
    edges = {
        one.parameter: [_tidy(one, value) for value in one.choices or _limits(one)] for one in space.values()
    }
    if math.prod(map(len, edges.values())) <= MOST_CORNERS:
        yield from (dict(zip(edges, corner, strict=True)) for corner in itertools.product(*edges.values()))
        return
    for end in (0, -1):
        corner = {key: sides[end] for key, sides in edges.items()}
        yield from (corner | {key: side} for key, sides in edges.items() for side in sides)
