"""Measure a run through the notebooks beside the same cells in one process, and the start of a kernel.

The recipe is `butterfly` at 160 pixels with five epochs in each stage. In a longer training, notebooks are a
smaller fraction of the time. Reads `butterfly.zip` and the ImageNet weights of MobileNetV2 from WEIGHTS.
"""

import builtins
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring
from data import archive

from lib import pipeline
from lib.core import params, schema, steps

MOST_RATIO, ROUNDS = 1.3, 2
NAME, CHANGES = "butterfly", "model.image_size=160 train.stages.head.epochs=5 train.stages.fine_tune.epochs=5"
# A short training may be less accurate than the recipe demands.
COMMON = " evaluate.min_top_1=0"
KERNELS = {"without a backend": "pass", "with the backend imported": "from lib.networks import backend"}


def measure(data: Path | None, weights: Path | None) -> dict[str, Any]:
    """Return the seconds of a run in notebooks and in one process, and those until a kernel is ready."""
    options = [
        f"--set={CHANGES}{COMMON}",
        "--run=bench_notebooks",
        f"--archive={archive(data, 'butterfly.zip')}",
        *([f"--weights={weights}"] if weights else []),
    ]
    seconds: dict[str, list[tuple[float, float]]] = {"notebooks": [], "one process": []}
    commands = {
        "notebooks": [sys.executable, "-m", "lib", "run", NAME],
        "one process": [sys.executable, __file__, NAME],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(ROUNDS):
            predictions = []
            for way, command in commands.items():
                outputs = Path(scratch, f"{way} {number}")
                seconds[way].append(execute([*command, *options, f"--outputs={outputs}"]))
                with (outputs / "bench_notebooks/predictions.csv").open(encoding="utf-8") as file:
                    predictions.append([(row["path"], row["predicted"]) for row in csv.DictReader(file)])
            equal = [one == other for one, other in zip(*predictions, strict=True)]
            measuring.check(sum(equal) > 0.95 * len(equal), f"{sum(equal)} of {len(equal)} predictions agree")
    clock, processor = (
        {way: [each[part] for each in values] for way, values in seconds.items()} for part in (0, 1)
    )
    kernels = {way: [start_kernel(cell) for _ in range(3)] for way, cell in KERNELS.items()}
    return {
        f"{NAME}, {CHANGES}": {way: measuring.row(values, "s") for way, values in clock.items()},
        "notebooks over one process": measuring.row(
            measuring.ratios(clock["notebooks"], clock["one process"]), at_most=MOST_RATIO
        ),
        "notebooks over one process, processor time": measuring.row(
            measuring.ratios(processor["notebooks"], processor["one process"])
        ),
        "start of a kernel": {way: measuring.row(values, "s") for way, values in kernels.items()},
    }


def execute(command: list[str]) -> tuple[float, float]:
    """Execute a command, and return its seconds and those of processor time."""
    environment = os.environ | {"PYTHONPATH": str(params.ROOT), "MPLBACKEND": "agg"}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measuring.check(done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:])
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, busy


def start_kernel(cell: str) -> float:
    """Return the seconds from the execution of a notebook to the end of its only cell."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(params.ROOT)}},
        # As the runner does: no warning about the local socket.
        extra_arguments=["--log-level=CRITICAL"],
    )
    began = time.perf_counter()
    with client.setup_kernel():
        client.execute_cell(notebook.cells[0], 0)
        return time.perf_counter() - began


def main() -> int:
    """Execute the cells of the notebooks of a run in this process, as the command `run` does in kernels."""
    from lib import __main__, commands

    options = __main__.parser().parse_args(["run", *sys.argv[1:]])
    __main__._export(options)
    runner = commands._runner(
        options.name, assignments=options.set, run_name=options.run, run_steps=steps.PIPELINE
    )
    builtins.display = lambda *values: None  # type: ignore[attr-defined]
    for step in runner.sequence:
        variables: dict[str, Any] = {}
        for cell in json.loads((pipeline.NOTEBOOKS / f"{step.name}.ipynb").read_text(encoding="utf-8"))[
            "cells"
        ]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), variables)
            if "parameters" in cell["metadata"].get("tags", []):
                variables |= dict.fromkeys(schema.Params.model_fields)
                variables |= {"name": runner.settings.name} | runner.overrides
    return 0


if __name__ == "__main__":
    sys.exit(main())
