"""Remove private parts from values for results and reports: folders, user names and passwords."""

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import PureWindowsPath
from typing import Any

# Private parts of a URL.
_SECRETS = [
    # The login to a database; its password may contain any character.
    re.compile(r"^((?!https?:|sqlite)[\w+]+://).*@", re.DOTALL),
    # Any other login.
    re.compile(r"(\w://)[^/\s]+@"),
    # The query, which may contain a key. On Google Drive, it is the ID of a folder.
    re.compile(r"^((?!https?://drive\.google\.com/)[\w+]+://[^?#]*)[?#].*$", re.DOTALL),
    # The folders of an SQLite file.
    re.compile(r"^(sqlite[\w+]*:///).*[/\\]"),
]


def public(value: Any) -> Any:
    """Return a value without private parts.

    A path outside the project is reduced to the file name; other strings are passed to `without_secrets`.

    Args:
        value: a value of JSON types.
    """
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.match(r"[/\\~]|\.\.?[/\\]|[A-Za-z]:[\\/]|file:", value):
        # This class accepts slashes and backslashes.
        return PureWindowsPath(value).name
    return without_secrets(value)


def without_secrets(text: str) -> str:
    """Return a text without the logins in URLs; if it is a URL, also without its query and private path."""
    return reduce(lambda result, secret: secret.sub(r"\1", result), _SECRETS, text)


def separate(values: Mapping) -> tuple[dict, dict]:
    """Split nested values into those that `public` does not change and the others, both nested."""
    unchanged: dict = {}
    private: dict = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner_unchanged, inner_private = separate(value)
            if inner_unchanged or not inner_private:
                unchanged[key] = inner_unchanged
            if inner_private:
                private[key] = inner_private
        elif public(value) == value:
            unchanged[key] = value
        else:
            private[key] = value
    return unchanged, private
