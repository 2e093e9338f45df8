"""Read, check and write the model card `model.json`, which describes how to use `model.keras`."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lib.core import files, params, schema

# Keys of earlier versions, each with its parent key, and the current keys.
RENAMED = {
    ("model", "most_parameters"): "max_parameters",
    ("erasing", "smallest"): "min_area",
    ("erasing", "largest"): "max_area",
}


class ModelCard(TypedDict):
    """The content of `model.json`.

    Keys:
        backbone: name of the backbone.
        parameter_count: number of parameters of the network.
        size: height and width of the input, in pixels.
        resize: side that a photo is resized to before it is cropped to `size`, in pixels.
        fit: method of making a photo square: `crop`, `stretch` or `pad`.
        bit_depth: bit depth of photos with more than 8 bits, 8 to 16, which are scaled to 8 so that
            `2**bit_depth - 1` is white; only if the source has such photos.
        interpolation: description of the interpolation.
        input: description of the dtype, shape and range of the input.
        scaling: description of the scaling of the pixels inside the network.
        mean, standard_deviation: mean and standard deviation of the red, green and blue channels of the
            training photos, 0 to 1; only if `model.scaling` is `measured`.
        classes: labels of the classes, in the order of the network's outputs.
        class_names: readable names of the classes, in the same order.
        temperature: divisor of the logits for calibrated probabilities.
        training: key of the training.
        batch_size: batch size at the end of the training; smaller than in the parameters if memory ran out.
        parameters: resolved parameters of the training, plain values by dotted key.
        weights_sha256: SHA-256 of the network's weights, by `models.weights_sha256`.
    """

    backbone: str
    parameter_count: int
    size: int
    resize: int
    fit: str
    bit_depth: NotRequired[int]
    interpolation: str
    input: str
    scaling: str
    mean: NotRequired[list[float]]
    standard_deviation: NotRequired[list[float]]
    classes: list[str]
    class_names: list[str]
    temperature: float
    training: str
    batch_size: int
    parameters: dict[str, Any]
    weights_sha256: str


def load(path: Path) -> ModelCard:
    """Read a model card.

    Args:
        path: path of a `model.json`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a model card, or the model card of an earlier version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} does not exist. Expected: the model card that 03_train writes")
    try:
        card = _renamed(files.read_json(path))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}. Run 03_train again") from None
    if missing := _missing_keys(card):
        raise ValueError(
            f"{path.name} is not a model card of this version: it has no {', '.join(missing)}. "
            "Run 03_train again"
        )
    return card


def _renamed(value: Any, *, above: str = "") -> Any:
    """Replace the keys and values of earlier versions by the current keys and values."""
    if isinstance(value, dict):
        return {RENAMED.get((above, key), key): _renamed(item, above=key) for key, item in value.items()}
    return "stretch" if (above, value) == ("fit", "squash") else value


def _missing_keys(card: object) -> list[str]:
    return sorted(ModelCard.__required_keys__ - set(card if isinstance(card, dict) else ()))


def require_parameters(card: ModelCard, settings: schema.Params) -> None:
    """Check that a model was trained with the current parameters of its run.

    Raises:
        ValueError: if parameters differ; the message lists their keys.
    """
    trained = params.flat(card["parameters"])
    current = params.flat({key: params.pick(settings, key) for key in card["parameters"]})
    changed = [key for key in trained | current if trained.get(key) != current.get(key)]
    # The order of layers and stages matters too.
    changed += [key for key, other in zip(trained, current, strict=False) if key != other and not changed]
    if changed:
        first = changed[0]
        raise ValueError(
            f"model.keras was trained with other parameters: {', '.join(changed)}. Expected {first}: "
            f"{trained.get(first)!r}. Received: {current.get(first)!r}. Run 03_train again, or evaluate "
            f"the model as it was trained with `make evaluate-{settings.name}`"
        )


def as_trained(card: ModelCard, settings: schema.Params) -> dict[str, Any]:
    """Return overrides that restore the parameters that a model was trained with.

    Args:
        card: the model card.
        settings: the current parameters of the run, which the user or a resumed training may have changed.
    """
    trained = params.nested(card["parameters"])
    for section, key in (("model", "head"), ("train", "stages")):
        names = getattr(getattr(settings, section), key)
        # A layer or stage that is null is removed.
        trained[section][key] = dict.fromkeys(names) | trained[section][key]
    return trained


def save(card: ModelCard, path: Path) -> None:
    """Write a model card as JSON. The file is replaced atomically."""
    files.write_json(path, card)
