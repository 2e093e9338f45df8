"""An ensemble: the averaged predictions of several runs for the photos that they share."""

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

FIGURES = ["name", "val_top_1", "val_log_loss", "top_1", "log_loss", "calibration_error"]


@dataclass(frozen=True)
class Ensemble:
    """The averaged predictions of several runs.

    Attributes:
        predictions: one row per photo of val and of the headline, in the form of `predictions.table`; None
            if there are no members.
        report: `members`; `headline`, its split; `temperature`, the ensemble's own; `test_time_augmentation`;
            for val and the headline the result of `metrics.report`; `each`, the figures of the members and of
            the ensemble; and `gain`, as `comparison.paired`: the ensemble on the headline against its best
            member (`over`), which val chose, as that was evaluated. Empty if there are no members.
    """

    predictions: pd.DataFrame | None
    report: dict

    @property
    def figures(self) -> pd.DataFrame:
        """One row per member as it was averaged, then the ensemble.

        Top-1 and log loss on val and on the headline, and the latter's calibration error.
        """
        return pd.DataFrame(self.report.get("each", []), columns=FIGURES)


def members(results: dict[str, Result], wanted: Sequence[str] = ()) -> list[str]:
    """Choose the runs whose probabilities are averaged.

    Args:
        results: the evaluated runs.
        wanted: names of runs. None: all that have the classes and photos of the best one; if several
            data sets have such runs, those of the run that is the best on val. The headline photos decide
            nothing: an ensemble of members that they chose would look too good.

    Returns:
        At least two names; none if nothing was wanted and no two runs go together.

    Raises:
        ValueError: the wanted runs are fewer than two, are not among the results, or differ in their
            classes or photos; the message says in which.
    """
    if not wanted:
        ranked = sorted(results.values(), key=lambda result: result.rank)
        alike = ([other.name for other in ranked if not difference(best, other)] for best in ranked)
        return next((names for names in alike if len(names) > 1), [])
    if unknown := [name for name in wanted if name not in results]:
        raise ValueError(
            f"`compare.ensemble` names {', '.join(unknown)}. Expected: runs that are compared and have been "
            f"evaluated: {', '.join(results)}"
        )
    if len(set(wanted)) < max(2, len(wanted)):
        raise ValueError(
            f"`compare.ensemble` needs at least two runs, each once. Received: {', '.join(wanted)}"
        )
    first = wanted[0]
    for name in wanted[1:]:
        if reason := difference(results[first], results[name]):
            raise ValueError(f"`compare.ensemble`: {first} and {name} cannot be averaged: {reason}")
    return list(wanted)


def difference(one: Result, other: Result) -> str:
    """Say why two runs cannot be averaged.

    They differ in the headline's split, the classes, the photos of val and of the headline, or their labels;
    empty if they differ in nothing.
    """
    if one.headline != other.headline:
        return (
            f"the headline of {one.name} is its {one.headline} split, "
            f"that of {other.name} its {other.headline} split"
        )
    sets = {"classes": [{name: name for name in run.classes} for run in (one, other)]}
    for split in dict.fromkeys(("val", one.headline)):
        rows = [run.rows(split) for run in (one, other)]
        sets[f"photos of {split}"] = [dict(zip(part["sha1"], part["path"], strict=True)) for part in rows]
        sets[f"labels of {split}"] = [
            dict(zip(part.index, part["path"] + " as " + part["label"], strict=True)) for part in rows
        ]
    for what, (first, second) in sets.items():
        if first.keys() != second.keys():
            only = [_only(first, second, name=one.name), _only(second, first, name=other.name)]
            return f"other {what}, {', '.join(only)}"
    return ""


def _only(own: dict, others: dict, *, name: str) -> str:
    """Count the keys that only one run has, and name an example."""
    only = [text for key, text in own.items() if key not in others]
    return f"{len(only)} only in {name}" + (f" (such as {only[0]})" if only else "")


