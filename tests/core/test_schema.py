"""Schema: defaults, limits, the keys of each kind of source and layer, and values that exclude each other."""

import pydantic
import pytest
import yaml
from pydantic import TypeAdapter

from lib.core import params, schema, steps

SOURCE = TypeAdapter(schema.Source)
LAYER = TypeAdapter(schema.HeadLayer)


@pytest.mark.parametrize(
    ("values", "section"),
    [
        ({"kind": "kaggle", "dataset": "a/b"}, schema.Kaggle),
        ({"kind": "kaggle", "competition": "c", "archive": "x.zip"}, schema.Kaggle),
        ({"kind": "archive", "archive": "x.zip"}, schema.Archive),
        ({"kind": "drive", "drive": "id", "archive": "x.zip", "sha256": "0" * 64}, schema.Drive),
        ({"kind": "folder", "folder": "x"}, schema.Folder),
        ({"kind": "sample", "photos_per_class": 8}, schema.Sample),
    ],
)
def test_sources(values, section):
    assert type(SOURCE.validate_python(values)) is section


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "sample", "archive": "x.zip"},
        {"kind": "folder", "folder": "x", "sha256": "0" * 64},
        {"kind": "archive"},
        {"kind": "archive", "archive": "x.zip", "photos_per_class": 37},
        {"kind": "drive", "drive": "", "archive": "x.zip"},
        {"kind": "kaggle", "dataset": "a/b", "archive": "https://host/x.zip"},
        {"layer": "flatten", "rate": 0.5},
        {"layer": "dropout"},
    ],
)
def test_keys_of_another_kind_and_missing_ones_are_refused(values):
    with pytest.raises(pydantic.ValidationError):
        (SOURCE if "kind" in values else LAYER).validate_python(values)


def test_no_file_of_a_run_can_be_that_of_the_predictions():
    written = {name for step in steps.ALL for name in (*step.reads, *step.writes)}
    assert {name for name in written if name.endswith(".csv")} <= set(schema.CSV_FILES)
    for name in (
        *written,
        *schema.CSV_FILES,
        "Manifest.csv",
        "report.html",
        "01_download.ipynb",
        "a/b.csv",
        ".csv",
    ):
        with pytest.raises(pydantic.ValidationError):
            schema.Predictions(file=name)
    assert schema.Predictions(file="test-1.csv").file == "test-1.csv"
    assert schema.Predictions().file not in schema.CSV_FILES


# Values

