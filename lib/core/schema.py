"""The schema of the parameters: what can be set, of which type, in which range, and what it means."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

RESERVED = ("data", "bench", "compare")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"

Name = Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# A folder called 7 is a number to YAML.
Label = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Flag = Literal["small", "elongated", "blurred", "dark", "overexposed", "uniform", "greyscale", "outlier"]
SOURCE_NEEDS = {
    "kaggle": ("dataset", "competition"),
    "archive": ("archive",),
    "drive": ("drive",),
    "folder": ("folder",),
    "sample": (),
}
TRAINABLE = r"^(none|all|last [1-9]\d* layers|last \d+(\.\d+)? %)$"


class Section(BaseModel):
    """A part of the parameters: frozen, and closed to keys that it does not list."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Table(Section):
    """A CSV file that lists photos."""

    file: str = Field(description="path of the CSV file inside the source")
    photos: str = Field("", description="folder of the photos that it lists, inside the source")
    filename: str = Field("filename", description="column with the photos' file names")
    label: str | None = Field(
        None, description="column with the labels; without one the photos are to be predicted"
    )
    split: Literal["train", "val", "test"] | None = Field(
        None, description="split that the table fixes; none: split here"
    )


class Source(Section):
    """Where the photos come from."""

    kind: Literal["kaggle", "archive", "drive", "folder", "sample"]
    name: Name | None = Field(
        None,
        description="folder under outputs/data that keeps the photos; default: the parameter file's name",
    )
    dataset: Annotated[str, Field(pattern=r"^[\w-]+/[\w.-]+(/\d+)?$")] | None = Field(
        None, description="Kaggle data set: owner/name or owner/name/version"
    )
    competition: Annotated[str, Field(pattern=r"^[\w-]+$")] | None = Field(
        None, description="Kaggle competition"
    )
    archive: str | None = Field(None, description="path or URL of a zip, tar or tar.gz file")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the archive; needed for a URL"
    )
    drive: str | None = Field(None, description="link or id of a Google Drive folder")
    folder: str | None = Field(None, description="path of a folder of photos")
    seed: int = Field(0, ge=0, description="seed of the drawn sample")
    photos_per_class: int = Field(
        36, ge=8, le=2000, description="size of the drawn sample, in photos of its largest class"
    )
    licence: str | None = Field(None, description="licence of the photos, for the record")
    tables: dict[str, Table | None] = Field(
        {}, description="CSV files with the labels; none: labels are the folders' names"
    )
    class_names: str | None = Field(
        None, description="JSON file inside the source that says what the labels mean: {label: name}"
    )
    classes: list[Label] = Field([], description="labels to use, for a try on a part of them; none: all")

    @model_validator(mode="after")
    def _complete(self):
        needs = SOURCE_NEEDS[self.kind]
        given = [key for key in needs if getattr(self, key)]
        if needs and len(given) != 1:
            raise ValueError(
                f"kind {self.kind} needs exactly one of: {', '.join(needs)}. Received: {', '.join(given) or 'none'}"
            )
        if self.kind == "archive" and re.match(r"https?://", self.archive) and not self.sha256:
            raise ValueError("an archive from a URL needs its sha256, so that what arrives can be checked")
        return self


class Clean(Section):
    """What counts as a duplicate or as unusable."""

    minimum_side: int = Field(16, ge=1, description="smallest height and width of a usable photo, in pixels")
    exclude: tuple[Flag, ...] = Field(
        (), description="kinds of flagged photos that are left out, such as blurred; all others are kept"
    )
    embeddings: bool = Field(
        True,
        description="look for near-duplicates, outliers and wrong labels with a pretrained network too, not by hash alone",
    )
    compare: tuple[str, ...] = Field(
        (),
        description="backbones to compare by what can be read from their embeddings alone, such as MobileNetV2",
    )
    near_duplicate_bits: int = Field(
        6,
        ge=0,
        le=20,
        description="photos whose 64-bit perceptual hashes differ in at most so many bits are near-duplicates",
    )
    near_duplicate_cosine: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="photos whose embeddings have at least this cosine are laid over one another",
    )
    near_duplicate_correlation: float = Field(
        0.85,
        ge=0,
        le=1,
        description="such photos are near-duplicates where they then correlate at least so much",
    )


