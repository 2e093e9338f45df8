"""Measure 02_clean: throughput compared with cleanvision, and peak memory with many photos.

Reads `flowers.zip`. cleanvision (`pip install cleanvision`) is the most similar library: it decodes every
photo, measures its quality and finds duplicates. Both run in turn in the same process, on two cores and the
same photos. Embeddings are disabled, because cleanvision has no embeddings.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import measuring
import numpy as np
from data import archive

from lib.clean import manifest
from lib.core import schema
from lib.download import archives
from lib.photos import labels

CORES, ROUNDS = 2, 3
# Targets: the ratio of the throughputs, and the growth of the peak memory in MB.
LEAST_RATIO, MOST_GROWTH = 1.5, 300
# Numbers and side in pixels of the synthetic photos for the peak memory.
FEW, MANY, SMALL = 2000, 20_000, 64
SETTINGS = schema.Params.model_validate(
    {"name": "bench", "source": {"kind": "sample", "name": "bench"}, "clean": {"embeddings": False}}
)


def measure(data: Path | None, weights: Path | None, *, quick: bool = False) -> dict[str, Any]:
    """Return the throughputs and the peak memory; `quick` measures fewer photos and once."""
    flowers = archive(data, "flowers.zip")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as scratch:
        speed = compare_speed(Path(scratch), flowers, rounds=1 if quick else ROUNDS)
        return speed | ({} if quick else compare_memory(Path(scratch)))


def compare_memory(folder: Path) -> dict[str, Any]:
    """Return the peak memory with few and with many photos."""
    peaks = {}
    for count in (FEW, MANY):
        draw(folder / str(count), count, SMALL)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks[count] = pool.submit(peak, folder / str(count)).result()
    return {
        f"peak memory, {MANY:,} photos": measuring.row([peaks[MANY]], "MB"),
        f"over that of {FEW:,} photos": measuring.row([peaks[MANY] - peaks[FEW]], "MB", at_most=MOST_GROWTH),
    }


def peak(data: Path) -> float:
    """Clean the photos and return the peak resident memory of this process in MB."""
    clean(data, "memory")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def compare_speed(folder: Path, flowers: Path, *, rounds: int) -> dict[str, Any]:
    """Return the throughput of both libraries, or of 02_clean if cleanvision is not installed."""
    raw, numbers = folder / "speed/raw", itertools.count()
    raw.parent.mkdir()
    archives.extract(flowers, raw)
    count = len(labels.files(raw))
    programs: dict[str, Callable[[], object]] = {"02_clean": lambda: clean(raw.parent, str(next(numbers)))}
    try:
        from cleanvision import Imagelab
    except ImportError:
        rows: dict[str, Any] = {"cleanvision": "not installed (pip install cleanvision)"}
    else:
        rows = {}
        programs["cleanvision"] = lambda: find_issues(Imagelab, raw)
    seconds = measuring.in_turn(programs, rounds=rounds, warm_up=rounds > 1)
    rows |= {
        f"{name}, {count:,} photos": measuring.row(measuring.rates(count, values), "photos/s")
        for name, values in seconds.items()
    }
    if len(seconds) > 1:
        ratios = measuring.ratios(seconds["cleanvision"], seconds["02_clean"])
        rows["02_clean over cleanvision"] = measuring.row(ratios, at_least=LEAST_RATIO)
    return rows


def clean(data: Path, content: str) -> None:
    """Clean photos as in 02_clean, without embeddings. A new `content` prevents the use of the cache."""
    table = manifest.build(data, SETTINGS, content=content).table
    corrupt = int(table.status.eq("corrupt").sum())
    found = len(labels.files(data / "raw"))
    measuring.check(len(table) == found and not corrupt, f"{len(table)} of {found} photos, {corrupt} corrupt")


def find_issues(imagelab: Callable, raw: Path) -> None:
    """Find image-quality issues and duplicates with cleanvision, without printing its report."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        imagelab(data_path=str(raw)).find_issues(n_jobs=CORES, verbose=False)


def draw(data: Path, count: int, side: int) -> None:
    """Write synthetic photos of smooth random shapes to two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        file = data / "raw" / f"class {number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(
            cv2.imencode(".jpg", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[1]
        )
