"""Cache the results of costly computations, with keys that depend on parameters, content and code."""

import ast
import functools
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lib.core import files

if TYPE_CHECKING:
    # Imported in the functions that need it: a run that is up to date starts faster without it.
    import numpy as np

PACKAGE = Path(__file__).parents[1]
# Packages and modules of lib whose code is not part of the keys, because it does not change cached results:
# parameters are in the keys themselves, and the other modules only read, write and plot.
EXCLUDED = (
    "core.cache",
    "core.files",
    "core.hashes",
    "core.locks",
    "core.params",
    "core.prefetch",
    "core.progress",
    "core.schema",
    "core.steps",
    "core.tables",
    "download",
    "figures",
    "__main__",
    "commands",
    "pipeline",
    "report",
)
CHECKSUMS = "checksums.json"
# Maximum size in bytes of a file that is hashed on every use. Hashing 4 GB takes 7 s on a CPU core.
MAX_HASHED_BYTES = 4 * 10**9
# Errors that a damaged `.npz` file raises.
DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits that change with any part: paths or values that JSON can represent."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code(module: str) -> str:
    """Return a fingerprint of the executable code of a module of lib and of the modules that it depends on.

    It includes all modules of lib that are imported, directly or indirectly, except those in `EXCLUDED`.
    Docstrings, comments, formatting, annotations of functions and error messages do not change it.

    Args:
        module: dotted name of the module, such as `__name__`.
    """
    return fingerprint([(name, _parse(_file(name))[0]) for name in closure(module)])


def code_of_files(paths: Iterable[Path]) -> str:
    """Return a fingerprint of the executable code of Python files, computed as in `code`."""
    return fingerprint([_parse(path)[0] for path in paths])


def closure(module: str) -> list[str]:
    """Return the sorted dotted names of the modules that `code` includes for a module of lib."""
    reached: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += [imported for imported in _parse(_file(name))[1] if not _is_excluded(imported)]
    return sorted(reached)


def _file(module: str) -> Path:
    return PACKAGE.parent / (module.replace(".", "/") + ".py")


def _is_excluded(module: str) -> bool:
    return any(f"{module}.".startswith(f"lib.{name}.") for name in EXCLUDED)


# Cached because a kernel runs the code that it imported, even if the file changes afterwards.
@functools.cache
def _parse(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a file's executable code and the names of the modules of lib that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    imported = sorted({name for name in names if name.startswith("lib.") and _file(name).is_file()})
    return hashlib.sha256(ast.dump(_Executable().visit(tree)).encode()).hexdigest(), tuple(imported)


class _Executable(ast.NodeTransformer):
    """Remove code that changes no result: docstrings, annotations of functions and error messages."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Remove a docstring."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the annotation of the return value."""
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the annotation of an argument."""
        node.annotation = None
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep the type of an error and remove its message."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)


def arrays(path: Path, compute: Callable[[], "dict[str, np.ndarray]"]) -> "dict[str, np.ndarray]":
    """Return the arrays in an `.npz` file. If it is missing or damaged, compute the arrays and write it.

    Args:
        path: path of the file, whose name contains the key of the content.
        compute: function that returns the arrays by name.
    """
    import numpy as np

    stored = load_arrays(path)
    if stored is None:
        computed = stored = compute()
        # The type stubs interpret the name of any array as the argument `allow_pickle`.
        files.write(path, lambda partial: np.savez(partial, **computed))  # type: ignore[arg-type]
    return stored


def load_arrays(path: Path) -> "dict[str, np.ndarray] | None":
    """Return the arrays of an `.npz` file by name, or None if it is missing or damaged.

    A damaged file is removed, and a message with its name is printed.
    """
    import numpy as np

    if not path.is_file():
        return None
    try:
        if _is_complete(path):
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
    except DAMAGE:
        pass
    _remove_damaged(path)
    return None


def _is_complete(archive: Path) -> bool:
    """Return whether a zip archive is complete, with members that match their checksums.

    NumPy does not verify the checksum of an array if a damaged header makes it smaller. `zipfile` ignores
    members after a damaged directory entry, but the last record of the archive contains their total number.
    """
    with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
        file.seek(-12, os.SEEK_END)
        count = int.from_bytes(file.read(2), "little")
        return len(opened.namelist()) == count and opened.testzip() is None


def folder(path: Path, compute: Callable[[Path], object]) -> Path:
    """Return a folder of files, such as memory-mapped arrays. If it is missing or damaged, compute it.

    The SHA-256 of each file is stored in `checksums.json` in the folder and compared on every call. A file of
    more than 4 GB is hashed only if its size or modification time has changed.

    Args:
        path: path of the folder, whose name contains the key of the content.
        compute: function that writes the files into the empty folder that it receives.
    """
    if is_intact(path):
        return path
    if path.exists():
        _remove_damaged(path)
    try:
        files.write(path, lambda partial: _fill(partial, compute))
    except OSError:
        # Another process may have written the same folder first.
        if not is_intact(path):
            raise
    return path


def _fill(partial: Path, compute: Callable[[Path], object]) -> None:
    partial.mkdir()
    compute(partial)
    checksums = {
        file.name: {
            "bytes": file.stat().st_size,
            "modified_ns": file.stat().st_mtime_ns,
            "sha256": files.file_sha256(file),
        }
        for file in sorted(partial.iterdir())
    }
    files.write_json(partial / CHECKSUMS, checksums)


def is_intact(path: Path) -> bool:
    """Return whether a folder written by `folder` still has all of its files, unchanged."""
    try:
        checksums = files.read_json(path / CHECKSUMS)
        return all(_is_unchanged(path / name, recorded) for name, recorded in checksums.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_unchanged(file: Path, recorded: dict) -> bool:
    size, modified = file.stat().st_size, file.stat().st_mtime_ns
    if size > MAX_HASHED_BYTES and (size, modified) == (recorded["bytes"], recorded["modified_ns"]):
        return True
    return files.file_sha256(file) == recorded["sha256"]


def _remove_damaged(path: Path) -> None:
    print(f"{path.parent.name}/{path.name} is damaged: it is removed and computed again")
    files.remove(path)


def begin_array(file: BinaryIO, shape: tuple[int, ...], *, dtype: "type[np.generic]") -> None:
    """Write the header of an `.npy` file. The caller then writes the bytes of the array in C order.

    Unlike a writable memory map, the file does not count as memory of the process, and a full disk raises an
    error instead of killing the process.

    Args:
        file: `.npy` file, open for writing in binary mode.
        shape: shape of the array.
        dtype: data type of the array.

    Raises:
        NoSpace: if the array does not fit on the disk.
    """
    import numpy as np

    element = np.dtype(dtype)
    path = Path(file.name)
    files.require_space(path.parent, math.prod(shape) * element.itemsize, action=f"writing {path.name}")
    header = {"descr": np.lib.format.dtype_to_descr(element), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
