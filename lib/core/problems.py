"""Error messages for invalid parameters, with the file and the key of the invalid value."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from lib.core import privacy, reference


def explain(problem: ErrorDetails, origins: Sequence[tuple[str, Mapping]], *, default: str) -> str:
    """Return a validation error as a line of text: origin, key, expected value and received value.

    Args:
        problem: an error of `Params.model_validate`.
        origins: names and values of the origins before merging, by increasing precedence.
        default: name of the origin of a value that is not in any of them.
    """
    path, kind = reference.without_tags(problem["loc"])
    origin = next((name for name, values in reversed(origins) if _contains(values, path)), default)
    if problem["type"] == "extra_forbidden":
        return f"{origin}: {_unknown(path, kind)}"
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
        return f"{origin}: `{key}` is missing{f'. Expected: {meaning}' if meaning else ''}"
    message = message.removeprefix("Value error, ").replace("Input should be", "it should be")
    if not isinstance(received, dict):
        public = privacy.without_secrets(received) if isinstance(received, str) else received
        message += f". Received: {public!r}"
    return f"{origin}: `{key}` is invalid: {message}{f' ({meaning})' if meaning else ''}"


def _unknown(path: list[str], kind: str | None) -> str:
    """Return the message for a key that its section does not have."""
    key, *above = path[-1], *path[:-1]
    if kind is None:
        allowed = [field for section in reference.sections_at(above) for field in section.model_fields]
        return f"unknown key `{'.'.join(path)}`.{_nearest(key, allowed)} Allowed here: {', '.join(allowed)}"
    discriminator, section = reference.VARIANTS[kind]
    allowed = list(section.model_fields)
    takes = f"{discriminator} {kind} takes: {', '.join(allowed)}"
    if any(key in other.model_fields for other in reference.sections_at(above)):
        return f"`{'.'.join(path)}` is not a key of {discriminator} {kind}. {takes}"
    return f"unknown key `{'.'.join(path)}`.{_nearest(key, allowed)} Allowed here: {takes}"


def _nearest(key: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def _contains(values: Any, path: list[str]) -> bool:
    """Return whether nested values contain a path of keys."""
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return bool(path)
