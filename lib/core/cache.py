"""Keep what is costly, keyed by everything that decides it: parameters, content and code."""

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np


def fingerprint(*parts) -> str:
    """Return 16 hexadecimal digits that change when any part (anything JSON can hold, or a path's text) does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code(*modules: ModuleType | Path) -> str:
    """Return a fingerprint of the modules' code; comments and layout do not count."""
    files = [Path(module.__file__) if isinstance(module, ModuleType) else module for module in modules]
    return fingerprint([ast.dump(ast.parse(file.read_text(encoding="utf-8"))) for file in files])


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays stored at `path`, computing and storing them first where there are none.

    Args:
        path: an `.npz` file whose name holds the key of its content.
        compute: gives the arrays by name.
    """
    if not path.is_file():
        write(path, lambda partial: np.savez(partial, **compute()))
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a partial file and move it to `path` when it is whole, so that a kill leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")  # the suffix stays: writers choose the format by it
    save(partial)
    partial.replace(path)


def write_json(path: Path, value) -> None:
    """Write a value as readable JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
