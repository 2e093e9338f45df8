"""The command line: options of each command, errors in one line, exit codes."""

import pytest

from lib import __main__ as command_line
from lib import commands, pipeline


@pytest.fixture
def called(monkeypatch):
    """The calls of commands, which do nothing."""
    calls = []
    for name in (
        "run",
        "clean",
        "train",
        "resume",
        "evaluate",
        "tune",
        "compare",
        "predict",
        "why",
        "report",
        "remove",
    ):
        monkeypatch.setattr(
            commands, name, lambda *words, name=name, **options: calls.append((name, *words, options))
        )
    for variable in ("OUTPUTS", "ARCHIVE", "WEIGHTS"):
        monkeypatch.setenv(f"CHRYSALIS_{variable}", "")
    return calls


CHANGE = {"assignments": "", "run_name": ""}


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["run", "demo"], ("run", "demo", CHANGE)),
        (
            ["run", "demo", "--set=seed=3 model.fit=pad", "--run=mine"],
            ("run", "demo", {"assignments": "seed=3 model.fit=pad", "run_name": "mine"}),
        ),
        (
            ["resume", "demo", "--epochs", "10", "--lr", "0.0001"],
            ("resume", "demo", CHANGE | {"epochs": 10, "learning_rate": 0.0001}),
        ),
        (
            ["resume", "demo", "--epochs=", "--lr="],
            ("resume", "demo", CHANGE | {"epochs": None, "learning_rate": None}),
        ),
        (["clean", "demo"], ("clean", "demo", CHANGE)),
        (["train", "demo", "--run=mine"], ("train", "demo", CHANGE | {"run_name": "mine"})),
        (["evaluate", "demo"], ("evaluate", "demo", CHANGE)),
        (["tune", "demo"], ("tune", "demo", CHANGE)),
        (["compare"], ("compare", {"assignments": ""})),
        (["why", "demo"], ("why", "demo", CHANGE)),
        (["report", "demo"], ("report", "demo", CHANGE)),
        (["remove", "demo"], ("remove", "demo", {})),
        (["remove", "demo", "--run=mine"], ("remove", "mine", {})),
        (
            ["predict", "demo", "--photos", "a b", "--output", "x.csv"],
            ("predict", "demo", {"photos": "a b", "output": "x.csv"}),
        ),
        (["predict", "demo", "--photos=", "--run=mine"], ("predict", "mine", {"photos": "", "output": ""})),
    ],
    ids=str,
)
def test_each_command_gets_its_options(called, words, call):
    assert command_line.main(words) == 0
    assert called == [call]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["rum", "demo"],
        ["run"],
        ["compare", "demo"],
        ["run", "demo", "--photos=x"],
        ["predict", "demo"],
        ["evaluate", "demo", "--epochs=3"],
    ],
    ids=str,
)
def test_a_word_that_does_not_belong_is_refused(called, capsys, words):
    with pytest.raises(SystemExit) as caught:
        command_line.main(words)
    assert caught.value.code == 2 and called == [] and "usage: chrysalis" in capsys.readouterr().err


def test_every_command_has_a_help_of_its_own(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    assert "explain why steps are out of date" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line.main(["resume", "--help"])
    text = capsys.readouterr().out
    assert "--epochs" in text and "--photos" not in text


def test_files_of_the_user_go_into_the_environment(called, monkeypatch):
    command_line.main(["run", "demo", "--archive=a $HOME.zip", "--weights=w.h5", "--outputs=big disk"])
    import os

    assert [os.environ[f"CHRYSALIS_{name}"] for name in ("ARCHIVE", "WEIGHTS", "OUTPUTS")] == [
        "a $HOME.zip",
        "w.h5",
        "big disk",
    ]
    # An option that is not given, or given empty as make does, leaves the environment as it is.
    command_line.main(["run", "demo", "--archive="])
    assert os.environ["CHRYSALIS_ARCHIVE"] == "a $HOME.zip"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("`seed` is invalid"), 1, "`seed` is invalid"),
        (OSError(30, "Read-only file system", "outputs"), 1, "[Errno 30] Read-only file system: 'outputs'"),
        (NotADirectoryError(20, "Not a directory"), 1, "[Errno 20] Not a directory"),
        (pipeline.StepFailed("03_train failed."), 1, "03_train failed."),
        (KeyboardInterrupt(), 130, "interrupted; run the same command to continue"),
    ],
)
def test_an_error_is_one_line(monkeypatch, capsys, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(commands, "run", fail)
    assert command_line.main(["run", "demo"]) == code
    written = capsys.readouterr()
    assert written.err.strip() == line and written.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "demo", "--set", "evaluate.hardst=3"],
            "unknown key `evaluate.hardst`. Did you mean `hardest`?",
        ),
        (["run", "demo", "--set", "evaluate.hardest"], "SET takes key=value pairs"),
        (["run", "nothing"], "there is no params/nothing.yaml"),
        (["resume", "demo", "--set", "train.stages.head.epochs=-1"], "`train.stages.head.epochs` is invalid"),
        (["resume", "demo", "--epochs=many"], "EPOCHS: expected a whole number, such as 10. Received: many"),
        (["resume", "demo", "--lr=fast"], "LR: expected a number, such as 0.0001. Received: fast"),
        (["run", "demo", "--set=image_size=96"], "Did you mean `model.image_size`?"),
        (["why", "demo", "--run", "data"], "the names data, bench, compare, gpu_check are reserved"),
        (
            ["predict", "demo", "--photos", ""],
            "predict needs a folder of photos: make predict-demo PHOTOS=folder",
        ),
        (["remove", "nothing"], "there is no run nothing. Choose with RUN: no run yet"),
        (
            ["tune", "demo", "--set", "tune.space.filters.low=0"],
            "tune.space: `model.simple_cnn.filters` is invalid",
        ),
    ],
    ids=str,
)
def test_a_wrong_command_is_one_line_and_stops_before_any_notebook(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    assert command_line.main(words) == 1
    written = capsys.readouterr()
    assert message in written.err and "Traceback" not in written.err and written.out == ""
    assert not list(tmp_path.iterdir())
