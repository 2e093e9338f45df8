"""Error messages for invalid parameters, with the file and the key of the invalid value."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from pydantic_core import ErrorDetails

from lib.core import privacy, reference


def explain(
    problem: ErrorDetails,
    origins: Sequence[tuple[str, Mapping]],
    *,
    default: str,
    merged: Mapping | None = None,
) -> str:
    """Return a validation error as a line of text: origin, key, expected value and received value.

    Args:
        problem: an error of `Params.model_validate`.
        origins: names and values of the origins before merging, by increasing precedence.
        default: name of the origin of a value that is not in any of them.
        merged: the merged values, with the names of stages and layers to suggest.
    """
    merged = merged or {}
    path, kind = reference.without_tags(problem["loc"])
    origin = next((name for name, values in reversed(origins) if path and contains(values, path)), default)
    if problem["type"] == "extra_forbidden":
        return f"{origin}: {_unknown(path, kind, problem['input'], merged)}"
    message, received = problem["msg"], problem["input"]
    if problem["type"].startswith("union_tag"):
        # The error is located at the section, not at its kind.
        path.append(problem["ctx"]["discriminator"].strip("'"))
        message = f"it should be one of {problem['ctx'].get('expected_tags')}"
        received = problem["ctx"].get("tag")
    if not path:
        # An error of several sections together, whose message names the keys.
        return f"{default}: {problem['msg'].removeprefix('Value error, ')}"
    key = ".".join(path)
    meaning = reference.description(key)
    if problem["type"] in ("missing", "union_tag_not_found"):
        if misspelt := _misspelt_entry(path, origins, merged):
            return misspelt
        return f"{origin}: `{key}` is missing{f'. Expected: {meaning}' if meaning else ''}"
    message = message.removeprefix("Value error, ").replace("Input should be", "it should be")
    if not isinstance(received, dict):
        public = privacy.without_secrets(received) if isinstance(received, str) else received
        message += f". Received: {public!r}"
    return f"{origin}: `{key}` is invalid: {message}{f' ({meaning})' if meaning else ''}"


def missing_entry(origin: str, path: Sequence[str], names: Iterable[str]) -> str:
    """Return the message for the name of a stage, layer, table or dimension that does not exist.

    Args:
        origin: the origin of the name.
        path: its keys, such as `("train", "stages", "haed")`.
        names: the existing names.
    """
    names = list(names)
    near = _nearest(path[-1], names) or f" Names: {', '.join(names) or 'none'}."
    return f"{origin}: there is no `{'.'.join(path)}`.{near}"


def contains(values: Any, path: Iterable[str]) -> bool:
    """Return whether nested values contain a path of keys; the items of a list are not examined."""
    for part in path:
        if isinstance(values, list):
            return True
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _value_at(values: Any, path: Iterable[str]) -> Any:
    return reduce(getitem, path, values)


def _misspelt_entry(
    path: Sequence[str], origins: Sequence[tuple[str, Mapping]], merged: Mapping
) -> str | None:
    """Return the message if a key is missing because the name of its stage or layer is misspelt."""
    entry = reference.entry(path)
    matches = [(name, values) for name, values in origins if entry and contains(values, entry)]
    if not entry or not matches or not contains(merged, entry):
        return None
    (origin, values), (*above, name) = matches[-1], entry
    others = set(_value_at(merged, above)) - set(_value_at(values, above))
    if not _nearest(name, others):
        return None
    sections = reference.sections_at(entry)
    required = [key for key, field in sections[0].model_fields.items() if field.is_required()]
    return f"{missing_entry(origin, entry, others)} A new name needs: {', '.join(required)}"


def _unknown(path: list[str], kind: str | None, value: Any, merged: Mapping) -> str:
    """Return the message for a key that its section does not have."""
    key, *above = path[-1], *path[:-1]
    allowed = [field for section in reference.sections_at(above) for field in section.model_fields]
    takes = ", ".join(allowed)
    if kind is not None:
        discriminator, section = reference.VARIANTS[kind]
        takes = f"{discriminator} {kind} takes: {', '.join(section.model_fields)}"
        if key in allowed:
            return f"`{'.'.join(path)}` is not a key of {discriminator} {kind}. {takes}"
        allowed = list(section.model_fields)
    near = _elsewhere(key, value, merged, cutoff=1) or _nearest(key, allowed)
    near = near or _elsewhere(key, value, merged, cutoff=0.8)
    return f"unknown key `{'.'.join(path)}`.{near} Allowed here: {takes}"


def _elsewhere(key: str, value: Any, merged: Mapping, *, cutoff: float) -> str:
    """Return a question with the full keys that end as a key does, or nearly so, in other sections."""
    while isinstance(value, Mapping) and value:
        part, value = next(iter(value.items()))
        key += f".{part}"
    keys = list(dict.fromkeys(reference.keys(merged)))
    count = key.count(".") + 1
    ends = {".".join(each.split(".")[-count:]) for each in keys}
    near = difflib.get_close_matches(key, ends, n=1, cutoff=cutoff)
    full = [each for each in keys if near and f".{each}".endswith(f".{near[0]}")][:3]
    return f" Did you mean {' or '.join(f'`{each}`' for each in full)}?" if full else ""


def _nearest(key: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
