"""Show readable names of classes instead of the labels of a source."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.schema import Source
from lib.photos import labels

# Maximum size of a file of class names, in bytes.
LARGEST_NAMES = 10_000_000
# Maximum length of a name in a figure, in characters.
LONGEST_NAME = 60


def of_source(raw: Path, source: Source, *, classes: list[str]) -> dict[str, str]:
    """Return the readable name of each class, for figures and tables.

    Args:
        raw: the folder of the original files.
        source: its `class_names` is the path of a JSON file inside `raw`, `{label: name}`, or None.
        classes: the labels, in the order of the result.

    Returns:
        `{label: name}`, in the order of the classes. A name is the part before the first comma of the name
        in the file, on a single line and at most 60 characters long; or the label, if the file has no name
        for it. If classes have the same name, the label is appended in parentheses.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is outside the source, is larger than 10 MB, or is not a mapping of strings.
    """
    full_names = _read_names(raw, source.class_names) if source.class_names else {}
    names = {label: _short(full_names.get(label, "")) or label for label in classes}
    ambiguous = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        label: f"{name} ({label})" if name in ambiguous and name != label else name
        for label, name in names.items()
    }


def of_card(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the readable name of each class in a model card, `{label: name}`."""
    return dict(zip(card["classes"], card["class_names"], strict=True))


def rename(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Replace the labels in the columns `label`, `predicted` and `suggested` by names, in a copy."""
    result = table.copy()
    for column in {"label", "predicted", "suggested"} & set(table.columns):
        result[column] = [names.get(label, label) for label in table[column]]
    return result


def look_alikes(classes: Iterable[str]) -> list[str]:
    """Return a note for each group of classes whose names differ by case, spaces or punctuation only."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))
        groups.setdefault(letters or name, []).append(name)
    return [
        f"{', '.join(map(repr, names))} are separate classes, although their names look alike"
        for names in groups.values()
        if len(names) > 1
    ]


def _read_names(raw: Path, name: str) -> dict[str, str]:
    """Read the JSON file of class names at a path inside the source."""
    file = raw / name
    if not labels.stays_inside(name) or "\0" in name or not file.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"`source.class_names` must be a path inside the source. Received: {name!r}")
    if not file.is_file():
        json_files = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.json"))
        raise FileNotFoundError(
            f"`source.class_names`: the source has no {name}. "
            f"JSON files in it: {', '.join(json_files[:9]) or 'none'}"
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
    if invalid := [label for label, value in names.items() if not isinstance(value, str)]:
        kind = type(names[invalid[0]]).__name__
        raise ValueError(f"{name}: expected a string for each label. Received: {kind} for {invalid[0]!r:.60}")
    return names


def _short(name: str) -> str:
    """Return the part before the first comma, on one line, without invisible characters."""
    line = " ".join(name.split(",")[0].split())
    visible = "".join(character for character in line if not unicodedata.category(character).startswith("C"))
    return visible if len(visible) <= LONGEST_NAME else visible[: LONGEST_NAME - 1] + "…"
