"""The state of a training: the same state is read back, and only the best weights are kept."""

import json
import math

import numpy as np
import pytest

from lib.core import files
from lib.train import state

ROW = [1, "head", 0.1 + 0.2, 0.5, 1 / 3, 0.25, 0.01, 1.5]


def test_a_state_is_read_back_to_the_last_bit(tmp_path):
    written = state.State(
        stage=1, epoch=2, stopped=True, learned=["none"], history=[ROW], best=math.inf, kept=1
    )
    written.callbacks = [{"wait": 2.0, "best": 1 / 3}, {}]
    written.choose_batch_size(8)
    variables = [np.float32(1 / 3) * np.ones((2, 3), np.float32), np.array(5, np.int64)]
    written.save(tmp_path, variables)
    assert state.exists(tmp_path) and not state.exists(tmp_path / "other")
    assert state.State.load(tmp_path) == written
    assert [type(value) for value in state.State.load(tmp_path).history[0]] == [int, str] + [float] * 6
    for one, other in zip(state.variables(tmp_path), variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_new_state_is_before_the_first_epoch_of_the_first_stage():
    new = state.State()
    assert (new.stage, new.epoch, new.stopped, new.inherited, new.best, new.kept) == (0, 0, False, 0, None, 0)


def test_saving_removes_the_weights_of_earlier_epochs(tmp_path):
    at = state.State(kept=1)
    at.keep(tmp_path, [np.ones(2)])
    at.kept = 3
    at.keep(tmp_path, [np.zeros(2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-1.npz", "best-3.npz"]
    at.save(tmp_path, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-3.npz", "state.npz"]
    assert state.State.load(tmp_path).best_weights(tmp_path)[0].tolist() == [0, 0]
    assert state.variables(tmp_path) == []


def test_a_batch_size_applies_from_the_next_epoch(tmp_path):
    at = state.State()
    for size in (32, 16):
        at.choose_batch_size(size)
    assert at.batch_sizes == [{"from_epoch": 1, "batch_size": 16}]
    at.history.append(ROW)
    at.choose_batch_size(8)
    assert at.batch_sizes[1:] == [{"from_epoch": 2, "batch_size": 8}] and at.batch_size == 8


def test_a_state_of_an_earlier_version_is_read(tmp_path):
    meta = {"stage": 2, "epoch": 0, "stopped": False, "callbacks": [], "learned": ["none"], "history": [ROW]}
    meta |= {"inherited": 0, "best": 0.5, "kept": 1, "batch_sizes": [{"from_epoch": 1, "batch_size": 8}]}
    np.savez(tmp_path / "state.npz", np.array(json.dumps(meta)))
    read = state.State.load(tmp_path)
    assert (read.stage, read.kept, read.best, read.batch_size) == (2, 1, 0.5, 8)


def test_the_record_of_a_finished_training_is_read_back(tmp_path):
    assert state.Finished.load(tmp_path) is None
    record = state.Finished("parent", "network", [], monitor="val_loss", label_smoothing=0.1)
    record.save(tmp_path)
    assert state.Finished.load(tmp_path) == record
    files.write_json(tmp_path / "finished.json", {"parent": None, "network": "x"})
    earlier = state.Finished.load(tmp_path)
    assert earlier.monitor is None and earlier.label_smoothing is None


DAMAGES = {
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "flip": lambda path: path.write_bytes(bytes([byte ^ 1 for byte in path.read_bytes()])),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["state.npz", "best-1.npz"])
def test_a_damaged_training_is_removed(tmp_path, file, damage):
    at = state.State(kept=1)
    at.keep(tmp_path, [np.ones(20)])
    at.save(tmp_path, [np.ones(20)])
    state.Finished(parent=None, network="n").save(tmp_path)
    state.remove_damaged(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    DAMAGES[damage](tmp_path / file)
    state.remove_damaged(tmp_path)
    assert list(tmp_path.iterdir()) == [] and state.Finished.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parent": 1}'])
def test_a_damaged_record_is_ignored(tmp_path, text):
    (tmp_path / "finished.json").write_text(text)
    assert state.Finished.load(tmp_path) is None


def test_a_training_without_a_kept_epoch_is_not_damaged(tmp_path):
    state.State().save(tmp_path, [])
    state.remove_damaged(tmp_path)
    assert state.exists(tmp_path)
