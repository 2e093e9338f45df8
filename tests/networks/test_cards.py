"""The model card: written and read, or refused with a message on how to continue."""

import json

import pytest
from shared import model_card

from lib.core import files, params
from lib.networks import cards


def test_a_card_is_read_back(tmp_path):
    card = model_card(mean=[0.1, 0.2, 0.3], standard_deviation=[0.3, 0.2, 0.1])
    cards.save(card, tmp_path / "model.json")
    assert cards.load(tmp_path / "model.json") == card
    assert files.read_json(tmp_path / "model.json") == card


def test_the_numbers_of_the_scaling_are_optional(tmp_path):
    cards.save(model_card(), tmp_path / "model.json")
    assert "mean" not in cards.load(tmp_path / "model.json")


def test_without_a_card(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="model.json does not exist. Expected: the model card that 03_train writes"
    ):
        cards.load(tmp_path / "model.json")


@pytest.mark.parametrize("key", sorted(cards.ModelCard.__required_keys__))
def test_each_key_of_a_card_is_needed(tmp_path, key):
    card = model_card()
    del card[key]
    files.write_json(tmp_path / "model.json", card)
    with pytest.raises(
        ValueError, match=f"not a model card of this version: it has no {key}. Run 03_train again"
    ):
        cards.load(tmp_path / "model.json")


def test_a_card_of_an_earlier_version(tmp_path):
    """Its `parameters` was the number of weights."""
    card = model_card(parameters=1234)
    del card["parameter_count"]
    files.write_json(tmp_path / "model.json", card)
    with pytest.raises(ValueError, match="it has no parameter_count. Run 03_train again"):
        cards.load(tmp_path / "model.json")


def test_a_card_with_the_old_names_of_parameters_has_the_new_ones(tmp_path):
    erasing = {"probability": 0.5, "min_area": 0.1, "max_area": 0.2}
    settings = params.load(
        "demo", {"model": {"fit": "stretch", "max_parameters": 10**9}, "augment": {"erasing": erasing}}
    )
    trained = {key: params.pick(settings, key) for key in ("model", "augment")}
    card = model_card(fit="stretch", classes=["squash", "melon"], parameters=trained)
    text = json.dumps(card)
    for new, old in (
        ("max_parameters", "most_parameters"),
        ("min_area", "smallest"),
        ("max_area", "largest"),
    ):
        text = text.replace(new, old)
    (tmp_path / "model.json").write_text(text.replace('"fit": "stretch"', '"fit": "squash"'))
    assert cards.load(tmp_path / "model.json") == card
    cards.require_parameters(cards.load(tmp_path / "model.json"), settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "model.json is not JSON: .*Run 03_train again"),
        ("\ufeff{}", "model.json is not JSON: .*Run 03_train again"),
        ("[1, 2]", "not a model card of this version: it has no backbone, batch_size, .*Run 03_train again"),
        ("null", "not a model card of this version"),
    ],
)
def test_a_file_that_is_no_card(tmp_path, text, message):
    (tmp_path / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        cards.load(tmp_path / "model.json")


# The parameters of a run


def test_the_parameters_of_a_run_are_compared_with_those_of_its_model():
    settings = params.load("demo")
    trained = {key: params.pick(settings, key) for key in ("seed", "model", "train")}
    card = model_card(parameters=trained)
    cards.require_parameters(card, settings)
    # A section that did not decide the training may change.
    cards.require_parameters(card, params.load("demo", {"evaluate": {"hardest": 3}}))
    changed = params.load("demo", {"train": {"batch_size": 7}, "seed": 3})
    message = (
        r"^model.keras was trained with other parameters: seed, train.batch_size. Expected seed: 42. "
        r"Received: 3. Run 03_train again, or evaluate the model as it was trained with `make evaluate-demo`$"
    )
    with pytest.raises(ValueError, match=message):
        cards.require_parameters(card, changed)


def test_a_stage_that_was_added_or_removed_is_a_change():
    settings = params.load("demo")
    card = model_card(parameters={"train": params.pick(settings, "train")})
    with pytest.raises(ValueError, match=r"train.stages.fine_tune.epochs"):
        cards.require_parameters(card, params.load("demo", {"train": {"stages": {"fine_tune": None}}}))


def test_the_order_of_layers_counts():
    settings = params.load("demo")
    model = params.pick(settings, "model")
    card = model_card(parameters={"model": model | {"head": dict(reversed(model["head"].items()))}})
    with pytest.raises(ValueError, match=r"trained with other parameters: model.head"):
        cards.require_parameters(card, settings)
