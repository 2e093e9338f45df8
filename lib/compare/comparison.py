"""Runs side by side: their figures, and how they differ on the same photos."""

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

# By their names in metrics.json.
FIGURES = {
    "top_1": "top_1",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "f1": "f1_macro",
    "log_loss": "log_loss",
    "calibration_error": "calibration_error",
}
COLUMNS = [
    *("run", "recipe", "group", "best_on_val", "backbone", "image_size", "parameters", "megabytes"),
    *("split", "n", "top_1", "top_1_low", "top_1_high", "val_top_1", *list(FIGURES)[1:]),
    *("epochs", "seconds", "problem"),
]
PAIR = ["group", "best", "run", "n", "difference", "low", "high", "only_best", "only_run", "p"]


@dataclass(frozen=True)
class Result:
    """The files of an evaluated run.

    Attributes:
        name: the run's folder.
        chosen: `params.json`.
        card: `model.json`.
        metrics: `metrics.json`.
        history: `history.csv`.
        predictions: `predictions.csv`, and a column `sha1`.
        megabytes: size of `model.keras`.
    """

    name: str
    chosen: dict
    card: cards.ModelCard
    metrics: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    megabytes: float

    @property
    def headline(self) -> str:
        """The split of the headline: test, or val if there is no test."""
        return self.metrics["headline"]

    @property
    def source(self) -> str:
        """The name of the data set."""
        return self.chosen["source"]["name"]

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the network's outputs."""
        return predictions.classes(self.predictions)

    @property
    def rank(self) -> tuple[float, float, str]:
        """The order of runs from the best on val to the worst: top-1, then log loss, then the name."""
        return -self.metrics["val"]["top_1"], self.metrics["val"]["log_loss"], self.name

    def rows(self, *splits: str) -> pd.DataFrame:
        """Return the predictions for some splits, by `split`, `sha1` and `label`."""
        chosen = self.predictions[self.predictions["split"].isin(splits)]
        return chosen.set_index(["split", "sha1", "label"], drop=False)

    def validate(self) -> None:
        """Check that the files hold all that a comparison reads.

        Raises:
            ValueError: one of them lacks something.
        """
        figures = ["n", "intervals", *FIGURES.values()]
        headline = self.metrics.get("headline", "val")
        needed: list[tuple[str, Container, list[str]]] = [
            ("params.json", self.chosen, ["name", "source"]),
            ("history.csv", self.history, ["seconds"]),
            ("metrics.json", self.metrics, ["headline", "val", headline]),
            ("metrics.json", self.metrics.get("val", {}), figures),
            ("metrics.json", self.metrics.get(headline, {}), figures),
        ]
        for file, values, keys in needed:
            if missing := [key for key in dict.fromkeys(keys) if key not in values]:
                raise ValueError(f"its {file} lacks {', '.join(missing)}: run it again with this version")


def read(names: Sequence[str] = ()) -> tuple[dict[str, Result], dict[str, str]]:
    """Read runs.

    Args:
        names: folders under `outputs/`; none: all there are.

    Returns:
        The evaluated runs by name, sorted; and for each other one why it cannot be compared.

    Raises:
        FileNotFoundError: there is no run, or none of a name that is given.
        ValueError: none of them can be compared.
    """
    runs = _runs()
    if not runs:
        raise FileNotFoundError("there is no run to compare in outputs/ yet: run `make demo` first")
    if unknown := [name for name in names if name not in runs]:
        raise FileNotFoundError(
            f"`compare.runs` names {', '.join(unknown)}, which outputs/ does not hold. "
            f"Runs: {', '.join(runs)}"
        )
    results, problems = {}, {}
    for name in sorted(set(names) or runs):
        try:
            results[name] = _read(name)
        except (OSError, ValueError) as error:
            problems[name] = " ".join(str(error).split())
    if not results:
        reasons = "; ".join(f"{name} ({problem})" for name, problem in problems.items())
        raise ValueError(f"no run can be compared: {reasons}. Expected: a run that has been evaluated")
    return results, problems


