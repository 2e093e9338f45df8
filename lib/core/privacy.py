"""Remove private parts from values for results and reports: folders, user names and passwords."""

import functools
import html
import re
import urllib.parse
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
# The start of a data URI in a text, such as an image in HTML.
_DATA = r"data:[\w.+-]+/[\w.+-]+[;,]"
# A data URI in quotes, or up to the next space.
_DATA_URI = re.compile(rf"""(["']){_DATA}.*?\1|{_DATA}[^\s"'<>)\\]*""", re.DOTALL)
# Types of the outputs of a notebook that are encoded as text.
_ENCODED = re.compile(r"(image/(?!svg)|audio/|video/|application/(pdf|octet-stream))")


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


def without_folders(value: Any, folders: Mapping[str, str]) -> Any:
    """Return a value of JSON types, such as a notebook, in whose texts private folders are replaced.

    Images and other encoded data are not changed, neither as outputs of their own nor as data URIs in HTML. A
    folder is replaced only if it is a whole path or its beginning: `/app` in `/app/lib`, but not in `/apple`
    or `/srv/app`.

    Args:
        value: the value.
        folders: absolute paths and their replacements, which are applied in order.
    """
    if isinstance(value, dict):
        texts = {key: item for key, item in value.items() if not _ENCODED.match(key)}
        return {**value, **{key: without_folders(item, folders) for key, item in texts.items()}}
    if isinstance(value, list):
        return [without_folders(item, folders) for item in value]
    if not isinstance(value, str):
        return value
    parts, position = [], 0
    for uri in _DATA_URI.finditer(value):
        parts += [_replace(value[position : uri.start()], folders), uri[0]]
        position = uri.end()
    return "".join([*parts, _replace(value[position:], folders)])


def _replace(text: str, folders: Mapping[str, str]) -> str:
    for folder, name in folders.items():
        text = _pattern(folder).sub(rf"\g<1>{name}", text)
    return text


@functools.cache
def _pattern(folder: str) -> re.Pattern[str]:
    """Return a pattern of a folder in a text, as it is, in HTML, in JSON or in a URL."""
    is_windows = bool(re.match(r"[A-Za-z]:|\\\\", folder))
    variants = {folder, html.escape(folder), urllib.parse.quote(folder, safe="/\\:")}
    separator = r"[\\/]{1,4}" if is_windows else r"\\?/"
    paths = [
        separator.join(map(re.escape, re.split(r"[\\/]" if is_windows else "/", variant)))
        for variant in sorted(variants, key=len, reverse=True)
    ]
    # Before it: a colour of the terminal, an escaped line break, or no character of a longer path.
    before = r"(\x1b\[[\d;]*m|\\[nrt]|(?<![\w.~+-]))"
    after = r"(?![\w-]|\.\w)"
    return re.compile(f"{before}(?:{'|'.join(paths)}){after}", re.IGNORECASE if is_windows else 0)
