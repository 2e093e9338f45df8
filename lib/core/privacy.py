"""Remove from values what a result or report must not show: users' folders, logins, passwords."""

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import PureWindowsPath
from typing import Any

# The parts of a URL that may be secret: a login, that of a database with any sign in its password; a query,
# which may hold a key, except that of a link to Google Drive, which is the folder's id; the folders of a
# database's file.
_SECRETS = [
    re.compile(r"^((?!https?:|sqlite)[\w+]+://).*@", re.DOTALL),
    re.compile(r"(\w://)[^/\s]+@"),
    re.compile(r"^((?!https?://drive\.google\.com/)[\w+]+://[^?#]*)[?#].*$", re.DOTALL),
    re.compile(r"^(sqlite[\w+]*:///).*[/\\]"),
]


def public(value: Any) -> Any:
    """Return a plain value without private parts.

    A text that is a path outside the project is cut to its last part; other texts as `without_secrets`.

    Args:
        value: a text, number, bool or None, or lists and dictionaries of such.
    """
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.match(r"[/\\~]|\.\.?[/\\]|[A-Za-z]:[\\/]|file:", value):
        # This class takes both kinds of slashes.
        return PureWindowsPath(value).name
    return without_secrets(value)


def without_secrets(text: str) -> str:
    """Return a text without the logins of URLs and, if it is a URL, without its other secrets."""
    return reduce(lambda shown, secret: secret.sub(r"\1", shown), _SECRETS, text)


def separate(values: Mapping) -> tuple[dict, dict]:
    """Return the values that `public` leaves as they are, and the others, both nested as they were."""
    shown: dict = {}
    private: dict = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner, hidden = separate(value)
            if inner or not hidden:
                shown[key] = inner
            if hidden:
                private[key] = hidden
        elif public(value) == value:
            shown[key] = value
        else:
            private[key] = value
    return shown, private
