"""Names of classes for people: what the labels of a source mean."""

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.schema import Source
from lib.photos import labels

LARGEST_NAMES = 10_000_000  # bytes of a file with the classes' names
LONGEST_NAME = 60  # letters of a name in a picture


def of_source(raw: Path, source: Source, *, classes: list[str]) -> dict[str, str]:
    """Return what to call each class where people read: in pictures and tables.

    Args:
        raw: the folder with the files as they came.
        source: `class_names` is a JSON file inside it, `{label: name}`.
        classes: the labels, in the order wanted.

    Returns:
        `{label: name}`, in the order of the classes: what stands before the first comma of the file's
        name, on one line and at most 60 letters long; the label itself where the file has none. Two
        classes of one name have their labels in parentheses behind it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lies outside the source, is larger than 10 MB, or is not a mapping of texts.
    """
    given = _read_names(raw, source.class_names) if source.class_names else {}
    short = {label: _short(given.get(label, "")) or label for label in classes}
    several = {name for name, count in Counter(short.values()).items() if count > 1}
    return {
        label: f"{name} ({label})" if name in several and name != label else name
        for label, name in short.items()
    }


def of_card(card: Mapping[str, Any]) -> dict[str, str]:
    """Return `{label: name}` of the classes of a `model.json`; labels name themselves in one without `class_names`."""
    return dict(zip(card["classes"], card.get("class_names", card["classes"]), strict=True))


def rename(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Return a table with names for labels in its columns `label`, `predicted` and `suggested`; labels without a name stay."""
    columns = [column for column in ("label", "predicted", "suggested") if column in table]
    return table.assign(
        **{column: [names.get(label, label) for label in table[column]] for column in columns}
    )


def _read_names(raw: Path, name: str) -> dict[str, str]:
    file = raw / name
    if not labels._stays_inside(name) or "\0" in name or not file.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"`source.class_names` must be a path inside the source. Received: {name!r}")
    if not file.is_file():
        there = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.json"))
        raise FileNotFoundError(
            f"`source.class_names`: the source has no {name}. JSON files in it: {', '.join(there[:9]) or 'none'}"
        )
    if file.stat().st_size > LARGEST_NAMES:
        raise ValueError(
            f"{name} has {file.stat().st_size:,} bytes. Expected: a file with names of at most {LARGEST_NAMES:,}"
        )
    try:
        given = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON in UTF-8: {error}. Expected: {{label: name}}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{name}: expected a mapping {{label: name}}. Received: {type(given).__name__}")
    if wrong := [label for label, value in given.items() if not isinstance(value, str)]:
        raise ValueError(
            f"{name}: expected a text for each label. Received: {type(given[wrong[0]]).__name__} for {wrong[0]!r:.60}"
        )
    return given


def _short(name: str) -> str:
    """Return what stands before the first comma, on one line, without characters that cannot be seen."""
    line = " ".join(name.split(",")[0].split())
    seen = "".join(letter for letter in line if not unicodedata.category(letter).startswith("C"))
    return seen if len(seen) <= LONGEST_NAME else seen[: LONGEST_NAME - 1] + "…"