def _runs() -> list[str]:
    """List the folders under `outputs/` in which a step has begun, those without a result too."""
    folders = [path for path in steps.outputs().glob("*/") if path.name not in schema.RESERVED]
    return sorted(path.name for path in folders if any(path.glob("*.ipynb")) or any(path.glob("*.json")))


def _read(name: str) -> Result:
    """Read the files of a run.

    Raises:
        ValueError: a file is missing, is older than another one, or lacks something.
    """
    folder, step = steps.outputs() / name, steps.EVALUATE
    needed = ["params.json", *step.reads, "history.csv", "metrics.json", "predictions.csv"]
    if missing := [file for file in needed if not (folder / file).is_file()]:
        raise ValueError(f"unfinished: it has no {', '.join(missing)}")
    record = steps.provenance(folder)["steps"].get(step.name)
    if record is None:
        raise ValueError("unfinished: its last evaluation did not come to its end")
    hashes = {file: files.file_sha256(folder / file) for file in step.reads}
    if changed := [file for file in step.reads if hashes[file] != record["read"].get(file)]:
        raise ValueError(f"{', '.join(changed)} changed after its evaluation: evaluate it again")
    rows = predictions.read(folder / "predictions.csv")
    content = manifest.read(folder / "manifest.csv").set_index("path").sha1
    result = Result(
        name=name,
        chosen=files.read_json(folder / "params.json"),
        card=cards.load(folder / "model.json"),
        metrics=files.read_json(folder / "metrics.json"),
        history=pd.read_csv(folder / "history.csv"),
        predictions=rows.assign(sha1=rows["path"].map(content)),
        megabytes=(folder / "model.keras").stat().st_size / 1e6,
    )
    result.validate()
    return result


# Side by side


def groups(results: dict[str, Result]) -> dict[str, list[str]]:
    """Divide runs into those that can be compared directly: the same headline photos, with the same labels.

    Returns:
        For each group, named after its data set (numbered if that has several), its runs, the best on
        val first.
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
    """List runs, one row each: group by group, the best on val first, then those that cannot be compared.

    Args:
        results, problems: the result of `read`.

    Returns:
        `run`; `recipe`, the parameter file; `group`, see `groups`; `best_on_val`, whether it is the best of
        its group there; `backbone`, `image_size` (pixels), `parameters`, `megabytes` (of `model.keras`);
        `split` and `n`, the headline; on it `top_1` with its 95 % interval (`top_1_low`, `top_1_high`),
        `precision`, `recall` and `f1` (macro), `log_loss`, `calibration_error`; `val_top_1`; `epochs` and
        `seconds` of training; and `problem`, why nothing is known of it.
    """
    rows = [
        {"group": group, "best_on_val": name == names[0], **_row(results[name]), "problem": ""}
        for group, names in groups(results).items()
        for name in names
    ]
    rows += [{"run": name, "problem": problem} for name, problem in problems.items()]
    # Whole numbers, or nothing.
    whole = dict.fromkeys(["image_size", "parameters", "n", "epochs"], "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(whole)


def _row(result: Result) -> dict:
    """Return the figures of a run by their columns in `table`."""
    card, headline = result.card, result.metrics[result.headline]
    low, high = headline["intervals"]["top_1"]
    return {
        "run": result.name,
        "recipe": result.chosen["name"],
        "backbone": card["backbone"],
        "image_size": card["size"],
        "parameters": card["parameter_count"],
        "megabytes": round(result.megabytes, 2),
        "split": result.headline,
        "n": headline["n"],
        "val_top_1": result.metrics["val"]["top_1"],
        **{name: headline[key] for name, key in FIGURES.items()},
        "top_1_low": low,
        "top_1_high": high,
        "epochs": len(result.history),
        "seconds": round(float(result.history["seconds"].sum()), 1),
    }


# In pairs


def pairs(results: dict[str, Result]) -> pd.DataFrame:
    """Compare each run with the best of its group, on the group's headline photos.

    The best is the best on val: chosen on the photos of the comparison, it would owe that to luck too.

    Returns:
        One row per run that is not the best of its group: `group`, `best`, `run`, `n`; `difference`, the
        run's top-1 minus the best's, with `low`, `high` and `p` as `paired`; `only_best` and `only_run`, the
        photos that only one of them classified correctly. Empty if no two runs have the same photos.
    """
    rows = []
    for group, (best, *others) in groups(results).items():
        headline = results[best].headline
        for name in others:
            pair = paired(results[name].rows(headline), results[best].rows(headline))
            only = {"only_run": pair["only_one"], "only_best": pair["only_other"]}
            rows.append({"group": group, "best": best, "run": name, **pair, **only})
    return pd.DataFrame(rows, columns=PAIR)


class Paired(TypedDict):
    """Two networks on the same photos, as `paired` describes it."""

    n: int
    difference: float
    low: float
    high: float
    only_one: int
    only_other: int
    p: float


def paired(one: pd.DataFrame, other: pd.DataFrame) -> Paired:
    """Compare the predictions of two networks for the same photos.

    Args:
        one, other: predictions in the form of `Result.rows`, with one index, in any order.

    Returns:
        `n`; `difference`, the top-1 of the first minus that of the second; its 95 % interval, `low` and
        `high`; `only_one` and `only_other`, the photos that only one of them classified correctly; and `p`,
        of McNemar's exact test: how probable so unequal a division of these photos is if both are equally
        good (McNemar, 1947, https://doi.org/10.1007/BF02295996; exact by the binomial distribution).
    """
    right = [rows["label"].eq(rows["predicted"]).to_numpy() for rows in (one, other.loc[one.index])]
    both, first = int((right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())
    second = int((~right[0] & right[1]).sum())
    neither = len(one) - both - first - second
    low, high = newcombe(both=both, first=first, second=second, neither=neither)
    return {
        "n": len(one),
        "difference": (first - second) / len(one),
        "low": low,
        "high": high,
        "only_one": first,
        "only_other": second,
        "p": float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0,
    }


def newcombe(*, both: int, first: int, second: int, neither: int) -> list[float]:
    """Return the 95 % interval of the difference of two shares that were counted on the same things.

    Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, method 10: Wilson's intervals of the two shares, put together
    by their correlation. It holds if few things tell the two apart, even none, when a bootstrap results in
    an interval without width.

    Args:
        both, first, second, neither: how many have both properties, only the first, only the second, none.

    Returns:
        `[low, high]` of the first share minus the second, from -1 to 1.
    """
    n = both + first + second + neither
    shares = [(both + only) / n for only in (first, second)]
    (low, high), (low_2, high_2) = (metrics.interval(both + only, n) for only in (first, second))
    product = float(both * neither - first * second)
    # Newcombe's correction of the correlation.
    product = max(product - n / 2, 0) if product > 0 else product
    spread = np.sqrt(float(both + first) * (second + neither) * (both + second) * (first + neither))
    correlation = product / spread if spread else 0.0

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(one**2 - 2 * correlation * one * other + other**2))

    difference = (first - second) / n
    return [
        difference - reach(shares[0] - low, high_2 - shares[1]),
        difference + reach(high - shares[0], shares[1] - low_2),
    ]


def write(folder: Path, *, runs: pd.DataFrame, in_pairs: pd.DataFrame, ensemble: dict) -> None:
    """Write `comparison.csv`, the runs, and `comparison.json`.

    The latter holds `groups`, `not_compared`, `pairs` and `ensemble`.

    Args:
        folder: where to.
        runs: the result of `table`.
        in_pairs: the result of `pairs`.
        ensemble: `ensembles.Ensemble.report`; null in the file if it is empty.
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
