"""The schema of the parameters: type, range, default and description of each key."""

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

RESERVED = ("data", "bench", "compare", "gpu_check")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
TRAINABLE = r"^(none|all|last [1-9]\d* layers|last \d+(\.\d+)? %)$"
KINDS = "source of the photos: kaggle, archive, drive, folder or sample"
LAYERS = "type of layer: average_pooling, max_pooling, flatten, dropout, dense or batch_normalization"
# The CSV files of a run and of its photos, which the file of the predictions must not replace.
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


# The backbones of lib.networks.backbones, which imports Keras, by name.
BACKBONES = (
    *("EfficientNetLite0", "ResNet18", "ResNeXt101_32x8d", "SimpleCNN"),
    *("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *("EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3"),
    *("EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7"),
    *("EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
    *("EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L", "InceptionResNetV2", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small", "NASNetLarge", "NASNetMobile"),
    *("ResNet50", "ResNet50V2", "ResNet101", "ResNet101V2", "ResNet152", "ResNet152V2"),
    *("VGG16", "VGG19", "Xception"),
)


def _known(name: str, info: ValidationInfo) -> str:
    # Only a user's parameters are validated with a context: code can register further backbones.
    if info.context and name not in info.context["backbones"]:
        near = difflib.get_close_matches(name.lower(), map(str.lower, BACKBONES), n=1, cutoff=0.4)
        nearest = next((known for known in BACKBONES if known.lower() in near), None)
        raise ValueError(f"no backbone has this name{f'; the nearest is {nearest}' if nearest else ''}")
    return name


def _unused(name: str) -> str:
    # On some disks, Manifest.csv and manifest.csv are the same file.
    if name.lower() in CSV_FILES:
        raise ValueError(f"expected a name that no other file of a run uses. In use: {', '.join(CSV_FILES)}")
    return name


def _is_layout(layout: str) -> str:
    parts = layout.strip("/").split("/")
    if parts.count("CLASS") != 1 or parts.count("SPLIT") > 1 or not all(parts):
        raise ValueError(
            "expected a pattern with CLASS once and SPLIT at most once, such as SPLIT/CLASS, CLASS/SPLIT, "
            "*/CLASS or CLASS"
        )
    return layout


def _known_encoding(name: str) -> str:
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        raise ValueError("expected an encoding of Python, such as utf-8, cp1252, cp932 or gb18030") from None
    return name


Backbone = Annotated[str, AfterValidator(_known)]
Name = Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)]
Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
# YAML reads the name of a folder such as 7 as a number.
Label = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
# YAML also reads the flags of a column as numbers or as true and false.
Cell = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) in (int, float, bool) else value)
]
Encoding = Annotated[str, AfterValidator(_known_encoding)]
SplitName = Literal["train", "val", "test"]
CsvFile = Annotated[str, Field(pattern=r"^\w[\w.-]*\.csv$"), AfterValidator(_unused)]
SplitFolders = Annotated[
    dict[str, Literal["train", "val", "test", "predict"]],
    BeforeValidator(lambda value: {} if value is False else value),
]
Flag = Literal["small", "elongated", "blurred", "dark", "overexposed", "uniform", "greyscale", "outlier"]


