"""Measure programs in turn, check their results, and describe both in rows."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Skipped(Exception):
    """Raised if a benchmark cannot run on this machine; the message is the reason."""


class WrongResult(Exception):
    """Raised if a program that is measured returns a wrong result."""


def check(correct: bool, message: str) -> None:
    """Raise `WrongResult` with a message if a result is not correct."""
    if not correct:
        raise WrongResult(message)


def in_turn(
    programs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run programs in turn (A B A B) and return the seconds of each by round.

    Args:
        programs: functions without arguments by name.
        rounds: number of measured rounds.
        warm_up: whether another round precedes them, which is not measured.
        clock: function that returns seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + warm_up):
        for name, program in programs.items():
            began = clock()
            program()
            if number >= warm_up:
                seconds[name].append(clock() - began)
    return seconds


def rates(count: int, seconds: Sequence[float]) -> list[float]:
    """Return items per second for the seconds of each round."""
    return [count / value for value in seconds]


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the quotient of two measurements of each round, which vary less than their rates."""
    return [one / other for one, other in zip(first, second, strict=True)]


def row(
    values: Sequence[float], unit: str = "", *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """Return a row of `median`, `least`, `most` and `unit`, and of `expected` and `reached` with a target."""
    median = statistics.median(values)
    result = {"median": median, "least": min(values), "most": max(values), "unit": unit}
    if at_least is not None:
        result |= {"expected": f"at least {at_least:g}", "reached": median >= at_least}
    if at_most is not None:
        result |= {"expected": f"at most {at_most:g}", "reached": median <= at_most}
    return result
