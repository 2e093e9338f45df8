"""Keep the results of costly computations, keyed by all that decides them: parameters, content and code."""

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
from typing import BinaryIO

import numpy as np

from lib.core import files

PACKAGE = Path(__file__).parents[1]
# Packages and modules of lib whose code decides no cached result: parameters are part of the keys, and the
# others only read, write and show. Everything that is not listed counts, so a new module does.
LEFT_OUT = (
    "core.cache",
    "core.files",
    "core.locks",
    "core.params",
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
# Bytes of a file that is hashed each time it is opened: 7 s on a core that hashes 0.56 GB a second.
HASHED = 4 * 10**9
# What reading a damaged `.npz` file raises.
DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits that change with any part: a path or anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code(module: str) -> str:
    """Return a fingerprint of the executable code that decides the results of a module of lib.

    It covers the module and all modules of lib that it imports, directly or through others, but for
    `LEFT_OUT`. Docstrings, comments, layout, annotations of functions and messages of errors do not count.

    Args:
        module: its dotted name, such as `__name__`.
    """
    return fingerprint([(name, _parse(_file(name))[0]) for name in closure(module)])


def code_of_files(paths: Iterable[Path]) -> str:
    """Return a fingerprint of the executable code of Python files, as `code` hashes it."""
    return fingerprint([_parse(path)[0] for path in paths])


def closure(module: str) -> list[str]:
    """Return the dotted names of a module of lib and of all that `code` covers with it, sorted."""
    reached: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += [imported for imported in _parse(_file(name))[1] if not _is_left_out(imported)]
    return sorted(reached)


def _file(module: str) -> Path:
    return PACKAGE.parent / (module.replace(".", "/") + ".py")


def _is_left_out(module: str) -> bool:
    return any(f"{module}.".startswith(f"lib.{name}.") for name in LEFT_OUT)


# A kernel runs the code that it imported, so a file that changes meanwhile is not read again.
@functools.cache
def _parse(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a file's executable code, and the names of the modules of lib that it imports."""
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
    """Remove what changes no result: docstrings, annotations of functions, arguments of the errors raised."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Remove a text that stands alone."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the annotation of the result."""
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the annotation of an argument."""
        node.annotation = None
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep the type of an error without its message."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays stored at `path`; compute and store them if they are missing or damaged.

    Args:
        path: an `.npz` file whose name holds the key of its content.
        compute: returns the arrays by name.
    """
    stored = load_arrays(path)
    if stored is None:
        computed = stored = compute()
        # The stubs take any name for that of the argument `allow_pickle`.
        files.write(path, lambda partial: np.savez(partial, **computed))  # type: ignore[arg-type]
    return stored


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an `.npz` file by name, or None if it is missing or damaged.

    A damaged file is removed, and a line is printed that names it.
    """
    if not path.is_file():
        return None
    try:
        if _is_whole(path):
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
    except DAMAGE:
        pass
    _remove_damaged(path)
    return None


def _is_whole(archive: Path) -> bool:
    """Return whether all members of a zip archive are there and have the checksums that it records.

    NumPy alone compares no checksum of an array that a damaged header declares smaller than it is, and
    `zipfile` loses members after a damaged entry of its directory; the archive's last record counts them.
    """
    with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
        file.seek(-12, os.SEEK_END)
        count = int.from_bytes(file.read(2), "little")
        return len(opened.namelist()) == count and opened.testzip() is None


def folder(path: Path, compute: Callable[[Path], object]) -> Path:
    """Return a folder of files, such as memory-mapped arrays; compute it if it is missing or damaged.

    A file `checksums.json` with the SHA-256 of each file is written beside them and compared at each call.
    A file of more than 4 GB is hashed only if its size or modification time differs from what was recorded.

    Args:
        path: the folder, whose name holds the key of its content.
        compute: writes the files into the existing empty folder that it is given.
    """
    if is_intact(path):
        return path
    if path.exists():
        _remove_damaged(path)
    try:
        files.write(path, lambda partial: _fill(partial, compute))
    except OSError:
        # Another process may have been faster with the same result.
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
    """Return whether a folder that `folder` wrote has all its files as they were written."""
    try:
        checksums = files.read_json(path / CHECKSUMS)
        return all(_is_unchanged(path / name, recorded) for name, recorded in checksums.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_unchanged(file: Path, recorded: dict) -> bool:
    size, modified = file.stat().st_size, file.stat().st_mtime_ns
    if size > HASHED and (size, modified) == (recorded["bytes"], recorded["modified_ns"]):
        return True
    return files.file_sha256(file) == recorded["sha256"]


def _remove_damaged(path: Path) -> None:
    print(f"{path.parent.name}/{path.name} is damaged: it is removed and computed again")
    files.remove(path)


def begin_array(file: BinaryIO, shape: tuple[int, ...], *, dtype: type[np.generic]) -> None:
    """Write the header of an `.npy` file; the array's bytes in C order are to follow it.

    Unlike a memory map that is written to, a file does not count as memory of this process, and a disk that
    becomes full raises an error instead of ending the process.

    Args:
        file: an `.npy` file open for writing in binary.
        shape: shape of the array.
        dtype: type of its elements.

    Raises:
        NoSpace: the array does not fit on the disk.
    """
    element = np.dtype(dtype)
    path = Path(file.name)
    files.require_space(path.parent, math.prod(shape) * element.itemsize, what=f"writing {path.name}")
    header = {"descr": np.lib.format.dtype_to_descr(element), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