class Section(BaseModel):
    """A section of the parameters. It is immutable and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Table(Section):
    """A CSV file that lists photos.

    A name in the table can be a path or only its end, with or without the suffix, in other case, with `\\` or
    from another machine, if only one file matches it.
    """

    file: str = Field(description="path of the CSV file, relative to the source")
    photos: Annotated[
        list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
    ] = Field(
        [],
        description="folder or folders of the photos in the table, relative to the source; if empty, the "
        "source",
    )
    filename: str = Field("filename", description="name of the column with the file names")
    label: str | None = Field(
        None,
        description="name of the column with the labels; if null, and `labels` is empty, the photos are only "
        "predicted",
    )
    labels: list[Label] = Field(
        [],
        description="names of columns with 0 and 1 instead of the column `label`, one per class (one-hot); "
        "the names are the labels",
    )
    split: SplitName | None = Field(
        None,
        description="split of all photos in the table; if null, see `split_column` and the section split",
    )
    split_column: Annotated[str | None, BeforeValidator(lambda value: "" if value is False else value)] = (
        Field(
            None,
            description="name of the column with the splits; if null, the column whose values are all names "
            "of splits, such as train, Testing or holdout, if there is one; if false, no column",
        )
    )
    split_values: dict[Cell, SplitName] = Field(
        {},
        description="split of each value of `split_column`, such as {0: train, 1: test}; if empty, the "
        "values are names of splits",
    )
    encoding: Encoding | None = Field(
        None,
        description="encoding of the file, such as cp1252 or cp932; if null, UTF-8 or UTF-16, or else "
        "Windows-1252",
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="character between two cells; if null, comma, semicolon, tab or vertical bar, as "
        "detected from the file",
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if self.label and self.labels:
            raise ValueError("expected the column `label` or the columns `labels`. Received: both")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` must be two or more different names of columns, one per class")
        if self.split and self.split_column:
            raise ValueError("expected `split` or `split_column`. Received: both")
        if self.split_values and not self.split_column:
            raise ValueError("`split_values` needs `split_column`, the name of the column with these values")
        return self


class BaseSource(Section):
    """The keys of every kind of source."""

    kind: str
    name: Name | None = Field(
        None, description="folder of the photos under outputs/data; if null, the name of the parameter file"
    )
    licence: str | None = Field(None, description="licence of the photos, to be recorded in source.json")
    tables: dict[str, Table] = Field(
        {}, description="CSV files with the labels, by name; if empty, the folders are the labels"
    )
    class_names: str | None = Field(
        None, description="JSON file in the source with a readable name for each label; if null, the label"
    )
    classes: list[Label] = Field([], description="labels of the classes to use; if empty, all classes")
    layout: Annotated[str, AfterValidator(_is_layout)] | None = Field(
        None,
        description="levels of the folders, such as `SPLIT/CLASS`, `CLASS/SPLIT`, `*/CLASS` or `CLASS`, from "
        "the source's folder; `*` is any folder; if null, decided from all paths together",
    )
    splits: SplitFolders | None = Field(
        None,
        description="split (train, val, test or predict) of each folder by name or pattern; false to read no "
        "splits; if null, from usual names such as training or images_val",
    )
    unlabelled: list[Text] | None = Field(
        None,
        description="folders or files of photos without labels, as patterns like those of source.ignore; if "
        "null, folders with names such as unlabelled, unknown or predict",
    )
    ignore: list[Text] = Field(
        [],
        description="files and folders to leave out, such as `*_mask.png`: a pattern without `/` matches a "
        "name at any depth, with `/` a path in the source; `**` is any number of folders",
    )


class ArchivedSource(BaseSource):
    """The keys of a source whose photos can come from an archive."""

    archive: Text | None = Field(
        None,
        description="path or URL of a zip or tar (plain, tar.gz, tar.bz2 or tar.xz) to use instead of a "
        "download",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the archive, in hexadecimal digits; required if the archive is a URL"
    )
    name_encoding: Encoding | None = Field(
        None,
        description="encoding of the file names in the archive, such as cp932 or gb18030, if they are not in "
        "UTF-8; if null, cp437 in a zip and Latin-1 in a tar",
    )

    @model_validator(mode="after")
    def _check_sha256(self) -> Self:
        if self.archive and re.match(r"https?://", self.archive) and not self.sha256:
            raise ValueError("an archive from a URL needs `sha256`, to check the downloaded file")
        return self


class Kaggle(ArchivedSource):
    """A data set or competition on Kaggle, or an archive of it."""

    kind: Literal["kaggle"] = Field(description=KINDS)
    dataset: Annotated[str, Field(pattern=r"^[\w-]+/[\w.-]+(/\d+)?$")] | None = Field(
        None, description="Kaggle data set, as owner/name or owner/name/version"
    )
    competition: Annotated[str, Field(pattern=r"^[\w-]+$")] | None = Field(
        None, description="Kaggle competition, as in its URL; its rules must be accepted on Kaggle first"
    )

    @model_validator(mode="after")
    def _check_origin(self) -> Self:
        values = {"dataset": self.dataset, "competition": self.competition}
        received = [key for key, value in values.items() if value]
        if len(received) != 1:
            raise ValueError(
                "kind kaggle needs exactly one of: dataset, competition. "
                f"Received: {', '.join(received) or 'none'}"
            )
        return self


class Archive(ArchivedSource):
    """An archive on this machine or at a URL."""

    kind: Literal["archive"] = Field(description=KINDS)
    archive: Text = Field(description="path or URL of a zip or tar (plain, tar.gz, tar.bz2 or tar.xz)")


class Drive(ArchivedSource):
    """A folder on Google Drive, or an archive of it."""

    kind: Literal["drive"] = Field(description=KINDS)
    drive: Text = Field(description="link or ID of a Google Drive folder that anyone with the link can view")


class Folder(BaseSource):
    """A folder of photos on this machine."""

    kind: Literal["folder"] = Field(description=KINDS)
    folder: Text = Field(description="path of the folder with the photos")


class Sample(BaseSource):
    """Synthetic photos of butterflies, drawn by this project."""

    kind: Literal["sample"] = Field(description=KINDS)
    seed: int = Field(0, ge=0, description="seed of the synthetic photos")
    photos_per_class: int = Field(36, ge=8, le=2000, description="number of photos in the largest class")


Source = Annotated[Kaggle | Archive | Drive | Folder | Sample, Field(discriminator="kind")]


class Clean(Section):
    """The detection of duplicates, outliers, label issues and unusable photos."""

    minimum_side: int = Field(
        16, ge=1, description="minimum height and width of a photo, in pixels; smaller photos are excluded"
    )
    exclude: tuple[Flag, ...] = Field(
        (), description="quality flags whose photos are excluded; photos with other flags are kept"
    )
    embeddings: bool = Field(
        True,
        description="whether to use embeddings of a pretrained network, for near-duplicates that perceptual "
        "hashes miss, outliers and label issues",
    )
    compare: tuple[Backbone, ...] = Field(
        (),
        description="backbones to compare by the accuracy of a linear probe on their embeddings, such as "
        "MobileNetV2",
    )
    near_duplicate_bits: int = Field(
        6, ge=0, le=20, description="maximum Hamming distance of the 64-bit perceptual hashes of two photos"
    )
    near_duplicate_cosine: float = Field(
        0.5, ge=-1, le=1, description="minimum cosine similarity of embeddings to compare photos by alignment"
    )
    near_duplicate_correlation: float = Field(
        0.85, ge=0, le=1, description="minimum correlation of near-duplicates after alignment"
    )


class Split(Section):
    """The division into train, val and test. Splits that the source defines are kept."""

    val: float = Field(
        0.15, gt=0, lt=0.5, description="fraction of photos for validation, which selects the best weights"
    )
    test: float = Field(
        0.15, ge=0, lt=0.5, description="fraction of photos held out for the final test; 0 for no test split"
    )
    group: Text | None = Field(
        None,
        description="groups of photos, such as patients or cameras, that stay in one split: a column of the "
        r"tables, or a regular expression for the path with one group, such as patient(\d+)_; null for none",
    )
    on_leak: Literal["drop", "keep"] = Field(
        "drop",
        description="whether to drop or keep val and test photos with a near-duplicate or members of their "
        "group in another split, if the source defines the splits",
    )

    @field_validator("group")
    @classmethod
    def _check_group(cls, group: str | None) -> str | None:
        # Without a parenthesis, it is the name of a column.
        if group and "(" in group:
            try:
                count = re.compile(group).groups
            except re.error as error:
                raise ValueError(f"expected a column or a regular expression: {error}") from None
            if count != 1:
                raise ValueError(f"expected a column, or one group in parentheses. Found: {count} groups")
        return group


class AveragePooling(Section):
    """Global average pooling."""

    layer: Literal["average_pooling"] = Field(description=LAYERS)


class MaxPooling(Section):
    """Global max pooling."""

    layer: Literal["max_pooling"] = Field(description=LAYERS)


class Flatten(Section):
    """Flattening of the feature map to a vector."""

    layer: Literal["flatten"] = Field(description=LAYERS)


class Dropout(Section):
    """Dropout."""

    layer: Literal["dropout"] = Field(description=LAYERS)
    rate: Ratio = Field(description="fraction of the inputs that is dropped during training")


class Dense(Section):
    """A dense layer. The last layer of the head has no `units`: it outputs the classes, with softmax."""

    layer: Literal["dense"] = Field(description=LAYERS)
    units: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of units; if null, the number of classes, with softmax"
    )
    activation: Literal["relu", "gelu", "swish", "tanh"] | None = Field(
        None, description="activation of a layer with units; if null, linear"
    )
    l2: Annotated[float, Field(ge=0)] | None = Field(
        None, description="L2 regularization factor of the weights; if null, no regularization"
    )

    @model_validator(mode="after")
    def _check_activation(self) -> Self:
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
    """The architecture of the backbone `SimpleCNN`: blocks of convolution, ReLU and max pooling."""

    blocks: int = Field(4, ge=1, le=8, description="number of blocks; each halves height and width")
    filters: int = Field(32, ge=1, le=1024, description="number of filters in each convolution")
    kernel: int = Field(3, ge=1, le=11, description="height and width of the kernels, in pixels")


class Model(Section):
    """The network: preprocessing, backbone and head."""

    backbone: Backbone = Field(
        "EfficientNetLite0",
        description="EfficientNetLite0, SimpleCNN, ResNet18, ResNeXt101_32x8d or a model of "
        "keras.applications, such as MobileNetV2",
    )
    simple_cnn: SimpleCNN = Field(SimpleCNN(), description="architecture of the backbone SimpleCNN")
    weights: str | None = Field(
        "imagenet",
        description="backbone weights: imagenet, path of a file, or null for random initialization",
    )
    image_size: int = Field(160, ge=32, le=1024, description="height and width of the input, in pixels")
    fit: Literal["crop", "stretch", "pad"] = Field(
        "crop",
        description="how photos are resized to squares: crop keeps the centre, stretch changes the aspect "
        "ratio, pad adds black borders",
    )
    resize: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None, description="side of the square before the crop to image_size, in pixels; if null, image_size"
    )
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None = Field(
        None,
        description="bit depth of PNG and TIFF photos with more than 8 bits, which are scaled to 8: 12 makes "
        "4,095, and larger values, white; if null, the number of bits of the largest value in the source",
    )
    scaling: Literal["backbone", "unit", "measured"] = Field(
        "backbone",
        description="scaling of the pixel values: backbone as for the pretrained weights, unit divides by "
        "255, measured standardizes with the mean and standard deviation of the training photos",
    )
    max_parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="maximum number of parameters of the network; if null, no limit"
    )
    batch_normalization: Literal["inference", "train"] = Field(
        "inference",
        description="mode of a pretrained backbone's batch normalization: inference keeps its statistics, "
        "train updates them",
    )
    head: dict[str, HeadLayer] = Field(
        HEAD,
        description="layers after the backbone by name, in order; a file that does not define a complete "
        "head changes the default layers",
    )

    @model_validator(mode="after")
    def _check_resize(self) -> Self:
        if self.resize and self.resize < self.image_size:
            raise ValueError(
                f"`resize` must be at least `image_size`, {self.image_size}. Received: {self.resize}"
            )
        return self

    @model_validator(mode="after")
    def _check_last_layer(self) -> Self:
        last = next(reversed(self.head.values()), None)
        if not isinstance(last, Dense) or last.units:
            raise ValueError("the last layer of `head` must be a dense layer without units, for the classes")
        return self


class Erasing(Section):
    """Random erasing: a rectangle of noise over a part of the photo."""

    probability: Fraction = Field(0.2, description="probability of erasing a rectangle of a photo")
    min_area: float = Field(0.02, gt=0, lt=1, description="minimum area, as a fraction of the photo")
    max_area: float = Field(0.1, gt=0, lt=1, description="maximum area, as a fraction of the photo")

    @model_validator(mode="after")
    def _check_areas(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(
                f"`min_area` must be at most `max_area`. Received: {self.min_area} and {self.max_area}"
            )
        return self


class Augment(Section):
    """The random augmentation of the training photos, different in each epoch; 0 turns an operation off."""

    crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="minimum area of a random crop, as a fraction of the photo; its aspect ratio is 3:4 "
        "to 4:3; 1 turns it off",
    )
    flip: Literal["none", "horizontal", "both"] = Field(
        "horizontal",
        description="random flips: none, horizontal, or both for horizontal and vertical; none is needed if "
        "classes are mirror images of each other, such as left and right arrows",
    )
    rotation: float = Field(15.0, ge=0, le=180, description="maximum rotation angle, in degrees")
    zoom: Ratio = Field(0.15, description="maximum change of scale, such as 0.15 for 15 %")
    translation: Ratio = Field(0.1, description="maximum shift along each axis, as a fraction of the size")
    shear: Ratio = Field(0.0, description="maximum shift of a row, relative to its distance from the centre")
    contrast: Ratio = Field(0.2, description="maximum relative change of contrast")
    brightness: Ratio = Field(0.1, description="maximum relative change of brightness")
    saturation: Ratio = Field(0.0, description="maximum relative change of saturation")
    hue: float = Field(0.0, ge=0, le=0.5, description="maximum shift, as a fraction of the full hue circle")
    erasing: Erasing | None = Field(None, description="random erasing; null turns it off")
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp's beta distribution; 0 turns it off")


class Optimizer(Section):
    """The optimizer of all stages."""

    kind: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="type of optimizer: adamw, adam or sgd"
    )
    weight_decay: float = Field(
        1.0e-4, ge=0, description="weight decay: decoupled for adamw, L2 for sgd; adam takes none"
    )
    momentum: Ratio = Field(0.9, description="momentum of sgd")

    @model_validator(mode="after")
    def _check_weight_decay(self) -> Self:
        # A record of resolved parameters contains the default for every kind.
        default = type(self).model_fields["weight_decay"].default
        if self.kind == "adam" and self.weight_decay not in (0, default):
            raise ValueError("adam takes no `weight_decay`: use kind adamw")
        return self


class Stage(Section):
    """A stage of training."""

    trainable: Annotated[str, Field(pattern=TRAINABLE)] = Field(
        description="trainable layers of the backbone: none, all, last N layers (such as last 30 layers) or "
        "last N % (such as last 40 %)"
    )
    epochs: int = Field(ge=0, le=10000, description="maximum number of epochs; 0 skips the stage")
    augment: bool = Field(
        True,
        description="whether to augment the photos; if false and the backbone is frozen, the head trains on "
        "embeddings, in seconds",
    )
    learning_rate: float = Field(gt=0, le=10, description="initial learning rate")
    schedule: Literal["constant", "cosine", "exponential"] = Field(
        "constant", description="schedule of the learning rate within the stage"
    )
    decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="multiplier of the learning rate per epoch; required if the schedule is exponential"
    )

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        if (self.schedule == "exponential") != (self.decay is not None):
            raise ValueError(
                "`decay` is required if the schedule is exponential, and not allowed otherwise. "
                f"Received: schedule {self.schedule}, decay {self.decay}"
            )
        return self


class EarlyStopping(Section):
    """Early stopping of a stage, if the monitored metric no longer improves."""

    patience: int = Field(6, ge=1, description="epochs without improvement after which the stage stops")


class ReduceLearningRate(Section):
    """Reduction of a constant learning rate, if the monitored metric no longer improves."""

    factor: float = Field(0.5, gt=0, lt=1, description="factor by which the learning rate is multiplied")
    patience: int = Field(3, ge=1, description="epochs without improvement after which the rate is reduced")


STAGES = {
    "head": Stage(trainable="none", epochs=12, learning_rate=1.0e-3),
    "fine_tune": Stage(trainable="last 40 %", epochs=12, learning_rate=1.0e-4, schedule="cosine"),
}


class Train(Section):
    """The training of the network."""

    batch_size: int = Field(32, ge=1, le=4096, description="number of photos in a batch")
    label_smoothing: Ratio = Field(
        0.1, description="probability that is spread evenly over all classes; 0 for no label smoothing"
    )
    class_weights: bool = Field(
        True, description="whether to weight classes by the inverse of their number of photos"
    )
    monitor: Literal["val_loss", "val_accuracy"] = Field(
        "val_loss",
        description="metric that selects the best weights and controls early stopping and the reduction of "
        "the learning rate",
    )
    optimizer: Optimizer = Field(Optimizer(), description="optimizer of all stages")
    stages: dict[str, Stage] = Field(
        STAGES,
        description="stages of training by name, in order; a file that does not define complete stages "
        "changes the default stages",
    )
    early_stopping: EarlyStopping | None = Field(
        EarlyStopping(), description="early stopping of a stage; null turns it off"
    )
    reduce_learning_rate: ReduceLearningRate | None = Field(
        None,
        description="reduction of the learning rate on a plateau, in stages with a constant schedule; a "
        "stage with a cosine or exponential schedule ignores it; null turns it off",
    )
    resume_stages: list[str] = Field(
        [], description="stages to train again after a finished training; set by make resume-<name>"
    )
    views: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="number of augmented views of each photo, which a frozen, pretrained backbone embeds "
        "once; epoch e trains the head on view e mod views; if null, each epoch draws new augmentation",
    )

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if not any(stage.epochs for stage in self.stages.values()):
            raise ValueError("`stages` must contain at least one stage with an epoch")
        if unknown := set(self.resume_stages) - set(self.stages):
            raise ValueError(
                f"`resume_stages` must be names of stages: {', '.join(self.stages)}. "
                f"Received: {', '.join(sorted(unknown))}"
            )
        return self


class Predictions(Section):
    """The CSV file with the predictions of the photos without labels."""

    file: CsvFile = Field("test_predictions.csv", description="name of the CSV file in the run's folder")
    filename: str = Field("filename", description="name of the column with the file names")
    label: str = Field("label", description="name of the column with the predicted labels")
    confidence: str | None = Field(
        "confidence",
        description="name of the column with the probabilities of the predicted labels; null leaves it out",
    )
    template: str | None = Field(
        None,
        description="path of a CSV file in the source, such as sample_submission.csv, with the columns and "
        "rows to fill; columns named like classes get probabilities; if null, all photos without labels",
    )


class Evaluate(Section):
    """The evaluation of the network."""

    hardest: int = Field(20, ge=1, le=200, description="number of hardest examples to list and plot")
    min_top_1: Fraction = Field(
        0.0, description="minimum top-1 accuracy on the headline split; the step fails if it is lower"
    )
    predictions: Predictions = Field(
        Predictions(), description="CSV file with the predictions of the photos without labels"
    )
    test_time_augmentation: bool = Field(
        False, description="whether to average the probabilities over several views of each photo"
    )


class GradCam(Section):
    """The explanations by Grad-CAM."""

    examples: int = Field(
        8, ge=1, le=64, description="number of correct and of misclassified photos in the grid of heatmaps"
    )
    masks: str | None = Field(
        None,
        description="folder or zip of object masks (white on black), named like their photos; a relative "
        "path starts in the source's folder; if null, no comparison with masks",
    )
    photo: str | None = Field(
        None, description="path of a photo to explain; if null, the first photo in the manifest"
    )


class Dimension(Section):
    """A dimension of the search space: either `low` and `high`, or `choices`."""

    parameter: str = Field(description="dotted key of the parameter, such as model.simple_cnn.filters")
    low: float | None = Field(None, description="minimum value")
    high: float | None = Field(None, description="maximum value")
    step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="distance between two values; if null, 1 for integers, and continuous for floats"
    )
    log: bool = Field(False, description="whether to sample on a logarithmic scale, as for learning rates")
    choices: list[int | float | str | bool] = Field([], description="values to choose from")

    @model_validator(mode="after")
    def _check_values(self) -> Self:
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

    trials: int = Field(
        20, ge=1, le=100_000, description="total number of trials, including those of earlier runs"
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="sampler: tpe (tree-structured Parzen estimator) or random"
    )
    pruner: Literal["none", "median"] = Field(
        "median",
        description="pruner: none, or median to stop trials that are worse than the median of earlier trials",
    )
    storage: Annotated[str, Field(pattern=r"^[\w+]+://")] | None = Field(
        None,
        description="URL of a database that several machines share; can also be set in CHRYSALIS_STORAGE; if "
        "null, a file in the run's folder",
    )
    changes: dict[str, Any] = Field(
        {}, description="overrides of model, augment and train for all trials, such as fewer epochs"
    )
    space: dict[str, Dimension] = Field({}, description="dimensions of the search space by name")


class Compare(Section):
    """The comparison of runs (make compare)."""

    runs: list[Name] = Field([], description="runs to compare; if empty, all runs with an evaluation")
    ensemble: list[Name] = Field(
        [],
        description="runs whose probabilities are averaged; if empty, all runs with the same photos and "
        "classes as the best run",
    )
    test_time_augmentation: bool = Field(
        False,
        description="whether each network of the ensemble averages its probabilities over several views of "
        "each photo",
    )


class Params(Section):
    """All parameters of a run."""

    name: Name = Field(description="name of the parameter file, without .yaml")
    run: Name | None = Field(None, description="folder of the run under outputs; if null, the name")
    extends: Name | None = Field(
        None, description="parameter file whose values are the defaults of this file; if null, no file"
    )
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

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.split.group and "(" not in self.split.group and not self.source.tables:
            raise ValueError(
                "`split.group` is the name of a column, but the source has no `tables`. Expected: a regular "
                f"expression with one group in parentheses. Received: {self.split.group!r}"
            )
        return self

    @model_validator(mode="after")
    def _check_batch_size(self) -> Self:
        if self.train.batch_size < self.smallest_batch:
            raise ValueError(
                "`train.batch_size` must be at least 2 if `model.head` contains batch normalization, which "
                "learns nothing from a single photo. Received: 1"
            )
        return self

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        stage = next(stage for stage in self.train.stages.values() if stage.epochs)
        pretrained = self.model.weights is not None and self.model.scaling != "measured"
        first = next(iter(self.model.head.values())).layer
        reduces = first in ("average_pooling", "max_pooling", "flatten")
        if self.train.views and not (stage.trainable == "none" and pretrained and reduces):
            raise ValueError(
                "`train.views` needs a first stage with `trainable: none`, pretrained weights, a scaling "
                "other than measured, and a head that begins with pooling or flatten. Set it to null"
            )
        return self

    @property
    def smallest_batch(self) -> int:
        """Minimum number of photos in a batch: 2 if the head contains batch normalization."""
        return 2 if any(layer.layer == "batch_normalization" for layer in self.model.head.values()) else 1

    @property
    def run_name(self) -> str:
        """Name of the run's folder under outputs."""
        return self.run or self.name
