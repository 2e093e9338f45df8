"""Compare runs by their metrics and by their predictions for the same photos."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
from scipy import stats

from lib.clean import manifest
from lib.core import files, metrics, schema, steps, tables
from lib.evaluate import predictions
from lib.networks import cards

# Columns of the table, with the keys of their values in metrics.json.
METRICS = {
    "top_1": "top_1",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "f1": "f1_macro",
    "log_loss": "log_loss",
    "calibration_error": "calibration_error",
}
COLUMNS = [
    *("run", "recipe", "group", "best_on_val", "backbone", "image_size", "parameters", "megabytes"),
    *("split", "n", "top_1", "top_1_low", "top_1_high", "val_top_1", *list(METRICS)[1:]),
    *("epochs", "seconds", "problem"),
]
PAIR = ["group", "best", "run", "n", "difference", "low", "high", "only_best", "only_run", "p"]


@dataclass(frozen=True)
class Result:
    """The files of an evaluated run.

    Attributes:
        name: name of the run's folder.
        parameters: `params.json`.
        card: `model.json`.
        metrics: `metrics.json`.
        history: `history.csv`.
        predictions: `predictions.csv`, with an additional column `sha1`.
        megabytes: size of `model.keras`.
    """

    name: str
    parameters: dict
    card: cards.ModelCard
    metrics: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    megabytes: float

    @property
    def headline(self) -> str:
        """The headline split: test, or val if there is no test split."""
        return self.metrics["headline"]

    @property
    def source(self) -> str:
        """The name of the data set."""
        return self.parameters["source"]["name"]

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the network's outputs."""
        return predictions.classes(self.predictions)

    @property
    def rank(self) -> tuple[float, float, str]:
        """The sort key of the run: best top-1 on val first, then lowest log loss on val, then name."""
        return -self.metrics["val"]["top_1"], self.metrics["val"]["log_loss"], self.name

    def rows(self, *splits: str) -> pd.DataFrame:
        """Return the predictions for the selected splits, indexed by `split`, `sha1` and `label`."""
        selected = self.predictions[self.predictions["split"].isin(splits)]
        return selected.set_index(["split", "sha1", "label"], drop=False)

    def validate(self) -> None:
        """Check that the files contain all keys and columns that a comparison needs.

        Raises:
            ValueError: if a file lacks a key or column.
        """
        metric_keys = ["n", "intervals", *METRICS.values()]
        headline = self.metrics.get("headline", "val")
        needed: list[tuple[str, Container, list[str]]] = [
            ("params.json", self.parameters, ["name", "source"]),
            ("history.csv", self.history, ["seconds"]),
            ("metrics.json", self.metrics, ["headline", "val", headline]),
            ("metrics.json", self.metrics.get("val", {}), metric_keys),
            ("metrics.json", self.metrics.get(headline, {}), metric_keys),
        ]
        for file, values, keys in needed:
            if missing := [key for key in dict.fromkeys(keys) if key not in values]:
                raise ValueError(
                    f"{file} has no {', '.join(missing)}. Execute the run again with this version"
                )


def read(names: Sequence[str] = ()) -> tuple[dict[str, Result], dict[str, str]]:
    """Read the results of runs.

    Args:
        names: folders in `outputs/`; all runs if empty.

    Returns:
        The evaluated runs, and the reasons why the other runs cannot be compared, both by name.

    Raises:
        FileNotFoundError: if there is no run in `outputs/`, or no run with a name in `names`.
        ValueError: if no run can be compared.
    """
    runs = _runs()
    if not runs:
        raise FileNotFoundError("a comparison needs a run in outputs/. Run `make demo` first")
    if unknown := [name for name in names if name not in runs]:
        raise FileNotFoundError(
            f"`compare.runs` must list runs in outputs/: {', '.join(runs)}. Received: {', '.join(unknown)}"
        )
    results, problems = {}, {}
    for name in sorted(set(names) or runs):
        try:
            results[name] = _read(name)
        except (OSError, ValueError) as error:
            problems[name] = " ".join(str(error).split())
    if not results:
        reasons = "; ".join(f"{name} ({problem})" for name, problem in problems.items())
        raise ValueError(f"a comparison needs an evaluated run. Received: {reasons}")
    return results, problems


def _runs() -> list[str]:
    """List the names of the runs in `outputs/`, finished or not."""
    folders = [path for path in steps.outputs().glob("*/") if path.name not in schema.RESERVED]
    return sorted(path.name for path in folders if any(path.glob("*.ipynb")) or any(path.glob("*.json")))


