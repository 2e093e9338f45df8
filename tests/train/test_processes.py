"""Training in several processes, which JAX connects: the result of a single process, killed or not."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from builders import kept_weights

from lib.core import engine
from lib.train import state

pytestmark = pytest.mark.slow

SECONDS = 240
# The command `chrysalis train`, with small photos instead of those of a folder.
COMMAND = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from lib import __main__, pipeline
    from lib.core import engine, params

    def join(join=engine.join):
        join()
        import builders
        from lib.clean import photoset
        from lib.networks import backbones, backend
        from lib.train import trainer

        def killed(self, batch, logs=None, original=trainer._Recorder.on_train_batch_end):
            if os.environ["KILLED"] == f"{backend.PROCESS} in epoch {len(self.trainer.state.history) + 1}":
                os.kill(os.getpid(), signal.SIGKILL)
            original(self, batch, logs)

        trainer._Recorder.on_train_batch_end = killed
        backbones.REGISTRY["Tiny"] = backbones.Backbone(builders.Tiny, backbones.SIGNED)
        train = int(sys.argv[2])
        photoset.load = lambda run: builders.make_photos(count=24, train=train, val=7)

    params.BACKBONES = (*params.BACKBONES, "Tiny")
    engine.join = join
    pipeline.Runner.reasons = lambda self, step: []
    sys.exit(__main__.main(["train", "demo", "--run=run", "--set", sys.argv[3]]))
"""
SETTINGS = (
    "model.weights=null model.image_size=32 train.batch_size=6 train.early_stopping=null augment.flip=both "
    "train.stages.head.trainable=all train.stages.head.augment=true train.stages.fine_tune.trainable=all "
    "train.stages.fine_tune.epochs=1 train.stages.head.epochs="
)


def free_port(first=1024, last=65535):
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randint(first, last)))
            return probe.getsockname()[1]


def variables(count):
    """Return Keras's variables for each of some processes."""
    address = f"127.0.0.1:{free_port()}"
    return [
        dict(zip(engine.JOIN, (address, str(count), str(number)), strict=True)) for number in range(count)
    ]


def slurm(count):
    """Return the variables that srun sets, from which JAX derives a port at the end of the range."""
    job = {"SLURM_JOB_ID": str(free_port(2**16 - 2**12) % 2**12), "SLURM_STEP_NODELIST": "127.0.0.1"}
    tasks = [{"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)} for number in range(count)]
    return [job | task | {"SLURM_NTASKS": str(count)} for task in tasks]


def end(processes):
    """Kill processes by their ids."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(30)


def train(folder, *settings, photos=12, killed=None, launcher=variables):
    """Run the command in a process for each of the settings, one of which kills itself, and then the others.

    Return the exit codes and the output of each process.
    """
    command = [sys.executable, "-c", textwrap.dedent(COMMAND), str(Path(__file__).parent), str(photos)]
    others = {"KERAS_BACKEND": "jax", "CHRYSALIS_OUTPUTS": str(folder), "KILLED": str(killed)}
    folder.mkdir(exist_ok=True)
    logs, processes = [folder / f"{number}.log" for number in range(len(settings))], []
    try:
        for own, log, joined in zip(settings, logs, launcher(len(settings)), strict=True):
            with log.open("w") as file:
                processes.append(
                    subprocess.Popen(
                        [*command, own],
                        env=os.environ | joined | others,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                    )
                )
        if killed:
            processes[int(killed[0])].wait(SECONDS)
            end(processes)
        codes = [process.wait(SECONDS) for process in processes]
    finally:
        end(processes)
    return codes, [log.read_text() for log in logs]


def folder_of(outputs):
    (folder,) = (outputs / "run/training").iterdir()
    return folder


def assert_equal(two, one, *, columns):
    """Assert that the history, without times, and the kept weights are equal."""
    for ours, theirs in zip(*(state.State.load(folder_of(each)).history for each in (two, one)), strict=True):
        np.testing.assert_allclose(ours[columns], theirs[columns], rtol=1e-6, atol=1e-6)
    weights = (kept_weights(folder_of(each).parent, folder_of(each).name) for each in (two, one))
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_processes_that_are_killed_and_started_again_have_the_result_of_one(tmp_path):
    # Pairs of MixUp are in both processes, and batch normalization has the statistics of the whole batch.
    # The gradient of a bias before it is 0 but for rounding errors, which Adam would enlarge.
    settings = f"{SETTINGS}3 model.backbone=Tiny augment.mixup=0.3 train.optimizer.kind=sgd"
    one, two = tmp_path / "one", tmp_path / "two"
    codes, outputs = train(one, settings)
    assert codes == [0], outputs
    for epoch, killed in ((2, 1), (3, 0)):
        codes, outputs = train(two, settings, settings, killed=f"{killed} in epoch {epoch}")
        assert codes[killed] == -signal.SIGKILL and 0 not in codes, outputs
        assert len(state.State.load(folder_of(two)).history) == epoch - 1
    codes, outputs = train(two, settings, settings)
    assert codes == [0, 0] and "processes: 2; devices: 2;" in outputs[0], outputs
    assert "epoch   2" not in outputs[0] and "epoch   4" in outputs[0]
    assert_equal(two, one, columns=slice(2, -1))


def test_two_processes_have_the_result_of_one_for_any_number_of_photos(tmp_path):
    # Batches of 6, 6 and 1: of the last, the second process has no photo.
    settings = f"{SETTINGS}1 model.backbone=SimpleCNN model.simple_cnn.blocks=2"
    for name, count in (("one", 1), ("two", 2)):
        codes, outputs = train(tmp_path / name, *[settings] * count, photos=13, launcher=slurm)
        assert codes == [0] * count, outputs
    # In the loss on train, the last batch has another weight.
    assert_equal(tmp_path / "two", tmp_path / "one", columns=slice(3, -1))
    assert "epoch   2" in outputs[0] and "epoch" not in outputs[1]


def test_processes_with_other_parameters_end_with_an_error(tmp_path):
    settings = f"{SETTINGS}1 model.backbone=SimpleCNN model.simple_cnn.blocks=2 seed="
    codes, outputs = train(tmp_path, f"{settings}1", f"{settings}2")
    assert 0 not in codes
    assert any("the processes of a training must do the same" in output for output in outputs), outputs
    assert not list(tmp_path.rglob("state.npz"))
