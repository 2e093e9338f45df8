"""Measure a stage with a frozen backbone that trains on views beside one that augments in each epoch.

    python benchmarks/views.py DATA WEIGHTS

DATA is the folder with `flowers.zip` and `butterfly.zip`, WEIGHTS the ImageNet weights of MobileNetV2 without
the classification layer. Model, augmentation and head stage are those of the recipes, at 160 pixels and for
ten epochs. The photos held out are used by no method. The methods train in turn with each of three seeds,
which draw the photos too. Times are those of the stage with the embedding of its views, in seconds of
processor time, which other work on the machine hardly changes, and of the clock. The exit code is 1 if a
target is missed.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from data import archive

from lib.clean import embeddings, photoset
from lib.core import params, progress, schema, steps
from lib.download import archives
from lib.networks import backend, models
from lib.photos import decoding, labels, listing
from lib.train import trainer, training

SIZE, EPOCHS, SEEDS = 160, 10, range(3)
# Numbers of views by method.
METHODS = {"each epoch": None, "1 view": 1, "2 views": 2}
PHOTOS = {
    "flowers": {"train": 1500, "val": 300, "held out": 400},
    "butterfly": {"train": 465, "val": 100, "held out": 100},
}
# Targets: time over that of views, and median of the differences of the accuracy on val.
RATIO, DIFFERENCE = 5, 0.0
METRICS = ("processor seconds", "seconds", "val accuracy", "held-out accuracy")


def main() -> int:
    """Print the measurements and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the archives")
    parser.add_argument("weights", type=Path, help="weights of MobileNetV2")
    arguments = parser.parse_args()
    results = measure(arguments.data, arguments.weights)
    return 0 if all(any(row.get("reached") for row in rows.values()) for rows in results.values()) else 1


def measure(data: Path | None, weights: Path) -> dict[str, dict[str, dict]]:
    """Print and return the measurements by data set and method.

    Args:
        data: folder of the archives; if `None`, the environment variable `DATA`.
        weights: file of weights of MobileNetV2.

    Returns:
        For each method of a data set the values of `METRICS` over the seeds. For views also the medians over
        the seeds of `ratio` (processor time without views over that with views), `clock` (the same of the
        clock) and `gain` (difference of the accuracy on val), and whether the targets are `reached`.
    """
    archives_of = {name: archive(data, f"{name}.zip") for name in ("flowers", "butterfly")}
    rows: dict[str, dict[str, list]] = {name: {method: [] for method in METHODS} for name in archives_of}
    for seed, (name, path), method in itertools.product(SEEDS, archives_of.items(), METHODS):
        settings = _settings(name, weights, seed=seed, views=METHODS[method])
        folder = steps.outputs() / "bench" / path.stem
        rows[name][method].append(_train(settings, _photos(path, settings, folder=folder), folder=folder))
        print(name, seed, method, [round(value, 3) for value in rows[name][method][-1]], flush=True)
    return {name: _summary(name, {key: np.array(each) for key, each in rows[name].items()}) for name in rows}


def _summary(name: str, values: dict[str, np.ndarray]) -> dict[str, dict]:
    """Print and return the result of `measure` for a data set."""
    before, result = values["each epoch"], {}
    for method, after in values.items():
        row: dict = dict(zip(METRICS, after.T.tolist(), strict=True))
        line = f"{name}, {method}: {', '.join(map(_range, METRICS, after.T))}"
        if METHODS[method]:
            row["ratio"], row["clock"] = np.median(before[:, :2] / after[:, :2], axis=0).tolist()
            row["gain"] = float(np.median(after[:, 2] - before[:, 2]))
            row["reached"] = row["ratio"] >= RATIO and row["gain"] >= DIFFERENCE
            line += (
                f"; {row['ratio']:.1f} times as fast in processor time ({row['clock']:.1f} by the clock), "
                f"expected: at least {RATIO}; val accuracy {row['gain']:+.3f}, expected: {DIFFERENCE} or more"
            )
        print(line, flush=True)
        result[method] = row
    return result


def _range(name: str, values: np.ndarray) -> str:
    return f"{name} {np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"


def _settings(name: str, weights: Path, *, seed: int, views: int | None) -> schema.Params:
    """Return the parameters of the head stage of a recipe."""
    stages = {stage: None for stage in params.load(name).train.stages if stage != "head"}
    change = {
        "seed": seed,
        "model": {"image_size": SIZE, "weights": str(weights)},
        "train": {"stages": {**stages, "head": {"epochs": EPOCHS}}, "early_stopping": None, "views": views},
    }
    return params.load(name, change)


def _photos(path: Path, settings: schema.Params, *, folder: Path) -> photoset.Photos:
    """Return the photos of an archive, divided at random."""
    if not (folder / "raw").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archives.extract(path, folder / "raw")
    table = labels.find(listing.Folder(folder / "raw"), settings.source)
    # The photos without labels have an empty label.
    table = table[table.label.ne("")].reset_index(drop=True)
    scanned, full = decoding.scan(
        folder / "raw", list(table.path), content=path.name, folder=folder, size=SIZE, fit=settings.model.fit
    )
    table["sha1"], table["split"] = scanned.sha1.to_numpy(), "unused"
    order, start = np.random.default_rng(settings.seed).permutation(len(table)), 0
    for split, count in PHOTOS[settings.name].items():
        table.loc[order[start : start + count], "split"] = split
        start += count
    return photoset.Photos(table, full, SIZE, labels.classes(table.label), settings.model.fit, folder)


def _train(settings: schema.Params, photos: photoset.Photos, *, folder: Path) -> list[float]:
    """Train the stage without stored results, and return the values of `METRICS`."""
    with tempfile.TemporaryDirectory() as new, progress.Bar(None, "training") as bar:
        fresh = photoset.Photos(photos.table, photos.full, SIZE, photos.classes, photos.fit, Path(new))
        backend.prepare(settings.seed)
        loop = trainer.Trainer(
            settings,
            fresh,
            folder=Path(new) / "training",
            build=lambda: training.network(settings, fresh),
            bar=bar,
            watch=None,
        )
        began, processor = time.perf_counter(), time.process_time()
        loop.train(None)
        times = [time.process_time() - processor, time.perf_counter() - began]
        accuracy = float(loop.state.history[loop.state.kept - 1][loop.columns.index("val_accuracy")])
        loop.network.set_weights(loop.state.best_weights(loop.folder))
    rows = photos.rows("held out")
    vectors = embeddings.of_photos(
        photos.table.sha1.iloc[rows],
        photos.full[rows],
        fit=photos.fit,
        folder=folder,
        settings=settings.model,
    )
    probabilities = backend.outputs(models.head(loop.network, settings.model), vectors)
    correct = probabilities.argmax(axis=1) == photos.targets("held out")
    return [*times, accuracy, float(correct.mean())]


if __name__ == "__main__":
    sys.exit(main())