class Split(Section):
    """How photos are divided; photos that the source has already divided stay so."""

    val: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.15, description="share of photos that choose: checkpoint, rates, temperature"
    )
    test: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.15, description="share of photos held back for the headline; 0: none"
    )
    on_leak: Literal["drop", "keep"] = Field(
        "drop",
        description="what happens to val and test photos whose near-duplicate the source put into another split",
    )


class HeadLayer(Section):
    """One layer of the head."""

    layer: Literal["average_pooling", "max_pooling", "flatten", "dropout", "dense", "batch_normalization"]
    rate: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="rate of a dropout layer")
    units: Annotated[int, Field(ge=1)] | None = Field(
        None, description="units of a dense layer; none: the number of classes, with softmax"
    )
    activation: Literal["relu", "gelu", "swish", "tanh"] | None = Field(
        None, description="activation of a dense layer with units"
    )
    l2: Annotated[float, Field(ge=0)] | None = Field(
        None, description="L2 penalty on a dense layer's weights"
    )

    @model_validator(mode="after")
    def _complete(self):
        if (self.layer == "dropout") != (self.rate is not None):
            raise ValueError("`rate` belongs to a dropout layer, and a dropout layer needs it")
        if self.layer != "dense" and (self.units or self.activation or self.l2):
            raise ValueError("`units`, `activation` and `l2` belong to a dense layer")
        if self.activation and not self.units:
            raise ValueError("a dense layer without units ends in softmax: it takes no `activation`")
        return self


HEAD = {
    "pool": HeadLayer(layer="average_pooling"),
    "dropout": HeadLayer(layer="dropout", rate=0.25),
    "classes": HeadLayer(layer="dense"),
}


class SimpleCNN(Section):
    """The small network `SimpleCNN`: blocks of convolution, ReLU and max-pooling."""

    blocks: int = Field(4, ge=1, le=8)
    filters: int = Field(32, ge=1, le=1024, description="filters of each block's convolution")
    kernel: int = Field(3, ge=1, le=11, description="height and width of the filters, in pixels")


class Model(Section):
    """The network."""

    backbone: str = Field(
        "EfficientNetLite0",
        description="EfficientNetLite0, SimpleCNN, ResNet18, ResNeXt101_32x8d, or any model of keras.applications",
    )
    simple_cnn: SimpleCNN = Field(SimpleCNN(), description="shape of the backbone SimpleCNN")
    weights: str | None = Field("imagenet", description="imagenet, a path, or null for random weights")
    image_size: int = Field(160, ge=32, le=1024, description="height and width of the input, in pixels")
    fit: Literal["crop", "squash", "pad"] = Field(
        "crop", description="how a photo becomes a square: centre crop, change of aspect, or black bars"
    )
    resize: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None,
        description="side that photos are brought to before the centre of image_size is cut out, in pixels; none: image_size",
    )
    scaling: Literal["backbone", "unit", "measured"] = Field(
        "backbone",
        description="what the backbone's weights were trained with; pixels divided by 255; or the mean and deviation of the training photos",
    )
    most_parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of parameters that the network must stay below"
    )
    batch_normalization: Literal["inference", "train"] = Field(
        "inference", description="whether a pretrained backbone keeps its statistics"
    )
    head: dict[str, HeadLayer | None] = Field(HEAD, description="layers after the backbone, in order")

    @model_validator(mode="after")
    def _holds_the_input(self):
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"`resize` must be at least `image_size`, {self.image_size}. Received: {self.resize}"
            )
        return self

    @model_validator(mode="after")
    def _ends_in_classes(self):
        layers = [layer for layer in self.head.values() if layer]
        if not layers or layers[-1].layer != "dense" or layers[-1].units:
            raise ValueError(
                "the last layer of `head` must be a dense layer without units, which gets the classes"
            )
        return self


class Erasing(Section):
    """Random erasing: a rectangle of noise over a part of the photo."""

    probability: Fraction = Field(0.2, description="share of the photos that it happens to")
    smallest: Annotated[float, Field(gt=0, lt=1)] = Field(0.02, description="least share of the area")
    largest: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="largest share of the area")

    @model_validator(mode="after")
    def _ordered(self):
        if self.smallest > self.largest:
            raise ValueError(
                f"`smallest` must be at most `largest`. Received: {self.smallest} and {self.largest}"
            )
        return self