# Every default that is not null or empty.
DEFAULTS = """
name: mine
seed: 42
source: {kind: sample, seed: 0, photos_per_class: 36}
clean:
  {minimum_side: 16, embeddings: true, near_duplicate_bits: 6, near_duplicate_cosine: 0.5,
   near_duplicate_correlation: 0.85}
split: {val: 0.15, test: 0.15, on_leak: drop}
model:
  backbone: EfficientNetLite0
  simple_cnn: {blocks: 4, filters: 32, kernel: 3}
  weights: imagenet
  image_size: 160
  fit: crop
  scaling: backbone
  batch_normalization: inference
  head: {pool: {layer: average_pooling}, dropout: {layer: dropout, rate: 0.25}, classes: {layer: dense}}
augment:
  {crop: 1, flip: horizontal, rotation: 15, zoom: 0.15, translation: 0.1, shear: 0, contrast: 0.2,
   brightness: 0.1, saturation: 0, hue: 0, mixup: 0}
train:
  batch_size: 32
  label_smoothing: 0.1
  class_weights: true
  monitor: val_loss
  optimizer: {kind: adamw, weight_decay: 0.0001, momentum: 0.9}
  stages:
    head: {trainable: none, epochs: 12, augment: true, learning_rate: 0.001, schedule: constant}
    fine_tune:
      {trainable: last 40 %, epochs: 12, augment: true, learning_rate: 0.0001, schedule: cosine}
  early_stopping: {patience: 6}
evaluate:
  hardest: 20
  min_top_1: 0
  predictions: {file: test_predictions.csv, filename: filename, label: label, confidence: confidence}
  test_time_augmentation: false
gradcam: {examples: 8}
tune: {trials: 20, sampler: tpe, pruner: median}
compare: {test_time_augmentation: false}
"""
STAGE = {"trainable": "all", "epochs": 1, "learning_rate": 1e-3}
BASE = {
    "name": "mine",
    "source": {"kind": "sample"},
    "model": {"head": {"hidden": {"layer": "dense", "units": 3}, "classes": {"layer": "dense"}}},
    "augment": {"erasing": {}},
    "train": {
        "stages": {"one": STAGE, "two": STAGE | {"schedule": "exponential", "decay": 0.9}},
        "reduce_learning_rate": {},
    },
    "tune": {"space": {"x": {"parameter": "model.image_size", "low": 1, "high": 2}}},
}
# The outermost values that are accepted, and values beyond them.
LIMITS = {
    "name": (["a" * 64, "7", "A-b_c"], ["a" * 65, "", "-a", "a b", "a.b", "a\n"]),
    "seed": ([0, 2**31 - 1], [-1, 2**31]),
    "source.seed": ([0], [-1]),
    "source.photos_per_class": ([8, 2000], [7, 2001]),
    "clean.minimum_side": ([1], [0]),
    "clean.near_duplicate_bits": ([0, 20], [-1, 21]),
    "clean.near_duplicate_cosine": ([-1, 1], [-1.01, 1.01]),
    "clean.near_duplicate_correlation": ([0, 1], [-0.01, 1.01]),
    "split.val": ([0.01, 0.49], [0, 0.5]),
    "split.test": ([0, 0.49], [-0.01, 0.5]),
    "model.simple_cnn.blocks": ([1, 8], [0, 9]),
    "model.simple_cnn.filters": ([1, 1024], [0, 1025]),
    "model.simple_cnn.kernel": ([1, 11], [0, 12]),
    "model.image_size": ([32, 1024], [31, 1025]),
    "model.resize": ([160, 1024], [159, 1025]),
    "model.max_parameters": ([1, 10**9], [0]),
    "model.head.hidden.units": ([1], [0, 0.5]),
    "model.head.hidden.l2": ([0], [-0.01]),
    "augment.crop": ([0.01, 1], [0, 1.01]),
    "augment.rotation": ([0, 180], [-1, 181]),
    "augment.zoom": ([0, 0.99], [-0.01, 1]),
    "augment.translation": ([0, 0.99], [-0.01, 1]),
    "augment.shear": ([0, 0.99], [-0.01, 1]),
    "augment.contrast": ([0, 0.99], [-0.01, 1]),
    "augment.brightness": ([0, 0.99], [-0.01, 1]),
    "augment.saturation": ([0, 0.99], [-0.01, 1]),
    "augment.hue": ([0, 0.5], [-0.01, 0.51]),
    "augment.mixup": ([0, 10], [-0.01]),
    "augment.erasing.probability": ([0, 1], [-0.01, 1.01]),
    "augment.erasing.min_area": ([0.001, 0.1], [0, 0.11]),
    "augment.erasing.max_area": ([0.02, 0.99], [0.01, 1]),
    "train.batch_size": ([1, 4096], [0, 4097]),
    "train.label_smoothing": ([0, 0.99], [-0.01, 1]),
    "train.optimizer.weight_decay": ([0, 10], [-0.01]),
    "train.optimizer.momentum": ([0, 0.99], [-0.01, 1]),
    "train.stages.one.trainable": (
        ["none", "all", "last 1 layers", "last 30 layers", "last 0.5 %", "last 40 %"],
        ["", "last 0 layers", "last 40%", "last", "last 1.5 layers", "first 3 layers"],
    ),
    "train.stages.one.epochs": ([0, 10000], [-1, 10001]),
    "train.stages.one.learning_rate": ([1e-9, 10], [0, 10.01]),
    "train.stages.two.decay": ([0.01, 1], [0, 1.01]),
    "train.early_stopping.patience": ([1], [0]),
    "train.reduce_learning_rate.factor": ([0.01, 0.99], [0, 1]),
    "train.reduce_learning_rate.patience": ([1], [0]),
    "evaluate.hardest": ([1, 200], [0, 201]),
    "evaluate.min_top_1": ([0, 1], [-0.01, 1.01]),
    "gradcam.examples": ([1, 64], [0, 65]),
    "tune.trials": ([1, 100_000], [0, 100_001]),
    "tune.storage": (["sqlite:///a.db", "mysql+pymysql://host/db"], ["a.db", "://host"]),
    "tune.space.x.low": ([-1, 2], [3]),
    "tune.space.x.high": ([1, 3], [0]),
    "tune.space.x.step": ([0.01], [0]),
}


