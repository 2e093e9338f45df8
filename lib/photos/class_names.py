"""Show readable names of classes, and find classes whose names suggest that they are not separate classes."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core import files
from lib.core.schema import Source

if TYPE_CHECKING:
    # A run that is up to date needs no tables.
    import pandas as pd

# Maximum size of a file of class names, in bytes.
LARGEST_NAMES = 10_000_000
# Maximum length of a name in a figure, in characters.
LONGEST_NAME = 60
# Maximum number of names in a sentence.
LISTED = 6
# Between the parts of a combined label.
_BETWEEN = re.compile(r"[\W_]+")
# Characters between words, but not in a number such as -1.5.
_PUNCTUATION = re.compile(r"(?<!\d)[\W_]+(?!\d)|(?<=\d)[\W_]+(?!\d)|(?<=[^\W\d_])[\W_]+(?=\d)")


def of_source(raw: Path, source: Source, *, classes: list[str]) -> dict[str, str]:
    """Return the readable name of each class, for figures and tables.

    Args:
        raw: the folder of the original files.
        source: its `class_names` is the path of a JSON file inside `raw`, `{label: name}`, or None.
        classes: the labels, in the order of the result.

    Returns:
        `{label: name}`, in the order of the classes. A name is the part before the first comma of the name
        in the file, on a single line and at most 60 characters long; or the label, if the file has no name
        for it, with escapes for control characters. If classes have the same name, the label is appended in
        parentheses.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is outside the source, is larger than 10 MB, or is not a mapping of strings.
    """
    full_names = _read_names(raw, source.class_names) if source.class_names else {}
    shown = {label: files.printable(label) for label in classes}
    names = {label: _short(full_names.get(label, "")) or shown[label] for label in classes}
    ambiguous = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        label: f"{name} ({shown[label]})" if name in ambiguous and name != label else name
        for label, name in names.items()
    }


def of_card(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the readable name of each class in a model card, `{label: name}`."""
    return dict(zip(card["classes"], card["class_names"], strict=True))


def rename(table: "pd.DataFrame", names: dict[str, str]) -> "pd.DataFrame":
    """Replace the labels in the columns `label`, `predicted` and `suggested` by names, in a copy."""
    result = table.copy()
    for column in {"label", "predicted", "suggested"} & set(table.columns):
        result[column] = [names.get(label, label) for label in table[column]]
    return result


def look_alikes(classes: Iterable[str]) -> list[str]:
    """Return a sentence for each group of classes that differ only by their spelling.

    Spellings are compared without case, spaces, punctuation, invisible characters and a plural s, in the
    Unicode form NFKC. Punctuation within a number counts: 1.5 and 15 differ.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(classes)):
        groups[_spelling(name)].append(name)
    for key in [key for key in groups if _is_plural(key) and key[:-1] in groups]:
        groups[key[:-1]] += groups.pop(key)
    return [
        f"{_listed(names)} are separate classes, although their names differ only by case, spaces, "
        "punctuation or a plural s. If they are the same class, give their photos the same label"
        for names in groups.values()
        if len(names) > 1
    ]


def _spelling(name: str) -> str:
    """Return the letters and digits of a name for a comparison; the name itself if it has neither."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    return _PUNCTUATION.sub("", visible.strip()) or name


def _is_plural(key: str) -> bool:
    return len(key) > 3 and key.endswith("s") and not key.endswith("ss") and key[-2].isalpha()


def combinations(classes: Iterable[str]) -> list[str]:
    """Return a sentence on classes that look like combinations of several labels; empty if there are none.

    A name looks like a combination if each of its parts is a class too, or if another class has the same
    parts in another order.
    """
    names = sorted(set(classes))
    parts = {name: _BETWEEN.split(name.casefold().strip()) for name in names}
    single = {" ".join(words) for words in parts.values()}
    orders: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for words in parts.values():
        orders[tuple(sorted(words))].add(tuple(words))
    combined = [
        name
        for name, words in parts.items()
        if len(set(words)) > 1
        and all(words)
        and (len(orders[tuple(sorted(words))]) > 1 or _is_joined(name, words, single))
    ]
    if not combined:
        return []
    return [
        f"{len(combined)} of {len(names)} classes look like combinations of several labels: "
        f"{_listed(combined)}. Each is trained as a class of its own, because photos with several labels are "
        "out of scope"
    ]


def _is_joined(name: str, words: list[str], classes: set[str]) -> bool:
    """Return whether all parts of a name, between any words or between separators only, are classes."""
    joined = re.split(r"\s*[|;,/+&]\s*|\s+and\s+", name.casefold())
    parts = [" ".join(_BETWEEN.split(part.strip())) for part in joined]
    return all(word in classes for word in words) or (
        len(parts) > 1 and all(part in classes for part in parts)
    )


def _listed(names: list[str]) -> str:
    """Format names as a list in quotation marks, with the number of those that are left out."""
    shown = [f"'{files.printable(name)}'" for name in names[:LISTED]]
    if len(names) > LISTED:
        return f"{', '.join(shown)} and {len(names) - LISTED} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def _read_names(raw: Path, name: str) -> dict[str, str]:
    """Read the JSON file of class names at a path inside the source."""
    file = raw / name
    if not files.stays_inside(name) or "\0" in name or not file.resolve().is_relative_to(raw.resolve()):
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
