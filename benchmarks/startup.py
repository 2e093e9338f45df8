"""Measure `make <name>` of a run in which nothing has changed, with few and with 100,000 photos behind it.

The outputs are synthetic: a manifest and predictions with a row per photo, and a folder with a small file per
photo that a step reads. Each command is a process of its own.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring

from lib import pipeline
from lib.core import files, params, steps

FEW, MANY, MOST_SECONDS = 100, 100_000, 1.5
COMMAND = """
import sys
from lib.__main__ import main
status = main(sys.argv[1:])
print(*sorted({"tensorflow", "jax", "torch", "keras", "pandas"} & set(sys.modules)))
sys.exit(status)
"""


def measure(data: Path | None, weights: Path | None, *, quick: bool = False) -> dict[str, Any]:
    """Return the seconds of a run that is up to date, by number of photos."""
    counts = (FEW, MANY // 10 if quick else MANY)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {f"{count:,} photos": Path(scratch) / str(count) for count in counts}
        for count, folder in zip(counts, folders.values(), strict=True):
            prepare(folder, count)
        programs = {name: lambda folder=folder: up_to_date(folder) for name, folder in folders.items()}
        rounds = 2 if quick else 5
        seconds = measuring.in_turn(programs, rounds=rounds)
        busy = measuring.in_turn(programs, rounds=rounds, warm_up=False, clock=processor_seconds)
        photo = next((folder / "masks/0").iterdir())
        photo.write_bytes(photo.read_bytes()[::-1])
        reasons = execute(folder, "why")
        measuring.check(
            "the file or folder of gradcam.masks has changed" in reasons, "a change was not noticed"
        )
    rows = {name: measuring.row(values, "s", at_most=MOST_SECONDS) for name, values in seconds.items()}
    return rows | {f"{name}, processor time": measuring.row(values, "s") for name, values in busy.items()}


def processor_seconds() -> float:
    """Return the processor time of the commands so far, which other programs on the machine hardly change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepare(folder: Path, count: int) -> None:
    """Write a finished run of `demo` with a number of photos."""
    for number in range(count):
        photo = folder / "masks" / str(number % 100) / f"photo {number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(b"%d, a photo" % number)
    os.environ["CHRYSALIS_OUTPUTS"] = str(folder)
    overrides = {"run": "many", "gradcam": {"masks": str(folder / "masks")}}
    runner = pipeline.Runner(params.load("demo", overrides), overrides)
    rows = "".join(
        f"class {number % 100}/photo {number}.jpg,class {number % 100},train,kept\n"
        for number in range(count)
    )
    for step in runner.sequence:
        run = steps.Run(runner.settings, step)
        run.folder.mkdir(exist_ok=True)
        for name in step.writes:
            run.path(name).parent.mkdir(parents=True, exist_ok=True)
            run.path(name).write_text(rows if name.endswith(".csv") else name)
        shutil.copy(runner.notebooks / f"{step.name}.ipynb", run.folder)
    (runner.folder / "report.html").touch()
    hour_ago = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (hour_ago, hour_ago))
    record = {
        step.name: {
            "outputs": steps.Run(runner.settings, step).sha256(step.writes),
            "inputs": runner.inputs(step),
        }
        for step in runner.sequence
    }
    report = {name.stem: files.file_sha256(name) for name in runner.folder.glob("*.ipynb")}
    files.write_json(runner.folder / "provenance.json", {"steps": record, "report": report})


def up_to_date(folder: Path) -> None:
    """Execute the run, and check that nothing is executed and no backend is imported."""
    *printed, imported = execute(folder, "run").splitlines()
    measuring.check(
        sum(line.endswith("up to date") for line in printed) == len(steps.PIPELINE), "\n".join(printed)
    )
    measuring.check(not imported, f"an up-to-date run imports {imported}")


def execute(folder: Path, command: str) -> str:
    """Execute a command of the project in a new process, and return its output."""
    words = [command, "demo", "--run=many", f"--outputs={folder}", f"--set=gradcam.masks={folder / 'masks'}"]
    environment = os.environ | {"PYTHONPATH": str(params.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], env=environment, capture_output=True, text=True
    )
    measuring.check(done.returncode == 0, done.stdout + done.stderr)
    return done.stdout
