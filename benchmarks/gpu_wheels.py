"""Download the packages that `make gpu-check WHEELS=folder` needs on a machine without a network.

Run by `make gpu-wheels`. The machine has Python 3.12 on 64-bit Linux, JAX, the packages of `MACHINE` and
their dependencies. All other dependencies of the project are downloaded as wheels, in the versions and with
the hashes of requirements.txt, except those that `make gpu-check` does not import.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
FOLDER = "wheels"
# Packages that the machine has. JAX is not in every .venv: those of its dependencies that count are named.
MACHINE = (
    *("jax", "ml-dtypes", "numpy", "scipy", "pandas", "opencv-python-headless", "scikit-learn", "pillow"),
    *("matplotlib", "seaborn", "requests", "rich", "jinja2", "h5py", "pyyaml", "tqdm", "click", "attrs"),
)
# Imported only by other backends, searches, downloads and debuggers; papermill does not import aiohttp.
UNUSED = ("tensorflow", "tensorboard", "optuna", "sqlalchemy", "kaggle", "gdown", "debugpy", "aiohttp")
PYTHON = "3.12"
ENVIRONMENT = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "extra": "",
}
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)))


def main() -> int:
    """Download the wheels, print their number and size, and return the exit code of pip."""
    folder = Path(os.environ.get("WHEELS") or ROOT / FOLDER)
    lock = pinned((ROOT / "requirements.txt").read_text(encoding="utf-8"), needed())
    code = download(lock, folder)
    if code == 0:
        remove_others(folder, lock)
        wheels = list(folder.glob("*.whl"))
        size = sum(path.stat().st_size for path in wheels)
        print(f"{len(wheels)} wheels in {folder}, {size / 1e6:.1f} MB")
    return code


def needed() -> set[str]:
    """Return the canonical names of the packages that the machine lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    return closure(names, without={*closure(MACHINE), *UNUSED})


def closure(names: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
    """Return packages and all their dependencies on the machine, as the installed packages declare them.

    Args:
        names: names of packages.
        without: canonical names of packages that are left out, with the dependencies that only they have.
    """
    waiting, found = [(canonicalize_name(name), "") for name in names], set()
    while waiting:
        name, extra = waiting.pop()
        if name in without or (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            if not requirement.marker or requirement.marker.evaluate(ENVIRONMENT | {"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), of) for of in ("", *requirement.extras)]
    return {name for name, _ in found}


def pinned(lock: str, names: set[str]) -> dict[str, str]:
    """Return the lines of a lock for some packages by name, with hashes and without markers.

    Raises:
        ValueError: if a package is not in the lock.
    """
    lines = {}
    for entry in lock.replace("\\\n", " ").splitlines():
        requirement = Requirement(entry.split("--hash")[0])
        name = canonicalize_name(requirement.name)
        if name in names and (not requirement.marker or requirement.marker.evaluate(ENVIRONMENT)):
            hashes = " ".join(re.findall(r"--hash=\S+", entry))
            lines[name] = f"{name}{requirement.specifier} {hashes}"
    if missing := sorted(names - lines.keys()):
        raise ValueError(
            f"requirements.txt: expected a version of {', '.join(missing)}. Received: none. Run `make lock`, "
            "or add the package to MACHINE or UNUSED in benchmarks/gpu_wheels.py"
        )
    return lines


def download(lock: dict[str, str], folder: Path) -> int:
    """Download the wheels of a lock for the machine and return the exit code of pip."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "requirements.txt"
        path.write_text("\n".join(lock.values()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp"]
        command += [f"--python-version={PYTHON}", f"--abi=cp{PYTHON.replace('.', '')}"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        return subprocess.run([*command, "-r", path, "-d", folder], check=False).returncode


def remove_others(folder: Path, lock: dict[str, str]) -> None:
    """Remove the wheels of other versions of the packages, which an earlier lock had."""
    for path in folder.glob("*.whl"):
        name, version, *_ = parse_wheel_filename(path.name)
        if name in lock and not Requirement(lock[name].split()[0]).specifier.contains(version, True):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
