"""The steps of the pipeline, the run that a step belongs to, and the record of its execution."""

import contextlib
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
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from lib.core import engine, files, hashes, locks, params, schema

if TYPE_CHECKING:
    # A run that is up to date needs no tables.
    import pandas as pd

# OpenCV has several distributions.
PACKAGES = (
    "keras",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "pillow",
    "scikit-learn",
    "pandas",
    "papermill",
)
# Optional files with a user's decisions on individual photos, see lib.clean.decisions.
DECISIONS = ("exclusions.csv", "relabels.csv")
# Files in the folder of the source, which all of its runs use.
OF_SOURCE = ("source.json", *DECISIONS)


@dataclass(frozen=True)
class Step:
    """A notebook of the pipeline and its dependencies.

    Attributes:
        name: name of the notebook without the suffix.
        parameters: dotted keys of the parameters that the notebook uses.
        reads: files of the run or of its source that the notebook reads.
        writes: files of the run or of its source that must exist after the execution.
        user_files: dotted keys of parameters that are paths of a user's files or folders.
        reads_of_runs: files that the notebook reads in the folder of every run.
        folder: folder under `outputs/` that the notebook writes to; `None` for the folder of the run.
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
        "source.layout",
        "source.splits",
        "source.unlabelled",
        "source.ignore",
        "clean",
        "split",
        "model.image_size",
        "model.resize",
        "model.fit",
        "model.bit_depth",
        # Its flips are compared with the classes.
        "augment.flip",
        # `clean.compare` uses the next three.
        "model.backbone",
        "model.weights",
        "model.scaling",
        "evaluate.predictions",
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
# Environment variable that the runner sets. It keeps the run locked while its kernels are running.
RUNNER = "CHRYSALIS_RUNNER"
# Locks of this kernel, by the folder of the run.
_locks: dict[Path, contextlib.ExitStack] = {}
ALL = (DOWNLOAD, CLEAN, TRAIN, EVALUATE, GRADCAM, TUNE, COMPARE)
PREPARATION = (DOWNLOAD, CLEAN)
PIPELINE = (DOWNLOAD, CLEAN, TRAIN, EVALUATE, GRADCAM)
SEARCH = (DOWNLOAD, CLEAN, TUNE)


class StepRecord(TypedDict):
    """The record of an executed step; `read`, `inputs` and `outputs` are fingerprints by name."""

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
    """The record of a run: its steps, and the SHA-256 of the notebooks in its report, by name."""

    steps: dict[str, StepRecord]
    report: dict[str, str]


# The only folder of a Kaggle notebook that is writable and kept.
KAGGLE = Path("/kaggle/working")


def outputs() -> Path:
    """Return the folder of all runs.

    It is `CHRYSALIS_OUTPUTS` if that is set, else `outputs/` in the project, or in the folder of a Kaggle
    notebook that Kaggle keeps.
    """
    parent = KAGGLE if KAGGLE.is_dir() else params.ROOT
    return Path(os.environ.get("CHRYSALIS_OUTPUTS") or parent / "outputs").expanduser().resolve()


def of_runs(file: str) -> Iterator[Path]:
    """Yield the paths of a file in the folders of all runs, sorted by run."""
    paths = sorted(outputs().glob(f"*/{file}"))
    return (path for path in paths if path.parent.name not in schema.RESERVED)


@dataclass(frozen=True)
class Run:
    """A run and the step that is executed."""

    settings: schema.Params
    step: Step
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The folder that the step writes to."""
        return outputs() / (self.step.folder or self.settings.run_name)

    @property
    def data(self) -> Path:
        """The folder of the photos, which all runs of the source share."""
        return outputs() / "data" / (self.settings.source.name or self.settings.name)

    def path(self, name: str) -> Path:
        """Return the path of a file of the run or of its source."""
        return (self.data if name in OF_SOURCE else self.folder) / name

    def find(self, text: str) -> Path:
        """Resolve a user's path in the folder of the photos, or else as in `params.find_file`."""
        path = self.data / text
        return path if path.exists() else params.find_file(text)

    def need(self, name: str) -> Path:
        """Return the path of a file that an earlier step writes.

        Raises:
            FileNotFoundError: if it does not exist; the message names the step to run.
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
        """Write `params.json` and the step's record in `provenance.json`; the last call of every notebook.

        Args:
            more: names of files that the step wrote in addition to `Step.writes`.

        Returns:
            The path of `provenance.json`.

        Raises:
            FileNotFoundError: if a file in `Step.writes` is missing.
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
        if self.folder in _locks:
            _locks.pop(self.folder).close()
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
            "packages": _versions((engine.name(), *PACKAGES)),
            "hardware": _hardware(),
        }

    def parameters(self) -> dict[str, Any]:
        """Return the resolved parameters that the step uses, as plain types by dotted key."""
        return {key: params.pick(self.settings, key) for key in self.step.parameters}

    def sha256(self, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of the existing files of the run by name."""
        paths = {name: os.path.relpath(self.path(name), self.folder) for name in names}
        digests = hashes.of_files(self.folder, paths.values(), table=self.folder / hashes.TABLE)
        return {name: digests[path] for name, path in paths.items() if path in digests}


def start(settings: schema.Params, step: Step) -> Run:
    """Start a step of a run: create its folder, and lock it until `finish` or the end of the kernel.

    Args:
        settings: parameters of the run.
        step: one of `ALL`.

    Raises:
        ValueError: if another process is using the run.
    """
    run = Run(settings, step)
    run.folder.mkdir(parents=True, exist_ok=True)
    if RUNNER not in os.environ and run.folder not in _locks:
        lock = contextlib.ExitStack()
        lock.enter_context(locks.run(run.folder))
        _locks[run.folder] = lock
    return run


def parameters(run: Run) -> "pd.DataFrame":
    """Return a table of the resolved parameters that the step uses, for its notebook."""
    return params.table(run.settings, *run.step.parameters)


def provenance(folder: Path) -> Provenance:
    """Read the record of a run; it is empty if the file is missing, damaged or from an earlier version."""
    try:
        record = files.read_json(folder / "provenance.json")
    except (FileNotFoundError, ValueError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("steps"), dict):
        return {"steps": {}, "report": {}}
    return {"steps": record["steps"], "report": record.get("report", {})}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages by name."""
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _hardware() -> dict[str, Any]:
    # A step that does not use the Keras backend does not import it for the record.
    backend = sys.modules.get("lib.networks.backend")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": backend.describe() if backend else None,
    }


def _git() -> str | None:
    """Return the commit of the project, with `-dirty` after local changes; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(
            command, cwd=params.ROOT, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
