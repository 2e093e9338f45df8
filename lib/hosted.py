"""Prepare a Colab or Kaggle notebook: `python lib/hosted.py`, before any other module can be imported.

These machines come with most packages, which the running kernel uses: they keep their versions.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def missing(requirements: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """Return the requirements whose package is not installed.

    Args:
        requirements: such as `numpy>=2.0`.
        installed: the version of each installed package by its normalized name.

    Raises:
        ValueError: if the version of an installed package is not supported.
    """
    result = []
    for requirement in map(Requirement, requirements):
        version = installed.get(canonicalize_name(requirement.name))
        if version is None:
            result.append(str(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            raise ValueError(
                f"expected {requirement}. Received: {requirement.name} {version}, which this machine "
                "provides. Choose another runtime version, or another release of this project"
            )
    return result


def main() -> None:
    """Install the packages that are missing, and the project itself, and change no installed package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [(package.metadata["Name"], package.version) for package in metadata.distributions()]
    # The first of several versions on the path is the one that is imported.
    found.reverse()
    installed: dict[str, str] = {canonicalize_name(name): version for name, version in found if name}
    needed = missing(project["dependencies"], installed)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        lines = (f"{name}=={version}" for name, version in installed.items())
        constraints.write_text("\n".join(lines), encoding="utf-8")
        if needed:
            _pip("--constraint", str(constraints), *needed)
    _pip("--no-deps", "--editable", str(ROOT))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True)


if __name__ == "__main__":
    main()
