"""Load the parameters of a run and validate them against `lib.core.schema`.

The values of `params/<name>.yaml` override those of the file that it extends. The command line and the
parameters cell of a notebook override both. The result is validated as a whole before anything runs.
"""

import difflib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import yaml
from pydantic_core import to_jsonable_python

from lib.core import privacy, problems, reference
from lib.core.schema import BACKBONES, HEAD, NAME, RESERVED, STAGES, Params, Section

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "params"
# Environment variable with the values that must not appear in a notebook's cell, as JSON.
PRIVATE = "CHRYSALIS_PRIVATE"
# Mappings with names that users choose, and their default entries.
NAMED: dict[tuple[str, str], Mapping[str, Section]] = {
    ("model", "head"): HEAD,
    ("train", "stages"): STAGES,
    ("source", "tables"): {},
    ("tune", "space"): {},
}
# A head without any of these layers cannot classify feature maps.
REDUCING = ("average_pooling", "max_pooling", "flatten")


class _Loader(yaml.SafeLoader):
    """A strict YAML loader: tags, anchors and duplicate keys are errors, and `1e-4` is a number."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not supported", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key `{repeated[0]}` occurs twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def names() -> list[str]:
    """Return the sorted names of the parameter files, without the template."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "template")


def read(path: Path) -> dict:
    """Read a YAML file of parameters without validation.

    Raises:
        FileNotFoundError: if the file does not exist; the message lists the existing files.
        ValueError: if the file is not valid YAML, or not a mapping.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(
            f"there is no {_short(path)}.{hint} Parameter files: {', '.join(names()) or 'none'}. "
            "For your own photos, copy params/template.yaml"
        )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    # A date such as 2001-99-99 raises ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{_short(path)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{_short(path)} must be a mapping with `name` and `source`. Received: {type(data).__name__}"
        )
    return data


def merge(base: Mapping, over: Mapping) -> dict:
    """Merge nested mappings recursively; the values of `over` replace those of `base`.

    If `over` changes the kind of a source or a layer, the keys that the new kind does not have are removed.
    """
    merged = _of_same_kind(base, over)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def nested(values: Mapping) -> dict:
    """Convert a mapping with dotted keys to a nested mapping."""
    parts = [
        reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)
        for key, value in values.items()
    ]
    return reduce(merge, parts, {})


def load(name: str, overrides: Mapping | None = None, *, origin: str = "the overrides") -> Params:
    """Load `params/<name>.yaml`, apply overrides and validate the result.

    Args:
        name: name of the parameter file.
        overrides: nested values that replace those of the file; `None` for a top-level key is ignored.
        origin: name of the overrides in error messages.

    Returns:
        The parameters, with defaults for missing keys; they are immutable.

    Raises:
        FileNotFoundError: if the file, or a file that it extends, does not exist.
        ValueError: if a key is unknown, a value has the wrong type or is out of range, or `name` differs from
            the name of the file. The message names the file, the key, and the expected and received value.
    """
    if not re.fullmatch(NAME, str(name)):
        raise ValueError(
            f"`name` must be the name of a file in params/: letters, digits, - and _. Received: {name!r}"
        )
    files = _chain(name)
    changes = {
        key: _numbers(value) if isinstance(value, Mapping) else value
        for key, value in (overrides or {}).items()
        if value is not None or key not in Params.model_fields
    }
    over = [("the command line", _environment()), (origin, changes)]
    data = _with_defaults(_merged(files))
    data = _without_removed(_merged(over, data))
    # A recipe uses the photos of the file that it extends.
    if isinstance(data.get("source"), Mapping):
        data["source"] = {"name": files[0][1]["name"], **data["source"]}
    params = _checked(data, [*files, *over], files[-1][0])
    for field, value in (("name", params.name), ("run", params.run_name)):
        if value in RESERVED:
            raise ValueError(f"`{field}` must not be {value}: the names {', '.join(RESERVED)} are reserved")
    return params


def changed(params: Params, values: Mapping, *, origin: str = "the changes") -> Params:
    """Return a copy of parameters with changed values, validated as a whole.

    Args:
        params: the parameters.
        values: new values by dotted key, such as `model.simple_cnn.filters` or `train`. Mappings are merged,
            other values are replaced.
        origin: name of the values in error messages.

    Raises:
        ValueError: see `load`.
    """
    over = nested(values)
    data = _with_defaults(params.model_dump(mode="json", exclude_unset=True))
    merged = _without_removed(_merged([(origin, over)], data))
    # A backbone that code has registered is not refused.
    known = (params.model.backbone, *params.clean.compare)
    return _checked(merged, [("the parameters", data), (origin, over)], origin, known=known)


def resolve(cell: Mapping) -> Params:
    """Load the parameters of a notebook from its parameters cell.

    Args:
        cell: variables of the notebook (`vars()`). `name` is the name of the parameter file; any other
            parameter replaces the value in the file unless it is `None`.

    Returns, Raises:
        See `load`.
    """
    overrides = {key: cell.get(key) for key in Params.model_fields if key != "extends"}
    return load(cell["name"], overrides, origin="the notebook's parameters cell")


def parse_assignments(text: str) -> dict:
    """Parse assignments such as `"train.batch_size=16 model.fit=pad"` to nested overrides.

    Values are parsed as YAML. Values with spaces must be quoted.

    Raises:
        ValueError: if a part is not `key=value`.
    """
    result: dict = {}
    try:
        parts = shlex.split(text or "")
    except ValueError:
        raise ValueError(
            "SET takes key=value pairs such as train.batch_size=16. Received: an unclosed quote"
        ) from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(rf"{NAME}(\.{NAME})*", key):
            raise ValueError(f"SET takes key=value pairs such as train.batch_size=16. Received: {part!r}")
        result = merge(result, nested({key: _value(value)}))
    return result


def pick(params: Params, key: str) -> Any:
    """Return the value at a dotted key, such as `model.image_size`, as plain types without private parts.

    Raises:
        KeyError: if the key is unknown, or does not exist for this kind of source or layer.
    """
    value: Any = params
    for part in key.split("."):
        value = dict(value)[part]
    return privacy.public(to_jsonable_python(value))


def table(params: Params, *keys: str) -> "pd.DataFrame":
    """Return a table of the resolved values of sections or keys, without null and empty values.

    Args:
        params: the parameters.
        keys: dotted keys of sections or parameters, such as `split` or `model.image_size`.

    Returns:
        A table with the index `parameter` (dotted key) and the columns `value` and `meaning`.
    """
    # Imported here because the import takes a third of a second.
    import pandas as pd

    rows = [row for key in keys for row in _rows(key, pick(params, key))]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"]).set_index("parameter")


def public(params: Params) -> dict:
    """Return the parameters as plain types without private parts, for results and reports.

    Paths outside the project are reduced to the file name. User names, passwords and queries are removed
    from URLs.
    """
    return privacy.public(to_jsonable_python(params))


def flat(values: Mapping) -> dict[str, Any]:
    """Convert a nested mapping to a mapping with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = flat(value) if isinstance(value, Mapping) and value else {"": value}
        result |= {f"{key}.{part}" if part else key: item for part, item in inner.items()}
    return result


