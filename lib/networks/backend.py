"""Keras on TensorFlow, JAX or PyTorch: its import, its devices, and the code that depends on the backend.

Other modules take `keras` from here, so that a notebook's error stream stays empty whichever of them is
imported first, and compute with `keras.ops`: nothing else in the project knows which backend there is.
"""

import contextlib
import functools
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lib.core import engine

ENGINE = engine.name()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow warns that several networks are traced one after another, which is meant.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
# An open notebook must not take the whole memory of a GPU from the next run.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# Without it, PyTorch's products of matrices on a GPU are not deterministic, and warn of it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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
    native: Any = importlib.import_module(ENGINE)
    import keras

# Settings of Keras in the home folder must not change a result.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
# Keras's bars print thousands of carriage returns; ours is lib.core.progress.
keras.config.disable_interactive_logging()

__all__ = [
    "ENGINE",
    "GPUS",
    "JIT_COMPILE",
    "PROCESS",
    "PROCESSES",
    "describe",
    "device_count",
    "distribution",
    "first_process_first",
    "gradient",
    "grouped_convolution",
    "is_out_of_memory",
    "keras",
    "outputs",
    "prepare",
    "quiet",
    "set_seed",
    "synchronize",
]


def _gpus() -> list[str]:
    """Return the names of the GPUs that the backend sees."""
    if ENGINE == "tensorflow":
        devices = native.config.list_physical_devices("GPU")
        details = native.config.experimental.get_device_details
        return [details(device).get("device_name", "GPU") for device in devices]
    if ENGINE == "jax":
        return [device.device_kind for device in native.devices() if device.platform == "gpu"]
    return [native.cuda.get_device_name(number) for number in range(native.cuda.device_count())]


with quiet():
    GPUS = _gpus()
    # The number of this process and the number of all, which `engine.join` has connected.
    PROCESS, PROCESSES = (native.process_index(), native.process_count()) if ENGINE == "jax" else (0, 1)

# On a CPU XLA makes TensorFlow slower; JAX computes nothing without it.
JIT_COMPILE: str | bool = "auto" if GPUS or ENGINE == "jax" else False


def prepare(seed: int) -> str:
    """Seed the random generators and choose the precision.

    This seeds Python's `random`, NumPy's global generator, Keras and the backend, and makes the backend's
    operations deterministic: the same machine computes the same bits again. On a GPU, computations use
    16-bit floats and weights 32-bit ones: `bfloat16` if the hardware has it, else `float16`.

    These may still vary: the last digits of all results with another processor, number of cores, GPU,
    number of GPUs, backend or version of it, and between runs of JAX on a GPU; the first weights with the
    backend; the batch size, which is halved if memory is exhausted; Python's order of sets of strings
    (`PYTHONHASHSEED`); and generators that code makes for itself.

    Args:
        seed: a whole number from 0 up.

    Returns:
        One line on the backend, the hardware and the precision, for the report.
    """
    set_seed(seed)
    if ENGINE == "tensorflow":
        native.config.experimental.enable_op_determinism()
    elif ENGINE == "torch":
        native.use_deterministic_algorithms(True, warn_only=True)
    keras.mixed_precision.set_global_policy(_precision())
    return describe()


def set_seed(seed: int) -> None:
    """Seed Python's `random`, NumPy's global generator, Keras and the backend."""
    # Keras seeds TensorFlow too if it can be imported, which takes seconds.
    blocked = ENGINE != "tensorflow" and "tensorflow" not in sys.modules
    if blocked:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        keras.utils.set_random_seed(seed)
    finally:
        if blocked:
            del sys.modules["tensorflow"]


def _precision() -> str:
    """Return Keras's policy for the precision that the first GPU computes fastest in."""
    if not GPUS:
        return "float32"
    return "mixed_bfloat16" if _compute_capability() >= (8, 0) else "mixed_float16"


def _compute_capability() -> tuple[int, ...]:
    """Return the compute capability of the first GPU; from (8, 0) on, the hardware computes in `bfloat16`."""
    if ENGINE == "tensorflow":
        details = native.config.experimental.get_device_details(native.config.list_physical_devices("GPU")[0])
        return details.get("compute_capability", (0, 0))
    if ENGINE == "jax":
        # That of an AMD GPU is the name of its architecture.
        capability = re.fullmatch(r"(\d+)\.(\d+)", str(native.devices("gpu")[0].compute_capability))
        return tuple(map(int, capability.groups())) if capability else (0, 0)
    return native.cuda.get_device_capability(0)


def describe() -> str:
    """Return one line on the backend, the hardware and the precision in use."""
    hardware = ", ".join(GPUS) or f"CPU with {os.cpu_count()} cores"
    return f"{hardware}; {ENGINE}; {keras.mixed_precision.global_policy().name}"


@functools.cache
def _strategy() -> Any:
    """Return TensorFlow's strategy for several GPUs.

    It is one object in the whole process: variables of one strategy cannot be used under another.
    """
    return native.distribute.MirroredStrategy()


def distribution() -> contextlib.AbstractContextManager:
    """Return the context in which a network is built, compiled and fitted, so that all GPUs train it.

    With JAX, these are the devices of all processes. PyTorch trains on one GPU.
    """
    if ENGINE == "tensorflow" and len(GPUS) > 1:
        return _strategy().scope()
    if ENGINE == "jax" and native.device_count() > 1:
        # Each process makes its part of the batches itself.
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    return contextlib.nullcontext()


