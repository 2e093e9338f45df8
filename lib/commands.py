"""The commands of the command line: each prepares the parameters of a run and hands them to the runner."""

import re
import shutil
from pathlib import Path
from typing import Any

from lib import pipeline
from lib.core import cache, files, locks, params, privacy, schema, steps
from lib.networks import cards

# Letters of a run's name before its fingerprint, of the 64 that a name can have.
LONGEST = 50


def run(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Bring the whole pipeline of a run up to date.

    Args:
        name: name of a parameter file.
        assignments: changed parameters, as `params.parse_assignments` takes them.
        run_name: folder of the run; if empty, the name, or a name made from the changed parameters.

    Returns:
        The run's folder.

    Raises:
        ValueError, FileNotFoundError: the parameters are wrong; nothing was executed.
        pipeline.StepFailed: a notebook ended with an error.
    """
    return _runner(name, assignments=assignments, run_name=run_name).run()


def resume(
    name: str,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    assignments: str = "",
    run_name: str = "",
) -> Path:
    """Train a finished run further, and bring what depends on it up to date.

    Args:
        name, assignments, run_name: as `run`. The stages that the assignments change are trained further, or
            else the last one.
        epochs: epochs to add to the last stage; `None` stands for as many as it has.
        learning_rate: learning rate of the added epochs; `None` stands for that of the stage.

    Returns, Raises:
        As `run`.
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"resume adds at least one epoch. Received: {epochs}")
    overrides = _parse(assignments)
    if run_name:
        overrides["run"] = run_name
    settings = params.load(name, overrides, origin="SET")
    steps.Run(settings, steps.EVALUATE).need("model.json")
    stages = settings.train.stages
    change = {"epochs": epochs, "learning_rate": learning_rate}
    if change := {key: value for key, value in change.items() if value is not None}:
        overrides = params.merge(overrides, {"train": {"stages": {list(stages)[-1]: change}}})
    changed = (overrides.get("train") or {}).get("stages") or {}
    resumed = {"train": {"resume_stages": list(changed) or [list(stages)[-1]]}}
    overrides = params.merge(overrides, resumed)
    return pipeline.Runner(*_resolve(name, overrides)).run()


