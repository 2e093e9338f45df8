"""Photos, a run and a stand-in for the training that are small enough to search with in a test."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lib.clean import photoset
from lib.core import cache, files, schema, steps
from lib.tune import tuning

SPACE = {
    "rate": {"parameter": "train.stages.all.learning_rate", "low": 1e-3, "high": 1e-1, "log": True},
    "filters": {"parameter": "model.simple_cnn.filters", "choices": [4, 8, 16]},
}
STAGE = {"trainable": "all", "epochs": 3, "learning_rate": 0.01}


def make_photos(seed=0, count=12):
    images = np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), np.uint8)
    table = pd.DataFrame(
        {"path": [f"{n}.png" for n in range(count)], "label": ["left", "right"] * (count // 2)}
    )
    table["split"] = ["train"] * 6 + ["val"] * 4 + ["test"] * (count - 10)
    table["sha1"] = [f"{seed}-{n}" for n in range(count)]
    return photoset.Photos(table, images, 32, ["left", "right"])


def make_run(space=SPACE, *, model=None, train=None, seed=1, **tune):
    dimensions = {name: schema.Dimension.model_validate(options) for name, options in space.items()}
    settings = schema.Params.model_validate(
        {
            "name": "tiny",
            "seed": seed,
            "source": {"kind": "sample", "name": "tiny"},
            "model": {"backbone": "SimpleCNN", "weights": None, "image_size": 32, **(model or {})},
            "train": {"batch_size": 6, "stages": {"all": STAGE}, **(train or {})},
            "tune": {"sampler": "random", "pruner": "none", "space": dimensions, **tune},
        }
    )
    return steps.start(settings, steps.TUNE)


def loss(settings, epoch):
    """Return the loss of the stand-in for a training: lowest with a rate of 0.01 and many filters."""
    rate = settings.train.stages["all"].learning_rate
    return (math.log10(rate) + 2) ** 2 + 1 / settings.model.simple_cnn.filters + 1 / epoch


class Fit:
    """Replace `training.fit`: write the same files and resume, without training; `ran` lists the epochs.

    `fits` is the batch size that fits into memory, if it is smaller than that of the parameters.
    """

    def __init__(self):
        self.ran, self.settings, self.photos, self.loss, self.fits = [], [], [], loss, None

    def __call__(self, settings, photos, *, folder, watch):
        self.settings.append(settings)
        self.photos.append(photos)
        own = folder / cache.fingerprint(settings.model.model_dump(), settings.train.model_dump())
        own.mkdir(parents=True, exist_ok=True)
        state = own / "state.npz"
        history = files.read_json(state) if state.exists() else []
        for epoch in range(len(history) + 1, settings.train.stages["all"].epochs + 1):
            value = self.loss(settings, epoch)
            if math.isnan(value):
                raise ValueError(f"the loss of epoch {epoch} is nan: lower the learning rate of stage all")
            row = {
                "epoch": epoch,
                "stage": "all",
                "val_loss": value,
                "val_accuracy": 1 / (1 + value),
                "seconds": 2.0,
            }
            history.append(row)
            self.ran.append((folder.name, epoch))
            files.write_json(state, history)
            (own / f"best-{epoch}.npz").write_bytes(b"weights")
            watch(row, self.fits or settings.train.batch_size)
        files.write_json(own / "finished.json", {})
        size = self.fits or settings.train.batch_size
        return SimpleNamespace(history=pd.DataFrame(history), batch_size=size)


def search(**options):
    return tuning.search(make_run(**options), make_photos())
