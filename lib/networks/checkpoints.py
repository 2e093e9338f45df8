"""Load PyTorch checkpoints without PyTorch, without running their code, and copy them to Keras layers.

A `.pth` file is a pickle, which can call any function. The unpickler of this module allows the few names that
a dictionary of tensors needs, and raises an error for any other name. Two formats are supported: the zip
archive of PyTorch 1.6 and later, and the legacy stream of earlier versions.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from lib.networks.backend import keras

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# PyTorch's tensors for the weights of each class of Keras layers, in order, with the order of their axes.
LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "Conv2D": {"weight": (2, 3, 1, 0), "bias": (0,)},
    "DepthwiseConv2D": {"weight": (2, 3, 0, 1), "bias": (0,)},
    "BatchNormalization": {"weight": (0,), "bias": (0,), "running_mean": (0,), "running_var": (0,)},
    "Dense": {"weight": (1, 0), "bias": (0,)},
}


@dataclass
class _Storage:
    """A flat array that tensors are views of; in legacy files, its values follow the pickle."""

    dtype: np.dtype
    numel: int
    values: np.ndarray | None = None

    def fill(self, data: bytes) -> None:
        size = self.numel * self.dtype.itemsize
        if len(data) != size:
            raise ValueError(f"a storage must have {size} bytes. Received: {len(data)}")
        self.values = np.frombuffer(data, dtype=self.dtype)


@dataclass
class _Tensor:
    """A view of a storage; `array` requires that the storage is filled."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        if not all(isinstance(n, int) and n >= 0 for n in (self.offset, *self.shape, *self.stride)):
            raise ValueError(
                f"a tensor's offset, shape and stride must be integers, 0 or more. Received: {self}"
            )
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if 0 not in self.shape and (last >= self.storage.numel or math.prod(self.shape) > self.storage.numel):
            raise ValueError(f"a tensor of shape {self.shape} exceeds its {self.storage.numel} values")
        values = self.storage.values
        if values is None:
            raise ValueError("the file does not contain the values of a tensor")
        strides = tuple(s * values.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


# A function that returns the storage with a dtype, a key and a number of values.
LoadStorage = Callable[[np.dtype, str, int], _Storage]


# The next two functions replace functions of PyTorch, which are called with further arguments.


def _tensor(storage: object, offset: int, shape: Iterable[int], stride: Iterable[int], *_: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor must be a view of a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: _Tensor, *_: object) -> _Tensor:
    return data


class _Unpickler(pickle.Unpickler):
    """An unpickler of tensors, dictionaries and plain values; any other name raises an error."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        **{("torch", name): name for name in DTYPES},
    }

    def __init__(self, file: IO[bytes], load_storage: LoadStorage) -> None:
        super().__init__(file, encoding="utf-8")
        self.load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"it contains {module}.{name}, which is neither a tensor nor a dictionary"
            )
        return self.ALLOWED[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, storage_type, key, _location, numel, *view = identity
        if kind != "storage" or storage_type not in DTYPES or any(v is not None for v in view):
            raise pickle.UnpicklingError(
                f"it refers to {identity!r}, which is not a complete storage of numbers"
            )
        return self.load_storage(np.dtype(DTYPES[storage_type]), str(key), int(numel))


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Load the tensors of a PyTorch checkpoint.

    Args:
        path: a `.pth` or `.pt` file, in the zip or the legacy format. It contains a state dictionary, or a
            dictionary with a state dictionary under `state_dict` or `model`.

    Returns:
        The tensors by name, with the shapes and dtypes of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a checkpoint of this kind, is damaged, or contains objects other than
            tensors, dictionaries and plain values. No code in the file is run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path.name} does not exist. Expected: a PyTorch .pth file")
    try:
        content = _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)
        return _state(content)
    except ValueError as error:
        raise ValueError(f"{path.name} is not a checkpoint of tensors: {error}") from None
    # Unpickling raises almost any error if the file is damaged.
    except Exception as error:
        raise ValueError(f"{path.name} is not a checkpoint of tensors, or is damaged: {error}") from None


def _load_zip(path: Path) -> object:
    """Load the pickle in a zip archive, and its storages from other members of the archive."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"expected a single data.pkl in the archive. Received: {len(pickles)}")
        root = pickles[0].removesuffix("data.pkl")
        names = set(archive.namelist())
        if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
            raise ValueError("expected little-endian numbers")
        storages: dict[str, _Storage] = {}

        def load_storage(dtype: np.dtype, key: str, numel: int) -> _Storage:
            if key not in storages:
                info = archive.getinfo(f"{root}data/{key}")
                # Check the size before the storage is unpacked.
                if info.file_size != numel * dtype.itemsize:
                    raise ValueError(
                        f"storage {key} must have {numel * dtype.itemsize} bytes. Received: {info.file_size}"
                    )
                storages[key] = _Storage(dtype, numel)
                storages[key].fill(archive.read(info))
            return storages[key]

        with archive.open(pickles[0]) as file:
            return _Unpickler(file, load_storage).load()


def _load_legacy(path: Path) -> object:
    """Load a legacy file: three header pickles, the content, the keys of the storages, the storages."""
    storages: dict[str, _Storage] = {}

    def load_storage(dtype: np.dtype, key: str, numel: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, numel))

    with path.open("rb") as file:
        header = [_Unpickler(file, load_storage).load() for _ in range(3)]
        if header[:2] != [LEGACY_MAGIC, LEGACY_PROTOCOL] or not header[2].get("little_endian"):
            raise ValueError("expected PyTorch's magic number, protocol 1001 and little-endian numbers")
        content = _Unpickler(file, load_storage).load()
        for key in _Unpickler(file, load_storage).load():
            storage = storages[key]
            if int.from_bytes(file.read(8), "little") != storage.numel:
                raise ValueError(f"storage {key} does not have the length in the pickle")
            storage.fill(file.read(storage.numel * storage.dtype.itemsize))
    return content


