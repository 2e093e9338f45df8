"""TensorFlow, imported without its log lines, and set up for the hardware that it finds.

Other modules take `keras` and `tf` from here, so that whoever imports one of them first, the
notebook's error stream stays empty: a regression test reads it.
"""

import contextlib
import functools
import os
import random
import sys

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def quiet():
    """Drop what C++ code writes to file descriptor 2, which no Python setting silences."""
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
    for gpu in GPUS:  # an open notebook must not take the whole memory from the next run
        with contextlib.suppress(RuntimeError):  # the GPU is already in use by this process
            tf.config.experimental.set_memory_growth(gpu, True)

keras.config.disable_interactive_logging()  # bars with thousands of carriage returns; ours is lib.core.progress

__all__ = ["GPUS", "describe", "keras", "prepare", "quiet", "strategy", "tf"]


def prepare(seed: int) -> str:
    """Seed everything and choose the precision.

    Seeded are Python's `random`, NumPy's global generator and TensorFlow's, and TensorFlow's
    operations are made deterministic: the same machine gives the same bits again. Another number
    of cores, another processor or a GPU gives slightly different numbers. On a GPU the
    computations use 16-bit floats and the weights 32-bit ones.

    Args:
        seed: a whole number from 0 up.

    Returns:
        One line that says what was found and chosen, for the report.
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
    """Return the strategy for this machine: all its GPUs together where it has several, else the default.

    It is one object in the whole process: variables of one strategy are strangers to another.
    """
    return tf.distribute.MirroredStrategy() if len(GPUS) > 1 else tf.distribute.get_strategy()
