"""The runner behind `make`: executes the notebooks of a run that are out of date, and keeps what was good."""

import argparse
import contextlib
import fcntl
import functools
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lib.core import cache, files, params, schema, steps
from lib.tune import spaces

NOTEBOOKS = params.ROOT / "notebooks"


class StageFailed(Exception):
    """A notebook ended with an error; the message is the notebook's own."""


def run(
    name: str,
    *,
    assignments: str = "",
    run_name: str | None = None,
    resume: bool = False,
    stages: tuple[str, ...] | None = None,
) -> Path:
    """Bring stages of a run up to date and print one line for each.

    Args:
        name: name of a parameter file.
        assignments: changed parameters, as `params.parse_assignments` takes them.
        run_name: folder of the run; by default the name, or, where parameters are changed, a name made from the change.
        resume: go on from the finished training with the stages that the assignments change, else with the last one.
        stages: names of the stages, in order; by default those of the pipeline.

    Returns:
        The run's folder.

    Raises:
        ValueError, FileNotFoundError: the parameters are wrong; nothing was executed.
        StageFailed: a notebook ended with an error.
    """
    settings, overrides = _settings(name, assignments, run_name, resume)
    stages = stages or steps.PIPELINE
    if steps.SEARCH[-1] in stages:
        spaces.shared(settings)  # a wrong space is said before photos are fetched
    chosen = [steps.STAGES[stage] for stage in stages]
    folder = steps.Run(settings, chosen[-1]).folder
    executed = False
    with _alone(folder):
        for stage in chosen:
            if reasons(stage, settings):
                if sys.stdout.isatty():
                    print(f"{stage.name:<12} ...", end="\r", flush=True)
                seconds = _execute(stage, settings, overrides)
                print(f"{stage.name:<12} {_duration(seconds)}", flush=True)
                executed = True
            else:
                print(f"{stage.name:<12} up to date")
        if executed or not (folder / "report.html").is_file():
            from lib import report  # takes a second to import, which an up-to-date run does not need

            report.write(folder, [stage for stage in steps.STAGES if (folder / f"{stage}.ipynb").is_file()])
    print(f"report: {_shown(folder / 'report.html')}")
    return folder


def _settings(name, assignments, run_name, resume):
    """Return the checked parameters, and what lies over the file, for the notebooks' cells."""
    overrides = params.parse_assignments(assignments)
    plain = params.load(name, overrides, origin="SET")  # first of all: nothing runs on wrong parameters
    if run_name:
        overrides["run"] = run_name
    elif overrides and not resume and "run" not in overrides:
        overrides["run"] = run_from_change(name, assignments)
    if resume:
        stages = list(overrides.get("train", {}).get("stages", {})) or [list(plain.train.stages)[-1]]
        overrides = params.merge(overrides, {"train": {"resume_stages": stages}})
    return params.load(name, overrides, origin="SET"), overrides


def run_from_change(name: str, assignments: str) -> str:
    """Return a folder name for a changed run: `butterfly-image_size-96`, cut and fingerprinted where it is long."""
    parts = [part.partition("=") for part in shlex.split(assignments)]
    short = [
        f"{'-'.join((key.split('.')[1:] or [key])[-2:])}={value}" for key, _, value in parts
    ]  # of two stages, which one
    change = re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(short)).strip("-")
    if len(change) > 40:
        change = f"{change[:31].rstrip('-')}-{cache.fingerprint(assignments)[:8]}"
    return f"{name}-{change}"


def reasons(stage: steps.Stage, settings: schema.Params) -> list[str]:
    """Say why a stage must be executed again, by content and not by date; an empty list says that it is up to date."""
    at = steps.Run(settings, stage)
    before = steps.provenance(at.folder)["stages"].get(stage.name, {}).get("inputs")
    if before is None or not (at.folder / f"{stage.name}.ipynb").is_file():
        return ["it has not been executed"]
    missing = [f"{name} is missing" for name in stage.writes if not at.path(name).exists()]
    now = _inputs(stage, settings)
    return missing + [f"{key} has changed" for key in now | before if now.get(key) != before.get(key)]


