"""TensorFlow, imported without its log lines, and set up for the hardware of this machine.

Other modules take `keras` and `tf` from here, so that a notebook's error stream stays empty,
whichever of them is imported first: a regression test reads it.
"""

import contextlib
import functools
import os
import random
import sys
from collections.abc import Iterator

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the output of C++ code to file descriptor 2, which no Python setting silences."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with quiet():
    import keras
    import tensorflow as tf

    GPUS = tf.config.list_physical_devices("GPU")
    for gpu in GPUS:
        # An open notebook must not take the whole memory from the next run. The error means that
        # this process uses the GPU already.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)

# Keras's bars print thousands of carriage returns; ours is lib.core.progress.
keras.config.disable_interactive_logging()

__all__ = ["GPUS", "describe", "keras", "prepare", "quiet", "strategy", "tf"]


def prepare(seed: int) -> str:
    """Seed the random generators and choose the precision.

    This seeds Python's `random`, NumPy's global generator, Keras and TensorFlow, and makes TensorFlow's
    operations deterministic: the same machine computes the same bits again. On a GPU, computations use
    16-bit floats and weights 32-bit ones.

    These may still vary: the last digits of all results with another processor, number of cores, GPU,
    number of GPUs or version of TensorFlow; the batch size, which is halved if memory is exhausted; Python's
    order of sets of strings (`PYTHONHASHSEED`); and generators that code makes for itself.

    Args:
        seed: a whole number from 0 up.

    Returns:
        One line on the hardware and the precision, for the report.
    """
    random.seed(seed)
    np.random.seed(seed)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy("mixed_float16" if GPUS else "float32")
    return describe()


def describe() -> str:
    """Return one line on the hardware and the precision in use."""
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in GPUS]
    hardware = ", ".join(names) or f"CPU with {os.cpu_count()} cores"
    return f"{hardware}; {keras.mixed_precision.global_policy().name}"


@functools.cache
def strategy() -> tf.distribute.Strategy:
    """Return the strategy for this machine: all its GPUs together if it has several, else the default.

    It is one object in the whole process: variables of one strategy cannot be used under another.
    """
    return tf.distribute.MirroredStrategy() if len(GPUS) > 1 else tf.distribute.get_strategy()
