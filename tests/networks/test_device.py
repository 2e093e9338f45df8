"""TensorFlow's set-up: the error stream stays clean, and the same seed gives the same numbers."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.networks import device
from lib.networks.device import keras, tf


def test_quiet_suppresses_file_descriptor_2_and_restores_it(capfd):
    os.write(2, b"before ")
    with device.quiet():
        os.write(2, b"inside ")
        print("inside too", file=sys.__stderr__)
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def _open_files():
    return len(list(Path("/proc/self/fd").glob("*")))  # 0 where there is no such folder


def test_quiet_gives_the_stream_back_after_an_error(capfd):
    open_before = _open_files()
    with pytest.raises(ZeroDivisionError), device.quiet():
        os.write(2, b"inside")
        _ = 1 / 0
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    assert _open_files() == open_before


def test_importing_it_writes_nothing_to_stderr():
    done = subprocess.run(
        [sys.executable, "-c", "from lib.networks import device"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def draw():
    return (
        random.random(),
        np.random.rand(3).tolist(),
        tf.random.uniform([3]).numpy().tolist(),
        keras.random.normal([3]).numpy().tolist(),
        keras.layers.Dense(2)(np.ones((1, 3), np.float32)).numpy().tolist(),
    )


def test_prepare_seeds_every_generator():
    device.prepare(5)
    first = draw()
    device.prepare(5)
    assert draw() == first
    device.prepare(6)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_prepare_describes_the_hardware():
    line = device.prepare(0)
    assert "\n" not in line and line == device.describe()
    if not device.GPUS:
        assert f"CPU with {os.cpu_count()} cores; float32" == line


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that sets the GPUs of the machine."""
    device.strategy.cache_clear()
    yield lambda *names: monkeypatch.setattr(device, "GPUS", list(names))
    device.strategy.cache_clear()


def test_one_device_needs_no_strategy(gpus):
    gpus("one")
    assert device.strategy() is tf.distribute.get_strategy()


def test_several_devices_share_one_strategy(gpus, monkeypatch):
    """Variables that were made under one strategy do not work under another."""
    gpus("one", "two")
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", object)
    assert type(device.strategy()) is object and device.strategy() is device.strategy()