def average(
    results: dict[str, Result], names: Sequence[str], *, augmented: bool, folder: Path, seed: int
) -> Ensemble:
    """Average the predictions of runs for the photos of val and of the headline.

    Every run has the same weight: other weights would have to be fitted on val, which is small and has
    already chosen each run's epoch and temperature. Averaged are the calibrated probabilities, so that no
    network weighs more because it is overconfident. Their mean is underconfident (Rahaman and Thiery,
    2021, https://arxiv.org/abs/2007.08792): it gets a temperature of its own, found on val.

    Args:
        results: the evaluated runs.
        names: the result of `members`.
        augmented: whether each network predicts the photos anew, as the mean over several views; otherwise
            the probabilities are those of its `predictions.csv`.
        folder: keeps the new predictions.
        seed: seed of the bootstrap intervals.

    Raises:
        FileNotFoundError, ValueError: photos are to be predicted anew and are gone, or are other ones.
    """
    if not names:
        return Ensemble(None, {})
    chosen = [results[name] for name in names]
    best = min(chosen, key=lambda result: result.rank)
    classes, base = best.classes, best.rows("val", best.headline)
    probabilities = {
        result.name: _probabilities(result, base.index, classes=classes, augmented=augmented, folder=folder)
        for result in chosen
    }
    mean = np.mean(list(probabilities.values()), axis=0)
    targets = pd.Categorical(base["label"], classes).codes.astype(np.int64)
    splits = {split: base["split"].eq(split).to_numpy() for split in dict.fromkeys(("val", best.headline))}
    temperature = metrics.temperature(targets[splits["val"]], mean[splits["val"]])
    together = metrics.apply_temperature(mean, temperature)
    measured = [*probabilities.items(), ("ensemble", together)]
    reports = [
        (name, _measure(targets, values, splits=splits, classes=classes, seed=seed))
        for name, values in measured
    ]
    rows = predictions.join(base, together, classes=classes)
    own = rows.set_index(base.index)[splits[best.headline]]
    report = {
        "members": list(names),
        "test_time_augmentation": augmented,
        "temperature": round(temperature, 4),
        "headline": best.headline,
        **reports[-1][1],
        "each": [_figures(name, report, headline=best.headline) for name, report in reports],
        "gain": {"over": best.name, **comparison.paired(own, best.rows(best.headline))},
    }
    return Ensemble(rows, report)


def _measure(
    targets: np.ndarray,
    probabilities: np.ndarray,
    *,
    splits: dict[str, np.ndarray],
    classes: list[str],
    seed: int,
) -> dict[str, metrics.Report]:
    """Return the result of `metrics.report` for each split, given which photos are in it, `bool` `(n,)`."""
    return {
        split: metrics.report(targets[rows], probabilities[rows], classes=classes, seed=seed)
        for split, rows in splits.items()
    }


def _figures(name: str, report: dict[str, metrics.Report], *, headline: str) -> dict:
    """Return a row of `Ensemble.figures`."""
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
    """Return a run's calibrated probabilities, in the order of an index of `Result.rows` and of classes."""
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
        batch_size=result.chosen["train"]["batch_size"],
        views=inference.views(True, flip=result.chosen["augment"]["flip"]),
    )
    order = [result.classes.index(name) for name in classes]
    return metrics.apply_temperature(probabilities, result.card["temperature"])[:, order]


def _photos(result: Result) -> photoset.Photos:
    """Open the photos that a run was evaluated on, by its own records: its parameters may have changed since.

    Raises:
        FileNotFoundError: they are gone.
        ValueError: they are others by now.
    """
    data, card = steps.outputs() / "data" / result.source, result.card
    if not (data / "source.json").is_file() or not (data / "raw").is_dir():
        raise FileNotFoundError(
            f"the photos of {result.name} are no longer in data/{result.source}: "
            f"run `make {result.chosen['name']}` first, or set compare.test_time_augmentation to false"
        )
    listed = manifest.read(steps.outputs() / result.name / "manifest.csv")
    content = files.read_json(data / "source.json")["content_sha256"]
    scanned, full = decoding.scan(
        data / "raw",
        list(listed.path),
        content=content,
        folder=data / "cache",
        size=card["resize"],
        fit=card["fit"],
    )
    if not scanned.sha1.equals(listed.sha1):
        raise ValueError(
            f"the photos in data/{result.source} are not those that {result.name} was evaluated on: "
            "run it again"
        )
    return photoset.Photos(listed, full, card["size"], card["classes"], card["fit"])


def write(ensemble: Ensemble, path: Path) -> None:
    """Write an ensemble's predictions as CSV; if there is none, remove those of an earlier one."""
    if ensemble.predictions is None:
        path.unlink(missing_ok=True)
    else:
        predictions.write(ensemble.predictions, path)