def _inputs(stage, settings) -> dict[str, str]:
    """Return a fingerprint of everything that a stage's notebook depends on, by name."""
    at = steps.Run(settings, stage)
    cells = files.read_json(NOTEBOOKS / f"{stage.name}.ipynb")["cells"]
    values = {"the notebook": cache.fingerprint(["".join(cell["source"]) for cell in cells])}
    values["lib"] = _lib()
    for key in stage.uses:
        values[f"parameter {key}"] = cache.fingerprint(params.pick(settings, key))
    for name in stage.reads:
        values[name] = files.file_sha256(at.path(name)) if at.path(name).is_file() else "missing"
    for key, path in _files_named(stage, settings):
        values[key] = _listing(path)
    return values


@functools.cache
def _lib() -> str:
    return cache.code_of_files(sorted((params.ROOT / "lib").rglob("*.py")))


def _files_named(stage, settings) -> Iterator[tuple[str, Path]]:
    """Yield the files and folders of the user's own that a stage reads, by the key that names them."""
    source, weights = settings.source, settings.model.weights
    network = [("the file of model.weights", None if weights == "imagenet" else weights)]
    mine = {
        "01_download": [
            ("the files of source.folder", source.folder),
            ("the file of source.archive", source.archive),
        ],
        "02_clean": network,
        "03_train": network,
        "05_gradcam": [
            ("the files of gradcam.masks", settings.gradcam.masks),
            ("the file of gradcam.photo", settings.gradcam.photo),
        ],
        "06_tune": network,
        "07_compare": [
            (f"the result of {path.parent.name}", str(path))
            for path in sorted(steps.outputs().glob("*/metrics.json"))
        ],
    }
    for key, given in mine.get(stage.name, []):
        if given and "://" not in given:
            yield key, params.find_file(given)


