"""Measure a stage with a frozen backbone that trains on views beside one that augments in each epoch.

    python benchmarks/views.py DATA WEIGHTS [--views N]

DATA is the folder with `flowers.zip` and `butterfly.zip`, WEIGHTS the ImageNet weights of MobileNetV2 without
the classification layer. Model, augmentation and head stage are those of the recipes, at 160 pixels and for
ten epochs, on 400 photos for training, 100 for validation and at most 400 held out, which neither method
sees. Both methods train in turn with each of three seeds, which draw the photos too. The backbone is the
same in both, so that the held-out photos are embedded once. Times are those of the whole stage, in seconds of
processor time, which other work on the machine hardly changes, and of the clock. The exit code is 1 if a
target is missed.
"""

import argparse
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
from lib.photos import decoding, labels
from lib.train import trainer, training

SIZE, EPOCHS, VIEWS, SEEDS = 160, 10, 2, range(3)
PHOTOS = {"train": 400, "val": 100, "held out": 400}
# Targets: time over that of views, and median of the differences of the accuracy on val.
RATIO, DIFFERENCE = 5, 0.0
METRICS = ("processor seconds", "seconds", "val accuracy", "held-out accuracy")


def main() -> int:
    """Print the measurements and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder of the archives; by default DATA")
    parser.add_argument("weights", type=Path, help="weights of MobileNetV2")
    parser.add_argument("--views", type=int, default=VIEWS, help=f"number of views; by default {VIEWS}")
    arguments = parser.parse_args()
    results = measure(arguments.data, arguments.weights, views=arguments.views)
    return 0 if all(result["reached"] for result in results.values()) else 1


def measure(data: Path | None, weights: Path, *, views: int = VIEWS) -> dict[str, dict]:
    """Return the measurements by data set, and print them.

    Args:
        data: folder of the archives; if `None`, the environment variable `DATA`.
        weights: file of weights of MobileNetV2.
        views: number of views.

    Returns:
        For each data set the values of `METRICS` over the seeds by method, the ratio of the processor times,
        and whether the targets are reached.
    """
    return {
        name: _measure(name, archive(data, f"{name}.zip"), weights=weights, views=views)
        for name in ("flowers", "butterfly")
    }


def _measure(name: str, path: Path, *, weights: Path, views: int) -> dict:
    folder = steps.outputs() / "bench" / path.stem
    rows: dict[str, list[list[float]]] = {"each epoch": [], f"{views} views": []}
    for seed in SEEDS:
        for method, settings in zip(rows, _settings(name, weights, seed=seed, views=views), strict=True):
            rows[method].append(_train(settings, _photos(path, settings, folder=folder), folder=folder))
            print(name, seed, method, [round(value, 3) for value in rows[method][-1]], flush=True)
    before, after = (np.array(values) for values in rows.values())
    ratio, wall = (np.median(before[:, column] / after[:, column]) for column in (0, 1))
    gain = np.median(after[:, 2] - before[:, 2])
    for method, values in rows.items():
        print(f"{name}, {method}: {', '.join(map(_range, METRICS, np.array(values).T))}", flush=True)
    print(
        f"{name}: {ratio:.1f} times as fast in processor time, {wall:.1f} times by the clock, expected: at "
        f"least {RATIO}; accuracy on val {gain:+.3f}, expected: at least {DIFFERENCE}",
        flush=True,
    )
    measured = {
        method: dict(zip(METRICS, zip(*values, strict=True), strict=True)) for method, values in rows.items()
    }
    return {**measured, "ratio": ratio, "gain": gain, "reached": bool(ratio >= RATIO and gain >= DIFFERENCE)}


def _range(name: str, values: np.ndarray) -> str:
    return f"{name} {np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"


def _settings(name: str, weights: Path, *, seed: int, views: int) -> list[schema.Params]:
    """Return the parameters of both methods: the head stage of a recipe."""
    stages = {stage: None for stage in params.load(name).train.stages if stage != "head"}
    change = {
        "seed": seed,
        "model": {"image_size": SIZE, "weights": str(weights)},
        "train": {"stages": {**stages, "head": {"epochs": EPOCHS}}, "early_stopping": None},
    }
    return [params.load(name, params.merge(change, {"train": {"views": number}})) for number in (None, views)]


def _photos(path: Path, settings: schema.Params, *, folder: Path) -> photoset.Photos:
    """Return the photos of an archive, divided at random."""
    if not (folder / "raw").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        archives.extract(path, folder / "raw")
    table = labels.find(folder / "raw", settings.source)
    table = table[table.label.notna()].reset_index(drop=True)
    scanned, full = decoding.scan(
        folder / "raw", list(table.path), content=path.name, folder=folder, size=SIZE, fit=settings.model.fit
    )
    table["sha1"], table["split"] = scanned.sha1.to_numpy(), "unused"
    order, start = np.random.default_rng(settings.seed).permutation(len(table)), 0
    for split, count in PHOTOS.items():
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