def set_private(values: Mapping) -> None:
    """Set private overrides for later calls of `load`, in this process and in its kernels.

    They are stored in the environment, so that they do not appear in a notebook's cell.
    """
    os.environ[PRIVATE] = json.dumps(values)


def find_file(text: str) -> Path:
    """Expand `~` in a user's path, and resolve a relative path in the current folder or in the project."""
    # Unlike `Path.expanduser`, this does not fail for an unknown user.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    return path if path.is_absolute() or path.exists() else ROOT / path


def _short(path: Path) -> str:
    return f"params/{path.name}" if path.parent == FOLDER else path.name


def _value(text: str) -> Any:
    """Parse the value of an assignment as YAML; invalid YAML is text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _of_same_kind(base: Mapping, over: Mapping) -> dict:
    """Return `base` without the keys that do not exist for the kind of source or layer in `over`."""
    for discriminator in ("kind", "layer"):
        tag = over.get(discriminator)
        is_changed = discriminator in base and base[discriminator] != tag
        if is_changed and isinstance(tag, str) and tag in reference.VARIANTS:
            _, section = reference.VARIANTS[tag]
            return {key: value for key, value in base.items() if key in section.model_fields}
    return dict(base)


def _chain(name: str) -> list[tuple[str, dict]]:
    """Return a file and the files that it extends as (origin, values), starting with the base."""
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


def _merged(origins: Iterable[tuple[str, Mapping]], data: Mapping | None = None) -> dict:
    """Merge the values of origins into data.

    Raises:
        ValueError: if a null removes a stage, layer, table or dimension that does not exist.
    """
    merged = dict(data or {})
    for origin, values in origins:
        for path, items in NAMED.items():
            names = {**items, **_entries(merged, path)}
            for name, entry in _entries(values, path).items():
                if entry is None and name not in names:
                    raise ValueError(problems.missing_entry(origin, (*path, name), names))
        merged = merge(merged, values)
    return merged


def _entries(values: Mapping, path: tuple[str, str]) -> Mapping:
    """Return the entries by name at the path of a mapping in `NAMED`; empty if there is no such mapping."""
    section = values.get(path[0])
    named = section.get(path[1]) if isinstance(section, Mapping) else None
    return named if isinstance(named, Mapping) else {}


def _checked(
    data: dict, origins: Sequence[tuple[str, Mapping]], default: str, *, known: Iterable[str] = ()
) -> Params:
    """Validate merged values.

    Args:
        data: the merged values.
        origins: names and values of the origins before merging, by increasing precedence.
        default: name of the origin of a value that is not in any of them.
        known: names of backbones besides those of the schema.
    """
    context = {"backbones": (*BACKBONES, *known)}
    try:
        return Params.model_validate_json(json.dumps(data, default=str), strict=True, context=context)
    except pydantic.ValidationError as error:
        explain = partial(problems.explain, origins=origins, default=default, merged=data)
        # Several keys of a misspelt stage are missing, but the stage is named once.
        raise ValueError("\n".join(dict.fromkeys(map(explain, error.errors())))) from None


def _environment() -> dict:
    """Return the values in environment variables: paths and passwords, which do not appear in notebooks."""
    variables = {"ARCHIVE": "source.archive", "WEIGHTS": "model.weights", "STORAGE": "tune.storage"}
    values = {key: os.environ.get(f"CHRYSALIS_{name}") for name, key in variables.items()}
    private = json.loads(os.environ.get(PRIVATE) or "{}")
    return merge(nested({key: value for key, value in values.items() if value}), private)


def _with_defaults(data: dict) -> dict:
    """Add the default layers and stages, unless the data define a complete head and complete stages."""
    for (section, key), items in NAMED.items():
        named = data.get(section, {}).get(key, {}) if isinstance(data.get(section, {}), Mapping) else None
        if items and isinstance(named, Mapping) and not _is_complete(section, key, named):
            written = {name: item.model_dump(exclude_defaults=True) for name, item in items.items()}
            data = {**data, section: {**data.get(section, {}), key: merge(written, named)}}
    return data


def _is_complete(section: str, key: str, named: Mapping) -> bool:
    """Return whether layers or stages are valid without those of the defaults."""
    kept = {name: entry for name, entry in named.items() if entry is not None}
    try:
        text = json.dumps({key: kept}, default=str)
        Params.model_fields[section].annotation.model_validate_json(text, strict=True)  # type: ignore
    except pydantic.ValidationError:
        return False
    return key != "head" or any(layer["layer"] in REDUCING for layer in kept.values())


def _without_removed(data: dict) -> dict:
    """Remove the layers, stages, tables and dimensions that were set to null."""
    for path in NAMED:
        if named := _entries(data, path):
            kept = {name: entry for name, entry in named.items() if entry is not None}
            data = {**data, path[0]: {**data[path[0]], path[1]: kept}}
    return data


def _numbers(value: Any) -> Any:
    """Convert strings such as `"1e-4"` to numbers, because papermill's YAML parser reads them as strings."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _rows(key: str, value: Any) -> list[tuple[str, Any, str]]:
    """Return the rows of the table for the value at a dotted key."""
    if value in (None, {}, []):
        return []
    if isinstance(value, dict) and reference.sections_at(key.split(".")):
        return [row for name, item in value.items() for row in _rows(f"{key}.{name}", item)]
    return [(key, value, reference.description(key))]
