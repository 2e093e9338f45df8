"""The parameters of a run: their schema, and the one loader that reads them.

A file `params/<name>.yaml` is laid over the file that it extends, what a notebook or the command
line gives is laid over that, and the result is checked once, whole, before any work.
"""

import difflib
import json
import os
import re
import shlex
from collections.abc import Mapping
from functools import reduce
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal, get_args

import pandas as pd
import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "params"
RESERVED = ("data", "bench", "compare")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"

Name = Annotated[str, Field(pattern=rf"^{NAME}$", max_length=64)]
Fraction = Annotated[float, Field(ge=0, le=1)]
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
    near_duplicate_bits: int = Field(
        6,
        ge=0,
        le=20,
        description="photos whose 64-bit perceptual hashes differ in at most so many bits are near-duplicates",
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


class Model(Section):
    """The network."""

    backbone: str = Field(
        "EfficientNetLite0", description="EfficientNetLite0, or any model of keras.applications"
    )
    weights: str | None = Field("imagenet", description="imagenet, a path, or null for random weights")
    image_size: int = Field(160, ge=32, le=1024, description="height and width of the input, in pixels")
    fit: Literal["crop", "squash", "pad"] = Field(
        "crop", description="how a photo becomes a square: centre crop, change of aspect, or black bars"
    )
    scaling: Literal["backbone", "unit"] = Field(
        "backbone", description="what the backbone's weights were trained with, or pixels divided by 255"
    )
    batch_normalization: Literal["inference", "train"] = Field(
        "inference", description="whether a pretrained backbone keeps its statistics"
    )
    head: dict[str, HeadLayer | None] = Field(HEAD, description="layers after the backbone, in order")

    @model_validator(mode="after")
    def _ends_in_classes(self):
        layers = [layer for layer in self.head.values() if layer]
        if not layers or layers[-1].layer != "dense" or layers[-1].units:
            raise ValueError(
                "the last layer of `head` must be a dense layer without units, which gets the classes"
            )
        return self


class Augment(Section):
    """Random changes to the training photos, drawn anew in each epoch; 0 turns one off."""

    flip: Literal["none", "horizontal", "both"] = Field("horizontal", description="mirror half of the photos")
    rotation: float = Field(15.0, ge=0, le=180, description="largest angle, in degrees")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.15, description="largest change of scale, as a share")
    translation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest shift, as a share of the size"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2, description="largest change of contrast, as a share"
    )
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="largest change of brightness, as a share of the range"
    )
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
    learning_rate: float = Field(gt=0, le=10, description="learning rate, or its start")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="course of the rate within the stage"
    )


class EarlyStopping(Section):
    """End a stage when the monitored value has stopped improving."""

    patience: int = Field(6, ge=1, description="epochs without a better value")


class ReduceLearningRate(Section):
    """Lower the rate when the monitored value has stopped improving."""

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
        if not stages:
            raise ValueError("`stages` must name at least one stage")
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
    predictions: Predictions = Predictions()


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

    @property
    def run_name(self) -> str:
        """Name of the run's folder under outputs."""
        return self.run or self.name


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: no tags, anchors or duplicate keys, and `1e-4` is a number."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent) or getattr(self.peek_event(), "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not used here", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.MarkedYAMLError(
                problem=f"the key `{twice[0]}` stands twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def names() -> list[str]:
    """Return the names of the parameter files, sorted; the template is not one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "template")


def read(path: Path) -> dict:
    """Read one YAML file of parameters, unchecked.

    Raises:
        FileNotFoundError: there is no such file; the message lists those there are.
        ValueError: the file is not valid YAML, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {_short(path)}. Parameter files: {', '.join(names()) or 'none'}. "
            "For photos of your own, copy params/template.yaml"
        )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{_short(path)} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{_short(path)} must be a mapping with `name` and `source`. Received: {type(data).__name__}"
        )
    return data


