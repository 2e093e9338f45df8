"""Read the parameters of a run; `lib.core.schema` says what they can be.

The values of a file `params/<name>.yaml` override those of the file that it extends, the command line and a
notebook's cell override both, and the result is checked as a whole before any work.
"""

import difflib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import pydantic
import yaml
from pydantic_core import to_jsonable_python

from lib.core import privacy, problems, reference
from lib.core.schema import HEAD, NAME, RESERVED, STAGES, Params

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "params"
# Values of the command line that the cells of a notebook must not show, as JSON.
PRIVATE = "CHRYSALIS_PRIVATE"


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: no tags, anchors or duplicate keys, and `1e-4` is a number."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not used here", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key `{repeated[0]}` stands twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def names() -> list[str]:
    """Return the names of the parameter files, sorted; the template is not one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "template")


def read(path: Path) -> dict:
    """Read one YAML file of parameters, unchecked.

    Raises:
        FileNotFoundError: there is no such file; the message lists the existing ones.
        ValueError: the file is not valid YAML, or not a mapping.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(
            f"there is no {_short(path)}.{hint} Parameter files: {', '.join(names()) or 'none'}. "
            "For photos of your own, copy params/template.yaml"
        )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    # ValueError: a date such as 2001-99-99.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{_short(path)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{_short(path)} must be a mapping with `name` and `source`. Received: {type(data).__name__}"
        )
    return data


def merge(base: Mapping, over: Mapping) -> dict:
    """Merge two nested mappings: mappings key by key, other values of `over` replace those of `base`.

    A source or a layer whose kind `over` changes loses the keys that the new kind does not take.
    """
    merged = _of_same_kind(base, over)
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


def load(name: str, overrides: Mapping | None = None, *, origin: str = "the overrides") -> Params:
    """Load `params/<name>.yaml`, apply overrides and check the whole.

    Args:
        name: name of the parameter file.
        overrides: nested values that replace the file's; `None` values on the top level are ignored.
        origin: name of the overrides in messages.

    Returns:
        The frozen parameters, with every default.

    Raises:
        FileNotFoundError: there is no such file, or the file that it extends does not exist.
        ValueError: an unknown key, a wrong type, a value out of range, a name that is not the
            file's. The message says where, what was expected and what was received.
    """
    if not re.fullmatch(NAME, str(name)):
        raise ValueError(
            f"`name` must be the name of a file in params/: letters, digits, - and _. Received: {name!r}"
        )
    files = _chain(name)
    changes = {
        key: _numbers(value) if isinstance(value, Mapping) else value
        for key, value in (overrides or {}).items()
        if value is not None
    }
    over = [("the command line", _environment()), (origin, changes)]
    data = _named_defaults(reduce(merge, (values for _, values in files)))
    data = _without_removed(reduce(merge, (values for _, values in over), data))
    # Recipes that extend one file share its photos.
    if isinstance(data.get("source"), Mapping):
        data["source"] = {"name": files[0][1]["name"], **data["source"]}
    params = _checked(data, [*files, *over], files[-1][0])
    for field, value in (("name", params.name), ("run", params.run_name)):
        if value in RESERVED:
            raise ValueError(f"`{field}` must not be {value}: the names {', '.join(RESERVED)} are reserved")
    return params


def changed(params: Params, values: Mapping, *, origin: str = "the changes") -> Params:
    """Return parameters that differ in some values, checked as a whole.

    Args:
        params: the parameters.
        values: the new values by dotted key, such as `model.simple_cnn.filters` or `train`; a mapping is
            merged, any other value replaced.
        origin: name of the values in messages.

    Raises:
        ValueError: an unknown key, a wrong type or a value out of range, with the message of `load`.
    """
    over = nested(values)
    data = _named_defaults(params.model_dump(mode="json", exclude_unset=True))
    return _checked(_without_removed(merge(data, over)), [("the parameters", data), (origin, over)], origin)


