"""The division of a source: all runs use it, and a damaged file is noticed."""

import multiprocessing

import pandas as pd
import pytest

from lib.clean import divisions
from lib.core import locks
from lib.core.schema import Params


def settings(**sections):
    return Params.model_validate({"name": "mine", "source": {"kind": "sample"}} | sections)


def table(**splits):
    return pd.DataFrame({"sha1": [f"{name:0>40}" for name in splits], "split": list(splits.values())})


def stored(folder, given=None):
    return {sha1.lstrip("0"): split for sha1, split in divisions.load(folder, given or settings()).items()}


def test_photos_join_a_division_and_removed_ones_stay_in_it(tmp_path):
    assert stored(tmp_path) == {}
    divisions.store(tmp_path, settings(), table(a="train", b="val", c="", d="predict"))
    assert stored(tmp_path) == {"a": "train", "b": "val"}
    divisions.store(tmp_path, settings(), table(b="train", e="test"))
    assert stored(tmp_path) == {"a": "train", "b": "train", "e": "test"}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"split": {"val": 0.2}},
        {"split": {"test": 0.2}},
        {"split": {"group": r"(\d)_"}},
        {"clean": {"near_duplicate_bits": 3}},
        {"clean": {"embeddings": False}},
    ],
)
def test_a_changed_parameter_has_a_division_of_its_own(tmp_path, change):
    divisions.store(tmp_path, settings(), table(a="train"))
    assert stored(tmp_path, settings(**change)) == {}
    divisions.store(tmp_path, settings(**change), table(a="test"))
    assert stored(tmp_path) == {"a": "train"} and stored(tmp_path, settings(**change)) == {"a": "test"}


@pytest.mark.parametrize(
    "change", [{"run": "other"}, {"clean": {"exclude": ["dark"]}}, {"split": {"on_leak": "keep"}}]
)
def test_other_parameters_and_names_of_runs_keep_the_division(tmp_path, change):
    divisions.store(tmp_path, settings(), table(a="train"))
    assert stored(tmp_path, settings(**change)) == {"a": "train"}


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_a_damaged_division_is_removed_with_a_message(tmp_path, capsys, damage):
    divisions.store(tmp_path, settings(), table(a="train", b="val", c="test"))
    path = divisions.path(tmp_path, settings())
    data = bytearray(path.read_bytes())
    # A byte of the first array, after its header.
    data[data.index(b"0000a")] ^= 1
    path.write_bytes({"cut": path.read_bytes()[:-30], "flip": bytes(data), "text": b"sha1,split\n"}[damage])
    assert stored(tmp_path) == {} and not path.exists()
    assert f"{path.name} is damaged: it is removed and computed again" in capsys.readouterr().out


def join(folder, name):
    """Add a photo as a run does it, in a process of its own."""
    with locks.source(folder):
        divisions.store(folder, settings(), table(**{name: "val"}))


def test_two_runs_at_once_lose_no_photo(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=join, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert stored(tmp_path) == {"a": "val", "b": "val"}
