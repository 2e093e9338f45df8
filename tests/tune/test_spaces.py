"""The search space: invalid spaces are refused, and sampled values are valid parameters."""

import optuna
import pytest
import yaml

from lib.core import schema
from lib.tune import spaces

BASE = {
    "name": "mine",
    "source": {"kind": "sample"},
    "model": {"backbone": "SimpleCNN", "weights": None},
    "train": {
        "optimizer": {"kind": "sgd"},
        "stages": {
            "all": {
                "trainable": "all", "epochs": 2, "learning_rate": 0.1, "schedule": "exponential", "decay": 0.9
            }
        },
    },
}  # fmt: skip
RATE = {"parameter": "train.stages.all.learning_rate", "low": 1e-4, "high": 0.1, "log": True}
# the search space of the mammals
MAMMALS = {
    "layers": {"parameter": "model.simple_cnn.blocks", "low": 2, "high": 5},
    "filters": {"parameter": "model.simple_cnn.filters", "low": 8, "high": 64, "log": True},
    "kernel": {"parameter": "model.simple_cnn.kernel", "choices": [3, 5, 7]},
    "rate": RATE,
    "decay": {"parameter": "train.stages.all.decay", "low": 0.8, "high": 1.0},
    "momentum": {"parameter": "train.optimizer.momentum", "low": 0.5, "high": 0.99},
    "weight_decay": {"parameter": "train.optimizer.weight_decay", "low": 1e-6, "high": 1e-2, "log": True},
}


def settings(space, **tune):
    dimensions = {name: schema.Dimension.model_validate(one) for name, one in space.items()}
    return schema.Params.model_validate(BASE | {"tune": {"space": dimensions, **tune}})


def dimension(parameter, **options):
    return {"x": {"parameter": parameter, **options}}


def refusal(space, **tune):
    with pytest.raises(ValueError) as caught:
        spaces.shared(settings(space, **tune))
    return str(caught.value)


