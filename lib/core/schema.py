"""The schema of the parameters: what can be set, of which type, in which range, and what it means."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RESERVED = ("data", "bench", "compare")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
TRAINABLE = r"^(none|all|last [1-9]\d* layers|last \d+(\.\d+)? %)$"
KINDS = "origin of the photos: kaggle, archive, drive, folder or sample"
LAYERS = "kind of layer: average_pooling, max_pooling, flatten, dropout, dense or batch_normalization"
# The CSV files of a run and of its photos: no parameter may name one of them as a file of its own.
CSV_FILES = (
    "comparison.csv",
    "exclusions.csv",
    "history.csv",
    "label_issues.csv",
    "manifest.csv",
    "near_duplicates.csv",
    "photo_predictions.csv",
    "predictions.csv",
    "relabels.csv",
    "trials.csv",
)


def _file_of_its_own(name: str) -> str:
    # Some disks take Manifest.csv and manifest.csv for one file.
    if name.lower() in CSV_FILES:
        raise ValueError(f"expected none of the files that a run holds: {', '.join(CSV_FILES)}")
    return name


Name = Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)]
Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# A folder called 7 is a number to YAML.
Label = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
CsvFile = Annotated[str, Field(pattern=r"^\w[\w.-]*\.csv$"), AfterValidator(_file_of_its_own)]
Flag = Literal["small", "elongated", "blurred", "dark", "overexposed", "uniform", "greyscale", "outlier"]


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


class BaseSource(Section):
    """The keys that all kinds of sources have."""

    kind: str
    name: Name | None = Field(
        None,
        description="folder under outputs/data that keeps the photos; default: the parameter file's name",
    )
    licence: str | None = Field(None, description="licence of the photos, for the record")
    tables: dict[str, Table] = Field(
        {}, description="CSV files with the labels; none: labels are the folders' names"
    )
    class_names: str | None = Field(
        None, description="JSON file inside the source that says what the labels mean: {label: name}"
    )
    classes: list[Label] = Field([], description="labels to use, to try a subset of them; none: all")


class ArchivedSource(BaseSource):
    """The keys of sources that can come as an archive."""

    archive: Text | None = Field(None, description="path or URL of a zip, tar or tar.gz file")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the archive; needed for a URL"
    )

    @model_validator(mode="after")
    def _verifiable(self) -> Self:
        if self.archive and re.match(r"https?://", self.archive) and not self.sha256:
            raise ValueError("an archive from a URL needs its sha256, so that what arrives can be checked")
        return self


class Kaggle(ArchivedSource):
    """A data set or competition of Kaggle, or the archive of one that was downloaded by hand."""

    kind: Literal["kaggle"] = Field(description=KINDS)
    dataset: Annotated[str, Field(pattern=r"^[\w-]+/[\w.-]+(/\d+)?$")] | None = Field(
        None, description="Kaggle data set: owner/name or owner/name/version"
    )
    competition: Annotated[str, Field(pattern=r"^[\w-]+$")] | None = Field(
        None, description="Kaggle competition"
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        values = {"dataset": self.dataset, "competition": self.competition}
        received = [key for key, value in values.items() if value]
        if len(received) != 1:
            raise ValueError(
                "kind kaggle needs exactly one of: dataset, competition. "
                f"Received: {', '.join(received) or 'none'}"
            )
        return self


class Archive(ArchivedSource):
    """An archive."""

    kind: Literal["archive"] = Field(description=KINDS)
    archive: Text = Field(description="path or URL of a zip, tar or tar.gz file")


class Drive(ArchivedSource):
    """A folder of Google Drive, or the archive of one that was downloaded by hand."""

    kind: Literal["drive"] = Field(description=KINDS)
    drive: Text = Field(description="link or id of a Google Drive folder")


class Folder(BaseSource):
    """A folder of photos on this machine."""

    kind: Literal["folder"] = Field(description=KINDS)
    folder: Text = Field(description="path of a folder of photos")


class Sample(BaseSource):
    """Photos that are drawn by code."""

    kind: Literal["sample"] = Field(description=KINDS)
    seed: int = Field(0, ge=0, description="seed of the drawn sample")
    photos_per_class: int = Field(
        36, ge=8, le=2000, description="size of the drawn sample, in photos of its largest class"
    )


Source = Annotated[Kaggle | Archive | Drive | Folder | Sample, Field(discriminator="kind")]


class Clean(Section):
    """What counts as a duplicate or as unusable."""

    minimum_side: int = Field(16, ge=1, description="smallest height and width of a usable photo, in pixels")
    exclude: tuple[Flag, ...] = Field(
        (), description="flags whose photos are excluded, such as blurred; photos with other flags are kept"
    )
    embeddings: bool = Field(
        True,
        description="find near-duplicates, outliers and label issues by embeddings of a pretrained network "
        "too, not by perceptual hashes alone",
    )
    compare: tuple[str, ...] = Field(
        (),
        description="backbones to compare by the accuracy of a linear probe on their embeddings, such as "
        "MobileNetV2",
    )
    near_duplicate_bits: int = Field(
        6,
        ge=0,
        le=20,
        description="largest Hamming distance of the 64-bit perceptual hashes of near-duplicates, in bits",
    )
    near_duplicate_cosine: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="smallest cosine similarity of two embeddings for a pair to be aligned",
    )
    near_duplicate_correlation: float = Field(
        0.85,
        ge=0,
        le=1,
        description="smallest correlation after alignment for a pair to count as near-duplicates",
    )


class Split(Section):
    """The division into train, val and test; a split that the source fixes stays."""

    val: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.15,
        description="fraction of the photos for validation, which chooses checkpoint and temperature",
    )
    test: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.15, description="fraction of the photos held out for the headline; 0: none"
    )
    on_leak: Literal["drop", "keep"] = Field(
        "drop",
        description="whether to drop or keep val and test photos with a near-duplicate in another split "
        "that the source fixes",
    )


class AveragePooling(Section):
    """Global average pooling."""

    layer: Literal["average_pooling"] = Field(description=LAYERS)


class MaxPooling(Section):
    """Global max pooling."""

    layer: Literal["max_pooling"] = Field(description=LAYERS)


class Flatten(Section):
    """The whole feature map as one vector."""

    layer: Literal["flatten"] = Field(description=LAYERS)


class Dropout(Section):
    """Dropout, during training only."""

    layer: Literal["dropout"] = Field(description=LAYERS)
    rate: Annotated[float, Field(ge=0, lt=1)] = Field(description="fraction of the inputs that is dropped")


class Dense(Section):
    """A dense layer; the last one of the head has no `units`, and ends in softmax."""

    layer: Literal["dense"] = Field(description=LAYERS)
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
    def _activated_once(self) -> Self:
        if self.activation and not self.units:
            raise ValueError("a dense layer without units ends in softmax: it takes no `activation`")
        return self


class BatchNormalization(Section):
    """Batch normalization."""

    layer: Literal["batch_normalization"] = Field(description=LAYERS)


HeadLayer = Annotated[
    AveragePooling | MaxPooling | Flatten | Dropout | Dense | BatchNormalization,
    Field(discriminator="layer"),
]
HEAD: dict[str, HeadLayer] = {
    "pool": AveragePooling(layer="average_pooling"),
    "dropout": Dropout(layer="dropout", rate=0.25),
    "classes": Dense(layer="dense"),
}


class SimpleCNN(Section):
    """The small network `SimpleCNN`: blocks of convolution, ReLU and max-pooling."""

    blocks: int = Field(4, ge=1, le=8, description="number of blocks")
    filters: int = Field(32, ge=1, le=1024, description="filters of each block's convolution")
    kernel: int = Field(3, ge=1, le=11, description="height and width of the filters, in pixels")


class Model(Section):
    """The network."""

    backbone: str = Field(
        "EfficientNetLite0",
        description="EfficientNetLite0, SimpleCNN, ResNet18, ResNeXt101_32x8d, or any model of "
        "keras.applications",
    )
    simple_cnn: SimpleCNN = Field(SimpleCNN(), description="shape of the backbone SimpleCNN")
    weights: str | None = Field("imagenet", description="imagenet, a path, or null for random weights")
    image_size: int = Field(160, ge=32, le=1024, description="height and width of the input, in pixels")
    fit: Literal["crop", "squash", "pad"] = Field(
        "crop", description="how a photo becomes a square: centre crop, stretch, or black bars"
    )
    resize: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None,
        description="side to which photos are resized before the centre crop of image_size, in pixels; none: "
        "image_size",
    )
    scaling: Literal["backbone", "unit", "measured"] = Field(
        "backbone",
        description="preprocessing: as for the backbone's pretrained weights; division by 255; or "
        "standardization by the mean and standard deviation of the training photos",
    )
    most_parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="upper limit of the number of the network's parameters"
    )
    batch_normalization: Literal["inference", "train"] = Field(
        "inference", description="inference keeps the statistics of a pretrained backbone, train updates them"
    )
    head: dict[str, HeadLayer] = Field(HEAD, description="layers after the backbone, in order")

    @model_validator(mode="after")
    def _holds_the_input(self) -> Self:
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"`resize` must be at least `image_size`, {self.image_size}. Received: {self.resize}"
            )
        return self

    @model_validator(mode="after")
    def _ends_in_classes(self) -> Self:
        last = next(reversed(self.head.values()), None)
        if not isinstance(last, Dense) or last.units:
            raise ValueError(
                "the last layer of `head` must be a dense layer without units, which gets the classes"
            )
        return self


class Erasing(Section):
    """Random erasing: a rectangle of noise over a part of the photo."""

    probability: Fraction = Field(0.2, description="probability of a photo to be erased in part")
    smallest: Annotated[float, Field(gt=0, lt=1)] = Field(0.02, description="smallest fraction of the area")
    largest: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="largest fraction of the area")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(
                f"`smallest` must be at most `largest`. Received: {self.smallest} and {self.largest}"
            )
        return self


class Augment(Section):
    """Random changes to the training photos, drawn anew in each epoch; 0 turns one off."""

    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="smallest fraction of the area in a random crop, of aspect 3:4 to 4:3; 1: no crop"
    )
    flip: Literal["none", "horizontal", "both"] = Field(
        "horizontal", description="axes along which half of the photos are mirrored"
    )
    rotation: float = Field(15.0, ge=0, le=180, description="largest angle, in degrees")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest relative change of scale")
    translation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest shift, as a fraction of the size"
    )
    shear: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest shear: shift of a row as a fraction of its distance from the centre"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="largest relative change of contrast"
    )
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest change of brightness, as a fraction of the range of pixel values"
    )
    saturation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest relative change of saturation"
    )
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="largest rotation of the hue, as a fraction of the colour circle"
    )
    erasing: Erasing | None = Field(None, description="random erasing; null turns it off")
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp's Beta distribution")


class Optimizer(Section):
    """The optimizer of all stages."""

    kind: Literal["adamw", "adam", "sgd"] = Field("adamw", description="algorithm")
    weight_decay: float = Field(1.0e-4, ge=0, description="decoupled weight decay of adamw and sgd")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of sgd")

    @model_validator(mode="after")
    def _decay(self) -> Self:
        # The default is that of the other kinds; a record of the resolved parameters holds it too.
        default = type(self).model_fields["weight_decay"].default
        if self.kind == "adam" and self.weight_decay not in (0, default):
            raise ValueError("adam here has no weight_decay: use kind adamw")
        return self


class Stage(Section):
    """One stage of training."""

    trainable: Annotated[str, Field(pattern=TRAINABLE)] = Field(
        description="trainable part of the backbone: none, all, last 30 layers, last 40 %"
    )
    epochs: int = Field(ge=0, le=10000, description="largest number of epochs; 0 leaves the stage out")
    augment: bool = Field(
        True,
        description="whether to augment the photos; without, a head on a frozen backbone trains on "
        "embeddings, in seconds",
    )
    learning_rate: float = Field(gt=0, le=10, description="learning rate, or its initial value")
    schedule: Literal["constant", "cosine", "exponential"] = Field(
        "constant", description="schedule of the learning rate within the stage"
    )
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="factor of the learning rate per epoch, in an exponential schedule"
    )

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if (self.schedule == "exponential") != (self.decay is not None):
            raise ValueError(
                "`decay` belongs to an exponential schedule, and an exponential schedule needs it"
            )
        return self


class EarlyStopping(Section):
    """End a stage when the monitored value has stopped improving."""

    patience: int = Field(6, ge=1, description="epochs without an improvement")


class ReduceLearningRate(Section):
    """Lower the learning rate of a constant schedule when the monitored value has stopped improving."""

    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="factor of the learning rate")
    patience: int = Field(3, ge=1, description="epochs without an improvement")


STAGES = {
    "head": Stage(trainable="none", epochs=12, learning_rate=1.0e-3),
    "fine_tune": Stage(trainable="last 40 %", epochs=12, learning_rate=1.0e-4, schedule="cosine"),
}


class Train(Section):
    """The training of the network."""

    batch_size: int = Field(32, ge=1, le=4096, description="number of photos in a batch")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="probability that is spread evenly over all classes; 0: none"
    )
    class_weights: bool = Field(True, description="weight classes by the inverse of their number of photos")
    monitor: Literal["val_loss", "val_accuracy"] = Field(
        "val_loss",
        description="metric for the best weights, early stopping and the reduction of the learning rate",
    )
    optimizer: Optimizer = Field(Optimizer(), description="optimizer of all stages")
    stages: dict[str, Stage] = Field(STAGES, description="stages of training, in order")
    early_stopping: EarlyStopping | None = Field(
        EarlyStopping(), description="early end of a stage; null turns it off"
    )
    reduce_learning_rate: ReduceLearningRate | None = Field(
        None, description="reduction of the learning rate on a plateau; null turns it off"
    )
    resume_stages: list[str] = Field(
        [], description="stages to run once more on top of the finished training (make resume-<name>)"
    )

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if not any(stage.epochs for stage in self.stages.values()):
            raise ValueError("`stages` must name at least one stage with an epoch")
        if unknown := set(self.resume_stages) - set(self.stages):
            raise ValueError(
                f"`resume_stages` names {', '.join(sorted(unknown))}. Stages: {', '.join(self.stages)}"
            )
        return self


class Predictions(Section):
    """Name and columns of the file with the predictions for photos without labels."""

    file: CsvFile = Field("test_predictions.csv", description="name of the CSV file in the run's folder")
    filename: str = Field("filename", description="name of the column with the photos' file names")
    label: str = Field("label", description="name of the column with the predicted labels")
    confidence: str | None = Field(
        "confidence",
        description="name of the column with the probabilities of the predictions; null: no such column",
    )


class Evaluate(Section):
    """What the evaluation writes."""

    hardest: int = Field(
        20, ge=1, le=200, description="photos in the list and gallery of the hardest examples"
    )
    least_top_1: Fraction = Field(
        0.0, description="top-1 accuracy that the recipe is known to reach; the step fails below it"
    )
    predictions: Predictions = Field(
        Predictions(), description="file with the predictions for photos without labels"
    )
    test_time_augmentation: bool = Field(
        False, description="average the probabilities of several views of each photo"
    )


class GradCam(Section):
    """What the explanations show."""

    examples: int = Field(
        8, ge=1, le=64, description="correct, and also misclassified, photos in the grid of heatmaps"
    )
    masks: str | None = Field(
        None,
        description="folder or zip with a mask of the object (white) per photo, of the photo's name; a "
        "relative path starts at the source's folder",
    )
    photo: str | None = Field(None, description="path of another photo to explain")


class Dimension(Section):
    """One parameter that the search varies: between two numbers, or among choices."""

    parameter: str = Field(description="dotted key of the parameter, such as model.simple_cnn.filters")
    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="distance between two values; none: any value"
    )
    log: bool = Field(False, description="draw on a logarithmic scale, as suits learning rates")
    choices: list[int | float | str | bool] = Field([], description="values to choose among")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        interval = self.low is not None and self.high is not None
        if interval == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("a dimension needs either `low` and `high`, or `choices`")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"`low` must be at most `high`. Received: {self.low} and {self.high}")
        if self.log and (self.choices or self.step or self.low is None or self.low <= 0):
            raise ValueError("`log` needs `low` above 0, and neither `step` nor `choices`")
        return self


class Tune(Section):
    """The search for better parameters (make tune-<name>)."""

    trials: int = Field(20, ge=1, le=100_000, description="trials in all, those of earlier runs included")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="how values are drawn: by the results of the trials so far, or at random"
    )
    pruner: Literal["none", "median"] = Field(
        "median",
        description="when a trial ends early: never, or when it is worse than the median of the others",
    )
    storage: Annotated[str, Field(pattern=r"^[\w+]+://")] | None = Field(
        None,
        description="URL of a database that several machines share, also from the environment variable "
        "CHRYSALIS_STORAGE; none: a file in the run's folder",
    )
    changes: dict[str, Any] = Field(
        {}, description="changes of model, augment and train for all trials, such as fewer epochs"
    )
    space: dict[str, Dimension] = Field({}, description="dimensions of the search, by a short name")


class Compare(Section):
    """Runs side by side (make compare)."""

    runs: list[Name] = Field([], description="runs to compare; none: all that have been evaluated")
    ensemble: list[Name] = Field(
        [], description="runs whose probabilities are averaged; none: all on the photos of the best one"
    )
    test_time_augmentation: bool = Field(
        False,
        description="average the probabilities of several views of each photo in each network",
    )


class Params(Section):
    """All parameters of a run."""

    name: Name = Field(description="name of the parameter file")
    run: Name | None = Field(None, description="folder under outputs; default: the name")
    extends: Name | None = Field(None, description="parameter file whose values are the defaults of this one")
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
