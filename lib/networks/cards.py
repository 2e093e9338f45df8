"""The model card: `model.json`, which describes the network in `model.keras` for those who use it."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lib.core import files, params, schema

# Keys of earlier versions, after the key above them.
RENAMED = {
    ("model", "most_parameters"): "max_parameters",
    ("erasing", "smallest"): "min_area",
    ("erasing", "largest"): "max_area",
}


class ModelCard(TypedDict):
    """The content of `model.json`.

    Keys:
        backbone: name of the backbone.
        parameter_count: number of weights of the network.
        size: height and width of its input, in pixels.
        resize: side in pixels that a photo is brought to, before its centre of `size` is cut out.
        fit: how a photo becomes a square: `crop`, `stretch` or `pad`.
        interpolation: how a photo is resized, in words.
        input: dtype, shape and range of the input, in words.
        scaling: how the network scales its pixels, in words.
        mean, standard_deviation: of red, green and blue in the training photos, 0 to 1; only if the scaling
            was measured.
        classes: labels of the classes, in the order of the network's outputs.
        class_names: readable names of the classes, in the same order.
        temperature: divides the logits for calibrated probabilities.
        training: key of the training.
        batch_size: photos in a batch at the end of the training; fewer than its parameters say if memory
            ran out.
        parameters: resolved parameters that decided the training, plain values by dotted key.
        weights_sha256: SHA-256 of the network's weights, by `models.weights_sha256`.
    """

    backbone: str
    parameter_count: int
    size: int
    resize: int
    fit: str
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
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a model card, or one of an earlier version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.name}. Expected: the model card that 03_train writes")
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
    """Return a card with the current names of the keys and values that earlier versions named otherwise."""
    if isinstance(value, dict):
        return {RENAMED.get((above, key), key): _renamed(item, above=key) for key, item in value.items()}
    return "stretch" if (above, value) == ("fit", "squash") else value


def _missing_keys(card: object) -> list[str]:
    return sorted(ModelCard.__required_keys__ - set(card if isinstance(card, dict) else ()))


def require_parameters(card: ModelCard, settings: schema.Params) -> None:
    """Check that the parameters of a run are those that its model was trained with.

    Raises:
        ValueError: if they are not; the message names the keys that differ.
    """
    trained = params.flat(card["parameters"])
    now = params.flat({key: params.pick(settings, key) for key in card["parameters"]})
    changed = [key for key in trained | now if trained.get(key) != now.get(key)]
    # Layers and stages have an order.
    changed += [one for one, other in zip(trained, now, strict=False) if one != other and not changed]
    if changed:
        first = changed[0]
        raise ValueError(
            f"model.keras was trained with other parameters: {', '.join(changed)}. Expected {first}: "
            f"{trained.get(first)!r}. Received: {now.get(first)!r}. Run 03_train again, or evaluate "
            f"the model as it was trained with `make evaluate-{settings.name}`"
        )


def as_trained(card: ModelCard, settings: schema.Params) -> dict[str, Any]:
    """Return overrides that turn a run's parameters into those that its model was trained with.

    Args:
        card: the model card.
        settings: the run's parameters, which may have changed since, as a resumed training does too.
    """
    trained = params.nested(card["parameters"])
    for section, key in (("model", "head"), ("train", "stages")):
        names = getattr(getattr(settings, section), key)
        # A layer or stage that is null is removed.
        trained[section][key] = dict.fromkeys(names) | trained[section][key]
    return trained


def save(card: ModelCard, path: Path) -> None:
    """Write a model card as JSON, whole or not at all."""
    files.write_json(path, card)