def merge(base: Mapping, over: Mapping) -> dict:
    """Lay one nested mapping over another: mappings are merged key by key, other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load(name: str, overrides: Mapping | None = None, origin: str = "the overrides") -> Params:
    """Load `params/<name>.yaml`, lay overrides over it and check the whole.

    Args:
        name: name of the parameter file.
        overrides: nested values that win over the file's; `None` values on the top level are ignored.
        origin: what to call the overrides in messages.

    Returns:
        The frozen parameters, every default filled in.

    Raises:
        FileNotFoundError: there is no such file, or none that it extends.
        ValueError: an unknown key, a wrong type, a value out of range, a name that is not the
            file's. The message says where, what was expected and what was received.
    """
    if not re.fullmatch(NAME, str(name)):
        raise ValueError(
            f"`name` must be the name of a file in params/: letters, digits, - and _. Received: {name!r}"
        )
    files = _chain(name)
    given = {
        key: _numbers(value) if isinstance(value, Mapping) else value
        for key, value in (overrides or {}).items()
        if value is not None
    }
    over = [("the command line", _environment()), (origin, given)]
    data = _named_defaults(reduce(merge, (values for _, values in files)))
    data = _without_removed(reduce(merge, (values for _, values in over), data))
    if isinstance(data.get("source"), Mapping):  # recipes that extend one file share its photos
        data["source"] = {"name": files[0][1]["name"], **data["source"]}
    try:
        params = Params.model_validate_json(json.dumps(data, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise ValueError(
            "\n".join(_explain(problem, [*files, *over]) for problem in error.errors())
        ) from None
    for field, value in (("name", params.name), ("run", params.run_name)):
        if value in RESERVED:
            raise ValueError(f"`{field}` must not be {value}: the names {', '.join(RESERVED)} are reserved")
    return params


def resolve(cell: Mapping) -> Params:
    """Resolve the values of a notebook's parameters cell.

    Args:
        cell: the notebook's variables (`vars()`): `name` says which file, every other parameter is
            `None` (as in the file) or laid over the file's value.

    Returns:
        The frozen parameters.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    overrides = {key: cell.get(key) for key in Params.model_fields if key != "extends"}
    return load(cell["name"], overrides, origin="the notebook's parameters cell")


def parse_assignments(text: str) -> dict:
    """Turn `"train.batch_size=16 model.fit=pad"` into nested overrides.

    Values are read as YAML; quotes keep spaces in a value together.

    Raises:
        ValueError: a part is not `key=value`.
    """
    result = {}
    try:
        parts = shlex.split(text or "")
    except ValueError:
        raise ValueError(
            f"SET takes key=value pairs such as train.batch_size=16. Received: a quote that is not closed, in {text!r}"
        ) from None
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(rf"{NAME}(\.{NAME})*", key):
            raise ValueError(f"SET takes key=value pairs such as train.batch_size=16. Received: {part!r}")
        try:
            nested = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError:
            nested = value
        for step in reversed(key.split(".")):
            nested = {step: nested}
        result = merge(result, nested)
    return result


def pick(params: Params, key: str):
    """Return the plain value at a dotted key, such as `model.image_size`, as `public` shows it."""
    return reduce(lambda values, part: values[part], key.split("."), public(params))


def table(params: Params, *keys: str) -> pd.DataFrame:
    """List the resolved values of some sections or keys, one row each, for a reader; what is null or empty is left out.

    Args:
        params: the parameters.
        keys: dotted keys, such as `split` or `model.image_size`.

    Returns:
        A table with the index `parameter` (dotted key) and the columns `value` and `meaning`.
    """
    rows = [row for key in keys for row in _rows(key, pick(params, key), _walk(key.split("."))[1])]
    return pd.DataFrame(rows, columns=["parameter", "value", "meaning"]).set_index("parameter")


def public(params: Params) -> dict:
    """Return the parameters as plain values in which paths outside the project are cut to their last part.

    What is written beside a result or shown in a report must not carry a user's name or folders.
    """
    return _cut(json.loads(params.model_dump_json()))


