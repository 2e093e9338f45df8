"""Reference: the type, default and meaning of a parameter by its dotted key."""

from typing import get_origin

import pytest

from lib.core import reference, schema


@pytest.mark.parametrize(
    ("key", "annotation", "default", "words"),
    [
        ("seed", int, 42, "seed of the split"),
        ("train.stages.head.epochs", int, None, "number of epochs"),
        ("source.photos_per_class", int, 36, "photos in the largest class"),
        ("source.tables.labelled.filename", str, "filename", "column with the file names"),
        ("model.head.any.rate", float, None, "fraction"),
        ("train.early_stopping.patience", int, 6, "epochs without"),
    ],
)
def test_parameter(key, annotation, default, words):
    parameter = reference.parameter(key)
    assert (parameter.annotation, words in parameter.description) == (annotation, True)
    assert default is None or parameter.default == default


@pytest.mark.parametrize(
    "key", ["", "modle", "model.size", "seed.x", "train.stages.head.epoch", "source.a.b"]
)
def test_a_key_that_is_none(key):
    assert reference.parameter(key) is None


@pytest.mark.parametrize(
    ("location", "path", "kind"),
    [
        (("seed",), ["seed"], None),
        (("source", "kaggle"), ["source"], None),
        (("source", "folder", "folder"), ["source", "folder"], "folder"),
        (("source", "sample", "tables", "t", "file"), ["source", "tables", "t", "file"], None),
        (("source", "sample", "classes", 0), ["source", "classes", "0"], None),
        (("model", "head", "flatten", "flatten", "units"), ["model", "head", "flatten", "units"], "flatten"),
        (("train", "stages", "head", "epochs"), ["train", "stages", "head", "epochs"], None),
        ((), [], None),
    ],
)
def test_without_tags(location, path, kind):
    assert reference.without_tags(location) == (path, kind)


def leaves(section=schema.Params, above=""):
    """Yield the dotted key of every parameter, with `name` for a name in a mapping."""
    for key, field in section.model_fields.items():
        inner = reference.sections(field.annotation)
        name = ".name" if get_origin(field.annotation) is dict else ""
        for one in inner:
            yield from leaves(one, f"{above}{key}{name}.")
        if not inner:
            yield f"{above}{key}"


@pytest.mark.parametrize("key", sorted(set(leaves())))
def test_every_parameter_has_a_meaning(key):
    meaning = reference.description(key)
    assert 4 < len(meaning) < 200 and meaning[-1] not in ".,;"


def test_all_parameters_are_found():
    keys = set(leaves())
    assert len(keys) > 100 and {"source.dataset", "model.head.name.l2", "tune.space.name.low"} <= keys
