"""The engine under Keras that `KERAS_BACKEND` chooses, known before Keras is imported."""

import importlib
import importlib.util
import os

ENGINES = ("tensorflow", "jax", "torch")
# Keras's variables for several processes: host and port of the first, their number, the number of this one.
ADDRESS, COUNT, NUMBER = JOIN = (
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
)
# Time after which a process ends in which an error was raised, and with it the others, which wait for it.
SHUTDOWN_SECONDS = 30


def name() -> str:
    """Return the Keras backend of this process: `KERAS_BACKEND`, or TensorFlow if it is not set.

    The variable is set from here on, so that neither Keras's own settings in the home folder nor a kernel
    that this process starts can choose another.

    Raises:
        ValueError: Keras has no such backend, or it is not installed.
    """
    chosen = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if chosen not in ENGINES:
        raise ValueError(f"KERAS_BACKEND: expected {', '.join(ENGINES)}. Received: {chosen}")
    if importlib.util.find_spec(chosen) is None:
        raise ValueError(
            f"KERAS_BACKEND={chosen}: this backend is not installed. Install it into the project's "
            f"environment, `.venv/bin/python -m pip install -e '.[{chosen}]'`, or unset KERAS_BACKEND for "
            "TensorFlow"
        )
    os.environ["KERAS_BACKEND"] = chosen
    return chosen


def join() -> None:
    """Connect this process with the others of a training, before `lib.networks.backend` is imported.

    The variables in `JOIN` name the processes. If none of them is set, JAX asks Slurm or Open MPI.

    Raises:
        ValueError: the backend is not JAX, a variable is missing or not a number, or there is no launcher.
    """
    if name() != "jax":
        raise ValueError(
            f"expected KERAS_BACKEND=jax to train in several processes. Received: {name()}. "
            "`chrysalis run` trains in a single process, on any backend"
        )
    values = {variable: os.environ[variable] for variable in JOIN if os.environ.get(variable)}
    if missing := [variable for variable in JOIN if values and variable not in values]:
        raise ValueError(f"expected {', '.join(JOIN)}, or none of them under Slurm. Missing: {missing[0]}")
    # JAX would ignore the signal by which Slurm and other programs end a process.
    os.environ.setdefault("JAX_ENABLE_PREEMPTION_SERVICE", "0")
    distributed = importlib.import_module("jax.distributed")
    try:
        distributed.initialize(
            values.get(ADDRESS),
            int(values[COUNT]) if values else None,
            int(values[NUMBER]) if values else None,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"expected a process that srun has started, or host:port of the first process in {ADDRESS}, the "
            f"number of processes in {COUNT}, and the number of this one, from 0, in {NUMBER}. "
            f"Received: {values or 'none of them'} ({error})"
        ) from error
