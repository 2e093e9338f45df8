"""Error messages name the origin of an invalid value and contain no password."""

import pydantic
import pytest

from lib.core import problems, schema


def message(values, *origins):
    with pytest.raises(pydantic.ValidationError) as caught:
        schema.Params.model_validate({"name": "mine", "source": {"kind": "sample"}, **values})
    return problems.explain(caught.value.errors()[0], origins, default="the rest")


def test_the_last_origin_that_holds_the_value_is_named():
    values = {"model": {"image_size": 8}}
    assert message(values, ("a", values), ("b", values), ("c", {"model": {}})).startswith(
        "b: `model.image_size`"
    )
    assert message(values, ("c", {"model": {}})).startswith("the rest: `model.image_size` is invalid: ")
    values = {"model": {"head": {"a": {"layer": "flatten", "units": 3}}}}
    assert message(values, ("a", values)).startswith(
        "a: `model.head.a.units` is not a key of layer flatten. "
    )


def test_a_password_is_not_shown():
    text = message({"tune": {"trials": "postgresql://ann:s3cret@host/db"}})
    assert "s3cret" not in text and "Received: 'postgresql://host/db' (total number of trials" in text