def sampled(space, count=40, seed=0):
    """Return the values of random trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [spaces.suggest(study.ask(), settings(space).tune.space) for _ in range(count)]


# Invalid spaces


def test_the_error_of_an_empty_space_has_a_valid_example():
    message = refusal({})
    assert message.startswith("`tune.space` needs at least one parameter. Received: an empty space. Add")
    assert "params/mine.yaml" in message
    example = message.partition("\n")[2]
    written = yaml.safe_load(example)["tune"]
    space = {name: schema.Dimension.model_validate(one) for name, one in written["space"].items()}
    plain = schema.Params.model_validate({"name": "mine", "source": {"kind": "sample"}, "tune": written})
    assert spaces.shared(plain).tune.space == space


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            dimension("model.simple_cnn.filtres", low=1, high=2),
            ["unknown parameter model.simple_cnn.filtres", "`filters`?"],
        ),
        (dimension("train.stages.head.epochs", low=1, high=2), ["Expected instead of head: all"]),
        (dimension("model.backbone.name", low=1, high=2), ["model.backbone is a parameter, not a section"]),
        (dimension("model", low=1, high=2), ["`tune.space.x`: model is not a number", "`choices`"]),
        (dimension("model.fit", low=1, high=2), ["model.fit is not a number", "`choices`"]),
        (dimension("train.class_weights", low=0, high=1), ["train.class_weights is not a number"]),
        (
            dimension("seed", low=1, high=2),
            ["must vary a parameter of model, augment, train. Received: seed"],
        ),
        (dimension("split.val", low=0.1, high=0.2), ["Received: split.val"]),
        (dimension("train.batch_size", low=1.5, high=2), ["must be an integer", "1.5, 2.0"]),
        (dimension("train.batch_size", low=1, high=2, step=0.5), ["an integer", "0.5"]),
        (dimension("train.batch_size", low=0, high=2), ["tune.space: `train.batch_size`", "Received: 0"]),
        (dimension("train.batch_size", low=1, high=5000), ["`train.batch_size`", "Received: 5000"]),
        (dimension("train.batch_size", choices=[8, 0]), ["`train.batch_size`", "Received: 0"]),
        (dimension("train.batch_size", choices=[8, 16.5]), ["`train.batch_size`", "Received: 16.5"]),
        (dimension("model.fit", choices=["crop", "fill"]), ["`model.fit`", "'fill'"]),
        (dimension("augment.erasing.probability", low=0, high=2), ["`augment.erasing.probability`", "2.0"]),
        (MAMMALS | {"again": RATE}, ["varies train.stages.all.learning_rate twice"]),
        ({"value": RATE}, ["`tune.space.value` has the name of a column"]),
        ({"batch_size": RATE}, ["`tune.space.batch_size` has the name of a column"]),
    ],
)  # fmt: skip
def test_invalid_spaces_are_refused(space, words):
    message = refusal(space)
    assert [word for word in words if word not in message] == []


def test_dimensions_that_contradict_each_other_are_refused():
    stage = "train.stages.all."
    space = {
        "schedule": {"parameter": stage + "schedule", "choices": ["exponential", "cosine"]},
        "decay": {"parameter": stage + "decay", "low": 0.5, "high": 0.9},
    }
    assert "`decay` is required if the schedule is exponential" in refusal(space)


def test_changes_are_checked_and_apply_to_the_shared_parameters():
    assert "tune.changes: unknown key `train.batch`. Did you mean `batch_size`?" in refusal(
        {"rate": RATE}, changes={"train": {"batch": 1}}
    )
    assert "`tune.changes` may change model, augment, train. Received: seed, split" in refusal(
        {"rate": RATE}, changes={"seed": 1, "split": {}, "train": {}}
    )
    changes = {"train": {"stages": {"all": {"epochs": 9}}, "resume_stages": ["all"]}}
    found = spaces.shared(settings({"rate": RATE}, changes=changes))
    assert found.train.stages["all"].epochs == 9 and found.train.stages["all"].decay == 0.9
    assert found.train.resume_stages == []  # a trial resumes no training


def test_a_dimension_may_name_a_parameter_that_the_changes_add():
    space = dimension("train.stages.new.epochs", low=1, high=2)
    new = {"trainable": "all", "epochs": 1, "learning_rate": 0.1}
    assert "unknown parameter train.stages.new.epochs" in refusal(space)
    spaces.shared(settings(space, changes={"train": {"stages": {"new": new}}}))


def test_a_dimension_may_enable_a_section():
    space = dimension("augment.erasing.probability", low=0.1, high=0.5)
    assert spaces.shared(settings(space)).augment.erasing is None


def test_corners_of_a_large_space_are_limited_in_number_and_contain_every_limit(monkeypatch):
    seen = []
    monkeypatch.setattr(
        spaces.params, "changed", lambda base, values, origin=None: seen.append(values) or base
    )
    keys = ("rotation", "zoom", "translation", "shear", "contrast", "brightness", "saturation", "hue")
    big = {f"x{n}": {"parameter": f"augment.{key}", "low": 0, "high": 0.5} for n, key in enumerate(keys)}
    spaces.shared(settings(big))
    corners = [values for values in seen if len(values) == 8]
    assert len(corners) == 2**8 == len({tuple(values.values()) for values in corners})
    seen.clear()
    monkeypatch.setattr(spaces, "MAX_CORNERS", 100)
    spaces.shared(settings(big))
    corners = [values for values in seen if len(values) == 8]
    assert len(corners) < 50
    for key in corners[0]:
        assert {values[key] for values in corners} == {0, 0.5}


@pytest.mark.parametrize(
    ("one", "count"),
    [
        ({"parameter": "train.batch_size", "choices": [8, 16, 8]}, 2),
        ({"parameter": "train.batch_size", "low": 3, "high": 10}, 8),
        ({"parameter": "train.batch_size", "low": 3, "high": 10, "step": 2}, 4),
        ({"parameter": "train.batch_size", "low": 1, "high": 64, "log": True}, 64),
        ({"parameter": "augment.zoom", "low": 0, "high": 0.3, "step": 0.1}, 4),
        ({"parameter": "augment.zoom", "low": 0.2, "high": 0.2}, 1),
        ({"parameter": "augment.zoom", "low": 0, "high": 0.2}, None),
    ],
)
def test_size_counts_combinations(one, count):
    space = {"one": schema.Dimension.model_validate(one)}
    fit = schema.Dimension(parameter="model.fit", choices=["crop", "stretch"])
    assert spaces.size(space) == count
    assert spaces.size(space | {"fit": fit}) == (count and 2 * count)


def test_a_dimension_of_the_batch_size_may_have_its_name():
    spaces.shared(settings({"batch_size": {"parameter": "train.batch_size", "choices": [8, 16]}}))


# Sampled values


def test_sampled_values_have_the_type_and_range_of_their_parameter():
    spaces.shared(settings(MAMMALS))
    found = sampled(MAMMALS)
    whole = {"layers", "filters", "kernel"}
    for values in found:
        assert {name: type(value) for name, value in values.items()} == {
            name: int if name in whole else float for name in MAMMALS
        }
    for name, one in MAMMALS.items():
        mine = [values[name] for values in found]
        low, high = one.get("low", 3), one.get("high", 7)
        assert low <= min(mine) < max(mine) <= high and len(set(mine)) >= 3
    assert {values["kernel"] for values in found} == {3, 5, 7}
    rates = [values["rate"] for values in found]
    assert (
        sum(rate < 1e-2 for rate in rates) > 20
    )  # two thirds of the logarithmic range are below 1e-2, but only a tenth of a linear range


def test_steps_and_choices_of_every_type_are_sampled():
    space = {
        "batch": {"parameter": "train.batch_size", "low": 8, "high": 32, "step": 8},
        "zoom": {"parameter": "augment.zoom", "low": 0, "high": 0.3, "step": 0.1},
        "dropout": {"parameter": "model.head.dropout.rate", "low": 0.5, "high": 0.5},
        "weights": {"parameter": "train.class_weights", "choices": [True, False]},
        "fit": {"parameter": "model.fit", "choices": ["crop", "pad"]},
    }
    spaces.shared(settings(space))
    found = sampled(space)
    assert {values["batch"] for values in found} == {8, 16, 24, 32}
    assert {values["zoom"] for values in found} == {0.0, 0.1, 0.2, 0.3}  # not 0.30000000000000004
    assert {values["dropout"] for values in found} == {0.5}
    assert {values["weights"] for values in found} == {True, False}
    assert {values["fit"] for values in found} == {"crop", "pad"}


def test_numbers_are_rounded_within_their_limits():
    space = settings({"rate": RATE | {"low": 0.01234567, "high": 0.07654321}}).tune.space
    assert spaces.values(space, {"rate": 0.0456789123}) == {"rate": 0.0456789}
    assert spaces.values(space, {"rate": 0.01234567}) == {"rate": 0.0123457}
    assert spaces.values(space, {"rate": 0.07654321}) == {"rate": 0.0765432}
    high = settings({"rate": RATE | {"high": 0.012345678}}).tune.space
    assert spaces.values(high, {"rate": 0.012345678}) == {"rate": 0.012345678}  # 0.0123457 would be outside
    assert spaces.values(space, {}) == {}


def test_values_are_returned_by_the_key_of_their_parameter():
    space = settings(MAMMALS).tune.space
    assert spaces.by_parameter(space, {"layers": 3, "rate": 0.1}) == {
        "model.simple_cnn.blocks": 3,
        "train.stages.all.learning_rate": 0.1,
    }
