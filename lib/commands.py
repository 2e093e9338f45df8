"""Implement the commands of the command line: load the parameters of a run and start the runner."""

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any

from lib import pipeline
from lib.core import cache, engine, files, locks, params, privacy, schema, steps
from lib.networks import cards

# Maximum number of characters before the fingerprint in the name of a run. The name has at most 64.
MAX_PREFIX = 50


def check(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Print what a run would read, in seconds; nothing is downloaded, unpacked or executed.

    Args:
        name, assignments, run_name: see `run`.

    Raises:
        ValueError, FileNotFoundError: if the parameters are invalid or the source cannot be read.
    """
    print(_check(_runner(name, assignments=assignments, run_name=run_name).settings))


def run(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Execute the pipeline of a run.

    Args:
        name: name of a parameter file.
        assignments: changed parameters, in the format of `params.parse_assignments`.
        run_name: folder of the run; if empty, the name, or a name derived from the changed parameters.

    Returns:
        The folder of the run.

    Raises:
        ValueError, FileNotFoundError: if the parameters are invalid, or the source can be read already and
            its labels are invalid, before anything is executed.
        pipeline.StepFailed: if a notebook ends with an error.
    """
    runner = _runner(name, assignments=assignments, run_name=run_name)
    summary = functools.partial(_check, runner.settings, brief=True)
    return dataclasses.replace(runner, preview=lambda: print(summary(), flush=True)).run()


def clean(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Execute 01_download and 02_clean of a run.

    Args:
        name, assignments, run_name: see `run`.

    Returns, Raises:
        See `run`.
    """
    return _runner(name, assignments=assignments, run_name=run_name, run_steps=steps.PREPARATION).run()


def train(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Train the network of a run in this process and in others, on the same or other machines.

    A launcher such as srun starts this command several times, see `engine.join`. Each process reads its part
    of each batch from the folder of the run, which all of them share, and the first writes the results to it.
    03_train then finds the finished training.

    Args:
        name, assignments, run_name: see `run`.

    Raises:
        ValueError, FileNotFoundError: see `run`; also if 01_download or 02_clean is out of date.
    """
    runner = _runner(name, assignments=assignments, run_name=run_name)
    for step in steps.PREPARATION:
        if reasons := runner.reasons(step):
            raise ValueError(
                f"{step.name} is out of date: {reasons[0]}. "
                f"Run `chrysalis clean {name}` with the same options first"
            )
    engine.join()
    # Imported here because it imports the backend.
    from lib.train import processes

    processes.train(runner.settings)


def resume(
    name: str,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    assignments: str = "",
    run_name: str = "",
) -> Path:
    """Continue the training of a finished run, then execute the steps that depend on it.

    Args:
        name, assignments, run_name: see `run`. The stages in the assignments are trained again; if there are
            no stages in them, the last stage.
        epochs: number of epochs to add to the last stage; if `None`, the epochs of the stage.
        learning_rate: learning rate of the added epochs; if `None`, the learning rate of the stage.

    Returns, Raises:
        See `run`; also `FileNotFoundError` if the run has no model.
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"resume needs at least one epoch. Received: {epochs}")
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
    """Execute 04_evaluate and 05_gradcam with the parameters that the model was trained with.

    Args:
        name: name of a parameter file.
        assignments: changed parameters, such as those of the section `evaluate`.
        run_name: folder of the run; if empty, the name.

    Returns, Raises:
        See `run`; also `FileNotFoundError` if the run has no model.
    """
    overrides = _parse(assignments)
    if run_name:
        overrides["run"] = run_name
    evaluation = steps.Run(params.load(name, overrides, origin="SET"), steps.EVALUATE)
    for file in steps.EVALUATE.reads:
        evaluation.need(file)
    trained = cards.as_trained(cards.load(evaluation.path("model.json")), evaluation.settings)
    settings, overrides = _resolve(name, params.merge(trained, overrides))
    return pipeline.Runner(settings, overrides, sequence=(steps.EVALUATE, steps.GRADCAM)).run()


def tune(name: str, *, assignments: str = "", run_name: str = "") -> Path:
    """Search for better parameters in the space of the section `tune`.

    Args:
        name, assignments, run_name: see `run`.

    Returns, Raises:
        See `run`.
    """
    from lib.tune import spaces, studies

    runner = _runner(name, assignments=assignments, run_name=run_name, run_steps=steps.SEARCH)
    # Raises an error for an invalid space before the photos are downloaded.
    spaces.shared(runner.settings)
    studies.require_intact(runner.folder / "tune")
    return runner.run()


def compare(*, assignments: str = "") -> Path:
    """Compare the runs in `outputs/`.

    Args:
        assignments: changed parameters of the section `compare`.

    Returns, Raises:
        See `run`.
    """
    # A comparison does not belong to a run, so any parameter file can provide the defaults.
    settings, overrides = _resolve("demo", _parse(assignments))
    return pipeline.Runner(settings, overrides, sequence=(steps.COMPARE,)).run()


def why(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Print for each step of a run the reasons to execute it, or that it is up to date.

    Args:
        name, assignments, run_name: see `run`.
    """
    _runner(name, assignments=assignments, run_name=run_name).why()


def report(name: str, *, assignments: str = "", run_name: str = "") -> None:
    """Write the report of a run again.

    Args:
        name, assignments, run_name: see `run`.
    """
    runner = _runner(name, assignments=assignments, run_name=run_name)
    if not runner.folder.is_dir():
        raise FileNotFoundError(f"there is no run {runner.folder.name} yet: run `make {name}` first")
    with locks.run(runner.folder):
        print(f"report: {pipeline.display(runner.write_report())}")


def remove(name: str) -> None:
    """Remove the folder of a run. The photos are kept.

    Args:
        name: folder of the run under `outputs/`.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if the name is reserved or not a valid name.
    """
    folder = _existing(name)
    with locks.run(folder):
        for path in folder.iterdir():
            # Windows does not remove open files.
            if not path.name.startswith(".lock"):
                files.remove(path)
    shutil.rmtree(folder)
    photos = pipeline.display(steps.outputs() / "data")
    print(f"removed {pipeline.display(folder)}; the photos are kept in {photos}")


def predict(name: str, *, photos: str, output: str = "") -> Path:
    """Predict the photos in a folder with the model of a run, and write the predictions as CSV.

    Args:
        name: folder of the run under `outputs/`.
        photos: folder of photos.
        output: path of the CSV file, relative to the current folder; if empty, `photo_predictions.csv` in the
            folder of the run. Only a file that this command wrote is overwritten.

    Returns:
        The path of the CSV file.

    Raises:
        FileNotFoundError: if there is no such run or no such folder of photos.
        ValueError: if `photos` is empty, or `output` is a folder or a file that this command did not write.
    """
    if not photos:
        raise ValueError(f"predict needs a folder of photos: make predict-{name} PHOTOS=folder")
    # Imported here because it imports TensorFlow.
    from lib.core import tables
    from lib.evaluate import inference, predictions

    folder = _existing(name)
    path = Path(output).expanduser() if output else folder / "photo_predictions.csv"
    predictions.require_replaceable(path)
    table = inference.of_folder(folder, params.find_file(photos), replaces=path)
    predictions.write(table, path)
    print(tables.printable(table.head(10)).to_string(index=False))
    if len(table) > 10:
        print(f"... and {len(table) - 10} more")
    print(f"{len(table)} photos, {int(table.problem.ne('').sum())} with a problem: {pipeline.display(path)}")
    return path


def run_from_change(name: str, overrides: dict[str, Any]) -> str:
    """Return the name of a run with changed parameters.

    Args:
        name: name of the parameter file.
        overrides: the changed parameters, nested.

    Returns:
        A name such as `butterfly-image_size-96-1b2c3d4e`, with a fingerprint of the change. It does not
        contain passwords or folders of the user.
    """
    values = params.flat(privacy.public(overrides))
    # The last two parts of a key distinguish the stages.
    pairs = [f"{'-'.join((key.split('.')[1:] or [key])[-2:])}={value}" for key, value in values.items()]
    change = re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(pairs)).strip("-")
    # The fingerprint distinguishes changes with the same text. It does not depend on a login.
    identity = {key: privacy.without_secrets(str(value)) for key, value in params.flat(overrides).items()}
    return f"{f'{name}-{change}'[:MAX_PREFIX].rstrip('-')}-{cache.fingerprint(name, identity)[:8]}"


def _check(settings: schema.Params, *, brief: bool = False) -> str:
    # Imported here because other commands do not need it.
    from lib import check

    return check.report(settings, steps.Run(settings, steps.DOWNLOAD).data, brief=brief)


def _runner(
    name: str,
    *,
    assignments: str,
    run_name: str,
    run_steps: tuple[steps.Step, ...] = steps.PIPELINE,
) -> pipeline.Runner:
    overrides = _parse(assignments)
    # Validated before the name of the run is added, so that an error refers to the user's input.
    params.load(name, overrides, origin="SET")
    if run_name:
        overrides["run"] = run_name
    elif overrides and "run" not in overrides:
        overrides["run"] = run_from_change(name, overrides)
    settings, overrides = _resolve(name, overrides)
    return pipeline.Runner(settings, overrides, sequence=run_steps)


def _parse(assignments: str) -> dict[str, Any]:
    """Parse the overrides, and clear the private values of an earlier command in this process."""
    params.set_private({})
    return params.parse_assignments(assignments)


def _resolve(name: str, overrides: dict[str, Any]) -> tuple[schema.Params, dict[str, Any]]:
    """Return the validated parameters and the overrides without private values.

    Passwords and paths of the user are passed to the notebooks through the environment instead.
    """
    settings = params.load(name, overrides, origin="SET")
    overrides, private = privacy.separate(overrides)
    params.set_private(private)
    return settings, overrides


def _existing(name: str) -> Path:
    """Return the folder of an existing run."""
    if not re.fullmatch(schema.NAME, name) or name in schema.RESERVED:
        raise ValueError(f"expected the name of a run. Received: {name!r}")
    folder = steps.outputs() / name
    if not folder.is_dir():
        runs = [path.parent.name for path in steps.of_runs("provenance.json")]
        raise FileNotFoundError(f"there is no run {name}. Choose with RUN: {', '.join(runs) or 'no run yet'}")
    return folder
