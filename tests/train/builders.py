"""Photos, parameters and networks that are small enough to train with in a test."""

import math

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import schema
from lib.networks.backend import keras

SIZE = 32
NO_AUGMENT = {"flip": "none", "rotation": 0, "zoom": 0, "translation": 0, "contrast": 0, "brightness": 0}
DROPOUT_HEAD = {
    "pool": {"layer": "average_pooling"},
    "dropout": {"layer": "dropout", "rate": 0.5},
    "classes": {"layer": "dense"},
}
TWO_STAGES = {
    "head": {"trainable": "none", "epochs": 2, "learning_rate": 0.03},
    "fine_tune": {"trainable": "last 2 layers", "epochs": 2, "learning_rate": 0.01, "schedule": "cosine"},
}
SHORT_STAGES = {name: {**stage, "epochs": 1} for name, stage in TWO_STAGES.items()}
ONE_EPOCH = {"head": {"trainable": "all", "epochs": 1, "learning_rate": 0.01}}


def Tiny(weights, input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.5, name="norm")(x))


def Broken(weights, input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(
        inputs, keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(math.nan))(inputs)
    )


def make_photos(seed=0, count=24, classes=("left", "right"), train=14, val=6):
    """Noise, brighter on one side; 14 photos of 24 are in train, 6 in val, 4 in test."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    names = [classes[index % len(classes)] for index in range(count)]
    for image, name in zip(images, names, strict=True):
        half = image[:, : SIZE // 2] if name == classes[0] else image[:, SIZE // 2 :]
        half += 100
    splits = ["train"] * train + ["val"] * val + ["test"] * (count - train - val)
    table = pd.DataFrame(
        {"path": [f"{index}.png" for index in range(count)], "label": names, "split": splits}
    )
    table["status"], table["sha1"] = "kept", [f"{seed}-{index}" for index in range(count)]
    return photoset.Photos(table, images, images.shape[1], sorted(classes))


def make_settings(stages=TWO_STAGES, *, model=None, augment=None, seed=5, **train):
    train = {"batch_size": 8, "early_stopping": None, "optimizer": {"weight_decay": 1.0e-2}, **train}
    return schema.Params.model_validate(
        {
            "name": "tiny",
            "seed": seed,
            "source": {"kind": "sample"},
            "model": {
                "backbone": "Tiny",
                "weights": None,
                "image_size": SIZE,
                "head": DROPOUT_HEAD,
                **(model or {}),
            },
            "augment": {**NO_AUGMENT, **(augment or {})},
            "train": {"stages": stages, **train},
        }
    )


def kept_weights(folder, key):
    # The weights of earlier epochs are removed.
    (path,) = (folder / key).glob("best-*.npz")
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def pretrained(tmp_path, mode):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    return {"weights": str(weights), "batch_normalization": mode}
