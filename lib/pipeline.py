"""Execute the notebooks of a run that are out of date."""

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import prerequisites
from lib.core import cache, engine, files, hashes, locks, params, privacy, schema, steps
from lib.photos import listing

NOTEBOOKS = params.ROOT / "notebooks"


class StepFailed(Exception):
    """Raised if a notebook ends with an error; the message contains that of the notebook."""


@dataclass(frozen=True)
class Runner:
    """Execute the steps of a run that are out of date.

    Attributes:
        settings: parameters of the run.
        overrides: nested values that override the parameter file, for the parameters cells of the notebooks.
        sequence: steps in the order of execution.
        notebooks: folder of the notebooks.
        preview: called before the first step that is out of date.
    """

    settings: schema.Params
    overrides: dict[str, Any]
    sequence: tuple[steps.Step, ...] = steps.PIPELINE
    notebooks: Path = NOTEBOOKS
    preview: Callable[[], None] = lambda: None

    @property
    def folder(self) -> Path:
        """The folder that the last step writes to."""
        return self._run_of(self.sequence[-1]).folder

    def run(self) -> Path:
        """Execute the steps that are out of date, print a line for each step, and write the report.

        Returns:
            The folder of the run.

        Raises:
            FileNotFoundError, ValueError: as `prerequisites.require`; also if another process is using the
                run, or `KERAS_BACKEND` cannot be used.
            StepFailed: if a notebook ends with an error.
        """
        engine.name()
        is_stale = any(self.reasons(step) for step in self.sequence)
        if is_stale:
            prerequisites.require(self.settings, self.sequence)
            self.preview()
        if self.settings.run_name != self.settings.name:
            print(f"run: {display(self.folder)}", flush=True)
        with locks.run(self.folder):
            for step in self.sequence:
                self._bring_up_to_date(step, is_stale=is_stale)
            if self._report_is_stale():
                self.write_report()
        print(f"report: {display(self.folder / 'report.html')}")
        return self.folder

    def why(self) -> None:
        """Print for each step the reasons to execute it, or that it is up to date."""
        earlier = False
        for step in self.sequence:
            reasons = self.reasons(step)
            if earlier and not reasons:
                reasons = ["maybe: an earlier step may change the files that it reads"]
            earlier = earlier or bool(reasons)
            print(f"{step.name:<12} {'; '.join(reasons) or 'up to date'}")

    def reasons(self, step: steps.Step) -> list[str]:
        """Return the reasons to execute a step; empty if it is up to date. Files are compared by content."""
        run = self._run_of(step)
        record = steps.provenance(run.folder)["steps"].get(step.name)
        if record is None or "inputs" not in record or not (run.folder / f"{step.name}.ipynb").is_file():
            return ["not executed yet"]
        before, now = record["inputs"], self.inputs(step)
        reasons = [f"{key} has changed" for key in now | before if now.get(key) != before.get(key)]
        written, existing = record["outputs"], run.sha256(record["outputs"])
        reasons += [f"{name} is missing" for name in written if name not in existing]
        changed = [name for name in existing if existing[name] != written[name]]
        return reasons + [f"{name} has changed since the step wrote it" for name in changed]

    def inputs(self, step: steps.Step) -> dict[str, str]:
        """Return the fingerprint of each dependency of a step by name."""
        run = self._run_of(step)
        values = {"the notebook": _cells(self.notebooks / f"{step.name}.ipynb"), "lib": _lib(run.folder)}
        for key in step.parameters:
            values[f"parameter {key}"] = cache.fingerprint(params.pick(self.settings, key))
        if "train" in step.parameters:
            # A seed has other first weights on each backend.
            values["KERAS_BACKEND"] = engine.name()
        values |= dict.fromkeys(step.reads, "missing") | run.sha256(step.reads)
        for key, path in self._user_files(step):
            names = _names(path, self.settings.source.ignore)
            values[f"the file or folder of {key}"] = hashes.of_folder(path, names, tables=run.data)
        for name in step.reads_of_runs:
            paths = [path.relative_to(steps.outputs()).as_posix() for path in steps.of_runs(name)]
            digests = hashes.of_files(steps.outputs(), paths, table=run.folder / hashes.TABLE)
            values |= {f"{name} of {Path(path).parent}": digest for path, digest in digests.items()}
        return values

    def write_report(self) -> Path:
        """Write `report.html` from the executed notebooks, and record their hashes.

        Raises:
            FileNotFoundError: if no step of the run has been executed.
        """
        # Imported here because the import takes a second.
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

    def _run_of(self, step: steps.Step) -> steps.Run:
        return steps.Run(self.settings, step)

    def _bring_up_to_date(self, step: steps.Step, *, is_stale: bool) -> None:
        """Execute a step if it is out of date, which no step is unless `is_stale`."""
        if not (is_stale and self.reasons(step)):
            print(f"{step.name:<12} up to date")
            return
        if sys.stdout.isatty():
            print(f"{step.name:<12} ...", end="\r", flush=True)
        print(f"{step.name:<12} {_duration(self._execute(step))}", flush=True)

    def _execute(self, step: steps.Step) -> float:
        """Execute the notebook of a step and return the duration in seconds.

        The notebook is written to a temporary name. If the execution succeeds, it replaces the previous
        notebook; otherwise it is kept as `<step>.failed.ipynb`.

        Raises:
            StepFailed: if the notebook ends with an error, or before its last cell.
        """
        run, started = self._run_of(step), time.monotonic()
        run.folder.mkdir(parents=True, exist_ok=True)
        partial, failed, final = (
            run.folder / f"{step.name}{end}.ipynb" for end in (".partial", ".failed", "")
        )
        # Computed before the execution, because the notebook does not use later changes.
        inputs = self.inputs(step)
        _remove_record(run)
        problem = self.run_notebook(step, partial) or self._incomplete(step)
        if problem is not None:
            raise StepFailed(f"{step.name} failed. {problem}{_keep(partial, failed)}")
        _publish(partial, final)
        failed.unlink(missing_ok=True)
        record = steps.provenance(run.folder)
        record["steps"][step.name]["inputs"] = inputs
        files.write_json(run.folder / "provenance.json", record)
        return time.monotonic() - started

    def _incomplete(self, step: steps.Step) -> str | None:
        """Return the reason why a notebook that ended without an error is incomplete, or None."""
        run = self._run_of(step)
        if step.name not in steps.provenance(run.folder)["steps"]:
            # After sys.exit(), papermill reports success.
            return "the notebook ended before its last cell"
        if files.read_json(run.folder / "params.json") != params.public(self.settings):
            return f"params/{self.settings.name}.yaml has changed during the run: run it again"
        return None

    def run_notebook(self, step: steps.Step, partial: Path) -> str | None:
        """Execute a notebook with papermill and return the error message, or None."""
        # Imported here because the import takes a second.
        import papermill

        try:
            os.environ |= {steps.RUNNER: str(os.getpid()), "CHRYSALIS_TERMINAL": _terminal()}
            papermill.execute_notebook(
                self.notebooks / f"{step.name}.ipynb",
                partial,
                # Every key, so that values saved in the notebook's parameters cell have no effect.
                parameters=dict.fromkeys(schema.Params.model_fields)
                | {"name": self.settings.name}
                | self.overrides,
                kernel_name="python3",
                kernel_manager_class=_this_python(),
                progress_bar=False,
                # Otherwise, the kernel warns about its local socket and about the shutdown.
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        except Exception as error:
            # For example a dead kernel or a full disk; the partial notebook is kept.
            hint = ". It may have run out of memory" if type(error).__name__ == "DeadKernelError" else ""
            return f"{type(error).__name__}: {error}{hint}"
        finally:
            del os.environ[steps.RUNNER]
        return None

    def _user_files(self, step: steps.Step) -> Iterator[tuple[str, Path]]:
        """Yield the key and the path of each file or folder of the user that a step reads."""
        for key in step.user_files:
            section, name = key.split(".")
            # Only some kinds of sources have the key.
            value = getattr(getattr(self.settings, section), name, None)
            if isinstance(value, str) and value != "imagenet" and "://" not in value:
                yield key, self._run_of(step).find(value)

    def _executed(self) -> dict[str, str]:
        """Return the SHA-256 of the executed notebooks of the run by name, in order."""
        names = sorted(path.name for path in self.folder.glob("*.ipynb") if path.suffixes == [".ipynb"])
        digests = hashes.of_files(self.folder, names, table=self.folder / hashes.TABLE)
        return {Path(name).stem: digest for name, digest in digests.items()}

    def _report_is_stale(self) -> bool:
        reported = steps.provenance(self.folder)["report"]
        return not (self.folder / "report.html").is_file() or reported != self._executed()


def _cells(notebook: Path) -> str:
    """Return a fingerprint of the source of a notebook, without its parameters cell."""
    cells = files.read_json(notebook)["cells"]
    others = [cell for cell in cells if "parameters" not in cell["metadata"].get("tags", [])]
    return cache.fingerprint(["".join(cell["source"]) for cell in others])


def _names(path: Path, ignore: list[str]) -> list[str]:
    """Return the relative paths of the files in a folder, without hidden folders; empty for a file."""
    if not path.is_dir():
        return []
    contents = listing.Folder(path, ignore=ignore)
    return [contents.on_disk(name) for name in contents.paths]


@functools.cache
def _lib(folder: Path) -> str:
    """Return the fingerprint of the executable code of lib, stored in a folder because it takes long."""
    paths, stored = sorted((params.ROOT / "lib").rglob("*.py")), folder / ".code.json"
    content = cache.fingerprint(sys.version, [files.file_sha256(path) for path in paths])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if code := files.read_json(stored).get(content):
            return code
    code = cache.code_of_files(paths)
    with contextlib.suppress(OSError):
        files.write_json(stored, {content: code})
    return code


def _remove_record(run: steps.Run) -> None:
    """Remove the record of a step, which the last cell of the notebook writes again."""
    record = steps.provenance(run.folder)
    if record["steps"].pop(run.step.name, None):
        files.write_json(run.folder / "provenance.json", record)


def _keep(partial: Path, failed: Path) -> str:
    """Keep the notebook of a failed step and return a line of text with its path, or an empty text."""
    with contextlib.suppress(OSError, ValueError):
        # On a full disk the partial notebook may be truncated.
        _publish(partial, failed)
        return f"\nThe executed part of the notebook: {display(failed)}"
    return ""


def _publish(partial: Path, final: Path) -> None:
    """Move an executed notebook to its final path, without the times and folders of this machine."""
    # Imported here because the import takes seconds.
    import nbformat

    notebook = nbformat.read(partial, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook = nbformat.from_dict(privacy.without_folders(notebook, _folders()))
    files.write(final, lambda path: path.write_text(nbformat.writes(notebook), encoding="utf-8"))
    partial.unlink()


def _folders() -> dict[str, str]:
    """Return the folders of this machine and their names in notebooks."""
    # Unlike `Path.home`, this does not fail for a user without a home folder.
    home = os.path.expanduser("~")  # noqa: PTH111
    folders = {str(params.ROOT): ".", str(steps.outputs()): "outputs", home: "~"}
    return {folder: name for folder, name in folders.items() if len(folder) > 1}


def _this_python() -> type:
    """Return the class of a kernel of this Python, whatever kernel `python3` is installed elsewhere."""
    # Imported here because the import takes a second.
    from ipykernel.kernelspec import make_ipkernel_cmd
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=make_ipkernel_cmd(), language="python", display_name="Python 3")

    return ThisPython


def _terminal() -> str:
    """Return the path of the terminal of this process; empty for a log file and on Windows."""
    with contextlib.suppress(OSError, AttributeError):
        return os.ttyname(sys.stderr.fileno())
    return ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def display(path: Path) -> str:
    """Format a path for a message, relative to the current folder if it is on the same drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)
