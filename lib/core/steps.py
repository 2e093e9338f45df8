"""The steps of the pipeline, the run whose folder they fill, and the record of how each was executed."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd

from lib.core import files, locks, params, schema

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "pandas",
    "papermill",
)
# A person's decisions on single photos, see lib.clean.decisions; they need not exist.
DECISIONS = ("exclusions.csv", "relabels.csv")
# These belong to the photos, and thus to all runs of them.
OF_SOURCE = ("source.json", *DECISIONS)


@dataclass(frozen=True)
class Step:
    """One notebook of the pipeline, and all that it depends on.

    Attributes:
        name: the notebook's name without its suffix.
        parameters: dotted keys of the parameters that it uses.
        reads: files of the run or of its source.
        writes: files of the run or of its source that must exist when it has ended.
        user_files: dotted keys of parameters that name files or folders of the user's own.
        reads_of_runs: files of every other run.
        folder: the folder under `outputs/` that it writes to; `None` stands for the run's own.
    """

    name: str
    parameters: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    user_files: tuple[str, ...] = ()
    reads_of_runs: tuple[str, ...] = ()
    folder: str | None = None


DOWNLOAD = Step(
    "01_download",
    parameters=("source",),
    writes=("source.json",),
    user_files=("source.folder", "source.archive"),
)
CLEAN = Step(
    "02_clean",
    parameters=(
        "seed",
        "source.tables",
        "source.classes",
        "source.class_names",
        "clean",
        "split",
        "model.image_size",
        "model.resize",
        "model.fit",
        # The next three decide what `clean.compare` compares.
        "model.backbone",
        "model.weights",
        "model.scaling",
    ),
    reads=("source.json", *DECISIONS),
    writes=("manifest.csv", "cleaning.json", "near_duplicates.csv", "label_issues.csv"),
    user_files=("model.weights",),
)
TRAIN = Step(
    "03_train",
    parameters=("seed", "source.class_names", "model", "augment", "train"),
    reads=("source.json", "manifest.csv"),
    writes=("model.keras", "model.json", "history.csv", "training_curves.png"),
    user_files=("model.weights",),
)
EVALUATE = Step(
    "04_evaluate",
    parameters=("evaluate", "source.class_names", "clean.embeddings"),
    reads=("manifest.csv", "model.json", "model.keras"),
    writes=(
        "metrics.json",
        "predictions.csv",
        "confusion_matrix.png",
        "class_accuracies.png",
        "hardest_examples.png",
    ),
)
GRADCAM = Step(
    "05_gradcam",
    parameters=("gradcam",),
    reads=("manifest.csv", "model.json", "model.keras", "predictions.csv"),
    writes=("gradcam.json", "gradcam/example.png", "gradcam/gradcam_grid.png"),
    user_files=("gradcam.masks", "gradcam.photo"),
)
TUNE = Step(
    "06_tune",
    parameters=("seed", "model", "augment", "train", "tune"),
    reads=("source.json", "manifest.csv"),
    writes=("trials.csv", "tune.json"),
    user_files=("model.weights",),
)
COMPARE = Step(
    "07_compare",
    parameters=("seed", "compare"),
    writes=("comparison.csv", "comparison.json"),
    reads_of_runs=("metrics.json",),
    folder="compare",
)
# Set by the runner, which holds the lock of the run while its kernels work.
RUNNER = "CHRYSALIS_RUNNER"
# The locks of the runs that this kernel works on.
_held: dict[Path, contextlib.ExitStack] = {}
ALL = (DOWNLOAD, CLEAN, TRAIN, EVALUATE, GRADCAM, TUNE, COMPARE)
PIPELINE = (DOWNLOAD, CLEAN, TRAIN, EVALUATE, GRADCAM)
SEARCH = (DOWNLOAD, CLEAN, TUNE)


class StepRecord(TypedDict):
    """How one step was executed; `inputs` and `outputs` are fingerprints by name."""

    finished_at: str
    seconds: float
    seed: int
    read: dict[str, str]
    outputs: dict[str, str]
    git: str | None
    python: str
    packages: dict[str, str]
    hardware: dict[str, Any]
    inputs: NotRequired[dict[str, str]]


class Provenance(TypedDict):
    """The record of a run: its steps by name, and the SHA-256 of the notebooks that its report shows."""

    steps: dict[str, StepRecord]
    report: dict[str, str]


def outputs() -> Path:
    """Return the folder of all runs: `CHRYSALIS_OUTPUTS` if it is set, else `outputs/` of the project."""
    return Path(os.environ.get("CHRYSALIS_OUTPUTS") or params.ROOT / "outputs").expanduser().resolve()


def of_runs(file: str) -> Iterator[Path]:
    """Yield the paths of a file in the folders of all runs, sorted by run."""
    paths = sorted(outputs().glob(f"*/{file}"))
    return (path for path in paths if path.parent.name not in schema.RESERVED)


@dataclass(frozen=True)
class Run:
    """A run that one step is working on."""

    settings: schema.Params
    step: Step
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The folder that the step writes to."""
        return outputs() / (self.step.folder or self.settings.run_name)

    @property
    def data(self) -> Path:
        """The folder of the photos, shared by all runs of the source."""
        return outputs() / "data" / (self.settings.source.name or self.settings.name)

    def path(self, name: str) -> Path:
        """Return the path of a result of the run."""
        return (self.data if name in OF_SOURCE else self.folder) / name

    def find(self, text: str) -> Path:
        """Return the path that a user typed: in the folder of the photos if it exists there."""
        path = self.data / text
        return path if path.exists() else params.find_file(text)

    def need(self, name: str) -> Path:
        """Return the path of a result of an earlier step.

        Raises:
            FileNotFoundError: it does not exist; the message names the step to run.
        """
        if not self.path(name).is_file():
            writer = next(step.name for step in ALL if name in step.writes)
            raise FileNotFoundError(
                f"{self.settings.run_name} has no {name} yet: "
                f"run {writer} first (notebooks/{writer}.ipynb with name = {self.settings.name!r}, "
                f"or `make {self.settings.name}`)"
            )
        return self.path(name)

    def finish(self, *more: str) -> Path:
        """Write `params.json` and this step's entry in `provenance.json`; the last call of every notebook.

        Args:
            more: files of the run that the step wrote besides those that it always writes.

        Returns:
            The path of `provenance.json`.

        Raises:
            FileNotFoundError: the step did not write all of its files.
        """
        for name in self.step.writes:
            if not self.path(name).exists():
                raise FileNotFoundError(
                    f"{self.step.name} ended without writing {name}: run all its cells in order"
                )
        files.write_json(self.folder / "params.json", params.public(self.settings))
        record = provenance(self.folder)
        record["steps"][self.step.name] = self._record(more)
        files.write_json(self.folder / "provenance.json", record)
        if self.folder in _held:
            _held.pop(self.folder).close()
        return self.folder / "provenance.json"

    def _record(self, more: tuple[str, ...]) -> StepRecord:
        return {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started, 1),
            "seed": self.settings.seed,
            "read": self.sha256(self.step.reads),
            "outputs": self.sha256((*self.step.writes, *more)),
            "git": _git(),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "hardware": _hardware(),
        }

    def parameters(self) -> dict[str, Any]:
        """Return the resolved parameters that the step uses, plain values by dotted key."""
        return {key: params.pick(self.settings, key) for key in self.step.parameters}

    def sha256(self, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of those of some files of the run that exist, by name."""
        return {name: sha256(self.path(name)) for name in names if self.path(name).is_file()}


def start(settings: schema.Params, step: Step) -> Run:
    """Begin a step of a run.

    Args:
        settings: the run's parameters.
        step: one of `ALL`.

    Returns:
        The run; its folder exists, and no other process can work on it until `finish` or the kernel's end.

    Raises:
        ValueError: another process is at work on the run.
    """
    run = Run(settings, step)
    run.folder.mkdir(parents=True, exist_ok=True)
    if RUNNER not in os.environ and run.folder not in _held:
        lock = contextlib.ExitStack()
        lock.enter_context(locks.run(run.folder))
        _held[run.folder] = lock
    return run


def parameters(run: Run) -> pd.DataFrame:
    """Return the table of the resolved parameters that the run's step uses, for its notebook."""
    return params.table(run.settings, *run.step.parameters)


def provenance(folder: Path) -> Provenance:
    """Read the record of a run; it is empty if there is none, or none that can be read."""
    try:
        record = files.read_json(folder / "provenance.json")
    except (FileNotFoundError, ValueError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("steps"), dict):
        # A damaged record, or one of an earlier version: its steps are executed again.
        return {"steps": {}, "report": {}}
    return {"steps": record["steps"], "report": record.get("report", {})}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; a file whose size and time are as before is not read again."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1000)
def _sha256(path: Path, size: int, modified: int) -> str:
    return files.file_sha256(path)


def _hardware() -> dict[str, Any]:
    # Steps without TensorFlow do not load it for this.
    device = sys.modules.get("lib.networks.device")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": device.describe() if device else None,
    }


def _git() -> str | None:
    """Return the commit of the project, with a mark if files differ from it; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(
            command, cwd=params.ROOT, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
