"""Train in several processes, on one or several machines: the training of 03_train without its notebook."""

from lib.clean import photoset
from lib.core import schema, steps
from lib.networks import backend
from lib.train import trainer, training


def train(settings: schema.Params) -> None:
    """Train the network of a run in each of the processes that `engine.join` has connected.

    The first process locks the run, prints a line for each epoch, and writes the state of the training.

    Args:
        settings: the run's parameters.

    Raises:
        ValueError: see `training.fit`; also if another command is using the run.
        FileNotFoundError: if 02_clean has not been executed.
    """
    description = backend.prepare(settings.seed)
    run = steps.Run(settings, steps.TRAIN) if backend.PROCESS else steps.start(settings, steps.TRAIN)
    _print(f"processes: {backend.PROCESSES}; devices: {backend.device_count()}; {description}")
    with backend.first_process_first():
        photos = photoset.load(run)
    trained = training.fit(
        settings,
        photos,
        folder=run.folder / "training",
        finished=training.of_run(run.folder),
        watch=lambda row, _: _print(trainer.sentence(row)),
    )
    _print(f"kept epoch: {trained.kept_epoch} of {len(trained.history)}")
    # A process that ends long before another would end it too.
    backend.synchronize("exit")


def _print(line: str) -> None:
    """Print a line of text in the first process only."""
    if not backend.PROCESS:
        print(line, flush=True)
