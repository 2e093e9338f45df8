"""Import TensorFlow without its log messages, and configure it for the hardware of this machine.

Other modules import `keras` and `tf` from here, so that stderr of a notebook stays empty, whichever module is
imported first.
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
    """Suppress the output of C++ code to file descriptor 2, which no setting of Python affects."""
    sys.stderr.flush()
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)
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
        # Otherwise an open notebook takes all the memory of the GPU. The error is raised if this process
        # already uses the GPU.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)

# The progress bars of Keras print thousands of carriage returns; lib.core.progress is used instead.
keras.config.disable_interactive_logging()

__all__ = ["GPUS", "describe", "keras", "prepare", "quiet", "strategy", "tf"]


def prepare(seed: int) -> str:
    """Seed the random generators and choose the precision.

    This seeds Python's `random`, NumPy's global generator, Keras and TensorFlow, and makes the operations of
    TensorFlow deterministic: results on the same machine are bit-identical. On a GPU, the precision is
    `mixed_float16`: computations in 16-bit and weights in 32-bit floats.

    Some results may still vary: the last digits with another processor, number of cores, GPU, number of GPUs
    or version of TensorFlow; the batch size, which is halved when memory is exhausted; the order of sets of
    strings (`PYTHONHASHSEED`); and the results of other random generators.

    Args:
        seed: integer, 0 or more.

    Returns:
        A line on the hardware and the precision, for the report.
    """
    random.seed(seed)
    np.random.seed(seed)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy("mixed_float16" if GPUS else "float32")
    return describe()


def describe() -> str:
    """Return a line on the hardware and the precision in use."""
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in GPUS]
    hardware = ", ".join(names) or f"CPU with {os.cpu_count()} cores"
    return f"{hardware}; {keras.mixed_precision.global_policy().name}"


@functools.cache
def strategy() -> tf.distribute.Strategy:
    """Return the distribution strategy: all GPUs together if the machine has several, else the default.

    It is the same object in the whole process, because variables of a strategy cannot be used under another.
    """
    return tf.distribute.MirroredStrategy() if len(GPUS) > 1 else tf.distribute.get_strategy()
