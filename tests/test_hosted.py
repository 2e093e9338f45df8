"""Colab and Kaggle: 00_start fetches the project, and keeps the packages that the machine has."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from lib import hosted
from lib.core import params

PROJECT = tomllib.loads((params.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The versions of Colab, August 2026. Its own package pins those of Jupyter.
COLAB = (
    "tensorflow==2.20.*",
    "keras==3.13.*",
    "numpy==2.1.*",
    "pandas==2.2.*",
    "ipykernel==6.17.1",
    "ipython==7.34.*",
    "ipywidgets==7.7.1",
)
# Prints the versions of these packages.
VERSIONS = """
from importlib.metadata import version
print(*map(version, ("tensorflow", "keras", "numpy", "pandas")))
"""


def set_up():
    """Return the source of the cell of 00_start that prepares a hosted notebook."""
    notebook = nbformat.read(params.ROOT / "notebooks/00_start.ipynb", as_version=4)
    return next(cell.source for cell in notebook.cells if "lib/hosted.py" in cell.source)


def test_only_missing_packages_are_installed():
    installed = {"numpy": "2.1.3", "opencv-python-headless": "4.13.0"}
    needed = ["numpy>=2.0", "opencv-python_headless>=4.10", "papermill>=2.6"]
    assert hosted.missing(needed, installed) == ["papermill>=2.6"]


def test_a_package_that_is_too_old_is_named():
    with pytest.raises(ValueError, match="expected numpy>=2.0. Received: numpy 1.26.4"):
        hosted.missing(["numpy>=2.0"], {"numpy": "1.26.4"})


def test_a_preview_of_a_supported_version_is_accepted():
    assert hosted.missing(["keras>=3.10,<4"], {"keras": "3.13.0rc1"}) == []


def test_elsewhere_the_cell_does_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a command ran"))
    before = Path.cwd(), list(sys.path)
    exec(set_up(), {})
    assert (Path.cwd(), sys.path) == before


def test_the_cell_names_the_address_and_the_version_of_the_project():
    source = set_up()
    assert f'"{PROJECT["urls"]["Repository"]}", "v{PROJECT["version"]}"' in source


def interpreter():
    """Return the newest supported Python of this machine."""
    for name in ("python3.13", "python3.12", sys.executable):
        try:
            if not subprocess.run([name, "-c", "import ensurepip"], capture_output=True).returncode:
                return name
        except FileNotFoundError:
            continue
    return sys.executable


@pytest.mark.slow
def test_the_pipeline_runs_with_the_versions_of_colab(tmp_path):
    subprocess.run([interpreter(), "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", *COLAB], check=True)
    before = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout
    tag = f"v{PROJECT['version']}"
    subprocess.run(["git", "clone", "-q", str(params.ROOT), str(tmp_path / "origin")], check=True)
    subprocess.run(["git", "tag", "-f", tag], cwd=tmp_path / "origin", check=True)
    content = tmp_path / "content"
    content.mkdir()
    source = set_up().replace("/content", str(content))
    source = source.replace(PROJECT["urls"]["Repository"], f"file://{tmp_path / 'origin'}")
    small = "train.stages.fine_tune.epochs=0 model.image_size=64 evaluate.min_top_1=0"
    source += f"\nfrom lib import commands\nprint(commands.run('demo', assignments='{small}'))"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CHRYSALIS", "PYTHON", "KERAS"))
    }
    ran = subprocess.run([python, "-c", source], cwd=content, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(content.glob("chrysalis/outputs/*/report.html"))
    after = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout
    assert before == after
