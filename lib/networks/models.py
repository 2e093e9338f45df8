"""Build, freeze, save and load the network, from pixels to probabilities.

A saved model needs only TensorFlow: its input is RGB pixels from 0 to 255, which the model scales itself, and
it computes in 32-bit floats.
"""

import hashlib
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core import files, schema
from lib.networks import backbones, backend, cards, resnets
from lib.networks.backend import keras

BACKBONE = "backbone"
LOGITS = "logits"
# The members of a .keras file.
MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}

# Descriptions of the scaling of the pixels, for the model card.
SCALINGS = {
    "backbone": "as the published weights of {} expect it",
    "unit": "pixels / 255",
    "measured": "(pixels / 255 - mean) / standard_deviation of the training photos, per channel",
}

# Layers that turn the output of a backbone into a vector, without weights.
POOLS: dict[str, type[keras.layers.Layer]] = {
    "average_pooling": keras.layers.GlobalAveragePooling2D,
    "max_pooling": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}

# Mean and standard deviation of each channel of the training photos, 0 to 1.
Statistics = tuple[Sequence[float], Sequence[float]]


def build(
    settings: schema.Model,
    *,
    classes: int,
    seed: int,
    statistics: Statistics | None = None,
) -> keras.Model:
    """Build a network from the parameters.

    Args:
        settings: backbone, weights, size, scaling and head.
        classes: number of classes.
        seed: seed of the random weights and of the dropout.
        statistics: result of `photoset.Photos.statistics`; required if the scaling is `measured`.

    Returns:
        A model from `float32` of shape `(n, size, size, 3)`, RGB, 0 to 255, to probabilities, `float32` of
        shape `(n, classes)`. `backbone` is the layer of the backbone, `logits` the input of softmax.

    Raises:
        ValueError: as `backbones.build`; or if the statistics are missing, or the network has more than
            `max_parameters` parameters.
        FileNotFoundError: as `backbones.build`.
    """
    backend.set_seed(seed)
    inputs = keras.Input((settings.image_size, settings.image_size, 3), name="photo")
    backbone = backbones.build(settings)
    backbone.name = BACKBONE
    x = backbone(scale(inputs, settings, statistics=statistics))
    for index, (name, layer) in enumerate(settings.head.items()):
        x = _layer(f"head_{name}", layer, classes=classes, seed=seed + index)(x)
    outputs = keras.layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    model = keras.Model(inputs, outputs)
    if settings.max_parameters and model.count_params() > settings.max_parameters:
        raise ValueError(
            f"`model.max_parameters`: expected at most {settings.max_parameters:,} parameters. "
            f"Received: {model.count_params():,}, with {settings.backbone}. Use a smaller backbone or head"
        )
    return model


def scale(
    x: keras.KerasTensor, settings: schema.Model, *, statistics: Statistics | None = None
) -> keras.KerasTensor:
    """Scale pixels as `model.scaling` specifies.

    Args:
        x: a Keras tensor of shape `(n, size, size, 3)`, RGB, 0 to 255.
        settings, statistics: as `build`.

    Returns:
        A Keras tensor of the same shape, the output of layers that are saved with the model.

    Raises:
        ValueError: if the scaling is `measured` and the statistics are missing.
    """
    if settings.scaling == "unit":
        return keras.layers.Rescaling(1 / 255, name=backbones.SCALING)(x)
    if settings.scaling == "backbone":
        return backbones.scale(x, settings.backbone)
    if statistics is None:
        raise ValueError(
            "`model.scaling` measured requires the mean and standard deviation of the training photos. "
            "Received: `statistics=None`. Build the network with `training.network`"
        )
    mean, std = (255 * np.asarray(values, float) for values in statistics)
    return keras.layers.Normalization(
        mean=mean.tolist(), variance=np.square(std).tolist(), name=backbones.SCALING
    )(x)


def head(model: keras.Model, settings: schema.Model) -> keras.Model | None:
    """Return the part of a network after the first layer of the head.

    Args:
        model: the result of `build`.
        settings: the parameters that the model was built with.

    Returns:
        A model from vectors, `float32` of shape `(n, channels)`, to probabilities, with the same layers as
        the network. `None` if the head does not begin with a layer of `POOLS`.
    """
    name, first = next(iter(settings.head.items()))
    if first.layer not in POOLS:
        return None
    return keras.Model(model.get_layer(f"head_{name}").output, model.output)


def _layer(name: str, layer: schema.HeadLayer, *, classes: int, seed: int) -> keras.layers.Layer:
    """Build a layer of the head; a dense layer without units is the classification layer."""
    layers = keras.layers
    match layer:
        case schema.Dense():
            penalty = keras.regularizers.L2(layer.l2) if layer.l2 else None
            units, activation = layer.units, layer.activation
            if units is None:
                return layers.Dense(classes, kernel_regularizer=penalty, name=LOGITS)
            return layers.Dense(units, activation=activation, kernel_regularizer=penalty, name=name)
        case schema.Dropout():
            return layers.Dropout(layer.rate, seed=seed, name=name)
        case schema.BatchNormalization():
            return layers.BatchNormalization(name=name)
    return POOLS[layer.layer](name=name)