def _listing(path: Path) -> str:
    """Return a fingerprint of a file's or folder's names, sizes and times: cheap, and enough to look closer."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return cache.fingerprint(
        [
            (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
            if file.is_file()
        ]
    )


def _execute(stage, settings, overrides) -> float:
    """Execute a stage's notebook to a partial name; move it into place when it has ended well, keep it as the report of the failure otherwise."""
    import papermill  # takes a second to import, which an up-to-date run does not need

    at = steps.Run(settings, stage)
    partial, failed, final = (at.folder / f"{stage.name}{end}.ipynb" for end in (".partial", ".failed", ""))
    _forget(at)
    with contextlib.suppress(OSError, AttributeError):
        os.environ["CHRYSALIS_TERMINAL"] = os.ttyname(sys.stderr.fileno())
    began = time.monotonic()
    problem = None
    try:
        papermill.execute_notebook(
            NOTEBOOKS / f"{stage.name}.ipynb",
            partial,
            parameters={"name": settings.name, **overrides},
            kernel_name="python3",
            progress_bar=False,
            # the kernel warns of a socket that only this machine can reach, and of being asked to end
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        problem = f"{error.ename}: {error.evalue}"
    except (
        Exception
    ) as error:  # a kernel that died, a disk that is full: the partial notebook still says how far it came
        problem = f"{type(error).__name__}: {error}"
    if problem is None and stage.name not in steps.provenance(at.folder)["stages"]:
        problem = (
            "the notebook ended before its last cell"  # as sys.exit() does, which papermill takes for success
        )
    if partial.is_file():
        _publish(partial, final if problem is None else failed)
    if problem is not None:
        raise StageFailed(f"{stage.name} failed. {problem}\nThe notebook up to there: {_shown(failed)}")
    failed.unlink(missing_ok=True)
    record = steps.provenance(at.folder)
    record["stages"][stage.name]["inputs"] = _inputs(stage, settings)
    files.write_json(at.folder / "provenance.json", record)
    return time.monotonic() - began


def _forget(at: steps.Run) -> None:
    """Remove a stage's entry from the record: it comes back when the notebook reaches its end."""
    record = steps.provenance(at.folder)
    if record["stages"].pop(at.stage.name, None):
        files.write_json(at.folder / "provenance.json", record)


def _publish(partial: Path, final: Path) -> None:
    """Move an executed notebook into place without what only this machine knows: times and folders."""
    import nbformat  # takes seconds to import, which an up-to-date run does not need

    book = nbformat.read(partial, as_version=4)
    book.metadata.pop("papermill", None)
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    text = nbformat.writes(book)
    for place, shown in ((str(params.ROOT), "."), (str(steps.outputs()), "outputs"), (str(Path.home()), "~")):
        if len(place) > 1:
            text = text.replace(place, shown)
    files.write(final, lambda path: path.write_text(text, encoding="utf-8"))
    partial.unlink()


@contextlib.contextmanager
def _alone(folder: Path):
    """Hold a run for this process; a second one would write over the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another process is at work in {_shown(folder)}: wait for it, or give this run a name of its own (RUN=...)"
            ) from None
        yield


def remove(name: str) -> None:
    """Remove a run's folder, never the photos.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the name is that of a shared folder, or none that a run can have.
    """
    if not re.fullmatch(schema.NAME, name) or name in schema.RESERVED:
        raise ValueError(f"remove takes the name of a run. Received: {name!r}")
    folder = steps.outputs() / name
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run {name}. Runs: {', '.join(_runs()) or 'none'}")
    with _alone(folder):
        shutil.rmtree(folder)
    print(f"removed {_shown(folder)}; the photos are still in {_shown(steps.outputs() / 'data')}")


def _runs() -> list[str]:
    found = {path.parent.name for path in steps.outputs().glob("*/provenance.json")}
    return sorted(found - set(schema.RESERVED))


def why(name: str, *, assignments: str = "", run_name: str | None = None) -> None:
    """Print for each stage of a run whether it would be executed, and why."""
    settings, _ = _settings(name, assignments, run_name, resume=False)
    earlier = False
    for stage in map(steps.STAGES.get, steps.PIPELINE):
        found = reasons(stage, settings) or (
            ["maybe: an earlier stage may change what it reads"] if earlier else []
        )
        earlier = earlier or bool(found)
        print(f"{stage.name:<12} {'; '.join(found) or 'up to date'}")


def predict(name: str, photos: str) -> None:
    """Predict a folder of photos with a run's model and write `photo_predictions.csv` into the run's folder."""
    if not photos:
        raise ValueError(f"predict needs a folder of photos: make predict-{name} PHOTOS=folder")
    from lib.evaluate import (
        inference,
        predictions,  # brings TensorFlow
    )

    folder = steps.outputs() / name
    rows = inference.of_folder(folder, params.find_file(photos))
    predictions.write(rows, folder / "photo_predictions.csv")
    print(rows.head(10).to_string(index=False))
    print(
        f"{len(rows)} photos, {int(rows.problem.ne('').sum())} unreadable: {_shown(folder / 'photo_predictions.csv')}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def main() -> int:
    """Run one command of the command line; errors are printed in one line, exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m lib.pipeline", description=__doc__)
    parser.add_argument("command", choices=["run", "resume", "tune", "compare", "why", "remove", "predict"])
    parser.add_argument("name", help="name of a parameter file (of a run, for remove and predict)")
    parser.add_argument("--set", default="", help="changed parameters, key=value ...")
    parser.add_argument("--run", default=None, help="folder of the run under outputs")
    parser.add_argument("--photos", default="", help="folder of photos to predict")
    given = parser.parse_args()
    change = {"assignments": given.set, "run_name": given.run or None}
    try:
        if given.command == "why":
            why(given.name, **change)
        elif given.command == "remove":
            remove(given.run or given.name)
        elif given.command == "predict":
            predict(given.run or given.name, given.photos)
        else:
            stages = {"tune": steps.SEARCH, "compare": steps.COMPARE}.get(given.command)
            run(given.name, **change, resume=given.command == "resume", stages=stages)
    except (ValueError, FileNotFoundError, StageFailed) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
