"""The engine under Keras that `KERAS_BACKEND` chooses, known before Keras is imported."""

import importlib.util
import os

ENGINES = ("tensorflow", "jax", "torch")


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
            f"KERAS_BACKEND={chosen}: this backend is not installed. Install it into the environment of "
            "the project, or unset KERAS_BACKEND for TensorFlow"
        )
    os.environ["KERAS_BACKEND"] = chosen
    return chosen
