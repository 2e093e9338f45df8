"""Look up parameters in the schema by their dotted keys: type, default and meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from lib.core import schema
from lib.core.schema import Params, Section


@dataclass(frozen=True)
class Parameter:
    """A parameter as the schema describes it.

    Attributes:
        annotation: type of the value, such as `float | None`.
        default: value of a file that does not set it; `PydanticUndefined` if the file must.
        description: meaning, for a reader.
    """

    annotation: Any
    default: Any
    description: str


def sections(annotation: Any) -> list[type[Section]]:
    """Return the section classes in a type: itself, or those inside a union or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections(argument)]


# The discriminator and the section of each kind of source and of layer, by its tag.
VARIANTS = {
    get_args(section.model_fields[discriminator].annotation)[0]: (discriminator, section)
    for discriminator, union in (("kind", schema.Source), ("layer", schema.HeadLayer))
    for section in sections(union)
}


def parameter(key: str) -> Parameter | None:
    """Return the parameter at a dotted key; None if there is none.

    Args:
        key: such as `model.image_size`, `train.stages.head.epochs` or `source.photos_per_class`, which one
            kind of source has. The key of a name in a mapping, such as `train.stages.head`, is the mapping.
    """
    field = _walk(key.split(".")).field
    return Parameter(field.annotation, field.default, field.description or "") if field else None


def sections_at(path: Sequence[str]) -> list[type[Section]]:
    """Return the section classes at a path of keys, or in the mapping there; several for a union."""
    return _walk(path).holders


def without_tags(location: Sequence[str | int]) -> tuple[list[str], str | None]:
    """Return the keys in the location of a pydantic error, and the kind of the section with the last key.

    After a discriminated union pydantic names the kind too, as in `("source", "kaggle", "dataset")`.

    Returns:
        The keys as a file has them, and the kind of source or layer; None if the section is of neither.
    """
    path: list[str] = []
    kind = tag = None
    for part in map(str, location):
        place = _walk(path)
        if tag is None and len(place.holders) > 1 and not place.named:
            tag = part
        else:
            path.append(part)
            kind, tag = tag, None
    return path, None if tag else kind


class _Place(NamedTuple):
    """The end of a path of keys: section classes, the last field on the way, whether a name comes next."""

    holders: list[type[Section]]
    field: FieldInfo | None
    named: bool


def _walk(path: Sequence[str]) -> _Place:
    """Follow a path of keys through the schema."""
    place = _Place([Params], None, False)
    for part in path:
        if place.named:
            # A name that the user chose, inside a mapping of sections.
            place = place._replace(named=False)
            continue
        fields = [one.model_fields[part] for one in place.holders if part in one.model_fields]
        holders = sections(fields[0].annotation) if fields else []
        named = bool(holders) and get_origin(fields[0].annotation) is dict
        place = _Place(holders, fields[0] if fields else None, named)
    return place
