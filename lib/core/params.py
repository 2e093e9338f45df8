"""The parameters of a run, and the one loader that reads them; `lib.core.schema` says what they can be.

A file `params/<name>.yaml` is laid over the file that it extends, what a notebook or the command
line gives is laid over that, and the result is checked once, whole, before any work.
"""

import difflib
import json
import os
import re
import shlex
from collections.abc import Mapping
from functools import reduce
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd
import pydantic
import yaml

from lib.core import schema
from lib.core.schema import HEAD, NAME, RESERVED, STAGES, Params

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "params"


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: no tags, anchors or duplicate keys, and `1e-4` is a number."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not used here", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key `{twice[0]}` stands twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


# What a URL must not show: a login, what follows the `?` of a database's, the folders of a database's file.
_PRIVATE = [
    re.compile(r"(\w://)[^/\s]+@"),
    re.compile(r"^((?!https?:)[\w+]+://[^?]*)\?.*$"),
    re.compile(r"^(sqlite[\w+]*:///).*[/\\]"),
]
_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def names() -> list[str]:
    """Return the names of the parameter files, sorted; the template is not one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "template")


def read(path: Path) -> dict:
    """Read one YAML file of parameters, unchecked.

    Raises:
        FileNotFoundError: there is no such file; the message lists those there are.
        ValueError: the file is not valid YAML, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {_short(path)}. Parameter files: {', '.join(names()) or 'none'}. "
            "For photos of your own, copy params/template.yaml"
        )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2001-99-99
        raise ValueError(f"{_short(path)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{_short(path)} must be a mapping with `name` and `source`. Received: {type(data).__name__}"
        )
    return data


def merge(base: Mapping, over: Mapping) -> dict:
    """Lay one nested mapping over another: mappings are merged key by key, other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def nested(values: Mapping) -> dict:
    """Return the nested mapping that holds values at their dotted keys."""
    parts = [
        reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)
        for key, value in values.items()
    ]
    return reduce(merge, parts, {})


def load(name: str, overrides: Mapping | None = None, origin: str = "the overrides") -> Params:
    """Load `params/<name>.yaml`, lay overrides over it and check the whole.

    Args:
        name: name of the parameter file.
        overrides: nested values that win over the file's; `None` values on the top level are ignored.
        origin: what to call the overrides in messages.

    Returns:
        The frozen parameters, every default filled in.

    Raises:
        FileNotFoundError: there is no such file, or none that it extends.
        ValueError: an unknown key, a wrong type, a value out of range, a name that is not the
            file's. The message says where, what was expected and what was received.
    """
    if not re.fullmatch(NAME, str(name)):
        raise ValueError(
            f"`name` must be the name of a file in params/: letters, digits, - and _. Received: {name!r}"
        )
    files = _chain(name)
    given = {
        key: _numbers(value) if isinstance(value, Mapping) else value
        for key, value in (overrides or {}).items()
        if value is not None
    }
    over = [("the command line", _environment()), (origin, given)]
    data = _named_defaults(reduce(merge, (values for _, values in files)))
    data = _without_removed(reduce(merge, (values for _, values in over), data))
    if isinstance(data.get("source"), Mapping):  # recipes that extend one file share its photos
        data["source"] = {"name": files[0][1]["name"], **data["source"]}
    params = _checked(data, [*files, *over], files[-1][0])
    for field, value in (("name", params.name), ("run", params.run_name)):
        if value in RESERVED:
            raise ValueError(f"`{field}` must not be {value}: the names {', '.join(RESERVED)} are reserved")
    return params


def changed(params: Params, values: Mapping, origin: str = "the changes") -> Params:
    """Return parameters that differ in some values, checked as a whole.

    Args:
        params: the parameters.
        values: what to lay over them, by dotted key, such as `model.simple_cnn.filters` or `train`; a
            mapping is merged, any other value replaced.
        origin: what to call the values in messages.

    Raises:
        ValueError: an unknown key, a wrong type or a value out of range, as `load` says it.
    """
    over = nested(values)
    data = _named_defaults(params.model_dump(mode="json", exclude_unset=True))
    return _checked(_without_removed(merge(data, over)), [("the parameters", data), (origin, over)], origin)


def resolve(cell: Mapping) -> Params:
    """Resolve the values of a notebook's parameters cell.

    Args:
        cell: the notebook's variables (`vars()`): `name` says which file, every other parameter is
            `None` (as in the file) or laid over the file's value.

    Returns:
        The frozen parameters.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    overrides = {key: cell.get(key) for key in Params.model_fields if key != "extends"}
    return load(cell["name"], overrides, origin="the notebook's parameters cell")


