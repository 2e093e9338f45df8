"""The targets of the Makefile: values reach the runner as typed, and nothing in them is executed."""

import os
import re
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
# Writes down the words of its first call, and the variable DATA.
RUNNER = """#!/bin/sh
[ -e words.bin ] || for word in "$@" "$DATA"; do printf '%s\\0' "$word"; done > words.bin
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the Makefile whose Python writes down what it was called with."""
    shutil.copy(params.ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for lock in ("requirements.txt", "requirements-dev.txt"):
        # The copy counts as an environment that was installed from it.
        for folder in (tmp_path, tmp_path / ".venv"):
            (folder / lock).write_text(lock)
    (tmp_path / ".venv/bin/pip").touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(RUNNER)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "params").mkdir()
    for name in ("demo", "butterfly", "template"):
        (tmp_path / f"params/{name}.yaml").write_text("")
    return tmp_path


def make(project, *words, **environment):
    """Run make, whose set-up counts as done; return the process, and the words that its Python got first."""
    path = project / "words.bin"
    path.unlink(missing_ok=True)
    done = subprocess.run(
        ["make", "GPU=", *words],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": "/home/of/somebody"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    called = path.read_bytes().decode().split("\0")[:-2] if path.exists() else None
    return done, called


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("command", "variable"),
    [
        *(("run", variable) for variable in ("SET", "RUN", "ARCHIVE", "WEIGHTS", "OUTPUTS")),
        *(("predict", variable) for variable in ("PHOTOS", "OUTPUT")),
        *(("resume", variable) for variable in ("EPOCHS", "LR")),
    ],
)
def test_a_value_reaches_the_runner_as_it_was_typed(project, command, variable, value):
    target = "demo" if command == "run" else f"{command}-demo"
    for done, called in (
        make(project, target, f"{variable}={value}"),
        make(project, target, **{variable: value}),
    ):
        assert done.returncode == 0, done.stderr
        assert called[:4] == ["-m", "lib", command, "demo"] and f"--{variable.lower()}={value}" in called
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize("value", VALUES)
def test_the_folder_of_real_photos_is_taken_as_it_was_typed(project, value):
    (project / value).mkdir()
    for words, environment in (([f"DATA={value}"], {}), ([], {"DATA": value})):
        done, called = make(project, "acceptance", "WEIGHTS=my weights.h5", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert called[:4] == ["-m", "lib", "run", "butterfly"]
        assert {f"--archive={value}/butterfly.zip", "--weights=my weights.h5"} <= set(called)
        done, called = make(project, "bench", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert called[0].startswith("benchmarks/")
        assert (project / "words.bin").read_bytes().decode().split("\0")[-2] == value
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize("value", VALUES)
def test_the_gpu_check_with_wheels_needs_no_venv(project, value):
    """A shell takes the path of Python apart; only the wheels may be any text."""
    program = project / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" "$WHEELS" > words.bin\n')
    program.chmod(0o755)
    shutil.rmtree(project / ".venv")
    for words, environment in (([f"WHEELS={value}"], {}), ([], {"WHEELS": value})):
        done, _ = make(project, "gpu-check", f"PYTHON={program}", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert (project / "words.bin").read_bytes().decode().split("\0")[:2] == ["benchmarks/gpu.py", value]
        assert not (project / ".venv").exists()
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize("target", ["gpu-check", "gpu-wheels"])
def test_without_wheels_the_gpu_targets_use_the_venv(project, target):
    done, called = make(project, target)
    assert done.returncode == 0, done.stderr
    assert called[0] == ("benchmarks/gpu.py" if target == "gpu-check" else "benchmarks/gpu_wheels.py")


@pytest.mark.parametrize("target", ["acceptance", "bench"])
@pytest.mark.parametrize("words", [[], ["DATA="], ["DATA=no such folder"], ["DATA=Makefile"]], ids=str)
def test_a_target_that_needs_real_photos_names_the_folder_that_it_expects(project, target, words):
    shutil.rmtree(project / ".venv")
    done, called = make(project, target, *words)
    assert done.returncode == 2 and called is None and not (project / ".venv").exists()
    # The second line is that of make.
    message, _ = done.stderr.splitlines()
    assert f"{target} " in message and "DATA=folder, the folder with butterfly.zip" in message
    assert message.endswith("docs/datasets.md describes where to get them")


@pytest.mark.parametrize("value", VALUES)
def test_the_benchmarks_get_their_variables_as_they_were_typed(project, value):
    python = project / ".venv/bin/python"
    python.write_text(
        '#!/bin/sh\nprintf "%s|%s|%s|%s" "$ITEM" "$QUICK" "$WEIGHTS" "$CHRYSALIS_OUTPUTS"\nexit 1\n'
    )
    words = [f"{name}={value}" for name in ("ITEM", "QUICK", "WEIGHTS", "OUTPUTS")]
    done, _ = make(project, "bench", "DATA=params", *words)
    assert done.returncode == 2 and done.stdout == "|".join([value] * 4)
    assert not list(project.rglob("pwned"))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["check-demo", "ARCHIVE=a b.zip"], ["check", "demo", "--archive=a b.zip"]),
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


@pytest.mark.parametrize("name", ["test", "lock", "compare", "check-demo", "predict-new"])
def test_the_name_of_a_target_is_reserved(project, name):
    (project / f"params/{name}.yaml").write_text("")
    done, called = make(project, "demo")
    assert done.returncode == 2 and called is None
    assert f"params/{name}.yaml: the name is reserved for a target of make. Rename the file" in done.stderr
    assert " test-fast " in done.stderr and "check-" in done.stderr


def test_make_alone_lists_every_target(project):
    text = make(project)[0].stdout
    named = set(re.findall(r"[^ ,]+", " ".join(re.findall(r"^  make (\S+(?:,? \S+)*)", text, re.MULTILINE))))
    makefile = (project / "Makefile").read_text()
    commands = makefile.split("COMMANDS := ")[1].splitlines()[0].split()
    verbs = makefile.split("VERBS := ")[1].splitlines()[0].split()
    variables = makefile.split("VARIABLES := ")[1].splitlines()[0].split()
    assert set(commands) - named == {"help"}
    assert {f"{verb}-<name>" for verb in verbs} <= named
    assert [name for name in variables if f"{name}=" not in text] == []


def test_every_fixed_target_has_a_recipe(project):
    commands = re.search(r"^COMMANDS := (.*)$", (project / "Makefile").read_text(), re.MULTILINE)[1].split()
    for command in set(commands) - {"setup"}:
        done, _ = make(project, "-n", command)
        assert done.returncode == 0 and "Nothing to be done" not in done.stdout, command


def test_every_fixed_target_is_phony_although_folders_have_such_names(project):
    (project / "notebooks").mkdir()
    (project / "compare").mkdir()
    _, called = make(project, "compare")
    assert called[2] == "compare"
