"""Checkpoints: both formats of PyTorch are loaded, and code in a file is never run."""

import io
import os
import pickle
import posix
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from lib.networks import checkpoints
from lib.networks.backend import keras

REFERENCE = Path(__file__).parents[1] / "reference"
KNOWN = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "tail": np.arange(4.0, 8.0),
    "long": np.array([[-1, 2**40]]),
    "half": np.array([0.5, -2.0, 65504.0], np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.int32),
    "flags": np.array([True, False]),
    "parameter": np.array([1.5, 2.5], np.float32),
}


@pytest.mark.parametrize("file", ["tiny_zip.pth", "tiny_legacy.pth"])
def test_load_returns_the_tensors_that_pytorch_saved(file):
    loaded = checkpoints.load(REFERENCE / file)
    assert list(loaded) == list(KNOWN)
    for name, expected in KNOWN.items():
        assert loaded[name].dtype == expected.dtype and loaded[name].shape == expected.shape, name
        assert (loaded[name] == expected).all(), name
    loaded["plain"][0, 0] = 9  # an array of its own


@pytest.mark.parametrize("file", ["tiny_zip.pth", "tiny_legacy.pth"])
@pytest.mark.parametrize("tenth", range(10))
def test_truncated_files(tmp_path, file, tenth):
    data = (REFERENCE / file).read_bytes()
    assert "cut.pth" in refusal(tmp_path, data[: len(data) * tenth // 10], "cut.pth")


def test_legacy_file_one_byte_short(tmp_path):
    refusal(tmp_path, (REFERENCE / "tiny_legacy.pth").read_bytes()[:-1])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the checkpoint gone\.pth does not exist"):
        checkpoints.load(tmp_path / "gone.pth")


def refusal(tmp_path, data, name="evil.pth"):
    """Return the message of the refusal; it names the file, not its folder."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(tmp_path / name)
    assert name in str(caught.value) and str(tmp_path) not in str(caught.value)
    return str(caught.value)


# Files made by hand


def zipped(pickled, storages=None, root="archive/"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{root}data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}data/{key}", data)
    return buffer.getvalue()


def legacy(pickled):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    header = [checkpoints.LEGACY_MAGIC, checkpoints.LEGACY_PROTOCOL, system]
    return b"".join(pickle.dumps(part, 2) for part in header) + pickled + pickle.dumps([], 2)


class Global:
    """Stands for a name of PyTorch that this environment does not have."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Stands for a call of such a name."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    """Stands for a storage, which the pickle names by a persistent id."""

    def __init__(self, numel, key="0", kind="FloatStorage"):
        self.identity = ("storage", Global("torch", kind), key, "cpu", numel)


class Pickler(pickle._Pickler):
    """Pickle the stand-ins above as PyTorch pickles the originals."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Storage):
            self.save(obj.identity)
            self.write(pickle.BINPERSID)
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(value):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def tensor(storage, offset=0, shape=(4,), stride=(1,)):
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, stride, False, OrderedDict()
    )


NUMBERS = np.arange(4, dtype=np.float32).tobytes()


def test_the_files_made_here_are_good_when_nothing_is_wrong(tmp_path):
    (tmp_path / "good.pth").write_bytes(zipped(pickled({"w": tensor(Storage(4))}), {"0": NUMBERS}))
    assert checkpoints.load(tmp_path / "good.pth")["w"].tolist() == [0, 1, 2, 3]


class Reduced:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker):
    command = f"touch {marker}"
    write = f"open({str(marker)!r}, 'w')"
    plain = {
        "os.system": Reduced(os.system, command),
        "posix.system": Reduced(posix.system, command),
        "eval": Reduced(eval, write),
        "exec": Reduced(exec, write),
        "open": Reduced(open, str(marker), "w"),
        "nested": Reduced(pickle.loads, pickle.dumps(Reduced(os.system, command))),
        "inside": {"state_dict": {"w": [Reduced(os.system, command)]}},
    }
    cases = {name: pickle.dumps(value, 2) for name, value in plain.items()}
    cases["protocol 4"] = pickle.dumps(plain["os.system"], 4)
    cases["torch.load"] = pickled(Call(Global("torch", "load"), "x.pth"))
    cases["torch.hub"] = pickled(Call(Global("torch.hub", "load"), "x"))
    cases["dotted"] = pickled(Call(Global("collections", "OrderedDict.__init__.__globals__"), "x"))
    cases["numpy"] = pickled(Call(Global("numpy.testing._private.utils", "runstring"), write, {}))
    cases["storage of another kind"] = pickled({"w": tensor(Storage(4, kind="load"))})
    return cases


CASES = sorted(attacks("marker"))


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("attack", CASES)
def test_no_code_in_a_file_is_run(tmp_path, attack, write):
    marker = tmp_path / "marker"
    message = refusal(tmp_path, write(attacks(marker)[attack]))
    assert not marker.exists()
    assert "it contains" in message or "refers to" in message


def test_the_attacks_are_real(tmp_path):
    for name in ("os.system", "posix.system", "eval", "exec", "open", "nested"):
        marker = tmp_path / name
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name


@pytest.mark.parametrize(
    ("wrong", "storages"),
    [
        ({"w": tensor(Storage(4), shape=(5,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), offset=1)}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), offset=-1)}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), stride=(2,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), stride=(-1,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), stride=(2**40,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), offset=2**62)}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), offset=0.5)}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), shape=(2, 2), stride=(1,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4), shape=(-1,))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(4))}, {"0": NUMBERS[:-1]}),
        ({"w": tensor(Storage(4))}, {"0": NUMBERS + b"1234"}),
        ({"w": tensor(Storage(4))}, {}),
        ({"w": tensor(Storage(4, key="../../data.pkl"))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(2**40))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(-4))}, {"0": NUMBERS}),
        ({"w": tensor(Storage(2**62, kind="DoubleStorage"))}, {"0": NUMBERS}),
        ({"w": tensor("no storage")}, {"0": NUMBERS}),
        ({"a": tensor(Storage(4)), "b": tensor(Storage(8), shape=(8,))}, {"0": NUMBERS}),
        ({}, {}),
        ([1, 2], {}),
        ({"w": 3}, {}),
        ({"w": Storage(4)}, {"0": NUMBERS}),
    ],
)
def test_tensors_that_reach_outside_their_file(tmp_path, wrong, storages):
    refusal(tmp_path, zipped(pickled(wrong), storages))


def test_a_few_numbers_cannot_be_blown_up(tmp_path):
    content = {"w": tensor(Storage(4), shape=(2**20, 2**20), stride=(0, 0))}
    assert "exceeds its 4 values" in refusal(tmp_path, zipped(pickled(content), {"0": NUMBERS}))


def test_a_legacy_storage_that_would_fill_the_memory(tmp_path):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    header = b"".join(
        pickle.dumps(part, 2) for part in (checkpoints.LEGACY_MAGIC, checkpoints.LEGACY_PROTOCOL, system)
    )
    for numel in (2**40, 2**62, -1):
        content = pickled({"w": tensor(Storage(numel), shape=(1,))})
        size = struct.pack("<q", numel)
        refusal(tmp_path, header + content + pickle.dumps(["0"], 2) + size + NUMBERS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ""),
        (b"not a pickle", ""),
        (b"<html>404</html>", ""),
        (pickle.dumps({"w": 1}), ""),
        (pickle.dumps([1, 2, 3]) * 4, "magic number"),
        (zipped(b""), ""),
        (zipped(b"not a pickle"), ""),
        (legacy(b"."), ""),
    ],
)
def test_other_files_are_no_checkpoints(tmp_path, data, words):
    assert words in refusal(tmp_path, data)


def test_zips_of_another_kind(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", b"x")
    assert "a single data.pkl" in refusal(tmp_path, buffer.getvalue())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("b/data.pkl", b"x")
    assert "a single data.pkl" in refusal(tmp_path, buffer.getvalue())


def test_big_endian_files_are_refused(tmp_path):
    buffer = io.BytesIO(zipped(pickled({"w": tensor(Storage(4))}), {"0": NUMBERS}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/byteorder", b"big")
    assert "little-endian" in refusal(tmp_path, buffer.getvalue())


def test_the_memory_of_a_zip_bomb_is_bounded_by_the_sizes_in_the_pickle(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({"w": tensor(Storage(4))}))
        archive.writestr("archive/data/0", b"\0" * 30_000_000)
    tracemalloc.start()
    refusal(tmp_path, buffer.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# Tensors into Keras layers


def filled(change=None, ignored=()):
    """Return a small network with the weights of a checkpoint."""
    network = keras.Sequential(
        [
            keras.Input((5, 5, 4)),
            keras.layers.Conv2D(6, (2, 3), groups=2, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    shapes = {"c.0.weight": (6, 2, 2, 3), "c.0.bias": (6,), "d.weight": (3, 6), "d.bias": (3,)}
    shapes |= {f"n.{part}": (6,) for part in ("weight", "bias", "running_mean", "running_var")}
    draw = np.random.default_rng(0)
    tensors = {name: draw.uniform(0.5, 1.5, shape) for name, shape in shapes.items()}
    tensors["n.num_batches_tracked"] = np.array(7)
    tensors |= change or {}
    prefixes = {"conv": "c.0", "norm": "n", "dense": "d"}
    sources = [(network.get_layer(name), prefix) for name, prefix in prefixes.items()]
    checkpoints.assign(sources, {k: v for k, v in tensors.items() if v is not None}, ignored=ignored)
    return network, tensors


def test_layers_compute_with_their_tensors_as_pytorch_does():
    network, t = filled()
    photos = np.random.default_rng(1).uniform(-1, 1, (1, 5, 5, 4)).astype(np.float32)
    expected = np.empty((4, 3, 6))
    for row, column, channel in np.ndindex(expected.shape):
        window = photos[0, row : row + 2, column : column + 3, 2 * (channel // 3) : 2 * (channel // 3) + 2]
        expected[row, column, channel] = (
            sum(window[i, j, k] * t["c.0.weight"][channel, k, i, j] for i, j, k in np.ndindex(window.shape))
            + t["c.0.bias"][channel]
        )
    expected = (expected - t["n.running_mean"]) / np.sqrt(t["n.running_var"] + 1e-3)
    expected = (expected * t["n.weight"] + t["n.bias"]) @ t["d.weight"].T + t["d.bias"]
    np.testing.assert_allclose(network(photos, training=False)[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c.0.bias": None}, r"its tensor c.0.bias must have the shape \(6,\). Received: none"),
        (
            {"c.0.weight": np.ones((6, 4, 2, 3))},
            r"its tensor c.0.weight must have the shape \(6, 2, 2, 3\). Received: \(6, 4, 2, 3\)",
        ),
        (
            {"d.weight": np.ones((6, 3))},
            r"its tensor d.weight must have the shape \(3, 6\). Received: \(6, 3\)",
        ),
        ({"c.1.weight": np.ones(2), "e.bias": np.ones(2)}, r"no tensor c.1.weight \(2 unknown"),
    ],
)
def test_tensors_of_another_network(change, message):
    with pytest.raises(ValueError, match=f"the checkpoint belongs to another network: .*{message}"):
        filled(change)


def test_tensors_that_are_to_be_ignored():
    filled({"e.bias": np.ones(2), "f.weight": np.ones(2)}, ignored=("e.", "f."))
    with pytest.raises(ValueError, match="no tensor f.weight"):
        filled({"e.bias": np.ones(2), "f.weight": np.ones(2)}, ignored=("e.",))
