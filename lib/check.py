"""Describe what a run would read, before anything runs; neither a backend nor scikit-learn is imported."""

import math
import unicodedata
from pathlib import Path
from statistics import NormalDist

import pandas as pd

from lib import prerequisites
from lib.clean import splits
from lib.core import files, schema, steps
from lib.download import preview
from lib.photos import formats, labels, listing

# Number of bytes of each file that are read for its header.
HEADER = 16_384
# Largest table of classes; of more classes, only the smallest are listed.
MAX_ROWS = 120
SMALLEST = 20
# Accuracy for which the interval of the headline is computed, and the width that it should have at most.
ASSUMED = 0.9
WIDEST = 0.1
# Number of training photos below which a class is too small.
FEWEST = 10
SPLITS = ["train", "val", "test"]


def report(settings: schema.Params, data: Path, *, brief: bool = False) -> str:
    """Describe the photos that a run would read.

    Args:
        settings: parameters of the run.
        data: `outputs/data/<source.name>`; nothing is written.
        brief: whether to leave out the files' headers, the splits and the interval.

    Returns:
        Lines of text without control characters: the decision on labels and splits; the number of photos of
        each class, in total and in each split as far as it is known before the cleaning; files that are left
        out or unreadable; the smallest class; the width of the headline's interval; and notes. If the photos
        must be downloaded, the origin and the key.

    Raises:
        ValueError, FileNotFoundError: if the source cannot be read; see `sources.fetch` and `labels.find`.
    """
    with preview.contents(settings.source, data) as found:
        if found is None:
            return f"{settings.name}: no photos here yet: {preview.download(settings.source)}"
        table = labels.find(found.listing, settings.source, group=settings.split.group)
        others = labels.others(found.listing, table)
        problems = {} if brief else _problems(found.listing, table)
    lines = [f"{settings.name}: {table.attrs['layout']}", f"{found.place}: {_counts(table, others)}"]
    usable = table[table.label.ne("") & table.problem.eq("") & ~table.path.isin(list(problems))]
    if not brief:
        usable = usable.assign(split=_planned(usable, settings.split, seed=settings.seed))
        lines += [*_unreadable(problems), "", *_classes(usable), "", *_advice(usable)]
    notes = table.attrs["notes"] + _problem(settings)
    lines += [f"note: {note}" for note in notes]
    return "\n".join(map(files.printable, lines))


def _problems(contents: listing.Listing, table: pd.DataFrame) -> dict[str, str]:
    """Return the reason of each file whose header has a problem, by path."""
    heads = contents.heads(table.path, HEADER)
    problems = {path: formats.header(head) for path, head in heads}
    return {path: problem for path, problem in sorted(problems.items()) if problem}


def _counts(table: pd.DataFrame, others: dict[str, int]) -> str:
    """Return the number of photos, and of all other files by kind."""
    text = f"{len(table)} photos"
    if left_out := table.attrs["left_out"]:
        text += f", {left_out} of classes that are not in source.classes"
    if problems := int(table.problem.ne("").sum()):
        text += f", {problems} of them without a usable label ({table.problem[table.problem.ne('')].iloc[0]})"
    kinds = ", ".join(f"{count} {kind}" for kind, count in others.items())
    return text + (f"; not read: {kinds}" if kinds else "")


def _unreadable(problems: dict[str, str]) -> list[str]:
    if not problems:
        return []
    first = [f"  {path}: {problem}" for path, problem in list(problems.items())[:5]]
    more = ["  ..."] if len(problems) > 5 else []
    return [f"{len(problems)} files are unreadable, by their headers:", *first, *more]


def _planned(usable: pd.DataFrame, fractions: schema.Split, *, seed: int) -> pd.Series:
    """Return the split of each photo if no photo were a duplicate."""
    units = ("group " + usable.group).where(usable.group.ne(""), usable.path)
    photos = usable.assign(sha1=usable.path, unit=pd.factorize(units)[0])
    earlier = pd.Series("", usable.index)
    return splits.assign(photos, val=fractions.val, test=fractions.test, seed=seed, earlier=earlier)