def _read(name: str) -> Result:
    """Read the files of a run.

    Raises:
        ValueError: if a file is missing, has changed since the evaluation, or lacks a key or column.
    """
    folder, step = steps.outputs() / name, steps.EVALUATE
    needed = ["params.json", *step.reads, "history.csv", "metrics.json", "predictions.csv"]
    if missing := [file for file in needed if not (folder / file).is_file()]:
        raise ValueError(f"unfinished: {', '.join(missing)} missing")
    record = steps.provenance(folder)["steps"].get(step.name)
    if record is None:
        raise ValueError("unfinished: the last evaluation was not completed")
    hashes = {file: files.file_sha256(folder / file) for file in step.reads}
    if changed := [file for file in step.reads if hashes[file] != record["read"].get(file)]:
        raise ValueError(f"{', '.join(changed)} changed after the evaluation. Evaluate the run again")
    rows = predictions.read(folder / "predictions.csv")
    content = manifest.read(folder / "manifest.csv").set_index("path").sha1
    result = Result(
        name=name,
        parameters=files.read_json(folder / "params.json"),
        card=cards.load(folder / "model.json"),
        metrics=files.read_json(folder / "metrics.json"),
        history=pd.read_csv(folder / "history.csv"),
        predictions=rows.assign(sha1=rows["path"].map(content)),
        megabytes=(folder / "model.keras").stat().st_size / 1e6,
    )
    result.validate()
    return result


def groups(results: dict[str, Result]) -> dict[str, list[str]]:
    """Group the runs that have the same headline photos and labels, and are therefore comparable.

    Returns:
        The names of the runs in each group, best on val first. A group has the name of its data set, followed
        by a number if the data set has several groups.
    """
    by_photos: dict[tuple, list[Result]] = {}
    for result in sorted(results.values(), key=lambda result: (result.source, result.rank)):
        by_photos.setdefault(tuple(sorted(result.rows(result.headline).index)), []).append(result)
    names, sources = {}, [group[0].source for group in by_photos.values()]
    for index, group in enumerate(by_photos.values()):
        source = group[0].source
        number = f" {sources[:index].count(source) + 1}" if sources.count(source) > 1 else ""
        names[source + number] = [result.name for result in sorted(group, key=lambda result: result.rank)]
    return names


