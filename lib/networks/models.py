"""The network: pixels in, probabilities out, everything between saved with it.

A saved model needs TensorFlow alone: it takes RGB pixels from 0 to 255 of its input size, and scales
them itself.
"""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.core import files, schema
from lib.networks import backbones, resnets
from lib.networks.device import keras

BACKBONE = "backbone"
LOGITS = "logits"
SCALING = "scaling"
MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}  # of a .keras file


def build(
    settings: schema.Model,
    *,
    classes: int,
    seed: int,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> keras.Model:
    """Build the network that the parameters describe.

    Args:
        settings: backbone, weights, size, scaling and head.
        classes: the number of classes.
        seed: seeds the head's random weights and its dropout.
        statistics: mean and deviation of the training photos, 0 to 1, three numbers each, which the
            scaling `measured` needs: `photoset.Photos.statistics`.

    Returns:
        A model from `float32` `(n, size, size, 3)`, RGB, 0 to 255, to `float32` `(n, classes)`,
        probabilities. Its layer `backbone` is the backbone; its layer `logits` gives what softmax takes.

    Raises:
        ValueError: as `backbones.build`; the statistics are missing; or the network does not have fewer
            parameters than `most_parameters`.
        FileNotFoundError: as `backbones.build`.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((settings.image_size, settings.image_size, 3), name="photo")
    backbone = backbones.build(settings)
    backbone.name = BACKBONE
    x = backbone(scale(inputs, settings, statistics))
    head = {name: layer for name, layer in settings.head.items() if layer}
    for index, (name, layer) in enumerate(head.items()):
        x = _layer(f"head_{name}", layer, classes, seed + index)(x)
    outputs = keras.layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    model = keras.Model(inputs, outputs)
    if settings.most_parameters and model.count_params() >= settings.most_parameters:
        raise ValueError(
            f"`model.most_parameters`: the network must have fewer than {settings.most_parameters:,} parameters. "
            f"Received: {model.count_params():,}, with {settings.backbone}. Take a smaller backbone or head"
        )
    return model


def scale(x, settings: schema.Model, statistics=None):
    """Scale pixels as the parameters say.

    Args:
        x: a Keras tensor of shape `(n, size, size, 3)`, RGB, 0 to 255.
        settings, statistics: as `build`.

    Returns:
        A Keras tensor of the same shape, through layers that are saved with the model.

    Raises:
        ValueError: the statistics are missing.
    """
    if settings.scaling == "unit":
        return keras.layers.Rescaling(1 / 255, name=SCALING)(x)
    if settings.scaling == "backbone":
        return backbones.scale(x, settings.backbone)
    if statistics is None:
        raise ValueError(
            "`model.scaling` measured needs the mean and deviation of the training photos. Received: none. "
            "`training.network` builds the network with them"
        )
    mean, deviation = (255 * np.asarray(values, float) for values in statistics)
    return keras.layers.Normalization(
        mean=mean.tolist(), variance=np.square(deviation).tolist(), name=SCALING
    )(x)


def head(model: keras.Model, settings: schema.Model) -> keras.Model | None:
    """Return the part of a network that takes what its backbone says of a photo, averaged over it.

    Args:
        model: a model from `build`.
        settings: the parameters that it was built with.

    Returns:
        A model from `float32` `(n, channels)` to probabilities that shares the network's layers; `None` where
        the head does not begin with average pooling.
    """
    name, first = next((name, layer) for name, layer in settings.head.items() if layer)
    if first.layer != "average_pooling":
        return None
    return keras.Model(model.get_layer(f"head_{name}").output, model.output)


def _layer(name: str, layer: schema.HeadLayer, classes: int, seed: int) -> keras.layers.Layer:
    layers = keras.layers
    if layer.layer == "dense":
        penalty = keras.regularizers.L2(layer.l2) if layer.l2 else None
        if layer.units is None:
            return layers.Dense(classes, kernel_regularizer=penalty, name=LOGITS)
        return layers.Dense(layer.units, activation=layer.activation, kernel_regularizer=penalty, name=name)
    return {
        "average_pooling": lambda: layers.GlobalAveragePooling2D(name=name),
        "max_pooling": lambda: layers.GlobalMaxPooling2D(name=name),
        "flatten": lambda: layers.Flatten(name=name),
        "dropout": lambda: layers.Dropout(layer.rate, seed=seed, name=name),
        "batch_normalization": lambda: layers.BatchNormalization(name=name),
    }[layer.layer]()


def unfreeze(model: keras.Model, part: str, settings: schema.Model) -> None:
    """Let a part of the backbone learn and the rest not; the head always learns.

    Batch normalisation that keeps its statistics is frozen wherever it stands: a frozen one runs in
    inference mode. (Calling the backbone with `training=False` when the model is built does not do
    that: `fit` overrides it.)

    Args:
        model: a model from `build`.
        part: as `backbones.trainable_layers`.
        settings: the parameters that the model was built with.
    """
    backbone = model.get_layer(BACKBONE)
    learning = {id(layer) for layer in backbones.trainable_layers(backbone, part)}
    frozen = (
        keras.layers.BatchNormalization
        if settings.weights and settings.batch_normalization == "inference"
        else ()
    )
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = id(layer) in learning and not isinstance(layer, frozen)


def learning(model: keras.Model, settings: schema.Params) -> pd.DataFrame:
    """Count what learns in each stage of training.

    Args:
        model: a model from `build`; left as the last stage sets it.
        settings: the run's parameters.

    Returns:
        One row per stage: `backbone` (the part that learns), `parameters` (that learn, head included),
        `learning_rate` and `epochs`.
    """
    rows = {}
    for name, stage in settings.train.stages.items():
        if stage:
            unfreeze(model, stage.trainable, settings.model)
            count = sum(weight.shape.num_elements() for weight in model.trainable_weights)
            rows[name] = {
                "backbone": stage.trainable,
                "parameters": count,
                "learning_rate": stage.learning_rate,
                "epochs": stage.epochs,
            }
    return pd.DataFrame(rows).T.rename_axis("stage")


def weights_sha256(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights, in order. (A `.keras` file carries the time: its bytes never repeat.)"""
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
    training: str,
    temperature: float,
    class_names: list[str] | None = None,
) -> dict:
    """Write `model.keras` and `model.json`: all that one who takes the model on needs to know.

    Args:
        model: the trained network.
        folder: the run's folder.
        settings: the parameters that it was built with.
        classes: the labels of the classes, in the order of its outputs.
        training: key of the training that it comes from.
        temperature: what its logits are to be divided by for calibrated probabilities.
        class_names: what to call the classes, as `class_names.of_source` has it; none: by their labels.

    Returns:
        The content of `model.json`.
    """
    card = {
        "backbone": settings.backbone,
        "parameters": int(model.count_params()),
        "size": settings.image_size,
        "resize": settings.resize or settings.image_size,
        "fit": settings.fit,
        "interpolation": "area where a photo shrinks, bilinear where it grows",
        "input": "float32 of shape (n, size, size, 3), RGB, 0 to 255; the model scales it itself",
        **_scaling(model, settings),
        "classes": classes,
        "class_names": class_names or classes,
        "temperature": round(temperature, 4),
        "training": training,
        "weights_sha256": weights_sha256(model),
    }
    path = folder / "model.json"
    if (
        not (folder / "model.keras").is_file()
        or not path.is_file()
        or files.read_json(path)["weights_sha256"] != card["weights_sha256"]
    ):
        save(model, folder / "model.keras")
    files.write_json(path, card)
    return card


