"""Look up the type, default and description of parameters in the schema by dotted key."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from lib.core import schema
from lib.core.schema import Params, Section


def sections(annotation: Any) -> list[type[Section]]:
    """Return the section classes in a type: a section, or the members of a union or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections(argument)]


# Discriminator and section class of each kind of source and type of layer.
VARIANTS = {
    get_args(section.model_fields[discriminator].annotation)[0]: (discriminator, section)
    for discriminator, union in (("kind", schema.Source), ("layer", schema.HeadLayer))
    for section in sections(union)
}


def parameter(key: str) -> FieldInfo | None:
    """Return the field at a dotted key, with its type, default and description, or None if it is unknown.

    Args:
        key: dotted key, such as `model.image_size` or `source.photos_per_class`, which only some kinds of
            sources have. The key of an entry, such as `train.stages.head`, returns its mapping.
    """
    return _walk(key.split(".")).field


def description(key: str) -> str:
    """Return the description of the parameter at a dotted key; empty if it has no description."""
    field = parameter(key)
    return (field.description if field else None) or ""


def sections_at(path: Sequence[str]) -> list[type[Section]]:
    """Return the section classes at a path of keys; several if it is a union."""
    return _walk(path).sections


def keys(values: Mapping, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted keys of all parameters, in the order of the schema.

    Args:
        values: nested values, from which the names of stages, layers and other entries are taken, and the
            kinds of sources and layers.
        path: the keys of the section to start from, which has these values.
    """
    node = _walk(path)
    if node.expects_name:
        for name, entry in values.items():
            yield from keys(entry if isinstance(entry, Mapping) else {}, (*path, str(name)))
        return
    for section in node.sections:
        kinds = [values.get(tag) for tag, other in VARIANTS.values() if other is section]
        if kinds and VARIANTS.get(kinds[0], ("", None))[1] is not section:
            continue
        for field in section.model_fields:
            yield ".".join((*path, field))
            inner = values.get(field)
            yield from keys(inner if isinstance(inner, Mapping) else {}, (*path, field))


def entry(path: Sequence[str]) -> Sequence[str] | None:
    """Return the beginning of a path that ends with the name of a stage, a layer or another entry, if any."""
    return next((path[:end] for end in range(1, len(path) + 1) if _walk(path[: end - 1]).expects_name), None)


def without_tags(location: Sequence[str | int]) -> tuple[list[str], str | None]:
    """Separate the keys in the location of a pydantic error from the tags of discriminated unions.

    Pydantic adds the tag after the key of a union, as in `("source", "kaggle", "dataset")`.

    Returns:
        The keys as in a file, and the tag of the section with the last key; None if it is not in a union.
    """
    path: list[str] = []
    kind = tag = None
    for part in map(str, location):
        node = _walk(path)
        if tag is None and len(node.sections) > 1 and not node.expects_name:
            tag = part
        else:
            path.append(part)
            kind, tag = tag, None
    return path, None if tag else kind


class _Node(NamedTuple):
    """The end of a path of keys: its section classes, its field, and whether a name follows."""

    sections: list[type[Section]]
    field: FieldInfo | None
    expects_name: bool


def _walk(path: Sequence[str]) -> _Node:
    """Follow a path of keys through the schema."""
    node = _Node([Params], None, False)
    for part in path:
        if node.expects_name:
            # The name of a section in a mapping, which the user chooses.
            node = node._replace(expects_name=False)
            continue
        field = next((each.model_fields[part] for each in node.sections if part in each.model_fields), None)
        annotation = field.annotation if field else None
        inner = sections(annotation)
        node = _Node(inner, field, bool(inner) and get_origin(annotation) is dict)
    return node