def table(results: dict[str, Result], problems: dict[str, str]) -> pd.DataFrame:
    """List the runs by group, best on val first, then the runs that cannot be compared.

    Args:
        results, problems: the result of `read`.

    Returns:
        One row per run: `run`; `recipe`, the parameter file; `group`, see `groups`; `best_on_val`, whether it
        is the best run of its group on val; `backbone`, `image_size` (pixels), `parameters`, `megabytes` (of
        `model.keras`); `split` and `n`, the headline split and its number of photos; `top_1` on this split
        with its 95 % interval (`top_1_low`, `top_1_high`), `precision`, `recall` and `f1` (macro),
        `log_loss`, `calibration_error`; `val_top_1`; `epochs` and `seconds` of training; and `problem`, the
        reason why the run cannot be compared. If so, all columns except `run` and `problem` are missing.
    """
    rows = [
        {"group": group, "best_on_val": name == names[0], **_row(results[name]), "problem": ""}
        for group, names in groups(results).items()
        for name in names
    ]
    rows += [{"run": name, "problem": problem} for name, problem in problems.items()]
    # Int64 allows missing values.
    integers = dict.fromkeys(["image_size", "parameters", "n", "epochs"], "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(integers)


def _row(result: Result) -> dict:
    """Return the row of a run in `table`."""
    card, headline = result.card, result.metrics[result.headline]
    low, high = headline["intervals"]["top_1"]
    return {
        "run": result.name,
        "recipe": result.parameters["name"],
        "backbone": card["backbone"],
        "image_size": card["size"],
        "parameters": card["parameter_count"],
        "megabytes": round(result.megabytes, 2),
        "split": result.headline,
        "n": headline["n"],
        "val_top_1": result.metrics["val"]["top_1"],
        **{name: headline[key] for name, key in METRICS.items()},
        "top_1_low": low,
        "top_1_high": high,
        "epochs": len(result.history),
        "seconds": round(float(result.history["seconds"].sum()), 1),
    }


def pairs(results: dict[str, Result]) -> pd.DataFrame:
    """Compare each run with the best run of its group, on the headline photos of the group.

    The best run is selected on val. Selecting it on the headline photos would bias the comparison.

    Returns:
        One row per run that is not the best of its group: `group`, `best`, `run`, `n`; `difference`, the
        top-1 of the run minus that of the best run, with `low`, `high` and `p` as in `paired`; `only_best`
        and `only_run`, the number of photos that only the best run, or only the run, classified correctly.
        Empty if no two runs have the same photos.
    """
    rows = []
    for group, (best, *others) in groups(results).items():
        headline = results[best].headline
        for name in others:
            pair = paired(results[name].rows(headline), results[best].rows(headline))
            only = {"only_run": pair["only_first"], "only_best": pair["only_second"]}
            rows.append({"group": group, "best": best, "run": name, **pair, **only})
    return pd.DataFrame(rows, columns=PAIR)


class Paired(TypedDict):
    """The result of `paired`."""

    n: int
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def paired(first: pd.DataFrame, second: pd.DataFrame) -> Paired:
    """Compare the predictions of two networks for the same photos.

    Args:
        first, second: results of `Result.rows` with the same index, in any order.

    Returns:
        `n`, the number of photos; `difference`, the top-1 of the first network minus that of the second; its
        95 % interval, `low` and `high`; `only_first` and `only_second`, the number of photos that only the
        first, or only the second, network classified correctly; and `p`, the p-value of the exact (binomial)
        McNemar test of equal accuracy (McNemar, 1947, https://doi.org/10.1007/BF02295996).
    """
    n = len(first)
    correct = [rows["label"].eq(rows["predicted"]).to_numpy() for rows in (first, second.loc[first.index])]
    both = int((correct[0] & correct[1]).sum())
    only_first, only_second = (int(hits.sum()) - both for hits in correct)
    neither = n - both - only_first - only_second
    low, high = newcombe(both=both, first=only_first, second=only_second, neither=neither)
    different = only_first + only_second
    return {
        "n": n,
        "difference": (only_first - only_second) / n,
        "low": low,
        "high": high,
        "only_first": only_first,
        "only_second": only_second,
        "p": float(stats.binomtest(only_first, different).pvalue) if different else 1.0,
    }


def newcombe(*, both: int, first: int, second: int, neither: int) -> list[float]:
    """Return the 95 % interval of the difference between two paired proportions.

    The interval combines the Wilson intervals of the two proportions, and accounts for their correlation
    (Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, method 10). It is valid even if there are no discordant pairs, in
    which case a bootstrap interval has no width.

    Args:
        both, first, second, neither: number of pairs in which both members, only the first, only the second,
            or neither is a success.

    Returns:
        `[low, high]` of the first proportion minus the second, from -1 to 1.
    """
    n = both + first + second + neither
    proportions = [(both + only) / n for only in (first, second)]
    (low, high), (low_2, high_2) = (metrics.interval(both + only, n) for only in (first, second))
    product = float(both * neither - first * second)
    # Newcombe's continuity correction of the correlation.
    product = max(product - n / 2, 0) if product > 0 else product
    denominator = np.sqrt(float(both + first) * (second + neither) * (both + second) * (first + neither))
    correlation = product / denominator if denominator else 0.0

    def width(a: float, b: float) -> float:
        return float(np.sqrt(a**2 - 2 * correlation * a * b + b**2))

    difference = (first - second) / n
    return [
        difference - width(proportions[0] - low, high_2 - proportions[1]),
        difference + width(high - proportions[0], proportions[1] - low_2),
    ]


def write(folder: Path, *, runs: pd.DataFrame, in_pairs: pd.DataFrame, ensemble: dict) -> None:
    """Write `comparison.csv` and `comparison.json`.

    The JSON file has the keys `groups`, `not_compared`, `pairs` and `ensemble`.

    Args:
        folder: the folder of the files.
        runs: the result of `table`.
        in_pairs: the result of `pairs`.
        ensemble: `ensembles.Ensemble.report`; if it is empty, null is written.
    """
    tables.write(runs, folder / "comparison.csv")
    compared = runs[runs.problem.eq("")]
    record = {
        "groups": {name: rows.run.tolist() for name, rows in compared.groupby("group", sort=False)},
        "not_compared": runs[runs.problem.ne("")].set_index("run").problem.to_dict(),
        "pairs": in_pairs.to_dict("records"),
        "ensemble": ensemble or None,
    }
    files.write_json(folder / "comparison.json", record)