def unfreeze(model: keras.Model, part: str, *, settings: schema.Model) -> None:
    """Make a part of the backbone trainable and freeze the rest; the head is always trainable.

    With `batch_normalization: inference`, the batch normalization of a pretrained backbone is always frozen:
    a frozen layer runs in inference mode. (`training=False` in the call of the backbone has no such effect,
    because `fit` overrides it.)

    Args:
        model: the result of `build`.
        part: as `backbones.trainable_layers`.
        settings: the parameters that the model was built with.
    """
    backbone = model.get_layer(BACKBONE)
    trainable = {id(layer) for layer in backbones.trainable_layers(backbone, part)}
    keeps_statistics = bool(settings.weights) and settings.batch_normalization == "inference"
    backbone.trainable = True
    for layer in backbone.layers:
        frozen = keeps_statistics and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = id(layer) in trainable and not frozen


def learning(model: keras.Model, settings: schema.Params) -> pd.DataFrame:
    """Count the trainable parameters in each stage of training.

    Args:
        model: the result of `build`. Afterwards, its layers are frozen as in the last stage.
        settings: the parameters of the run.

    Returns:
        One row per stage: `backbone` (its trainable part), `parameters` (number of trainable
        parameters, including the head), `learning_rate` and `epochs`.
    """
    rows = {}
    for name, stage in settings.train.stages.items():
        unfreeze(model, stage.trainable, settings=settings.model)
        count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        rows[name] = {
            "backbone": stage.trainable,
            "parameters": count,
            "learning_rate": stage.learning_rate,
            "epochs": stage.epochs,
        }
    return pd.DataFrame(rows).T.rename_axis("stage")


def weights_sha256(model: keras.Model) -> str:
    """Compute the SHA-256 of a model's weights, in order.

    A `.keras` file contains a timestamp, so that the hash of the file differs each time it is saved.
    """
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(value.tobytes())
    return digest.hexdigest()


def publish(
    model: keras.Model,
    folder: Path,
    *,
    settings: schema.Model,
    classes: list[str],
    class_names: list[str],
    training: str,
    batch_size: int,
    temperature: float,
    parameters: dict[str, Any],
    bit_depth: int | None = None,
) -> cards.ModelCard:
    """Write a trained network and its model card, `model.keras` and `model.json`.

    Args:
        model: the trained network.
        folder: the folder of the run.
        settings: the parameters that the network was built with.
        classes, class_names, training, batch_size, temperature, parameters, bit_depth: as `cards.ModelCard`.

    Returns:
        The model card.
    """
    card: cards.ModelCard = {
        "backbone": settings.backbone,
        "parameter_count": int(model.count_params()),
        "size": settings.image_size,
        "resize": settings.resize or settings.image_size,
        "fit": settings.fit,
        "interpolation": "area if a photo shrinks, bilinear if it grows",
        "input": "float32 of shape (n, size, size, 3), RGB, 0 to 255; the model scales it itself",
        "scaling": SCALINGS[settings.scaling].format(settings.backbone),
        "classes": classes,
        "class_names": class_names,
        "temperature": round(temperature, 4),
        "training": training,
        "batch_size": batch_size,
        "parameters": parameters,
        "weights_sha256": weights_sha256(model),
    }
    if bit_depth:
        card["bit_depth"] = bit_depth
    if settings.scaling == "measured":
        card["mean"], card["standard_deviation"] = _statistics(model)
    save(model, folder / "model.keras")
    cards.save(card, folder / "model.json")
    return card


def _statistics(model: keras.Model) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation, 0 to 1, of a model with the scaling `measured`."""
    layer = model.get_layer(backbones.SCALING).get_config()
    mean = [round(value / 255, 6) for value in layer["mean"]]
    return mean, [round(value**0.5 / 255, 6) for value in layer["variance"]]


def save(model: keras.Model, path: Path) -> None:
    """Save a model as a `.keras` file that computes in `float32`. The file is replaced atomically."""
    copy = in_float32(model)
    files.write(path, lambda partial: copy.save(partial))


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a model, with the same weights, that computes in `float32`.

    A model that was trained on a GPU computes in `mixed_float16`, even when it is loaded elsewhere; this is
    slow on CPUs without 16-bit arithmetic.

    Args:
        model: any functional model.
    """
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        copy = keras.models.clone_model(model, clone_function=_layer_in_float32, recursive=True)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    copy.set_weights(model.get_weights())
    return copy


def _layer_in_float32(layer: keras.Operation) -> keras.Operation:
    config = layer.get_config()
    if "dtype" in config:
        config["dtype"] = "float32"
    return type(layer).from_config(config)


def load(path: Path, card: cards.ModelCard) -> keras.Model:
    """Load the model that a card describes.

    Args:
        path: a `.keras` file.
        card: the model card beside it.

    Raises:
        FileNotFoundError, ValueError: as `read`.
        ValueError: if the SHA-256 of the weights differs from the card.
    """
    model = read(path)
    if weights_sha256(model) != card["weights_sha256"]:
        raise ValueError(f"{path.name} is not the model that model.json describes: run 03_train again")
    return model


def read(path: Path) -> keras.Model:
    """Read a model that `save` wrote. A file with code is rejected, and its code is not run.

    Args:
        path: a `.keras` file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a `.keras` file, is damaged, or contains code or unexpected members.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the model {path.name} does not exist. Expected: a .keras file that 03_train wrote"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            unexpected = sorted(set(archive.namelist()) - MEMBERS)
        if unexpected:
            raise ValueError(f"a file {unexpected[0]!r} in it")
        model = keras.models.load_model(os.fspath(path), compile=False, safe_mode=True)
    # Keras raises almost any error; the reason is at the end of its message.
    except Exception as error:
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise ValueError(
            f"{path.name}: expected a model that 03_train wrote, and nothing else. Received: "
            f"{reason or type(error).__name__}. No code in it was run. Train it again"
        ) from None
    return resnets.compute_groups_natively(model)
