"""Average the predictions of several runs for the same photos, and evaluate this ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clean import manifest, photoset
from lib.compare import comparison
from lib.compare.comparison import Result
from lib.core import files, metrics, steps
from lib.evaluate import inference, predictions
from lib.networks import models
from lib.photos import decoding

COLUMNS = ["name", "val_top_1", "val_log_loss", "top_1", "log_loss", "calibration_error"]


@dataclass(frozen=True)
class Ensemble:
    """The averaged predictions of several runs.

    Attributes:
        predictions: one row per photo of the val and headline splits, with the columns of
            `predictions.table`; `None` if there are no members.
        report: `members`; `headline`, the headline split; `temperature` of the ensemble;
            `test_time_augmentation`; the result of `metrics.report` for each split; `each`, the rows of
            `table`; and `gain`, the name `over` of the member that is best on val, with the result of
            `comparison.paired` for the ensemble and this member, as it was evaluated, on the headline split.
            Empty if there are no members.
    """

    predictions: pd.DataFrame | None
    report: dict

    @property
    def table(self) -> pd.DataFrame:
        """The metrics of each member, for its averaged predictions, and of the ensemble in the last row.

        The columns are top-1 and log loss on val and on the headline split, and the calibration error on the
        headline split.
        """
        return pd.DataFrame(self.report.get("each", []), columns=COLUMNS)


def members(results: dict[str, Result], names: Sequence[str]) -> list[str]:
    """Select the runs of the ensemble.

    Args:
        results: the evaluated runs.
        names: names of the runs. If empty, all runs with the classes and photos of the best run on val are
            selected; if no other run has them, the same is tried with the next best run. The headline photos
            are not used, because selecting members on them would bias the metrics of the ensemble.

    Returns:
        At least two names; empty if `names` is empty and no two runs have the same classes and photos.

    Raises:
        ValueError: if `names` has fewer than two different runs, a run that is not in the results, or runs
            whose classes or photos differ.
    """
    if not names:
        ranked = sorted(results.values(), key=lambda result: result.rank)
        matches = ([other.name for other in ranked if not difference(best, other)] for best in ranked)
        return next((group for group in matches if len(group) > 1), [])
    if unknown := [name for name in names if name not in results]:
        raise ValueError(
            f"`compare.ensemble` must list evaluated runs of the comparison: {', '.join(results)}. "
            f"Received: {', '.join(unknown)}"
        )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"`compare.ensemble` must list at least two different runs. Received: {', '.join(names)}"
        )
    first = names[0]
    for name in names[1:]:
        if reason := difference(results[first], results[name]):
            raise ValueError(f"`compare.ensemble`: {first} and {name} cannot be averaged: {reason}")
    return list(names)


def difference(first: Result, second: Result) -> str:
    """Return the reason why two runs cannot be averaged, or an empty string if they can.

    They must have the same headline split, classes, photos of val and the headline split, and labels.
    """
    runs = (first, second)
    if first.headline != second.headline:
        return "different headline splits: " + ", ".join(f"{run.headline} in {run.name}" for run in runs)
    sets = {"classes": [{name: name for name in run.classes} for run in runs]}
    for split in dict.fromkeys(("val", first.headline)):
        rows = [run.rows(split) for run in runs]
        sets[f"photos of {split}"] = [dict(zip(part["sha1"], part["path"], strict=True)) for part in rows]
        sets[f"labels of {split}"] = [
            dict(zip(part.index, part["path"] + " as " + part["label"], strict=True)) for part in rows
        ]
    for name, (own, others) in sets.items():
        if own.keys() != others.keys():
            only = [_only(own, others, name=first.name), _only(others, own, name=second.name)]
            return f"different {name}: {', '.join(only)}"
    return ""


def _only(own: dict, others: dict, *, name: str) -> str:
    """Count the keys that only the named run has, with an example."""
    only = [text for key, text in own.items() if key not in others]
    return f"{len(only)} only in {name}" + (f" (such as {only[0]})" if only else "")


def average(
    results: dict[str, Result], names: Sequence[str], *, augmented: bool, folder: Path, seed: int
) -> Ensemble:
    """Average the predictions of runs for the photos of val and of the headline split.

    All runs have the same weight. Other weights would have to be fitted on val, which is small and was
    already used to select each run's epoch and temperature. The calibrated probabilities are averaged, so
    that an overconfident network does not dominate. Their mean is underconfident (Rahaman and Thiery,
    2021, https://arxiv.org/abs/2007.08792) and is therefore calibrated with a temperature fitted on val.

    Args:
        results: the evaluated runs.
        names: the result of `members`.
        augmented: whether to predict the photos again, with test-time augmentation. Otherwise, the
            probabilities of `predictions.csv` are averaged.
        folder: folder of the cache of predictions with test-time augmentation.
        seed: seed of the bootstrap intervals.

    Raises:
        FileNotFoundError, ValueError: if `augmented`, and the photos of a run are missing or have changed.
    """
    if not names:
        return Ensemble(None, {})
    selected = [results[name] for name in names]
    best = min(selected, key=lambda result: result.rank)
    classes, base = best.classes, best.rows("val", best.headline)
    probabilities = {
        result.name: _probabilities(result, base.index, classes=classes, augmented=augmented, folder=folder)
        for result in selected
    }
    mean = np.mean(list(probabilities.values()), axis=0)
    targets = pd.Categorical(base["label"], classes).codes.astype(np.int64)
    splits = {split: base["split"].eq(split).to_numpy() for split in dict.fromkeys(("val", best.headline))}
    temperature = metrics.temperature(targets[splits["val"]], mean[splits["val"]])
    calibrated = metrics.apply_temperature(mean, temperature)
    reports = [
        (name, _evaluate(targets, values, splits=splits, classes=classes, seed=seed))
        for name, values in [*probabilities.items(), ("ensemble", calibrated)]
    ]
    rows = predictions.join(base, calibrated, classes=classes)
    headline = rows.set_index(base.index)[splits[best.headline]]
    report = {
        "members": list(names),
        "test_time_augmentation": augmented,
        "temperature": round(temperature, 4),
        "headline": best.headline,
        **reports[-1][1],
        "each": [_row(name, report, headline=best.headline) for name, report in reports],
        "gain": {"over": best.name, **comparison.paired(headline, best.rows(best.headline))},
    }
    return Ensemble(rows, report)


def _evaluate(
    targets: np.ndarray,
    probabilities: np.ndarray,
    *,
    splits: dict[str, np.ndarray],
    classes: list[str],
    seed: int,
) -> dict[str, metrics.Report]:
    """Return the result of `metrics.report` for each split, a mask of `bool` and shape `(n,)`."""
    return {
        split: metrics.report(targets[rows], probabilities[rows], classes=classes, seed=seed)
        for split, rows in splits.items()
    }


def _row(name: str, report: dict[str, metrics.Report], *, headline: str) -> dict:
    """Return a row of `Ensemble.table`."""
    val, head = report["val"], report[headline]
    return {
        "name": name,
        "val_top_1": val["top_1"],
        "val_log_loss": val["log_loss"],
        "top_1": head["top_1"],
        "log_loss": head["log_loss"],
        "calibration_error": head["calibration_error"],
    }


def _probabilities(
    result: Result, index: pd.Index, *, classes: list[str], augmented: bool, folder: Path
) -> np.ndarray:
    """Return the calibrated probabilities of a run, with the photos and the classes in the given order."""
    rows = result.rows(*index.unique("split")).loc[index]
    if not augmented:
        return predictions.probabilities(rows, classes)
    photos = _photos(result)
    network = models.load(steps.outputs() / result.name / "model.keras", result.card)
    row_of = {path: row for row, path in enumerate(photos.table.path)}
    probabilities = inference.of_rows(
        network,
        photos,
        rows=np.array([row_of[path] for path in rows["path"]]),
        folder=folder / "cache",
        batch_size=result.parameters["train"]["batch_size"],
        views=inference.views(True, flip=result.parameters["augment"]["flip"]),
    )
    order = [result.classes.index(name) for name in classes]
    return metrics.apply_temperature(probabilities, result.card["temperature"])[:, order]


def _photos(result: Result) -> photoset.Photos:
    """Open the photos that a run was evaluated on, even if its parameters have changed since.

    Raises:
        FileNotFoundError: if the photos are missing.
        ValueError: if the photos have changed.
    """
    data, card = steps.outputs() / "data" / result.source, result.card
    if not (data / "source.json").is_file() or not (data / "raw").is_dir():
        raise FileNotFoundError(
            f"the photos of {result.name} are missing in data/{result.source}: run "
            f"`make {result.parameters['name']}` first, or set `compare.test_time_augmentation` to false"
        )
    table = manifest.read(steps.outputs() / result.name / "manifest.csv")
    content = files.read_json(data / "source.json")["content_sha256"]
    scanned, full = decoding.scan(
        data / "raw",
        list(table.path),
        content=content,
        folder=data / "cache",
        size=card["resize"],
        fit=card["fit"],
        bit_depth=card["parameters"].get("model", {}).get("bit_depth"),
    )
    if not scanned.sha1.equals(table.sha1):
        raise ValueError(
            f"the photos in data/{result.source} have changed since the evaluation of {result.name}: run "
            f"`make {result.parameters['name']}` again"
        )
    return photoset.Photos(
        table, full, card["size"], card["classes"], card["fit"], bit_depth=card.get("bit_depth")
    )


def write(ensemble: Ensemble, path: Path) -> None:
    """Write the predictions of an ensemble to a CSV file, or remove an earlier file if it has no members."""
    if ensemble.predictions is None:
        path.unlink(missing_ok=True)
    else:
        predictions.write(ensemble.predictions, path)
