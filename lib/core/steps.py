"""A run: its folder, the stages that fill it, and the record of how each was made."""

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from lib.core import files, params, schema

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


DECISIONS = ("exclusions.csv", "relabels.csv")  # a person's, see lib.clean.decisions; they need not be there
OF_SOURCE = ("source.json", *DECISIONS)  # belong to the photos and thus to all runs of them


@dataclass(frozen=True)
class Stage:
    """One notebook of the pipeline: the parameters that it uses, and the files that it reads and writes."""

    name: str
    uses: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("01_download", ("source",), (), ("source.json",)),
        Stage(
            "02_clean",
            (
                "seed",
                "source.tables",
                "source.classes",
                "source.class_names",
                "clean",
                "split",
                "model.image_size",
                "model.resize",
                "model.fit",
                "model.backbone",  # this one and the next two: what `clean.compare` compares
                "model.weights",
                "model.scaling",
            ),
            ("source.json", *DECISIONS),
            ("manifest.csv", "cleaning.json", "near_duplicates.csv", "suspects.csv"),
        ),
        Stage(
            "03_train",
            ("seed", "source.class_names", "model", "augment", "train"),
            ("source.json", "manifest.csv"),
            ("model.keras", "model.json", "history.csv", "training_curves.png"),
        ),
        Stage(
            "04_evaluate",
            ("evaluate", "source.class_names"),
            ("manifest.csv", "model.json"),
            ("metrics.json", "predictions.csv", "confusion_matrix.png", "class_accuracies.png"),
        ),
        Stage(
            "05_gradcam", ("gradcam",), ("manifest.csv", "model.json", "predictions.csv"), ("gradcam.json",)
        ),
        Stage(
            "06_tune",
            ("seed", "model", "augment", "train", "tune"),
            ("source.json", "manifest.csv"),
            ("trials.csv", "tune.json"),
        ),
        Stage("07_compare", ("seed", "compare"), (), ("comparison.csv", "comparison.json")),
    )
}
PIPELINE = ("01_download", "02_clean", "03_train", "04_evaluate", "05_gradcam")  # what `make <name>` executes
SEARCH = ("01_download", "02_clean", "06_tune")  # what `make tune-<name>` executes
COMPARE = ("07_compare",)  # what `make compare` executes; it belongs to no single run


def outputs() -> Path:
    """Return the folder of all runs: `outputs/` of the project, or what `CHRYSALIS_OUTPUTS` names."""
    return Path(os.environ.get("CHRYSALIS_OUTPUTS") or params.ROOT / "outputs").expanduser().resolve()


@dataclass(frozen=True)
class Run:
    """A run that one stage is working on."""

    settings: schema.Params
    stage: Stage
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The run's folder; what compares runs has one of its own."""
        return outputs() / ("compare" if self.stage.name in COMPARE else self.settings.run_name)

    @property
    def data(self) -> Path:
        """The folder of the photos, shared by all runs of the source."""
        return outputs() / "data" / self.settings.source.name

    def path(self, name: str) -> Path:
        """Return where a result of the run lies."""
        return (self.data if name in OF_SOURCE else self.folder) / name

    def need(self, name: str) -> Path:
        """Return where a result of an earlier stage lies.

        Raises:
            FileNotFoundError: it is not there; the message names the stage to run.
        """
        if not self.path(name).is_file():
            writer = next(stage.name for stage in STAGES.values() if name in stage.writes)
            raise FileNotFoundError(
                f"{self.settings.run_name} has no {name} yet: run {writer} first "
                f"(notebooks/{writer}.ipynb with name = {self.settings.name!r}, or `make {self.settings.name}`)"
            )
        return self.path(name)

    def finish(self) -> Path:
        """Write `params.json` and this stage's entry in `provenance.json`; the last call of every notebook.

        Returns:
            The path of `provenance.json`.

        Raises:
            FileNotFoundError: the stage did not write what it owes.
        """
        for name in self.stage.writes:
            if not self.path(name).exists():
                raise FileNotFoundError(
                    f"{self.stage.name} ended without writing {name}: run all its cells in order"
                )
        files.write_json(self.folder / "params.json", params.public(self.settings))
        record = provenance(self.folder)
        record["stages"][self.stage.name] = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started, 1),
            "seed": self.settings.seed,
            "read": {
                name: files.file_sha256(self.path(name))
                for name in self.stage.reads
                if self.path(name).is_file()
            },
            **_environment(),
        }
        files.write_json(self.folder / "provenance.json", record)
        return self.folder / "provenance.json"


def start(settings: schema.Params, stage: str) -> Run:
    """Begin a stage of a run.

    Args:
        settings: the run's parameters.
        stage: name of one of `STAGES`.

    Returns:
        The run; its folder exists.
    """
    run = Run(settings, STAGES[stage])
    run.folder.mkdir(parents=True, exist_ok=True)
    return run


def parameters(run: Run):
    """Return the table of the resolved parameters that the run's stage uses, for its notebook."""
    return params.table(run.settings, *run.stage.uses)


def provenance(folder: Path) -> dict:
    """Read the record of a run: `stages`, by name; empty where there is none."""
    path = folder / "provenance.json"
    return files.read_json(path) if path.is_file() else {"stages": {}}


def _environment() -> dict:
    device = sys.modules.get("lib.networks.device")  # stages without TensorFlow do not load it for this
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "device": device.describe() if device else None,
        },
    }


def _git() -> str | None:
    """Return the commit of the project, with a mark where files differ from it; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(
            command, cwd=params.ROOT, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