class Augment(Section):
    """Random changes to the training photos, drawn anew in each epoch; 0 turns one off."""

    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="least share of the area that a random crop keeps, of aspect 3:4 to 4:3; 1: no crop"
    )

    flip: Literal["none", "horizontal", "both"] = Field("horizontal", description="mirror half of the photos")
    rotation: float = Field(15.0, ge=0, le=180, description="largest angle, in degrees")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest change of scale, as a share")
    translation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest shift, as a share of the size"
    )
    shear: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest shear: shift of a row as a share of its distance from the centre"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="largest change of contrast, as a share"
    )
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest change of brightness, as a share"
    )
    saturation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest change of saturation, as a share"
    )
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="largest turn of the hue, as a share of the colour circle"
    )
    erasing: Erasing | None = Field(None, description="random erasing")
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp's Beta distribution")


class Optimizer(Section):
    """The optimizer of all stages."""

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = Field(1.0e-4, ge=0, description="decoupled weight decay")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of sgd")

    @model_validator(mode="after")
    def _decay(self):
        if self.kind == "adam" and "weight_decay" in self.model_fields_set and self.weight_decay:
            raise ValueError("adam here has no weight_decay: use kind adamw")
        return self


class Stage(Section):
    """One stage of training."""

    trainable: Annotated[str, Field(pattern=TRAINABLE)] = Field(
        description="part of the backbone that learns: none, all, last 30 layers, last 40 %"
    )
    epochs: int = Field(ge=0, le=10000, description="largest number of epochs; 0 leaves the stage out")
    augment: bool = Field(
        True,
        description="whether the photos are changed at random; without, a head on a frozen backbone learns in seconds",
    )
    learning_rate: float = Field(gt=0, le=10, description="learning rate, or its start")
    schedule: Literal["constant", "cosine", "exponential"] = Field(
        "constant", description="course of the rate within the stage"
    )
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="factor of the rate from one epoch to the next, in an exponential schedule"
    )

    @model_validator(mode="after")
    def _decays(self):
        if (self.schedule == "exponential") != (self.decay is not None):
            raise ValueError(
                "`decay` belongs to an exponential schedule, and an exponential schedule needs it"
            )
        return self


class EarlyStopping(Section):
    """End a stage when the monitored value has stopped improving."""

    patience: int = Field(6, ge=1, description="epochs without a better value")


