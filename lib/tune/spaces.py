"""Check the search space before any training, and sample values from it."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import get_args

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lib.core import params, reference
from lib.core.schema import Dimension, Params

# The sections that determine the result of a training.
SECTIONS = ("model", "augment", "train")
# Columns of the table of trials; those of the varied parameters are inserted before the last.
COLUMNS = ("number", "state", "value", "epochs", "seconds", "problem")
# Sampled numbers are rounded to these significant digits, so that a file stores them exactly.
DIGITS = 6
MAX_CORNERS = 4096
EXAMPLE = """
tune:
  trials: 20
  space:
    rate: {parameter: train.stages.head.learning_rate, low: 1.0e-4, high: 1.0e-2, log: true}
    batch: {parameter: train.batch_size, choices: [16, 32, 64]}"""


def shared(settings: Params) -> Params:
    """Check the search space and return the parameters that all trials share.

    Args:
        settings: the run's parameters.

    Raises:
        ValueError: if the space is empty, a value of the space is invalid, or `tune.changes` or a dimension
            names an unknown parameter or a parameter outside `SECTIONS`.
    """
    if other := sorted(set(settings.tune.changes) - set(SECTIONS)):
        raise ValueError(f"`tune.changes` may change {', '.join(SECTIONS)}. Received: {', '.join(other)}")
    base = params.changed(settings, settings.tune.changes, origin="tune.changes")
    base = params.changed(base, {"train.resume_stages": []})
    space = base.tune.space
    if not space:
        raise ValueError(
            "`tune.space` needs at least one parameter. Received: an empty space. "
            f"Add the parameters to vary to params/{settings.name}.yaml, for example\n{EXAMPLE}"
        )
    for name, dimension in space.items():
        _check(base, name, dimension)
    keys = [dimension.parameter for dimension in space.values()]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"`tune.space` varies {repeated[0]} twice. Keep a single dimension for it")
    for corner in _corners(space):
        params.changed(base, corner, origin="tune.space")
    return base


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> dict:
    """Sample a value of each dimension.

    Args:
        trial: the trial; it records the sampled values.
        space: the dimensions by short name.

    Returns:
        The values by short name, converted by `values`.
    """
    for name, domain in distributions(space).items():
        if isinstance(domain, CategoricalDistribution):
            trial.suggest_categorical(name, domain.choices)
        elif isinstance(domain, IntDistribution):
            trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
        elif isinstance(domain, FloatDistribution):
            trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    return values(space, trial.params)


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Return the distribution of each dimension, by short name."""
    return {name: _distribution(dimension) for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    low, high = _limits(dimension)
    if _is_integer(dimension):
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=dimension.step)


def size(space: Mapping[str, Dimension]) -> int | None:
    """Return the number of combinations in a space; `None` if it is infinite."""
    counts = [_count(distribution) for distribution in distributions(space).values()]
    return None if None in counts else math.prod(count for count in counts if count)


def _count(distribution: BaseDistribution) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(set(distribution.choices))
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    if isinstance(distribution, FloatDistribution) and distribution.step:
        return round((distribution.high - distribution.low) / distribution.step) + 1
    return 1 if distribution.single() else None


def values(space: Mapping[str, Dimension], sampled: Mapping) -> dict:
    """Convert sampled values to parameters: integers to `int`, other numbers rounded to `DIGITS`.

    Args:
        space: the dimensions by short name.
        sampled: values by short name; some may be missing.
    """
    return {name: _rounded(dimension, sampled[name]) for name, dimension in space.items() if name in sampled}


def by_parameter(space: Mapping[str, Dimension], values: Mapping) -> dict:
    """Return values by the dotted keys of their parameters instead of their short names."""
    return {space[name].parameter: value for name, value in values.items()}


def _check(base: Params, name: str, dimension: Dimension) -> None:
    """Check a dimension.

    Raises:
        ValueError: if the dimension is invalid, as in `shared`.
    """
    key, label = dimension.parameter, f"`tune.space.{name}`"
    if name in COLUMNS or (name == "batch_size" and key != "train.batch_size"):
        raise ValueError(f"{label} has the name of a column of trials.csv. Choose another name")
    if key.split(".")[0] not in SECTIONS:
        raise ValueError(f"{label} must vary a parameter of {', '.join(SECTIONS)}. Received: {key}")
    if problem := _unknown(base.model_dump(), key):
        raise ValueError(f"{label}: unknown parameter {key}. {problem}")
    if dimension.choices:
        return
    if not _types(key) & {int, float}:
        raise ValueError(f"{label}: {key} is not a number. Use `choices` instead of `low` and `high`")
    numbers = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
    if _is_integer(dimension) and any(value % 1 for value in numbers):
        raise ValueError(f"{label}: {key} must be an integer. Received: {', '.join(map(str, numbers))}")


def _unknown(section: object, key: str) -> str:
    """Return why a key is unknown, or "" if it is a parameter or a key of a disabled section."""
    for part in key.split("."):
        if section is None:
            return ""
        if not isinstance(section, Mapping):
            return f"{key.partition(f'.{part}')[0]} is a parameter, not a section"
        if part not in section:
            matches = difflib.get_close_matches(part, section, n=1)
            hint = f"Did you mean `{matches[0]}`? " if matches else ""
            return f"{hint}Expected instead of {part}: {', '.join(section)}"
        section = section[part]
    return ""


def _types(key: str) -> set[type]:
    """Return the types that the parameter at a dotted key may have."""
    parameter = reference.parameter(key)
    return _members(parameter.annotation) if parameter else set()


def _members(annotation: object) -> set[type]:
    inner = get_args(annotation)
    return {annotation} if isinstance(annotation, type) and not inner else set().union(*map(_members, inner))


def _is_integer(dimension: Dimension) -> bool:
    return float not in _types(dimension.parameter)


def _limits(dimension: Dimension) -> tuple[float, float]:
    if dimension.low is None or dimension.high is None:
        raise ValueError(f"{dimension.parameter} needs `low` and `high`. Received: choices")
    return dimension.low, dimension.high


def _rounded(dimension: Dimension, value: int | float | str | bool) -> int | float | str | bool:
    if dimension.choices:
        return value
    if _is_integer(dimension):
        return int(value)
    low, high = _limits(dimension)
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _corners(space: Mapping[str, Dimension]) -> Iterator[dict]:
    """Yield the combinations of limits and choices, by dotted key; only some if they exceed `MAX_CORNERS`."""
    edges = {
        dimension.parameter: [_rounded(dimension, value) for value in dimension.choices or _limits(dimension)]
        for dimension in space.values()
    }
    if math.prod(map(len, edges.values())) <= MAX_CORNERS:
        yield from (dict(zip(edges, corner, strict=True)) for corner in itertools.product(*edges.values()))
        return
    # Vary a single dimension of the first and of the last combination.
    for end in (0, -1):
        corner = {key: values[end] for key, values in edges.items()}
        yield from (corner | {key: value} for key, values in edges.items() for value in values)
