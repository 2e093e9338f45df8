"""A home folder that is missing or cannot be written is replaced for programs that need one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core import home

SHOW = """
from lib.core import home
home.replace_unwritable()
import os, IPython.paths, jupyter_core.paths, matplotlib
print(matplotlib.get_cachedir(), IPython.paths.get_ipython_dir(), jupyter_core.paths.jupyter_runtime_dir())
open(os.path.join(jupyter_core.paths.jupyter_runtime_dir(), "x"), "w").close()
"""


@pytest.fixture
def environment(monkeypatch):
    """Remove the variables, which are restored after the test."""
    for variable in home.VARIABLES:
        monkeypatch.setenv(variable, "")
    return monkeypatch


@pytest.mark.parametrize("below", ["{file}/x", "{folder}/missing"])
def test_programs_write_to_a_temporary_folder_without_a_warning(tmp_path, below):
    (tmp_path / "file").touch()
    variables = {name: value for name, value in os.environ.items() if name not in home.VARIABLES}
    variables["HOME"] = below.format(file=tmp_path / "file", folder=tmp_path)
    command = [sys.executable, "-W", "error", "-c", SHOW]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    folders = [Path(path) for path in result.stdout.split()]
    assert len(folders) == 3
    assert all("chrysalis-" in str(path) and not path.exists() for path in folders)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_home_that_can_be_written_is_used(environment, tmp_path):
    environment.setenv("HOME", str(tmp_path))
    home.replace_unwritable()
    assert not any(os.environ[variable] for variable in home.VARIABLES)


def test_folders_that_the_user_has_chosen_are_kept(environment):
    environment.setenv("HOME", "/nonexistent")
    environment.setenv("MPLCONFIGDIR", "chosen")
    home.replace_unwritable()
    assert os.environ["MPLCONFIGDIR"] == "chosen" and Path(os.environ["KERAS_HOME"]).is_dir()