def load(values):
    return schema.Params.model_validate(params.merge(BASE, params.nested(values)))


def test_the_defaults():
    dumped = schema.Params(name="mine", source=schema.Sample(kind="sample")).model_dump(mode="json")
    values = {key: value for key, value in params.flat(dumped).items() if value not in (None, {}, [])}
    assert values == params.flat(yaml.safe_load(DEFAULTS))
    assert (schema.Erasing().probability, schema.Erasing().min_area, schema.Erasing().max_area) == (
        0.2,
        0.02,
        0.1,
    )
    assert (schema.ReduceLearningRate().factor, schema.ReduceLearningRate().patience) == (0.5, 3)


@pytest.mark.parametrize("key", LIMITS)
def test_values_within_the_limits_are_accepted_and_others_refused(key):
    accepted, refused = LIMITS[key]
    for value in accepted:
        assert params.flat(load({key: value}).model_dump())[key] == value
    for value in refused:
        with pytest.raises(pydantic.ValidationError):
            load({key: value})


def test_the_limits_of_every_number_are_tested():
    dumped = params.flat(load({"model.resize": 160, "model.max_parameters": 1}).model_dump())
    numbers = {key for key, value in dumped.items() if type(value) in (int, float)}
    tested = {key.replace(".one.", ".two.") for key in LIMITS}
    assert {key.replace(".one.", ".two.") for key in numbers} <= tested


# Values that exclude each other