class ReduceLearningRate(Section):
    """Lower the rate when the monitored value has stopped improving, in stages with a constant schedule."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: int = Field(3, ge=1, description="epochs without a better value")


STAGES = {
    "head": Stage(trainable="none", epochs=12, learning_rate=1.0e-3),
    "fine_tune": Stage(trainable="last 40 %", epochs=12, learning_rate=1.0e-4, schedule="cosine"),
}


class Train(Section):
    """How the network learns."""

    batch_size: int = Field(32, ge=1, le=4096)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    class_weights: bool = Field(True, description="weigh classes by the inverse of their number of photos")
    monitor: Literal["val_loss", "val_accuracy"] = Field(
        "val_loss", description="value that chooses the best weights and drives the two below"
    )
    optimizer: Optimizer = Optimizer()
    stages: dict[str, Stage | None] = Field(STAGES, description="stages of training, in order")
    early_stopping: EarlyStopping | None = EarlyStopping()
    reduce_learning_rate: ReduceLearningRate | None = None
    resume_stages: list[str] = Field(
        [], description="stages to run once more on top of the finished training (make resume-<name>)"
    )

    @model_validator(mode="after")
    def _stages(self):
        stages = [name for name, stage in self.stages.items() if stage]
        if not any(self.stages[name].epochs for name in stages):
            raise ValueError("`stages` must name at least one stage with an epoch")
        if unknown := set(self.resume_stages) - set(stages):
            raise ValueError(
                f"`resume_stages` names {', '.join(sorted(unknown))}. Stages: {', '.join(stages)}"
            )
        return self


class Predictions(Section):
    """Form of the file with the predictions for photos without labels."""

    file: Annotated[str, Field(pattern=r"^[\w.-]+\.csv$")] = "test_predictions.csv"
    filename: str = "filename"
    label: str = "label"
    confidence: str | None = Field("confidence", description="null leaves the column out")


class Evaluate(Section):
    """What the evaluation writes."""

    hardest: int = Field(
        20, ge=1, le=200, description="photos in the list and gallery of the hardest examples"
    )
    least_top_1: Fraction = Field(
        0.0, description="top-1 that the recipe is known to reach; the stage fails below it"
    )
    predictions: Predictions = Predictions()
    test_time_augmentation: bool = Field(
        False, description="average what the network says of several views of each photo"
    )


class GradCam(Section):
    """What the explanations show."""

    examples: int = Field(
        8, ge=1, le=64, description="photos in each of the two grids: right and wrong predictions"
    )
    masks: str | None = Field(
        None,
        description="masks of the objects (white = object), named as the photos: a folder or zip; a relative path starts at the source's folder",
    )
    photo: str | None = Field(None, description="path of a photo of one's own to explain")


class Dimension(Section):
    """One parameter that the search varies: between two numbers, or among choices."""

    parameter: str = Field(description="dotted key of the parameter, such as model.simple_cnn.filters")
    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    step: Annotated[float, Field(gt=0)] | None = Field(None, description="distance of the values; none: any")
    log: bool = Field(False, description="draw the logarithm evenly, as suits learning rates")
    choices: list[int | float | str | bool] = Field([], description="values to choose among")

    @model_validator(mode="after")
    def _complete(self):
        interval = self.low is not None and self.high is not None
        if interval == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("a dimension needs either `low` and `high`, or `choices`")
        if interval and self.low > self.high:
            raise ValueError(f"`low` must be at most `high`. Received: {self.low} and {self.high}")
        if self.log and (self.choices or self.step or self.low <= 0):
            raise ValueError("`log` needs `low` above 0, and neither `step` nor `choices`")
        return self


class Tune(Section):
    """The search for better parameters (make tune-<name>)."""

    trials: int = Field(20, ge=1, le=100_000, description="trials in all, those of earlier runs included")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="how values are drawn: by the trials so far, or blindly"
    )
    pruner: Literal["none", "median"] = Field(
        "median",
        description="when a trial ends early: never, or when it is worse than the median of the others",
    )
    storage: str | None = Field(
        None, description="URL of a database that several machines share; none: a file in the run's folder"
    )
    changes: dict[str, Any] = Field({}, description="sections that all trials change, such as fewer epochs")
    space: dict[str, Dimension | None] = Field({}, description="what varies, by a short name")


class Compare(Section):
    """Runs side by side (make compare)."""

    runs: list[Name] = Field([], description="runs to compare; none: all that have been evaluated")
    ensemble: list[Name] = Field(
        [], description="runs whose probabilities are averaged; none: all on the photos of the best one"
    )
    test_time_augmentation: bool = Field(
        False, description="average what each network of the ensemble says of several views of each photo"
    )


class Params(Section):
    """All parameters of a run."""

    name: Name = Field(description="name of the parameter file")
    run: Name | None = Field(None, description="folder under outputs; default: the name")
    extends: Name | None = Field(None, description="parameter file that this one is laid over")
    seed: int = Field(42, ge=0, lt=2**31, description="seed of the split and of training")
    source: Source
    clean: Clean = Clean()
    split: Split = Split()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    gradcam: GradCam = GradCam()
    tune: Tune = Tune()
    compare: Compare = Compare()

    @property
    def run_name(self) -> str:
        """Name of the run's folder under outputs."""
        return self.run or self.name


def sections(annotation) -> list:
    """Return the section classes in a type: itself, or those inside a union or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections(argument)]


def walk(path: list[str]) -> tuple[type[Section] | None, FieldInfo | None]:
    """Return the section class that a path of keys leads to, and the last field on the way; None where there is none."""
    model, field, named = Params, None, False
    for part in path:
        if named:  # a name that the user chose, inside a mapping of sections
            named = False
            continue
        field = model.model_fields.get(part) if model else None
        inner = sections(field.annotation) if field else []
        model = inner[0] if inner else None
        named = bool(inner) and "dict[" in str(field.annotation)
    return model, field


def keys(path: list[str]) -> list[str]:
    """Return the keys that are allowed where a path of keys leads to."""
    model, _ = walk(path)
    return list(model.model_fields) if model else []


def meaning(path: list[str]) -> str:
    """Return what the key at the end of a path means; empty where nothing is known of it."""
    _, field = walk(path)
    return (field.description or "") if field else ""