def parse_assignments(text: str) -> dict:
    """Turn `"train.batch_size=16 model.fit=pad"` into nested overrides.

    Values are read as YAML; quotes keep spaces in a value together.

    Raises:
        ValueError: a part is not `key=value`.
    """
    result = {}
    try:
        parts = shlex.split(text or "")
    except ValueError:
        raise ValueError(
            f"SET takes key=value pairs such as train.batch_size=16. Received: a quote that is not closed, in {text!r}"
        ) from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(rf"{NAME}(\.{NAME})*", key):
            raise ValueError(f"SET takes key=value pairs such as train.batch_size=16. Received: {part!r}")
        try:
            given = yaml.load(value, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            given = value
        result = merge(result, nested({key: given}))
    return result


def pick(params: Params, key: str):
    """Return the plain value at a dotted key, such as `model.image_size`, as `public` shows it."""
    return reduce(lambda values, part: values[part], key.split("."), public(params))


def table(params: Params, *keys: str) -> pd.DataFrame:
    """List the resolved values of some sections or keys, one row each, for a reader; what is null or empty is left out.

    Args:
        params: the parameters.
        keys: dotted keys, such as `split` or `model.image_size`.

    Returns:
        A table with the index `parameter` (dotted key) and the columns `value` and `meaning`.
    """
    rows = [row for key in keys for row in _rows(key, pick(params, key), schema.walk(key.split("."))[1])]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"]).set_index("parameter")


def public(params: Params) -> dict:
    """Return the parameters as plain values in which paths outside the project are cut to their last part.

    What is written beside a result or shown in a report must not carry a user's name, folders or passwords.
    """
    return without_private(json.loads(params.model_dump_json()))


def without_private(value: Any) -> Any:
    """Return a plain value without passwords, and with paths outside the project cut to their last part.

    Args:
        value: anything JSON can hold; mappings and lists are gone through.
    """
    if isinstance(value, dict):
        return {key: without_private(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_private(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "../")) or re.match(r"[A-Za-z]:\\", value):
        # It takes both kinds of slashes.
        return PureWindowsPath(value).name
    return reduce(lambda text, part: part.sub(r"\1", text), _PRIVATE, value)


def flat(values: Mapping) -> dict:
    """Return the values of a nested mapping by their dotted keys."""
    result = {}
    for key, value in values.items():
        inner = flat(value) if isinstance(value, Mapping) and value else {"": value}
        result |= {f"{key}.{part}" if part else key: item for part, item in inner.items()}
    return result


def split_private(values: Mapping) -> tuple[dict, dict]:
    """Split nested values into those that anyone may see, and those that `public` would cut.

    Args:
        values: parameters, such as those of `parse_assignments`.

    Returns:
        Two nested mappings: what a notebook's cell may show; passwords and paths of the user's own.
    """
    items = flat(values)
    private = {key: value for key, value in items.items() if without_private(value) != value}
    return nested({key: value for key, value in items.items() if key not in private}), nested(private)


def hand_over(values: Mapping) -> None:
    """Put nested values into the environment of this process and its kernels, for the next calls of `load`."""
    os.environ["CHRYSALIS_OVERRIDES"] = json.dumps(values)


def find_file(text: str) -> Path:
    """Return the path that a user typed: `~` expanded; relative to the current folder, else to the project's."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() else ROOT / path


def _short(path: Path) -> str:
    return f"params/{path.name}" if path.parent == FOLDER else path.name


def _chain(name: str) -> list[tuple[str, dict]]:
    """Return the file and those that it extends as (origin, values), the outermost base first."""
    chain, seen = [], []
    while name:
        if name in seen:
            raise ValueError(f"params/{name}.yaml extends itself: {' -> '.join([*seen, name])}")
        seen.append(name)
        data = read(FOLDER / f"{name}.yaml")
        if data.get("name") != name:
            raise ValueError(
                f"params/{name}.yaml: `name` must be the file's name, {name}. Received: {data.get('name')!r}"
            )
        chain.insert(0, (f"params/{name}.yaml", data))
        name = data.get("extends")
        if name is not None and not re.fullmatch(NAME, str(name)):
            raise ValueError(f"{chain[0][0]}: `extends` must name a file in params/. Received: {name!r}")
    return chain


def _checked(data: dict, layers: list, otherwise: str) -> Params:
    """Check merged values; the error names the layer that holds the wrong one, or else the one named last."""
    try:
        return Params.model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        problems = [_explain(problem, layers, otherwise) for problem in error.errors()]
        raise ValueError("\n".join(problems)) from None


def _environment() -> dict:
    """Return what the command line gives as files and databases: paths and passwords stay out of the notebooks' cells."""
    variables = {"ARCHIVE": "source.archive", "WEIGHTS": "model.weights", "STORAGE": "tune.storage"}
    values = {key: os.environ.get(f"CHRYSALIS_{name}") for name, key in variables.items()}
    handed_over = json.loads(os.environ.get("CHRYSALIS_OVERRIDES") or "{}")
    return merge(nested({key: value for key, value in values.items() if value}), handed_over)


def _named_defaults(data: dict) -> dict:
    """Write the default layers and stages out where the files give none, so that `SET=` can change one key of one."""
    for section, key, defaults in (("model", "head", HEAD), ("train", "stages", STAGES)):
        if isinstance(data.get(section, {}), Mapping):
            written = {name: item.model_dump(exclude_defaults=True) for name, item in defaults.items()}
            data = {**data, section: {key: written, **data.get(section, {})}}
    return data


def _without_removed(data: dict) -> dict:
    """Leave out the named layers, stages, tables and dimensions that were set to null."""
    for section, key in (("model", "head"), ("train", "stages"), ("source", "tables"), ("tune", "space")):
        named = data[section].get(key) if isinstance(data.get(section), Mapping) else None
        if isinstance(named, Mapping):
            kept = {name: item for name, item in named.items() if item is not None}
            data = {**data, section: {**data[section], key: kept}}
    return data


def _numbers(value):
    """Turn `"1e-4"`, which papermill's YAML reads as a string, into the number that it is."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _explain(problem: dict, layers: list, otherwise: str) -> str:
    """Say in one line where a value is wrong, what was expected and what was received."""
    path = [str(part) for part in problem["loc"]]
    where = next((origin for origin, values in reversed(layers) if _holds(values, path)), otherwise)
    key = ".".join(path) or "the parameters"
    if problem["type"] == "extra_forbidden":
        allowed = schema.keys(path[:-1])
        near = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return f"{where}: unknown key `{key}`.{hint} Allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"{where}: `{key}` is missing. {schema.meaning(path)}".rstrip()
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    received = "" if isinstance(problem["input"], dict) else f". Received: {problem['input']!r}"
    meaning = schema.meaning(path)
    return f"{where}: `{key}` is wrong: {message}{received}{f' ({meaning})' if meaning else ''}"


def _holds(values, path) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return bool(path)


def _rows(key, value, field):
    if value in (None, {}, []):
        return []
    if not isinstance(value, dict) or not schema.sections(field.annotation):
        return [(key, value, field.description or "")]
    rows, inner = [], schema.sections(field.annotation)[0]
    for name, item in value.items():
        if name in inner.model_fields:
            rows += _rows(f"{key}.{name}", item, inner.model_fields[name])
        elif isinstance(item, dict):
            for part, deep in item.items():
                rows += _rows(f"{key}.{name}.{part}", deep, inner.model_fields[part])
    return rows