def _classes(usable: pd.DataFrame) -> list[str]:
    """Return a table of the classes: their photos, in total and in each split."""
    counts = pd.crosstab(usable.label, usable.split).reindex(columns=SPLITS, fill_value=0)
    counts = counts.reindex(labels.classes(usable.label))
    rows = [(str(name), [sum(row), *row]) for name, row in zip(counts.index, counts.to_numpy(), strict=True)]
    shown = rows if len(rows) <= MAX_ROWS else sorted(rows, key=lambda row: row[1][0])[:SMALLEST]
    more = [f"... and {len(rows) - len(shown)} larger classes"] if len(shown) < len(rows) else []
    total = ("all", [int(usable.shape[0]), *(int(counts[split].sum()) for split in SPLITS)])
    width = max(_width(name) for name, _ in [*shown, ("class", [])])
    lines = [_line(name, numbers, width) for name, numbers in shown]
    return [_line("class", ["photos", *SPLITS], width), *lines, *more, _line(*total, width)]


def _line(name: str, cells: list, width: int) -> str:
    padding = " " * (width - _width(name))
    return f"{files.printable(name)}{padding}{''.join(f'{cell:>8}' for cell in cells)}"


def _width(text: str) -> int:
    """Return the number of columns of a text in a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in files.printable(text)
    )


def _advice(usable: pd.DataFrame) -> list[str]:
    """Return sentences on the smallest class and on the uncertainty of the headline."""
    sizes = usable.label.value_counts()
    name, size = str(sizes.index[-1]), int(sizes.iloc[-1])
    of_class = usable.split[usable.label.eq(name)].value_counts()
    parts = ", ".join(f"{of_class.get(split, 0)} in {split}" for split in SPLITS)
    subject = f"The smallest class, {name}, has" if size < sizes.iloc[0] else "Each class has"
    text = f"{subject} {size} photos: about {parts}."
    if of_class.get("train", 0) < FEWEST:
        text += " That is little to learn from: add photos, or leave the class out with source.classes."
    return [text, _uncertainty(usable.split)]


def _uncertainty(splits: pd.Series) -> str:
    """Return a sentence on the interval of the headline, for an assumed accuracy."""
    split = "test" if splits.eq("test").any() else "val"
    photos = int(splits.eq(split).sum())
    if not photos:
        return "No photo is left for val or test: add photos, or give the photos of val in the source."
    low, high = wilson(ASSUMED, photos)
    text = (
        f"With {photos} photos in {split}, the 95 % interval of the headline, at an assumed accuracy of "
        f"{ASSUMED:.2f}, is {low:.2f} to {high:.2f}."
    )
    if _span(photos) > WIDEST:
        needed = next(n for n in range(photos, 10**6) if _span(n) <= WIDEST)
        text += (
            f" It is {WIDEST:.2f} wide with about {needed} photos in {split}: add photos, or raise "
            f"split.{split} unless the source defines the splits; differences within it mean nothing."
        )
    return text


def _span(photos: int) -> float:
    low, high = wilson(ASSUMED, photos)
    return high - low


def wilson(accuracy: float, photos: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of an accuracy that need not be a whole number of photos."""
    z = NormalDist().inv_cdf(0.975)
    scale = 1 + z**2 / photos
    centre = (accuracy + z**2 / (2 * photos)) / scale
    half = z * math.sqrt(accuracy * (1 - accuracy) / photos + z**2 / (4 * photos**2)) / scale
    return centre - half, centre + half


def _problem(settings: schema.Params) -> list[str]:
    """Return the error with which a run would stop before its first step, if any."""
    try:
        prerequisites.require(settings, steps.PIPELINE)
    except (ValueError, OSError) as error:
        return [f"{settings.name} cannot run yet: {error}"]
    return []
