"""The runner: execute the notebooks of a run that are out of date, and keep everything that was good."""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core import cache, files, locks, params, schema, steps

NOTEBOOKS = params.ROOT / "notebooks"


class StepFailed(Exception):
    """A notebook ended with an error; the message is the notebook's own."""


@dataclass(frozen=True)
class Runner:
    """Bring the steps of one run up to date.

    Attributes:
        settings: the run's parameters.
        overrides: nested values that lie over the parameter file, for the notebooks' parameters cells.
        sequence: the steps, in the order of their execution.
        notebooks: folder of the steps' notebooks.
    """

    settings: schema.Params
    overrides: dict[str, Any]
    sequence: tuple[steps.Step, ...] = steps.PIPELINE
    notebooks: Path = NOTEBOOKS

    @property
    def folder(self) -> Path:
        """The folder that the last step writes to."""
        return self._at(self.sequence[-1]).folder

    def run(self) -> Path:
        """Execute the steps that are out of date, print one line for each, and write the report.

        Returns:
            The run's folder.

        Raises:
            ValueError: another process is at work in the run's folder.
            StepFailed: a notebook ended with an error.
        """
        if self.settings.run_name != self.settings.name:
            print(f"run: {shown(self.folder)}", flush=True)
        with locks.run(self.folder):
            for step in self.sequence:
                self._bring_up_to_date(step)
            if self._report_is_stale():
                self.write_report()
        print(f"report: {shown(self.folder / 'report.html')}")
        return self.folder

    def why(self) -> None:
        """Print for each step whether it would be executed, and why."""
        earlier = False
        for step in self.sequence:
            reasons = self.reasons(step)
            if earlier and not reasons:
                reasons = ["maybe: an earlier step may change what it reads"]
            earlier = earlier or bool(reasons)
            print(f"{step.name:<12} {'; '.join(reasons) or 'up to date'}")

    def reasons(self, step: steps.Step) -> list[str]:
        """List why a step must be executed again, by content and not by date; empty if it is up to date."""
        at = self._at(step)
        record = steps.provenance(at.folder)["steps"].get(step.name)
        if record is None or "inputs" not in record or not (at.folder / f"{step.name}.ipynb").is_file():
            return ["it has not been executed"]
        before, now = record["inputs"], self.inputs(step)
        reasons = [f"{key} has changed" for key in now | before if now.get(key) != before.get(key)]
        written, exist = record["outputs"], at.sha256(record["outputs"])
        reasons += [f"{name} is missing" for name in written if name not in exist]
        return reasons + [
            f"{name} is not as the step wrote it" for name in exist if exist[name] != written[name]
        ]

    def inputs(self, step: steps.Step) -> dict[str, str]:
        """Return a fingerprint of everything that a step's notebook depends on, by name."""
        at = self._at(step)
        values = {"the notebook": _cells(self.notebooks / f"{step.name}.ipynb"), "lib": _lib()}
        for key in step.parameters:
            values[f"parameter {key}"] = cache.fingerprint(params.pick(self.settings, key))
        values |= dict.fromkeys(step.reads, "missing") | at.sha256(step.reads)
        for key, path in self._user_files(step):
            values[f"what {key} names"] = _listing(path)
        for name in step.reads_of_runs:
            values |= {f"{name} of {path.parent.name}": steps.sha256(path) for path in steps.of_runs(name)}
        return values

    def write_report(self) -> Path:
        """Write `report.html` from the executed notebooks, and record what it shows.

        Raises:
            FileNotFoundError: no step of the run was executed yet.
        """
        # It takes a second to import, which an up-to-date run does not need.
        from lib import report

        notebooks = self._executed()
        if not notebooks:
            raise FileNotFoundError(
                f"{self.settings.run_name} has no executed notebook yet: "
                f"run `make {self.settings.name}` first"
            )
        path = report.write(self.folder, list(notebooks))
        record = steps.provenance(self.folder)
        record["report"] = notebooks
        files.write_json(self.folder / "provenance.json", record)
        return path

    def _at(self, step: steps.Step) -> steps.Run:
        return steps.Run(self.settings, step)

    def _bring_up_to_date(self, step: steps.Step) -> None:
        if not self.reasons(step):
            print(f"{step.name:<12} up to date")
            return
        if sys.stdout.isatty():
            print(f"{step.name:<12} ...", end="\r", flush=True)
        print(f"{step.name:<12} {_duration(self.execute(step))}", flush=True)

    def execute(self, step: steps.Step) -> float:
        """Execute a step's notebook, and return how many seconds it took.

        The notebook is written to a partial name. It is moved into place when it has ended well, else it is
        kept as `<step>.failed.ipynb`, and the good one of before stays.

        Raises:
            StepFailed: it ended with an error, or before its last cell.
        """
        at, began = self._at(step), time.monotonic()
        at.folder.mkdir(parents=True, exist_ok=True)
        partial, failed, final = (
            at.folder / f"{step.name}{end}.ipynb" for end in (".partial", ".failed", "")
        )
        # Before it begins: what changes meanwhile was not used.
        inputs = self.inputs(step)
        _forget(at)
        problem = self.run_notebook(step, partial) or self._incomplete(step)
        if problem is not None:
            raise StepFailed(f"{step.name} failed. {problem}{_keep(partial, failed)}")
        _publish(partial, final)
        failed.unlink(missing_ok=True)
        record = steps.provenance(at.folder)
        record["steps"][step.name]["inputs"] = inputs
        files.write_json(at.folder / "provenance.json", record)
        return time.monotonic() - began

    def _incomplete(self, step: steps.Step) -> str | None:
        """Return what a notebook that ended without an error has missed, or None."""
        at = self._at(step)
        if step.name not in steps.provenance(at.folder)["steps"]:
            # As sys.exit() does, which papermill takes for success.
            return "the notebook ended before its last cell"
        if files.read_json(at.folder / "params.json") != params.public(self.settings):
            return f"params/{self.settings.name}.yaml was changed since the run began: run it again"
        return None

    def run_notebook(self, step: steps.Step, partial: Path) -> str | None:
        """Run a notebook with papermill; return what went wrong, or None."""
        # It takes a second to import, which an up-to-date run does not need.
        import papermill

        try:
            os.environ |= {steps.RUNNER: str(os.getpid()), "CHRYSALIS_TERMINAL": _terminal()}
            papermill.execute_notebook(
                self.notebooks / f"{step.name}.ipynb",
                partial,
                # Every key, so that nothing that was saved in the notebook's own cell counts.
                parameters=dict.fromkeys(schema.Params.model_fields)
                | {"name": self.settings.name}
                | self.overrides,
                kernel_name="python3",
                progress_bar=False,
                # The kernel warns of a socket that only this machine can reach, and of being asked to end.
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        except Exception as error:
            # A kernel that died, a disk that is full: the partial notebook still shows how far it came.
            hint = ". The memory may not have sufficed" if type(error).__name__ == "DeadKernelError" else ""
            return f"{type(error).__name__}: {error}{hint}"
        finally:
            del os.environ[steps.RUNNER]
        return None

    def _user_files(self, step: steps.Step) -> Iterator[tuple[str, Path]]:
        """Yield the files and folders of the user's own that a step reads, by the key that names them."""
        for key in step.user_files:
            section, name = key.split(".")
            # Each kind of source has keys of its own.
            value = getattr(getattr(self.settings, section), name, None)
            if isinstance(value, str) and value != "imagenet" and "://" not in value:
                yield key, self._at(step).find(value)

    def _executed(self) -> dict[str, str]:
        """Return the SHA-256 of the run's executed notebooks by name, in order."""
        paths = sorted(self.folder.glob("*.ipynb"))
        return {path.stem: steps.sha256(path) for path in paths if path.suffixes == [".ipynb"]}

    def _report_is_stale(self) -> bool:
        shows = steps.provenance(self.folder)["report"]
        return not (self.folder / "report.html").is_file() or shows != self._executed()


def _cells(notebook: Path) -> str:
    """Return a fingerprint of a notebook's source; the values in its parameters cell never count."""
    cells = files.read_json(notebook)["cells"]
    counted = [cell for cell in cells if "parameters" not in cell["metadata"].get("tags", [])]
    return cache.fingerprint(["".join(cell["source"]) for cell in counted])


@functools.cache
def _lib() -> str:
    return cache.code_of_files(sorted((params.ROOT / "lib").rglob("*.py")))


def _listing(path: Path) -> str:
    """Return a fingerprint of a file's or folder's names, sizes and times, which is cheap."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file.relative_to(path)), file.stat()) for file in paths if file.is_file()]
    return cache.fingerprint([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _forget(at: steps.Run) -> None:
    """Remove a step's entry from the record: it returns when the notebook reaches its end."""
    record = steps.provenance(at.folder)
    if record["steps"].pop(at.step.name, None):
        files.write_json(at.folder / "provenance.json", record)


def _keep(partial: Path, failed: Path) -> str:
    """Keep the notebook of a failed step; return the line that says where it is, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        # On a full disk the partial notebook may be cut, and is then of no use.
        _publish(partial, failed)
        return f"\nThe notebook up to there: {shown(failed)}"
    return ""


def _publish(partial: Path, final: Path) -> None:
    """Move an executed notebook into place without what only this machine knows: times and folders."""
    # It takes seconds to import, which an up-to-date run does not need.
    import nbformat

    notebook = nbformat.read(partial, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    text = "\n".join(map(_without_folders, nbformat.writes(notebook).split("\n")))
    files.write(final, lambda path: path.write_text(text, encoding="utf-8"))
    partial.unlink()


def _without_folders(line: str) -> str:
    """Return a line of a notebook's JSON without folders of this machine; pictures may hold any letters."""
    if line.lstrip().startswith('"image/'):
        return line
    # Unlike `Path.home`, it does not fail for an account without a home.
    home = os.path.expanduser("~")  # noqa: PTH111
    for folder, name in ((str(params.ROOT), "."), (str(steps.outputs()), "outputs"), (home, "~")):
        if len(folder) > 1:
            line = line.replace(json.dumps(folder)[1:-1], name)
    return line


def _terminal() -> str:
    """Return the name of the terminal that progress is shown in; a log file has none, nor has Windows."""
    with contextlib.suppress(OSError, AttributeError):
        return os.ttyname(sys.stderr.fileno())
    return ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def shown(path: Path) -> str:
    """Return a path for a message, relative to the current folder if that is on the same drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)
