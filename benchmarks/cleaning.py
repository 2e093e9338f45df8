"""Measure 02_clean: throughput compared with cleanvision, and peak memory with many photos.

Run by `python benchmarks/cleaning.py [folder]`: the folder with `flowers.zip`, by default the environment
variable `DATA`; without both, synthetic photos are generated. cleanvision (`pip install cleanvision`) is the
most similar library: it decodes every photo, measures its quality and finds duplicates. Both run alternately
in the same process, on two cores and the same photos; the first round is a warm-up. Embeddings are disabled,
because cleanvision has no embeddings. The exit code is 1 if a target is missed.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from data import archive

from lib.clean import manifest
from lib.core import schema
from lib.download import archives
from lib.photos import labels

CORES, ROUNDS = 2, 3
# Targets: the ratio of the throughputs, and the growth of the peak memory in MB.
LEAST_RATIO, MOST_GROWTH = 1.5, 300
# Number and side in pixels of the synthetic photos for the throughput.
DRAWN, SIDE = 3000, 227
# Numbers and side in pixels of the synthetic photos for the peak memory.
FEW, MANY, SMALL = 2000, 20_000, 64
SETTINGS = schema.Params.model_validate(
    {"name": "bench", "source": {"kind": "sample", "name": "bench"}, "clean": {"embeddings": False}}
)


def main() -> int:
    """Print the measurements and return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=Path, nargs="?", help="folder with flowers.zip; by default DATA")
    folder = arguments.parse_args().folder
    flowers = archive(folder, "flowers.zip") if folder or os.environ.get("DATA") else None
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as scratch:
        reached = [compare_memory(Path(scratch)), compare_speed(Path(scratch), flowers)]
    return 0 if all(reached) else 1


def compare_memory(folder: Path) -> bool:
    """Print the peak memory with few and with many photos; return whether the growth is below the target."""
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
    """Clean the photos and return the peak resident memory of this process in MB."""
    clean(data, "memory")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def compare_speed(folder: Path, flowers: Path | None) -> bool:
    """Print the median throughput of both libraries; return whether their ratio reaches the target."""
    data = folder / "speed"
    if flowers:
        data.mkdir()
        archives.extract(flowers, data / "raw")
    else:
        draw(data, DRAWN, SIDE)
    count = len(labels.files(data / "raw"))
    libraries: dict[str, Callable[[int], None]] = {"02_clean": lambda number: clean(data, str(number))}
    try:
        from cleanvision import Imagelab
    except ImportError:
        print("cleanvision is not installed (pip install cleanvision): only 02_clean is measured")
    else:
        libraries["cleanvision"] = lambda number: find_issues(Imagelab, data / "raw")
    rates: dict[str, list[float]] = {name: [] for name in libraries}
    for number in range(ROUNDS + 1 if len(libraries) > 1 else 2):
        for name, run in libraries.items():
            start = time.perf_counter()
            run(number)
            rates[name].append(count / (time.perf_counter() - start))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, median in medians.items():
        rounds = ", ".join(f"{rate:.0f}" for rate in rates[name][1:])
        print(f"{name}: {median:.0f} photos per second (median of {rounds}; {count:,} photos)")
    if len(medians) < 2:
        return True
    ratio = medians["02_clean"] / medians["cleanvision"]
    print(f"ratio: {ratio:.2f} (expected: at least {LEAST_RATIO})")
    return ratio >= LEAST_RATIO


def clean(data: Path, content: str) -> None:
    """Clean photos as in 02_clean, without embeddings. A new `content` prevents the use of the cache."""
    manifest.build(data, SETTINGS, content=content)


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


if __name__ == "__main__":
    sys.exit(main())
