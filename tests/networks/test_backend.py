"""The backend: the same answers from each, nothing on the error stream, seeds that hold."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lib.networks import backend
from lib.networks.backend import keras

pytestmark = pytest.mark.backend


def test_output_of_c_code_is_dropped(capfd):
    with backend.quiet():
        os.write(2, b"a log line of C code")
    os.write(2, b"an error")
    assert capfd.readouterr().err == "an error"


def test_the_error_stream_comes_back_after_an_error(capfd):
    with pytest.raises(ZeroDivisionError), backend.quiet():
        _ = 1 / 0
    os.write(2, b"an error")
    assert capfd.readouterr().err == "an error"


def test_the_import_leaves_the_error_stream_empty():
    done = subprocess.run(
        [sys.executable, "-c", "from lib.networks import backend"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_settings_in_the_home_folder_change_nothing(tmp_path):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.1, "backend": "numpy", "image_data_format": "channels_first"}'
    )
    code = (
        "from lib.networks.backend import keras; c = keras.config; "
        "print(c.backend(), c.floatx(), c.epsilon(), c.image_data_format())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / ".keras")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["tensorflow", "float32", "1e-07", "channels_last"], done.stderr


def test_seeding_imports_no_other_backend():
    code = (
        "import sys; from lib.networks import backend; backend.prepare(0); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(backend.ENGINE == "tensorflow"), done.stderr


def test_the_same_seed_repeats_every_generator():
    def draw():
        return [np.random.uniform(), float(keras.random.uniform(()))]

    backend.prepare(5)
    first = draw()
    backend.prepare(5)
    assert draw() == first
    backend.prepare(6)
    assert draw() != first


def test_the_description_is_one_line_with_backend_and_precision():
    line = backend.prepare(0)
    assert "\n" not in line and line == backend.describe()
    assert backend.ENGINE in line
    if not backend.GPUS:
        assert line.endswith("float32")


def test_a_gpu_that_has_bfloat16_computes_in_it(monkeypatch):
    monkeypatch.setattr(backend, "GPUS", ["a GPU"])
    for capability, policy in [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16")]:
        monkeypatch.setattr(backend, "_compute_capability", lambda capability=capability: capability)
        assert backend._precision() == policy


def test_the_gradient_of_a_network_solved_by_hand():
    """The score is the sum of 3 x² over the places: its gradient is 6 x."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(backend.gradient(lambda x: 3 * keras.ops.sum(x**2, axis=1), x), 6 * x)


def test_the_gradient_passes_through_layers_in_inference_mode():
    inputs = keras.Input((3, 3, 2))
    x = keras.layers.Dropout(0.9)(keras.layers.GlobalAveragePooling2D()(inputs))
    dense = keras.layers.Dense(2, kernel_initializer="ones")
    head = keras.Model(inputs, dense(keras.layers.BatchNormalization(epsilon=0.0)(x)))
    x = np.ones((4, 3, 3, 2), np.float32)
    computed = backend.gradient(lambda x: head(x, training=False)[:, 0], x)
    # each of 9 places has a ninth of the mean, and both channels weigh 1
    np.testing.assert_allclose(computed, np.full_like(x, 1 / 9), rtol=1e-6)


def test_exhausted_memory_is_told_from_other_errors():
    assert backend.is_out_of_memory(MemoryError())
    assert not backend.is_out_of_memory(RuntimeError("INVALID_ARGUMENT: shapes"))
    assert not backend.is_out_of_memory(ValueError("out of range"))
    raised = {
        "tensorflow": lambda: backend.native.errors.ResourceExhaustedError(None, None, "OOM"),
        "jax": lambda: backend.native.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        "torch": lambda: backend.native.OutOfMemoryError("CUDA out of memory"),
    }
    assert backend.is_out_of_memory(raised[backend.ENGINE]())
    if backend.ENGINE == "jax":
        message = "INTERNAL: Error dispatching computation: Out of memory allocating 2425360704 bytes."
        assert backend.is_out_of_memory(backend.native.errors.JaxRuntimeError(message))
        message = "INTERNAL: Error dispatching computation: YNNPACK operation failed: error"
        assert backend.is_out_of_memory(backend.native.errors.JaxRuntimeError(message))
    if backend.ENGINE == "torch":
        with pytest.raises(RuntimeError) as caught:
            backend.native.empty(10**15)
        assert backend.is_out_of_memory(caught.value)


def test_the_first_process_runs_a_block_before_the_others(monkeypatch):
    calls = []
    monkeypatch.setattr(backend, "synchronize", calls.append)
    for process in range(2):
        monkeypatch.setattr(backend, "PROCESS", process)
        with backend.first_process_first():
            calls.append(f"block {process}")
    assert calls == ["block 0", "files", "files", "block 1"]


def a_gpu(engine, capability):
    """Return a stand-in for the package of an engine on a machine with one GPU."""
    major, _, minor = capability.partition(".")
    pair = (int(major), int(minor)) if minor else None
    devices = [SimpleNamespace(platform="gpu", device_kind="Some GPU", compute_capability=capability)]
    details = {"device_name": "Some GPU"} | ({"compute_capability": pair} if pair else {})
    config = SimpleNamespace(
        list_physical_devices=lambda kind: ["GPU:0"],
        experimental=SimpleNamespace(get_device_details=lambda device: details),
    )
    cuda = SimpleNamespace(
        device_count=lambda: 1,
        get_device_name=lambda number: "Some GPU",
        get_device_capability=lambda number: pair,
    )
    packages = {
        "tensorflow": SimpleNamespace(config=config),
        "jax": SimpleNamespace(devices=lambda *kind: devices),
        "torch": SimpleNamespace(cuda=cuda),
    }
    return packages[engine]


@pytest.mark.parametrize(
    ("engine", "capability", "policy"),
    [
        *((engine, "9.0", "mixed_bfloat16") for engine in ("tensorflow", "jax", "torch")),
        *((engine, "8.0", "mixed_bfloat16") for engine in ("tensorflow", "jax", "torch")),
        *((engine, "7.5", "mixed_float16") for engine in ("tensorflow", "jax", "torch")),
        # An AMD GPU has the name of an architecture instead, or nothing.
        *((engine, "gfx942", "mixed_float16") for engine in ("tensorflow", "jax")),
    ],
)
def test_the_precision_follows_from_the_hardware_on_each_backend(monkeypatch, engine, capability, policy):
    monkeypatch.setattr(backend, "ENGINE", engine)
    monkeypatch.setattr(backend, "native", a_gpu(engine, capability))
    monkeypatch.setattr(backend, "GPUS", backend._gpus())
    assert backend.GPUS == ["Some GPU"]
    assert backend._precision() == policy


def test_memory_is_not_taken_at_once():
    names = ("XLA_PYTHON_CLIENT_PREALLOCATE", "TF_FORCE_GPU_ALLOW_GROWTH")
    assert [os.environ[name] for name in names] == ["false", "true"]
