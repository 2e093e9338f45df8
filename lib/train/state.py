"""The state of a training on disk, from which it can be resumed, and the weights of its best epoch.

`state.npz` names the file of the best weights, `best-<epoch>.npz`. If the process is killed after writing
the weights and before writing the state, the old state still refers to the old weights. Of several processes,
the first writes.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from lib.core import cache, files
from lib.networks import backend

FINISHED = "finished.json"


@dataclass(frozen=True)
class Finished:
    """The record of a finished training.

    Attributes:
        parent: key of the training that it resumed, if any.
        network: fingerprint of the network before training and of the photos.
        batch_sizes: as `State.batch_sizes`.
        monitor: the monitored value; `None` in records of earlier versions.
        label_smoothing: the label smoothing of the loss; `None` in records of earlier versions.
    """

    parent: str | None
    network: str
    batch_sizes: list[dict[str, int]] = field(default_factory=list)
    monitor: str | None = None
    label_smoothing: float | None = None

    @classmethod
    def load(cls, folder: Path) -> "Finished | None":
        """Read the record of the training in a folder; `None` if it is not finished."""
        try:
            return TypeAdapter(cls).validate_python(files.read_json(folder / FINISHED))
        except (FileNotFoundError, ValueError):
            # The training then continues at its end and writes the record again.
            return None

    def save(self, folder: Path) -> None:
        """Write the record."""
        if not backend.PROCESS:
            files.write_json(folder / FINISHED, dataclasses.asdict(self))


@dataclass
class State:
    """The state of a training.

    Attributes:
        stage: index of the current stage, among the stages with an epoch.
        epoch: completed epochs of the current stage.
        stopped: whether early stopping has ended the current stage.
        callbacks: counters of the stage's callbacks, in their order.
        learned: the trained parts of the backbone, as in `train.stages`.
        history: one row per epoch, in the order of `trainer.columns`.
        inherited: the number of history rows that belong to the resumed training.
        best: the best monitored value, negated if higher is better; `None` before the first epoch, or if
            the resumed weights must be evaluated first.
        kept: the epoch with the best value, from 1; 0 before the first epoch.
        batch_sizes: `from_epoch` and `batch_size` of each change of the batch size.
    """

    stage: int = 0
    epoch: int = 0
    stopped: bool = False
    callbacks: list[dict[str, float]] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    history: list[list[int | str | float]] = field(default_factory=list)
    inherited: int = 0
    best: float | None = None
    kept: int = 0
    batch_sizes: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> "State":
        """Read the state of the training in a folder."""
        with np.load(_file(folder), allow_pickle=False) as stored:
            return TypeAdapter(cls).validate_python(json.loads(str(stored["arr_0"])))

    @property
    def batch_size(self) -> int:
        """The batch size in use."""
        return self.batch_sizes[-1]["batch_size"]

    def choose_batch_size(self, size: int) -> None:
        """Set the batch size of the next and all later epochs."""
        epoch = len(self.history) + 1
        earlier = [change for change in self.batch_sizes if change["from_epoch"] < epoch]
        self.batch_sizes = [*earlier, {"from_epoch": epoch, "batch_size": size}]

    def save(self, folder: Path, variables: Sequence[np.ndarray]) -> None:
        """Write the state and the values of all variables atomically, and remove earlier best weights."""
        if backend.PROCESS:
            return
        text = np.array(json.dumps(dataclasses.asdict(self)))
        files.write(_file(folder), lambda partial: np.savez(partial, text, *variables))
        for path in folder.glob("best-*.npz"):
            if path != self._best(folder):
                path.unlink()

    def keep(self, folder: Path, weights: Sequence[np.ndarray]) -> None:
        """Write the weights of the epoch `kept`."""
        if not backend.PROCESS:
            files.write(self._best(folder), lambda partial: np.savez(partial, *weights))

    def best_weights(self, folder: Path) -> list[np.ndarray]:
        """Read the weights of the epoch `kept`."""
        return _arrays(self._best(folder))

    def _best(self, folder: Path) -> Path:
        return folder / f"best-{self.kept}.npz"


def exists(folder: Path) -> bool:
    """Return whether a folder contains the state of a training."""
    return _file(folder).is_file()


def remove_damaged(folder: Path) -> None:
    """Remove the files of a training if any of them is damaged or missing, so that it starts again."""
    if exists(folder) and cache.load_arrays(_file(folder)) is not None:
        state = State.load(folder)
        if not state.kept or cache.load_arrays(state._best(folder)) is not None:
            return
    for path in (folder / FINISHED, *folder.glob("*.npz")):
        path.unlink(missing_ok=True)


def variables(folder: Path) -> list[np.ndarray]:
    """Read the values of all variables after the last completed epoch; empty at the start of a stage."""
    return _arrays(_file(folder))[1:]


def _file(folder: Path) -> Path:
    return folder / "state.npz"


def _arrays(path: Path) -> list[np.ndarray]:
    """Read the arrays of a file in the order in which they were written."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]