DIMENSION = {"parameter": "seed", "low": 1, "high": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"high": 1}, None),
        ({"step": 0.5}, None),
        ({"log": True}, None),
        ({"low": None, "high": None, "choices": [1, "a", True]}, None),
        ({"low": None}, "either `low` and `high`, or `choices`"),
        ({"high": None}, "either `low` and `high`, or `choices`"),
        ({"low": None, "high": None}, "either `low` and `high`, or `choices`"),
        ({"choices": [1]}, "either `low` and `high`, or `choices`"),
        ({"low": None, "choices": [1]}, "either `low` and `high`, or `choices`"),
        ({"high": None, "choices": [1]}, "either `low` and `high`, or `choices`"),
        ({"low": 3}, "`low` must be at most `high`. Received: 3.0 and 2.0"),
        ({"log": True, "low": 0}, "`log` needs `low` above 0"),
        ({"log": True, "step": 1}, "`log` needs `low` above 0, and neither `step` nor `choices`"),
        ({"log": True, "low": None, "high": None, "choices": [1]}, "neither `step` nor `choices`"),
    ],
    ids=str,
)
def test_a_dimension_has_an_interval_or_choices(changes, message):
    values = DIMENSION | changes
    if message is None:
        assert schema.Dimension.model_validate(values).model_dump(include=set(values)) == values
    else:
        with pytest.raises(pydantic.ValidationError, match=message):
            schema.Dimension.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.resize": 100}, "`resize` must be at least `image_size`, 160. Received: 100"),
        ({"model.head": {"classes": {"units": 3}}}, "last layer of `head` must be a dense layer"),
        ({"model.head": {"end": {"layer": "flatten"}}}, "last layer of `head` must be a dense layer"),
        ({"model.head.classes.activation": "relu"}, "takes no `activation`"),
        ({"augment.erasing.min_area": 0.2}, "`min_area` must be at most `max_area`. Received: 0.2 and 0.1"),
        ({"train.optimizer": {"kind": "adam", "weight_decay": 0.1}}, "adam takes no `weight_decay`"),
        ({"train.stages.one.decay": 0.9}, "Received: schedule constant, decay 0.9"),
        ({"train.stages.two.decay": None}, "Received: schedule exponential, decay None"),
        ({"train.stages": {"one": {"epochs": 0}, "two": {"epochs": 0}}}, "at least one stage with an epoch"),
        ({"train.resume_stages": ["one", "three"]}, "names of stages: one, two. Received: three"),
    ],
    ids=str,
)
def test_values_that_exclude_each_other_are_refused(values, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        load(values)


@pytest.mark.parametrize(
    "values",
    [
        {"model.head.hidden.activation": "gelu"},
        {"train.optimizer": {"kind": "adam"}},
        {"train.optimizer": {"kind": "adam", "weight_decay": 0}},
        {"train.optimizer": {"kind": "sgd", "weight_decay": 0.1}},
        {"train.stages": {"one": {"epochs": 0}}},
        {"train.resume_stages": ["two", "one"]},
    ],
    ids=str,
)
def test_values_that_fit_each_other_are_accepted(values):
    load(values)


def test_labels_that_are_numbers_are_text():
    assert load({"source.classes": [7, "cat"]}).source.classes == ["7", "cat"]


def sample(**keys):
    return SOURCE.validate_python({"kind": "sample", **keys})


@pytest.mark.parametrize("layout", ["CLASS", "SPLIT/CLASS", "CLASS/SPLIT", "*/CLASS", "in*/color/CLASS/*"])
def test_layouts(layout):
    assert sample(layout=layout).layout == layout


@pytest.mark.parametrize("layout", ["", "SPLIT", "class", "CLASS/CLASS", "SPLIT/SPLIT/CLASS", "a//CLASS"])
def test_other_layouts_are_refused(layout):
    with pytest.raises(
        pydantic.ValidationError, match="expected a pattern with CLASS once and SPLIT at most"
    ):
        sample(layout=layout)


def test_no_splits_are_false():
    assert sample().splits is None and sample(splits=False).splits == {}
    assert sample(splits={"a": "train"}).splits == {"a": "train"}
    assert params.load("demo", params.parse_assignments("source.splits=false")).source.splits == {}
    with pytest.raises(
        ValueError, match="`source.splits.a` is invalid: it should be 'train', 'val', 'test' or"
    ):
        params.load("demo", params.parse_assignments("source.splits.a=dev"))


# Groups


def validate(**sections):
    return schema.Params.model_validate({"name": "mine", "source": {"kind": "sample"}} | sections)


@pytest.mark.parametrize("group", [r"patient(\d+)_", r"(?:a|b)(\d)", None])
def test_a_pattern_of_groups_is_accepted(group):
    assert validate(split={"group": group}).split.group == group


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (r"patient(\d+", "expected a column or a regular expression"),
        (r"(\d+)_(\d+)", "one group in parentheses. Found: 2 groups"),
        (r"patient\(", "one group in parentheses. Found: 0 groups"),
        ("patient", "is the name of a column, but the source has no `tables`"),
    ],
)
def test_a_pattern_of_groups_that_cannot_be_used_is_an_error(group, message):
    with pytest.raises(ValueError, match=message):
        validate(split={"group": group})


def test_a_group_is_a_column_if_the_source_has_tables():
    source = {"kind": "sample", "tables": {"t": {"file": "t.csv", "label": "label"}}}
    assert validate(source=source, split={"group": "patient"}).split.group == "patient"