def device_count() -> int:
    """Return how many devices, of all processes, divide a batch between them."""
    if ENGINE == "tensorflow":
        return max(len(GPUS), 1)
    return native.device_count() if ENGINE == "jax" else 1


def synchronize(name: str) -> None:
    """Wait until all processes have reached this call with the same name.

    Raises:
        ValueError: if another process has reached a call with another name.
    """
    if PROCESSES == 1:
        return
    multihost = importlib.import_module("jax.experimental.multihost_utils")
    try:
        multihost.sync_global_devices(name)
    except AssertionError as error:
        raise ValueError(
            f"the processes of a training must do the same. Received: {name} in process {PROCESS}, "
            "something else in another. Start all with the same command, files and version of the project"
        ) from error


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Run a block in the first process, then in the others, which find the files that the first wrote."""
    if PROCESS:
        synchronize("files")
    yield
    if not PROCESS:
        synchronize("files")


def outputs(network: keras.Model, batch: np.ndarray) -> Any:
    """Compute the outputs of a network in inference mode.

    Args:
        network: any network; compiled at its first call.
        batch: `uint8` or `float32`, as its input.

    Returns:
        `float32`, or a list of them if the network has several outputs.
    """
    if network.jit_compile and not JIT_COMPILE:
        network.jit_compile = False
    return network.predict_on_batch(np.asarray(batch, np.float32))


def gradient(score: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Compute the gradient of the sum of a score with respect to its input.

    Args:
        score: a function of a tensor like `x`, made of layers in inference mode and of `keras.ops`.
        x: `float32` of any shape.

    Returns:
        `float32` of the shape of `x`.
    """
    if ENGINE == "tensorflow":
        inputs = native.convert_to_tensor(x)
        with native.GradientTape() as tape:
            # A tape follows variables by itself, and nothing else.
            tape.watch(inputs)
            total = keras.ops.sum(score(inputs))
        return tape.gradient(total, inputs).numpy()
    if ENGINE == "jax":
        return np.asarray(native.grad(lambda inputs: keras.ops.sum(score(inputs)))(native.numpy.asarray(x)))
    inputs = keras.ops.convert_to_tensor(x).requires_grad_()
    (result,) = native.autograd.grad(keras.ops.sum(score(inputs)), inputs)
    return result.cpu().numpy()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the GPU, or of the machine, is exhausted."""
    if isinstance(error, MemoryError):
        return True
    if ENGINE == "tensorflow":
        return isinstance(error, native.errors.ResourceExhaustedError)
    if ENGINE == "jax":
        message = str(error).lower()
        # The last is the answer of XLA's library for CPUs if it cannot allocate.
        signs = ("out of memory", "resource_exhausted", "ynnpack operation failed: error")
        return isinstance(error, native.errors.JaxRuntimeError) and any(sign in message for sign in signs)
    # PyTorch's allocators for CPUs, of which Windows has another, raise a plain RuntimeError.
    exhausted = any(text in str(error) for text in ("can't allocate memory", "not enough memory"))
    return isinstance(error, native.OutOfMemoryError) or exhausted


def grouped_convolution(layer: keras.layers.Conv2D) -> Callable[[Any, Any], Any] | None:
    """Return the function that computes a grouped convolution faster than Keras does, if there is one.

    On a CPU Keras has XLA compile each of them for TensorFlow: again at each call outside of a graph, and on
    2 CPU cores into a gradient that took 400 times as long. TensorFlow's own operation is used if a small
    case agrees with one convolution per group. JAX and PyTorch need nothing.

    Args:
        layer: a convolution with several groups.

    Returns:
        A function of the photos and the kernel, as `Conv2D.convolution_op`; `None`: Keras's own is right.
    """
    if ENGINE != "tensorflow" or not _has_native_groups():
        return None
    return functools.partial(
        native.nn.convolution,
        strides=layer.strides,
        padding=layer.padding.upper(),
        dilations=layer.dilation_rate,
    )


@functools.cache
def _has_native_groups() -> bool:
    """Compare TensorFlow's grouped convolution and its gradients with one convolution per group."""
    draws = np.random.default_rng(0)
    photos = native.constant(draws.normal(size=(2, 7, 7, 8)), native.float32)
    kernel = native.constant(draws.normal(size=(3, 3, 4, 6)), native.float32)
    try:
        computed = native.function(_convolution_and_gradients)(_convolve_natively, photos, kernel)
    except native.errors.OpError:
        return False
    expected = _convolution_and_gradients(_convolve_one_by_one, photos, kernel)
    return all(
        np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()
        for ours, theirs in zip(computed, expected, strict=True)
    )


def _convolution_and_gradients(convolve: Callable[[Any, Any], Any], photos: Any, kernel: Any) -> list[Any]:
    """Return a convolution, with the bias and the ReLU that a graph fuses with it, and its two gradients."""
    with native.GradientTape() as tape:
        tape.watch((photos, kernel))
        x = native.nn.relu(native.nn.bias_add(convolve(photos, kernel), native.ones(6)))
        score = native.reduce_sum(x**2)
    return [x, *tape.gradient(score, (photos, kernel))]


def _convolve_natively(photos: Any, kernel: Any) -> Any:
    return native.nn.convolution(photos, kernel, 2, "VALID")


def _convolve_one_by_one(photos: Any, kernel: Any) -> Any:
    groups = zip(native.split(photos, 2, axis=-1), native.split(kernel, 2, axis=-1), strict=True)
    return native.concat([native.nn.conv2d(part, filters, 2, "VALID") for part, filters in groups], axis=-1)
