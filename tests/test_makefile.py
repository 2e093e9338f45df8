"""The set-up that `make` does, with stand-ins for Python and pip: nothing is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.params import ROOT

# Answers `-m venv` and `-m pip` itself; real Python runs the code of `-c`, after the code in $BEFORE.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp -p "$0" "$3/bin/python" && touch "$3/bin/pip" ;;
"-m pip") shift 2; echo "$*" >> pip.log; exit "${{PIP_STATUS:-0}}" ;;
*) exec {sys.executable} -c "$BEFORE
$2" ;;
esac
"""
RUN_INSTALLED = ["--require-hashes -r requirements.txt", "--no-deps -e ."]
DEV_INSTALLED = ["--require-hashes -r requirements-dev.txt", "--no-deps -e ."]
GPU_INSTALLED = ["--require-hashes -r requirements-gpu.txt", "--no-deps -e ."]


class Project:
    """A copy of the project's Makefile in a folder of its own, on a machine of stand-ins."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-gpu.txt", "pyproject.toml"):
            (folder / name).write_text(f"{name}\n")
        self.program("python3", PYTHON)
        self.program("nvidia-smi", '#!/bin/sh\nexit "${GPU_STATUS:-9}"\n')

    def program(self, name: str, script: str) -> None:
        """Put a program first on the path."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make with nothing of the caller's environment but the path."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> list[str]:
        """Return what pip was asked to install since the last call."""
        log = self.folder / "pip.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.removeprefix("install --quiet --disable-pip-version-check ") for line in lines]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The copy, without a .venv."""
    return Project(tmp_path)


def gpus(names: list[str]) -> str:
    """Return code that lets TensorFlow see these GPUs."""
    return (
        "import sys, types; "
        f"sys.modules['lib.networks'] = types.SimpleNamespace(backend=types.SimpleNamespace(GPUS={names}))"
    )


def test_set_up_installs_the_lock_with_hashes_and_then_the_project(project: Project) -> None:
    assert project.make("setup").returncode == 0
    assert project.installed() == RUN_INSTALLED


def test_a_second_set_up_does_nothing(project: Project) -> None:
    project.make("setup")
    project.installed()
    assert "Nothing to be done" in project.make("setup").stdout
    assert project.installed() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.txt", "Makefile"])
def test_a_file_that_is_touched_installs_nothing(project: Project, name: str) -> None:
    project.make("setup")
    project.installed()
    later = (project.folder / ".venv/requirements.txt").stat().st_mtime + 10
    os.utime(project.folder / name, (later, later))
    assert project.make("setup").returncode == 0
    assert project.installed() == []


def test_a_lock_that_changed_is_installed_again(project: Project) -> None:
    project.make("setup")
    project.installed()
    lock = project.folder / "requirements.txt"
    lock.write_text("another version\n")
    later = (project.folder / ".venv/requirements.txt").stat().st_mtime + 10
    os.utime(lock, (later, later))
    project.make("setup")
    assert project.installed() == RUN_INSTALLED


def test_the_dev_lock_is_added_to_that_of_a_run(project: Project) -> None:
    project.make("setup")
    project.installed()
    project.make("lint")
    assert project.installed() == DEV_INSTALLED


@pytest.mark.parametrize(
    "target",
    [
        "lab",
        "test",
        "test-fast",
        "test-slow",
        "coverage",
        "lint",
        "format",
        "notebooks",
        "acceptance",
        "bench",
    ],
)
def test_targets_that_need_the_tools(project: Project, target: str) -> None:
    assert "-r requirements-dev.txt" in project.make("-n", target).stdout


@pytest.mark.parametrize("target", ["demo", "resume-demo", "predict-demo", "compare", "docs"])
def test_targets_that_need_a_run_alone(project: Project, target: str) -> None:
    (project.folder / "params").mkdir()
    (project.folder / "params/demo.yaml").touch()
    plan = project.make("-n", target).stdout
    assert "-r requirements.txt" in plan
    assert "requirements-dev.txt" not in plan


@pytest.mark.parametrize(
    ("arguments", "before", "message"),
    [
        (["PYTHON=absent-python"], "", "sudo apt install python3 python3-venv"),
        ([], "import sys; sys.version_info = (3, 10, 1)", "Python 3.11 to 3.13 is needed. python3 is 3.10"),
        ([], "import sys; sys.version_info = (3, 14, 0)", "Python 3.11 to 3.13 is needed. python3 is 3.14"),
        ([], "import sys; sys.modules['ensurepip'] = None", "sudo apt install python3-venv"),
    ],
)
def test_what_is_missing_is_named(project: Project, arguments: list[str], before: str, message: str) -> None:
    result = project.make("setup", *arguments, BEFORE=before)
    assert result.returncode != 0
    assert message in result.stderr
    assert not (project.folder / ".venv").exists()
    assert project.installed() == []


def test_an_installation_that_failed_is_tried_again(project: Project) -> None:
    assert project.make("setup", PIP_STATUS="1").returncode != 0
    # The project itself is not installed without what it needs.
    assert project.installed() == RUN_INSTALLED[:1]
    assert project.make("setup").returncode == 0
    assert project.installed() == RUN_INSTALLED


def test_a_venv_that_was_left_half_made_is_completed(project: Project) -> None:
    (project.folder / ".venv/bin").mkdir(parents=True)
    (project.folder / ".venv/bin/python").touch()
    assert project.make("setup").returncode == 0
    assert project.installed() == RUN_INSTALLED


def test_a_gpu_machine_gets_the_cuda_libraries(project: Project) -> None:
    assert project.make("setup", GPU_STATUS="0", BEFORE=gpus(["GPU:0"])).returncode == 0
    assert project.installed() == GPU_INSTALLED


def test_a_gpu_machine_adds_the_dev_lock_to_the_cuda_libraries(project: Project) -> None:
    project.make("lint", GPU_STATUS="0", BEFORE=gpus(["GPU:0"]))
    assert project.installed() == [*GPU_INSTALLED, *DEV_INSTALLED]


def test_a_gpu_that_tensorflow_does_not_see_is_an_error(project: Project) -> None:
    result = project.make("setup", GPU_STATUS="0", BEFORE=gpus([]))
    assert result.returncode != 0
    assert "TensorFlow sees none" in result.stderr
    assert not (project.folder / ".venv/requirements-gpu.txt").exists()
    assert project.make("setup", "GPU=", GPU_STATUS="0", BEFORE=gpus([])).returncode == 0
