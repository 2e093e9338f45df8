"""Keep what is costly, keyed by everything that decides it: parameters, content and code."""

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from lib.core import files


def fingerprint(*parts) -> str:
    """Return 16 hexadecimal digits that change when any part (anything JSON can hold, or a path's text) does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code(*modules: ModuleType | Path) -> str:
    """Return a fingerprint of the modules' code; comments and layout do not count."""
    paths = [Path(module.__file__) if isinstance(module, ModuleType) else module for module in modules]
    return fingerprint([ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in paths])


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays stored at `path`, computing and storing them first where there are none.

    Args:
        path: an `.npz` file whose name holds the key of its content.
        compute: gives the arrays by name.
    """
    if not path.is_file():
        files.write(path, lambda partial: np.savez(partial, **compute()))
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