def find_file(text: str) -> Path:
    """Return the path that a user typed: `~` expanded; relative to the current folder, else to the project's."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() else ROOT / path


def _short(path: Path) -> str:
    return f"params/{path.name}" if path.parent == FOLDER else path.name


def _cut(value):
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    if isinstance(value, str) and (value.startswith(("/", "~", "../")) or re.match(r"[A-Za-z]:\\", value)):
        return PureWindowsPath(value).name  # it takes both kinds of slashes
    return value


def _chain(name: str) -> list[tuple[str, dict]]:
    """Return the file and those that it extends as (origin, values), the outermost base first."""
    chain, seen = [], []
    while name:
        if name in seen:
            raise ValueError(f"params/{name}.yaml extends itself: {' -> '.join([*seen, name])}")
        seen.append(name)
        data = read(FOLDER / f"{name}.yaml")
        if data.get("name") != name:
            raise ValueError(
                f"params/{name}.yaml: `name` must be the file's name, {name}. Received: {data.get('name')!r}"
            )
        chain.insert(0, (f"params/{name}.yaml", data))
        name = data.get("extends")
        if name is not None and not re.fullmatch(NAME, str(name)):
            raise ValueError(f"{chain[0][0]}: `extends` must name a file in params/. Received: {name!r}")
    return chain


def _environment() -> dict:
    """Return what the command line gives as files: paths stay out of the notebooks' cells."""
    values = {}
    if archive := os.environ.get("CHRYSALIS_ARCHIVE"):
        values["source"] = {"archive": archive}
    if weights := os.environ.get("CHRYSALIS_WEIGHTS"):
        values["model"] = {"weights": weights}
    return values


def _named_defaults(data: dict) -> dict:
    """Write the default layers and stages out where the files give none, so that `SET=` can change one key of one."""
    for section, key, defaults in (("model", "head", HEAD), ("train", "stages", STAGES)):
        if isinstance(data.get(section, {}), Mapping):
            written = {name: item.model_dump(exclude_defaults=True) for name, item in defaults.items()}
            data = {**data, section: {key: written, **data.get(section, {})}}
    return data


def _without_removed(data: dict) -> dict:
    """Leave out the named layers, stages and tables that were set to null."""
    for section, key in (("model", "head"), ("train", "stages"), ("source", "tables")):
        named = data[section].get(key) if isinstance(data.get(section), Mapping) else None
        if isinstance(named, Mapping):
            kept = {name: item for name, item in named.items() if item is not None}
            data = {**data, section: {**data[section], key: kept}}
    return data


def _numbers(value):
    """Turn `"1e-4"`, which papermill's YAML reads as a string, into the number that it is."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _explain(problem: dict, layers: list) -> str:
    """Say in one line where a value is wrong, what was expected and what was received."""
    path = [str(part) for part in problem["loc"]]
    where = next((origin for origin, values in reversed(layers) if _holds(values, path)), layers[-3][0])
    key = ".".join(path) or "the parameters"
    if problem["type"] == "extra_forbidden":
        allowed = _keys(path[:-1])
        near = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return f"{where}: unknown key `{key}`.{hint} Allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"{where}: `{key}` is missing. {_meaning(path)}".rstrip()
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    received = "" if isinstance(problem["input"], dict) else f". Received: {problem['input']!r}"
    meaning = _meaning(path)
    return f"{where}: `{key}` is wrong: {message}{received}{f' ({meaning})' if meaning else ''}"


def _holds(values, path) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return bool(path)


def _sections(annotation) -> list:
    """Return the section classes in a type: itself, or those inside a union or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _walk(path):
    """Return the section class that a path of keys leads to, and the last field on the way."""
    model, field, named = Params, None, False
    for part in path:
        if named:  # a name that the user chose, inside a mapping of sections
            named = False
            continue
        field = model.model_fields.get(part) if model else None
        inner = _sections(field.annotation) if field else []
        model = inner[0] if inner else None
        named = bool(inner) and "dict[" in str(field.annotation)
    return model, field


def _keys(path) -> list[str]:
    model, _ = _walk(path)
    return list(model.model_fields) if model else []


def _meaning(path) -> str:
    _, field = _walk(path)
    return (field.description or "") if field else ""


def _rows(key, value, field):
    if value in (None, {}, []):
        return []
    if not isinstance(value, dict):
        return [(key, value, field.description or "")]
    rows, inner = [], _sections(field.annotation)[0]
    for name, item in value.items():
        if name in inner.model_fields:
            rows += _rows(f"{key}.{name}", item, inner.model_fields[name])
        elif isinstance(item, dict):
            for part, deep in item.items():
                rows += _rows(f"{key}.{name}.{part}", deep, inner.model_fields[part])
    return rows