def _state(content: Any) -> dict[str, np.ndarray]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value.array() for name, value in content.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise ValueError(f"expected a dictionary of tensors. Received: {type(content).__name__}")
    return tensors


def assign(
    sources: Iterable[tuple[keras.layers.Layer, str]],
    tensors: dict[str, np.ndarray],
    *,
    ignored: tuple[str, ...],
) -> None:
    """Copy a checkpoint's tensors into Keras layers.

    Args:
        sources: pairs of a layer, of a class in `LAYERS`, and the prefix of the names of its tensors.
        tensors: the tensors by name, the result of `load`; `num_batches_tracked` is ignored.
        ignored: prefixes of the names of further tensors to ignore.

    Raises:
        ValueError: if a tensor is missing, has another shape or belongs to no layer; the message names it.
    """
    unused = dict.fromkeys(
        name for name in tensors if not name.startswith(ignored) and not name.endswith("num_batches_tracked")
    )
    for layer, prefix in sources:
        values = []
        for weight, (part, axes) in zip(layer.weights, LAYERS[type(layer).__name__].items(), strict=False):
            name = f"{prefix}.{part}"
            values.append(_values(tensors, name, axes=axes, shape=tuple(weight.shape)))
            unused.pop(name, None)
        layer.set_weights(values)
    if unused:
        raise ValueError(
            "the checkpoint belongs to another network: "
            f"this network has no tensor {next(iter(unused))} ({len(unused)} unknown tensors)"
        )


def _values(
    tensors: dict[str, np.ndarray], name: str, *, axes: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Check the shape of a tensor, and return it as `float32` with the axes in the order of Keras."""
    expected = tuple(shape[axes.index(axis)] for axis in range(len(axes)))
    received = tensors[name].shape if name in tensors else "none"
    if received != expected:
        raise ValueError(
            f"the checkpoint belongs to another network: its tensor {name} must have the shape {expected}. "
            f"Received: {received}"
        )
    return tensors[name].transpose(axes).astype(np.float32)