def resolve(cell: Mapping) -> Params:
    """Resolve the values of a notebook's parameters cell.

    Args:
        cell: the notebook's variables (`vars()`): `name` is the file's, every other parameter is `None`
            (as in the file) or replaces the file's value.

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
    result: dict = {}
    try:
        parts = shlex.split(text or "")
    except ValueError:
        raise ValueError(
            "SET takes key=value pairs such as train.batch_size=16. Received: a quote that is not closed"
        ) from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(rf"{NAME}(\.{NAME})*", key):
            raise ValueError(f"SET takes key=value pairs such as train.batch_size=16. Received: {part!r}")
        result = merge(result, nested({key: _value(value)}))
    return result


def pick(params: Params, key: str) -> Any:
    """Return the plain value at a dotted key, such as `model.image_size`, without what `public` hides.

    Raises:
        KeyError: there is no such key, or the kind of source or layer does not take it.
    """
    value: Any = params
    for part in key.split("."):
        value = dict(value)[part]
    return privacy.public(to_jsonable_python(value))


def table(params: Params, *keys: str) -> pd.DataFrame:
    """List the resolved values of some sections or keys, one row each; null and empty values are left out.

    Args:
        params: the parameters.
        keys: dotted keys, such as `split` or `model.image_size`.

    Returns:
        A table with the index `parameter` (dotted key) and the columns `value` and `meaning`.
    """
    rows = [row for key in keys for row in _rows(key, pick(params, key))]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"]).set_index("parameter")


def public(params: Params) -> dict:
    """Return the parameters as plain values, without what a result or report must not show.

    Paths outside the project are cut to their last part; logins, passwords and queries of URLs are left out.
    """
    return privacy.public(to_jsonable_python(params))


def flat(values: Mapping) -> dict[str, Any]:
    """Return the values of a nested mapping by their dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = flat(value) if isinstance(value, Mapping) and value else {"": value}
        result |= {f"{key}.{part}" if part else key: item for part, item in inner.items()}
    return result


def hand_over(values: Mapping) -> None:
    """Hand nested values to the next calls of `load`, in this process and in its kernels.

    They travel in the environment, so that no notebook's cell shows them.
    """
    os.environ[PRIVATE] = json.dumps(values)


def find_file(text: str) -> Path:
    """Return the path that a user typed: `~` expanded, relative to the current folder or the project's."""
    # Unlike `Path.expanduser`, it does not fail for a user that does not exist.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    return path if path.is_absolute() or path.exists() else ROOT / path


def _short(path: Path) -> str:
    return f"params/{path.name}" if path.parent == FOLDER else path.name


def _value(text: str) -> Any:
    """Read the value of an assignment as YAML; a text that is none stays a text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _of_same_kind(base: Mapping, over: Mapping) -> dict:
    """Return the values that another kind of source or layer takes too, if `over` changes the kind."""
    for discriminator in ("kind", "layer"):
        tag = over.get(discriminator)
        changes = discriminator in base and base[discriminator] != tag
        if changes and isinstance(tag, str) and tag in reference.VARIANTS:
            _, section = reference.VARIANTS[tag]
            return {key: value for key, value in base.items() if key in section.model_fields}
    return dict(base)


def _chain(name: str) -> list[tuple[str, dict]]:
    """Return the file and those that it extends as (origin, values), the outermost base first."""
    chain: list[tuple[str, dict]] = []
    seen: list[str] = []
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
        extended = data.get("extends")
        if extended is not None and not re.fullmatch(NAME, str(extended)):
            raise ValueError(f"{chain[0][0]}: `extends` must name a file in params/. Received: {extended!r}")
        name = extended or ""
    return chain


def _checked(data: dict, origins: Sequence[tuple[str, Mapping]], otherwise: str) -> Params:
    """Check merged values.

    Args:
        data: the merged values.
        origins: the values before merging, by the name of their origin, the ones that win last.
        otherwise: origin in the message of a value that none of them holds.
    """
    try:
        return Params.model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        lines = [problems.explain(problem, origins, otherwise=otherwise) for problem in error.errors()]
        raise ValueError("\n".join(lines)) from None


def _environment() -> dict:
    """Return the values of the environment: paths and passwords, which stay out of the notebooks' cells."""
    variables = {"ARCHIVE": "source.archive", "WEIGHTS": "model.weights", "STORAGE": "tune.storage"}
    values = {key: os.environ.get(f"CHRYSALIS_{name}") for name, key in variables.items()}
    handed_over = json.loads(os.environ.get(PRIVATE) or "{}")
    return merge(nested({key: value for key, value in values.items() if value}), handed_over)


def _named_defaults(data: dict) -> dict:
    """Add the default layers and stages if there are none, so that `SET=` can change one key of one."""
    defaults: tuple[tuple[str, str, Mapping[str, pydantic.BaseModel]], ...] = (
        ("model", "head", HEAD),
        ("train", "stages", STAGES),
    )
    for section, key, items in defaults:
        if isinstance(data.get(section, {}), Mapping):
            written = {name: item.model_dump(exclude_defaults=True) for name, item in items.items()}
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


def _numbers(value: Any) -> Any:
    """Turn `"1e-4"`, which papermill's YAML reads as a string, into the number that it is."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _rows(key: str, value: Any) -> list[tuple[str, Any, str]]:
    """Return the rows of `table` for the value at a dotted key."""
    if value in (None, {}, []):
        return []
    if isinstance(value, dict) and reference.sections_at(key.split(".")):
        return [row for name, item in value.items() for row in _rows(f"{key}.{name}", item)]
    parameter = reference.parameter(key)
    return [(key, value, parameter.description if parameter else "")]