def _scaling(model, settings) -> dict:
    """Say how a model scales its pixels; the numbers only where they are its own."""
    if settings.scaling == "backbone":
        return {"scaling": f"as the published weights of {settings.backbone} expect it"}
    if settings.scaling == "unit":
        return {"scaling": "pixels / 255"}
    layer = model.get_layer(SCALING).get_config()
    return {
        "scaling": "(pixels / 255 - mean) / deviation of the training photos, per channel",
        "mean": [round(value / 255, 6) for value in layer["mean"]],
        "deviation": [round(value**0.5 / 255, 6) for value in layer["variance"]],
    }


def save(model: keras.Model, path: Path) -> None:
    """Save a model as a `.keras` file, whole or not at all."""
    files.write(path, lambda partial: model.save(partial))


def load(path: Path) -> keras.Model:
    """Load a model that `save` wrote. Code that a file carries is refused, not run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such model, or damaged, or holds more than a model: code, or other files.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path.name}. Expected: a .keras file that 03_train wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            more = sorted(set(archive.namelist()) - MEMBERS)
        if more:
            raise ValueError(f"a file {more[0]!r} in it")
        network = keras.models.load_model(os.fspath(path), compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly anything, and the reason stands last
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:300]
        raise ValueError(
            f"{path.name}: expected a model that 03_train wrote, and nothing else. Received: "
            f"{reason or type(error).__name__}. No code that it carries was run. Train it again"
        ) from None
    return resnets.compute_groups_natively(network)
