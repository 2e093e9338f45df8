"""Measure 02_clean: its photos per second beside cleanvision's, and the memory that many photos take.

    python benchmarks/cleaning.py [archive of photos in class folders]

Without an archive the photos are drawn. cleanvision (`pip install cleanvision`) is the peer that does the
most similar work: it reads every photo, judges it and finds duplicates. Both get two cores, the same
photos and the same process, in turn; the first round warms the disk and is not counted. Embeddings are
left out: cleanvision has none. Exit code 1 where a target is missed.
"""

import contextlib
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lib.clean import manifest
from lib.core import schema
from lib.download import archives
from lib.photos import labels

CORES, ROUNDS = 2, 3
LEAST_RATIO, MOST_GROWTH = 1.5, 300  # targets: photos a second over cleanvision's, and MB
DRAWN, SIDE = 3000, 227  # photos, where no archive is given, and their side in pixels
FEW, MANY, SMALL = 2000, 20_000, 64  # photos, and their side in pixels, whose peaks of memory are compared
SETTINGS = schema.Params.model_validate(
    {"name": "bench", "source": {"kind": "sample", "name": "bench"}, "clean": {"embeddings": False}}
)


def main() -> int:
    """Print the figures and return the exit code."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        reached = [compare_memory(Path(folder)), compare_speed(Path(folder))]
    return 0 if all(reached) else 1


def compare_memory(folder: Path) -> bool:
    """Print the peak memory with few and with many photos, and return whether it grows little."""
    peaks = {}
    for count in (FEW, MANY):
        draw(folder / str(count), count, SMALL)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks[count] = pool.submit(peak, folder / str(count)).result()
        print(f"{count:6,} photos of {SMALL} pixels: peak of {peaks[count]:,.0f} MB", flush=True)
    growth = peaks[MANY] - peaks[FEW]
    print(f"difference: {growth:,.0f} MB (expected: at most {MOST_GROWTH})", flush=True)
    return growth <= MOST_GROWTH


def peak(data: Path) -> float:
    """Clean and return this process's peak of resident memory in MB."""
    clean(data, "once")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def compare_speed(folder: Path) -> bool:
    """Print the median photos per second of both and the ratio, and return whether it is high enough."""
    data = folder / "speed"
    if len(sys.argv) > 1:
        data.mkdir()
        archives.extract(Path(sys.argv[1]), data / "raw")
    else:
        draw(data, DRAWN, SIDE)
    number = len(labels.files(data / "raw"))
    contestants = {"02_clean": lambda turn: clean(data, str(turn))}
    try:
        from cleanvision import Imagelab
    except ImportError:
        print("cleanvision is not installed (pip install cleanvision): 02_clean alone")
    else:
        contestants["cleanvision"] = lambda turn: find_issues(Imagelab, data / "raw")
    rates = {name: [] for name in contestants}
    for turn in range(ROUNDS + 1 if len(contestants) > 1 else 2):
        for name, work in contestants.items():
            began = time.perf_counter()
            work(turn)
            rates[name].append(number / (time.perf_counter() - began))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, median in medians.items():
        rounds = ", ".join(f"{rate:.0f}" for rate in rates[name][1:])
        print(f"{name}: {median:.0f} photos a second (median of {rounds}; {number:,} photos)")
    if len(medians) < 2:
        return True
    ratio = medians["02_clean"] / medians["cleanvision"]
    print(f"ratio: {ratio:.2f} (expected: at least {LEAST_RATIO})")
    return ratio >= LEAST_RATIO


def clean(data: Path, content: str) -> None:
    """Clean as 02_clean does without embeddings; another `content` is a source that nothing has cached."""
    manifest.build(data, SETTINGS, content=content)


def find_issues(laboratory, raw: Path) -> None:
    """Let cleanvision judge the photos, without its report."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        laboratory(data_path=str(raw)).find_issues(n_jobs=CORES, verbose=False)


def draw(data: Path, count: int, side: int) -> None:
    """Draw smooth random shapes, as photos have them, into two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        file = data / "raw" / f"class {number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(
            cv2.imencode(".jpg", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[1]
        )


if __name__ == "__main__":
    sys.exit(main())
