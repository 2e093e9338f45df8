"""Names of classes for people, instead of the labels of a source."""

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.schema import Source
from lib.photos import labels

# Bytes of a file with the classes' names.
LARGEST_NAMES = 10_000_000
# Letters of a name in a picture.
LONGEST_NAME = 60


def of_source(raw: Path, source: Source, *, classes: list[str]) -> dict[str, str]:
    """Return the name of each class for people, in pictures and tables.

    Args:
        raw: the folder with the files as they came.
        source: `class_names` is a JSON file inside it, `{label: name}`.
        classes: the labels, in the order wanted.

    Returns:
        `{label: name}`, in the order of the classes: the part of the file's name before the first comma,
        on one line and at most 60 letters long; the label itself if the file has none. Two classes of one
        name have their labels in parentheses behind it.

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
    """Return `{label: name}` of the classes of a `model.json`."""
    return dict(zip(card["classes"], card["class_names"], strict=True))


def rename(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Replace labels by names in the columns `label`, `predicted` and `suggested`; others stay."""
    result = table.copy()
    for column in {"label", "predicted", "suggested"} & set(table.columns):
        result[column] = [names.get(label, label) for label in table[column]]
    return result


def _read_names(raw: Path, name: str) -> dict[str, str]:
    """Read a JSON file of the source with the classes' names."""
    file = raw / name
    if not labels.stays_inside(name) or "\0" in name or not file.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"`source.class_names` must be a path inside the source. Received: {name!r}")
    if not file.is_file():
        others = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.json"))
        raise FileNotFoundError(
            f"`source.class_names`: the source has no {name}. "
            f"JSON files in it: {', '.join(others[:9]) or 'none'}"
        )
    if file.stat().st_size > LARGEST_NAMES:
        raise ValueError(
            f"{name} has {file.stat().st_size:,} bytes. "
            f"Expected: a file with names of at most {LARGEST_NAMES:,}"
        )
    try:
        names = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON in UTF-8: {error}. Expected: {{label: name}}") from None
    if not isinstance(names, dict):
        raise ValueError(f"{name}: expected a mapping {{label: name}}. Received: {type(names).__name__}")
    if wrong := [label for label, value in names.items() if not isinstance(value, str)]:
        kind = type(names[wrong[0]]).__name__
        raise ValueError(f"{name}: expected a text for each label. Received: {kind} for {wrong[0]!r:.60}")
    return names


def _short(name: str) -> str:
    """Return the part before the first comma, on one line, without invisible characters."""
    line = " ".join(name.split(",")[0].split())
    visible = "".join(letter for letter in line if not unicodedata.category(letter).startswith("C"))
    return visible if len(visible) <= LONGEST_NAME else visible[: LONGEST_NAME - 1] + "…"