def evaluate(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Evaluate and explain the model of a run with 04 and 05, as it was trained; it never trains.

    Args:
        name: name of a parameter file.
        assignments: changed parameters, such as those of the section `evaluate`.
        run_name: folder of the run; if empty, the name.

    Returns, Raises:
        As `run`; `FileNotFoundError` if the run has no model.
    """
    overrides = _parse(assignments)
    if run_name:
        overrides["run"] = run_name
    at = steps.Run(params.load(name, overrides, origin="SET"), steps.EVALUATE)
    for file in steps.EVALUATE.reads:
        at.need(file)
    trained = cards.as_trained(cards.load(at.path("model.json")), at.settings)
    settings, overrides = _resolve(name, params.merge(trained, overrides))
    return pipeline.Runner(settings, overrides, sequence=(steps.EVALUATE, steps.GRADCAM)).run()


def tune(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Search for better parameters, as the section `tune` says.

    Args:
        name, assignments, run_name: as `run`.

    Returns, Raises:
        As `run`.
    """
    from lib.tune import spaces

    runner = _runner(name, assignments=assignments, run_name=run_name, run_steps=steps.SEARCH)
    # A wrong space is refused before photos are fetched.
    spaces.shared(runner.settings)
    return runner.run()


def compare(*, assignments: str = "") -> Path:
    """Compare the runs in `outputs/`.

    Args:
        assignments: changed parameters of the section `compare`.

    Returns, Raises:
        As `run`.
    """
    # It belongs to no run: the notebook's own file supplies the defaults.
    settings, overrides = _resolve("demo", _parse(assignments))
    return pipeline.Runner(settings, overrides, sequence=(steps.COMPARE,)).run()


def why(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Print for each step of a run whether it would be executed, and why.

    Args:
        name, assignments, run_name: as `run`.
    """
    _runner(name, assignments=assignments, run_name=run_name).why()


def report(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Write the report of a run again.

    Args:
        name, assignments, run_name: as `run`.
    """
    runner = _runner(name, assignments=assignments, run_name=run_name)
    if not runner.folder.is_dir():
        raise FileNotFoundError(f"there is no run {runner.folder.name} yet: run `make {name}` first")
    with locks.run(runner.folder):
        print(f"report: {pipeline.shown(runner.write_report())}")


def remove(name: str) -> None:
    """Remove a run's folder, never the photos.

    Args:
        name: the run's folder under `outputs/`.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the name is that of a shared folder, or none that a run can have.
    """
    folder = _existing(name)
    with locks.run(folder):
        for path in folder.iterdir():
            # Windows does not remove a file that is open.
            if not path.name.startswith(".lock"):
                files.remove(path)
    shutil.rmtree(folder)
    photos = pipeline.shown(steps.outputs() / "data")
    print(f"removed {pipeline.shown(folder)}; the photos are still in {photos}")


def predict(name: str, *, photos: str, output: str = "") -> Path:
    """Predict a folder of photos with the model of a run, and write the predictions as CSV.

    Args:
        name: the run's folder under `outputs/`.
        photos: folder of photos.
        output: path of the CSV file, relative to the current folder; if empty, `photo_predictions.csv` in the
            run's folder. A file that this command did not write is never overwritten.

    Returns:
        The path of the CSV file.

    Raises:
        FileNotFoundError: there is no such run, or no such folder of photos.
        ValueError: `photos` is empty, or `output` names a folder or a file of somebody else's.
    """
    if not photos:
        raise ValueError(f"predict needs a folder of photos: make predict-{name} PHOTOS=folder")
    # It imports TensorFlow.
    from lib.evaluate import inference, predictions

    folder = _existing(name)
    path = Path(output).expanduser() if output else folder / "photo_predictions.csv"
    predictions.require_replaceable(path)
    table = inference.of_folder(folder, params.find_file(photos), replaces=path)
    predictions.write(table, path)
    print(table.head(10).to_string(index=False))
    print(f"{len(table)} photos, {int(table.problem.ne('').sum())} with a problem: {pipeline.shown(path)}")
    return path


def run_from_change(name: str, overrides: dict[str, Any]) -> str:
    """Return a folder name for a changed run.

    Args:
        name: name of the parameter file.
        overrides: the changed parameters, nested.

    Returns:
        Such as `butterfly-image_size-96-1b2c3d4e`, with a fingerprint of the change. Passwords and folders
        of the user's own are no part of it.
    """
    values = params.flat(privacy.public(overrides))
    # Of the keys of two stages, the last two parts tell which one.
    pairs = [f"{'-'.join((key.split('.')[1:] or [key])[-2:])}={value}" for key, value in values.items()]
    change = re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(pairs)).strip("-")
    # Two changes that read alike are told apart; a login is no part of the fingerprint.
    identity = {key: privacy.without_secrets(str(value)) for key, value in params.flat(overrides).items()}
    return f"{f'{name}-{change}'[:LONGEST].rstrip('-')}-{cache.fingerprint(name, identity)[:8]}"


def _runner(
    name: str,
    *,
    assignments: str,
    run_name: str,
    run_steps: tuple[steps.Step, ...] = steps.PIPELINE,
) -> pipeline.Runner:
    overrides = _parse(assignments)
    # First of all, so that the message names what was typed.
    params.load(name, overrides, origin="SET")
    if run_name:
        overrides["run"] = run_name
    elif overrides and "run" not in overrides:
        overrides["run"] = run_from_change(name, overrides)
    settings, overrides = _resolve(name, overrides)
    return pipeline.Runner(settings, overrides, sequence=run_steps)


def _parse(assignments: str) -> dict[str, Any]:
    """Return the typed overrides; what an earlier command of this process handed over is dropped."""
    params.hand_over({})
    return params.parse_assignments(assignments)


def _resolve(name: str, overrides: dict[str, Any]) -> tuple[schema.Params, dict[str, Any]]:
    """Return the checked parameters, and the overrides that the notebooks' cells may show.

    Passwords and paths of the user's own reach the notebooks through the environment instead.
    """
    settings = params.load(name, overrides, origin="SET")
    overrides, private = privacy.separate(overrides)
    params.hand_over(private)
    return settings, overrides


def _existing(name: str) -> Path:
    """Return the folder of a run that exists."""
    if not re.fullmatch(schema.NAME, name) or name in schema.RESERVED:
        raise ValueError(f"expected the name of a run. Received: {name!r}")
    folder = steps.outputs() / name
    if not folder.is_dir():
        runs = [path.parent.name for path in steps.of_runs("provenance.json")]
        raise FileNotFoundError(f"there is no run {name}. Runs: {', '.join(runs) or 'none'}")
    return folder
