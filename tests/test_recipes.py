"""The files in params/: records that load, extend each other, and have their authors' values."""

import runpy

import pytest

from lib.core import params, schema
from lib.tune import spaces

# The committed files, without those of a user.
NAMES = sorted(runpy.run_path(str(params.ROOT / "docs/generate.py"))["NAMES"])
SEARCHED = ["butterfly", "demo", "mammals", "mammals_resnet18"]


@pytest.fixture(autouse=True)
def no_files_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the paths that the caller's shell may hold."""
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE", "PRIVATE"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)


def text(name: str) -> str:
    """Return a parameter file."""
    return (params.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_a_record_with_its_command_result_time_and_hardware(name: str) -> None:
    record = [line for line in text(name).splitlines() if line.startswith("#")]
    assert record[0].split()[:3] == ["#", "make", name]
    assert [
        word for word in ("Expected: ", "Time and hardware: ") if f"\n# {word}" not in "\n".join(record)
    ] == []


@pytest.mark.parametrize("name", [*NAMES, "template"])
def test_lines_are_short_and_numbers_are_not_read_as_text(name: str) -> None:
    assert [line for line in text(name).splitlines() if len(line) > 110 or " 1e-" in line] == []


def test_the_template_loads_as_a_file_of_ones_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(text("template"), encoding="utf-8")
    monkeypatch.setattr(params, "FOLDER", tmp_path)
    settings = params.load("mine")
    assert isinstance(settings.source, schema.Folder) and settings.model.backbone == "EfficientNetLite0"


def test_biology_has_the_values_of_its_author() -> None:
    settings = params.load("biology")
    model, augment, train = settings.model, settings.augment, settings.train
    stage = train.stages["all"]
    assert list(train.stages) == ["all"]
    assert (stage.trainable, stage.learning_rate, stage.schedule) == ("all", 1e-3, "constant")
    assert (model.backbone, model.weights) == ("ResNeXt101_32x8d", "imagenet")
    assert (model.resize, model.image_size, model.fit, model.scaling) == (256, 224, "crop", "backbone")
    assert model.batch_normalization == "train" and model.max_parameters == 100_000_000
    assert [layer.model_dump(exclude_none=True) for layer in model.head.values()] == [
        {"layer": "average_pooling"},
        {"layer": "dropout", "rate": 0.3},
        {"layer": "dense", "units": 512, "activation": "relu"},
        {"layer": "batch_normalization"},
        {"layer": "dropout", "rate": 0.5},
        {"layer": "dense"},
    ]
    assert augment.model_dump() == {
        "crop": 0.7,
        "flip": "horizontal",
        "rotation": 20,
        "zoom": 0.1,
        "translation": 0.1,
        "shear": 0,
        "contrast": 0.15,
        "brightness": 0.15,
        "saturation": 0.15,
        "hue": 0.1,
        "erasing": {"probability": 0.2, "min_area": 0.02, "max_area": 0.1},
        "mixup": 0,
    }
    assert (train.batch_size, train.label_smoothing, train.class_weights, settings.seed) == (
        64,
        0.1,
        False,
        42,
    )
    assert (train.optimizer.kind, train.optimizer.weight_decay) == ("adamw", 1e-4)
    assert train.reduce_learning_rate == schema.ReduceLearningRate(factor=0.2, patience=3)
    assert train.early_stopping == schema.EarlyStopping(patience=10)
    assert settings.split.test == 0 and settings.evaluate.predictions.file == "prediction.csv"


def test_the_gentler_biology_differs_in_its_stages_and_normalization_only() -> None:
    parent, child = params.load("biology"), params.load("biology_two_stage")
    stages = child.train.stages
    assert [(stage.trainable, stage.learning_rate) for stage in stages.values()] == [
        ("none", 1e-3),
        ("all", 1e-4),
    ]
    assert list(stages) == ["head", "fine_tune"] and child.model.batch_normalization == "inference"
    changes = {"train": {"stages": parent.train.stages}, "model": {"batch_normalization": "train"}}
    same = child.model_copy(
        update={
            "name": parent.name,
            "extends": None,
            "train": child.train.model_copy(update=changes["train"]),
            "model": child.model.model_copy(update=changes["model"]),
        }
    )
    assert same == parent


def test_recipes_of_a_project_have_the_same_photos() -> None:
    for name, parent in (("biology_two_stage", "biology"), ("mammals_resnet18", "mammals")):
        assert params.load(name).source == params.load(parent).source


def test_mammals_takes_its_folder_from_google_drive_or_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    source = params.load("mammals").source
    assert isinstance(source, schema.Drive) and source.archive is None
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", "mammals.zip")
    assert params.load("mammals").source == source.model_copy(update={"archive": "mammals.zip"})


@pytest.mark.parametrize("name", SEARCHED)
def test_the_search_of_a_recipe_can_start(name: str) -> None:
    assert spaces.shared(params.load(name)).tune.space


def test_only_recipes_with_a_search_are_searched() -> None:
    assert [name for name in NAMES if name in SEARCHED or params.load(name).tune.space] == SEARCHED


def test_trials_of_butterfly_are_short_and_compared_by_accuracy() -> None:
    settings = params.load("butterfly")
    trial = spaces.shared(settings)
    assert [dimension.parameter for dimension in trial.tune.space.values()] == [
        "train.stages.head.learning_rate",
        "train.stages.fine_tune.learning_rate",
        "model.head.dropout.rate",
        "train.label_smoothing",
    ]
    # The loss on val contains the label smoothing: the search would always choose 0.
    assert trial.train.monitor == "val_accuracy"
    epochs = [sum(stage.epochs for stage in one.train.stages.values()) for one in (trial, settings)]
    assert epochs[0] < epochs[1] / 2 and trial.model.image_size < settings.model.image_size
    for dimension in trial.tune.space.values():
        value = params.pick(settings, dimension.parameter)
        assert dimension.low <= value <= dimension.high
