"""The cache: keys that change with what decides, files that are whole or absent."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from lib.core import cache, files


def test_fingerprint_changes_with_every_part():
    values = [
        (),
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        ([1, 2],),
        ({"a": 1},),
        ({"a": 2},),
        ({"b": 1},),
        (None,),
        ("",),
        (0.1,),
        (True,),
        (Path("a"),),
        ("é",),
    ]
    found = [cache.fingerprint(*value) for value in values]
    assert len(set(found)) == len(values)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in found)


def test_fingerprint_ignores_the_order_of_keys_alone():
    assert cache.fingerprint({"a": 1, "b": 2}) == cache.fingerprint({"b": 2, "a": 1})
    assert cache.fingerprint("a") == hashlib.sha256(b'["a"]').hexdigest()[:16]


def test_file_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 1000)
    assert files.file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_code_ignores_comments_and_layout_but_not_code(tmp_path):
    def of(text):
        (tmp_path / "module.py").write_text(text, encoding="utf-8")
        return cache.code(tmp_path / "module.py")

    known = of("def f(x):\n    return x + 1\n")
    assert of("# über\ndef f(x):\n\n    return (x  +  1)  # one more\n") == known
    changed = [
        "def f(x):\n    return x + 2\n",
        "def f(y):\n    return y + 1\n",
        "def g(x):\n    return x + 1\n",
        "def f(x):\n    return 1 + x\n",
    ]
    assert len({known, *map(of, changed)}) == 5


def test_code_of_a_module_is_that_of_its_file():
    assert cache.code(cache) == cache.code(Path(cache.__file__))
    assert cache.code(cache, Path(json.__file__)) != cache.code(cache)


def test_arrays_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.zeros((2, 0), np.float16)}

    for _ in range(3):
        found = cache.arrays(tmp_path / "deep/key.npz", compute)
        assert (
            set(found) == {"a", "b"} and found["a"].tolist() == [0, 1, 2] and found["b"].dtype == np.float16
        )
    assert len(calls) == 1
    cache.arrays(tmp_path / "deep/other.npz", compute)
    assert len(calls) == 2


def test_arrays_that_could_not_be_computed_leave_nothing(tmp_path):
    def compute():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.arrays(tmp_path / "key.npz", compute)
    assert not (tmp_path / "key.npz").exists()
    assert cache.arrays(tmp_path / "key.npz", lambda: {"a": np.ones(2)})["a"].tolist() == [1, 1]


def test_arrays_run_no_pickle(tmp_path):
    np.savez(tmp_path / "key.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.arrays(tmp_path / "key.npz", dict)


def test_write_is_whole_or_nothing(tmp_path):
    path = tmp_path / "new/result.csv"

    def half(partial):
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        files.write(path, half)
    assert not path.exists()
    files.write(path, lambda partial: partial.write_text("first"))
    with pytest.raises(OSError):
        files.write(path, half)
    assert path.read_text() == "first"
    files.write(path, lambda partial: partial.write_text("second"))
    assert path.read_text() == "second" and [file.name for file in path.parent.iterdir()] == ["result.csv"]


def test_write_gives_a_partial_name_with_the_suffix(tmp_path):
    names = []
    files.write(
        tmp_path / "model.keras", lambda partial: (names.append(partial.name), partial.write_bytes(b""))
    )
    assert names[0].endswith(".keras") and names[0] != "model.keras"


def test_json_written_and_read_back(tmp_path):
    value = {"name": "Bär", "numbers": [1, 0.1, None, True]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "Bär" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": object()}])
def test_json_that_others_could_not_read_is_refused(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []
