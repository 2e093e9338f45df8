"""The targets of the Makefile: values reach the runner as typed, and nothing in them is executed."""

import os
import shutil
import stat
import subprocess

import pytest

from lib.core import params

VALUES = [
    "$(shell touch pwned)",
    "`touch pwned`",
    "$$(touch pwned)",
    "a; touch pwned",
    "quotes \" and ' and spaces",
    "pa$$word$HOME",
    "--photos=x",
    "back\\slash",
    "# no comment",
    "Äpfel, 蝶",
]
RUNNER = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done > words.bin
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the Makefile whose Python writes down what it was called with."""
    shutil.copy(params.ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(params.ROOT / "requirements.txt", tmp_path)
    # What counts as an environment that was installed from it.
    shutil.copy(params.ROOT / "requirements.txt", tmp_path / ".venv")
    (tmp_path / ".venv/bin/pip").touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(RUNNER)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "params").mkdir()
    for name in ("demo", "butterfly", "template"):
        (tmp_path / f"params/{name}.yaml").write_text("")
    return tmp_path


def make(project, *words, **environment):
    """Run make; the set-up counts as done."""
    done = subprocess.run(
        ["make", "GPU=", *words],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": "/home/of/somebody"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    path = project / "words.bin"
    called = path.read_bytes().decode().split("\0")[:-1] if path.exists() else None
    path.unlink(missing_ok=True)
    return done, called


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("variable", ["SET", "RUN", "ARCHIVE", "WEIGHTS", "OUTPUTS"])
def test_a_value_reaches_the_runner_as_it_was_typed(project, variable, value):
    expected = f"--{variable.lower()}={value}"
    for done, called in (
        make(project, "demo", f"{variable}={value}"),
        make(project, "demo", **{variable: value}),
    ):
        assert done.returncode == 0, done.stderr
        assert called[:4] == ["-m", "lib", "run", "demo"] and expected in called
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["resume-demo", "EPOCHS=10", "LR=0.0001"], ["resume", "demo", "--epochs=10", "--lr=0.0001"]),
        (["evaluate-butterfly"], ["evaluate", "butterfly"]),
        (["tune-demo"], ["tune", "demo"]),
        (["compare", "SET=compare.runs=[a,b]"], ["compare", "--set=compare.runs=[a,b]"]),
        (["why-demo"], ["why", "demo"]),
        (["report-demo"], ["report", "demo"]),
        (["remove-demo", "RUN=x"], ["remove", "demo", "--run=x"]),
        (
            ["predict-demo", "PHOTOS=a b", "OUTPUT=c.csv"],
            ["predict", "demo", "--photos=a b", "--output=c.csv"],
        ),
    ],
    ids=str,
)
def test_each_target_calls_its_command(project, words, call):
    done, called = make(project, *words)
    assert done.returncode == 0, done.stderr
    # An option that was not given is passed empty, which counts as not given.
    given = [word for word in called[2:] if not (word.startswith("--") and word.endswith("="))]
    assert given == call


def test_a_misspelt_variable_is_an_error_and_not_expanded(project):
    done, called = make(project, "demo", "set=$(shell touch pwned)")
    assert done.returncode == 2 and called is None
    assert "unknown variable set. Expected: " in done.stderr and "SET" in done.stderr
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize(
    ("target", "near"),
    [("butterfyl", "butterfly"), ("predict-butterflies", "predict-butterfly"), ("tests", "test")],
)
def test_an_unknown_target_is_answered_with_the_nearest_name(project, target, near):
    done, called = make(project, target)
    assert done.returncode == 2 and called is None
    assert f"There is no target '{target}'. Did you mean `make {near}`?" in done.stderr
    assert "Traceback" not in done.stderr and "No rule to make target" not in done.stderr


@pytest.mark.parametrize("target", ["$(touch pwned)", "x; touch pwned", "`touch pwned`"])
def test_the_name_of_a_target_is_not_executed(project, target):
    done, _ = make(project, target)
    assert done.returncode == 2 and "There is no target" in done.stderr
    assert not list(project.rglob("pwned"))


def test_a_parameter_file_of_an_odd_name_is_no_target(project):
    (project / "params/$(touch pwned).yaml").write_text("")
    (project / "params/a;touch pwned.yaml").write_text("")
    done, _ = make(project)
    assert done.returncode == 0 and "butterfly demo" in done.stdout
    assert not list(project.rglob("pwned"))


def test_make_alone_lists_every_target(project):
    text = make(project)[0].stdout
    makefile = (project / "Makefile").read_text()
    commands = makefile.split("COMMANDS := ")[1].splitlines()[0].split()
    verbs = makefile.split("VERBS := ")[1].splitlines()[0].split()
    assert [name for name in commands if name not in ("help", "setup") and name not in text] == []
    assert [verb for verb in verbs if f"make {verb}-<name>" not in text] == []


def test_every_fixed_target_is_phony_although_folders_have_such_names(project):
    (project / "notebooks").mkdir()
    (project / "compare").mkdir()
    _, called = make(project, "compare")
    assert called[2] == "compare"
