"""What would be read, as text, before anything runs: without a backend and without unpacking."""

import subprocess
import sys

import pytest
from shared import encoded, scene

from lib import __main__, check, commands, pipeline
from lib.core import params
from lib.core.schema import Params


def parameters(raw, **sections):
    source = {"kind": "folder", "folder": str(raw.folder)} | sections.pop("source", {})
    return Params.model_validate({"name": "mine", "source": source, **sections})


def photos(raw, folder, count):
    for number in range(count):
        raw.put(f"{folder}/{number}.jpg", encoded(scene(number), "JPEG"))


def report(raw, *, brief=False, **sections):
    return check.report(parameters(raw, **sections), raw.folder.parent / "data", brief=brief)


def test_the_report_of_two_classes(raw):
    photos(raw, "daisy", 20)
    photos(raw, "rose", 8)
    raw.put("rose/notes.txt")
    assert report(raw).splitlines() == [
        "mine: 2 classes from `CLASS`, no splits",
        "folder raw: 28 photos; not read: 1 .txt",
        "",
        "class  photos   train     val    test",
        "daisy      20      14       3       3",
        "rose        8       6       1       1",
        "all        28      20       4       4",
        "",
        "The smallest class, rose, has 8 photos: about 6 in train, 1 in val, 1 in test. That is little "
        "to learn from: add photos, or leave the class out with source.classes.",
        "With 4 photos in test, the 95 % interval of the headline, at an assumed accuracy of 0.90, is 0.42 "
        "to 0.99. It is 0.10 wide with about 141 photos in test: add photos, or raise split.test unless the "
        "source defines the splits; differences within it mean nothing.",
    ]
    assert report(raw, brief=True).splitlines() == report(raw).splitlines()[:2]


def test_unreadable_files_are_listed_by_their_headers(raw):
    photos(raw, "a", 4)
    photos(raw, "b", 4)
    raw.put("a/empty.jpg", b"")
    raw.put("b/page.jpg", b"<html>")
    text = report(raw)
    assert (
        "2 files are unreadable, by their headers:\n  a/empty.jpg: the file is empty\n  b/page.jpg: not a"
        in text
    )
    assert "a           4 " in text or "a           4" in text


def test_without_a_test_split_the_headline_is_that_of_val(raw):
    photos(raw, "a", 20)
    photos(raw, "b", 20)
    assert "With 6 photos in val, the 95 % interval" in report(raw, split={"test": 0})


def test_notes_follow(raw):
    photos(raw, "Cat", 3)
    photos(raw, "cat", 3)
    text = report(raw, source={"ignore": ["gone"]}, model={"weights": "nowhere.h5"})
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    assert notes[0].startswith("note: 'Cat' and 'cat' are separate classes")
    assert notes[1] == "note: `source.ignore` contains 'gone', which matches no file"
    assert notes[2].startswith(
        "note: mine cannot run yet: `model.weights`: the file nowhere.h5 does not exist"
    )


def test_of_many_classes_the_smallest_are_listed(raw, monkeypatch):
    monkeypatch.setattr(check, "MAX_ROWS", 3)
    monkeypatch.setattr(check, "SMALLEST", 2)
    for name, count in (("a", 5), ("b", 1), ("c", 3), ("d", 2)):
        photos(raw, name, count)
    lines = report(raw).splitlines()
    assert [line.split()[0] for line in lines[4:6]] == ["b", "d"] and lines[6] == "... and 2 larger classes"


def test_columns_are_aligned_and_escapes_are_neutralised(raw):
    photos(raw, "\x1b[31mred\x07", 3)
    photos(raw, "蝶", 3)
    text = report(raw)
    assert "\x1b" not in text and "\x07" not in text
    rows = [line for line in text.splitlines() if line.startswith(("\\x1b", "蝶", "all"))]
    assert rows[0].startswith("\\x1b[31mred\\x07       3")
    # A wide character takes two columns.
    assert len(rows[0]) == len(rows[1]) + 1 == len(rows[2])


def test_an_error_does_not_control_the_terminal_either(raw, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError("bad \x1b]0;name\x07\nnext")

    monkeypatch.setattr(commands, "check", fail)
    assert __main__.main(["check", "demo"]) == 1
    assert "bad \\x1b]0;name\\x07\nnext" in capsys.readouterr().err


@pytest.mark.parametrize("name", params.names())
def test_every_parameter_file_can_be_checked(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    code = __main__.main(["check", name])
    output = capsys.readouterr()
    if name.startswith("biology"):
        assert code == 1 and "biology.zip" in output.err and "ARCHIVE=path" in output.err
    else:
        assert code == 0 and output.out.startswith(f"{name}: no photos here yet: ")
    assert list(tmp_path.iterdir()) == []


def test_run_prints_the_decision_before_the_first_step(raw, tmp_path, capsys, monkeypatch):
    photos(raw, "a/inner", 3)
    photos(raw, "b/other", 3)
    settings = parameters(raw)

    def execute(runner, step):
        print("first step")
        raise pipeline.StepFailed("stop")

    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(pipeline.Runner, "_execute", execute)
    monkeypatch.setattr(commands, "_runner", lambda *_, **__: pipeline.Runner(settings, {}))
    with pytest.raises(pipeline.StepFailed):
        commands.run("mine")
    decision, _, note, first = capsys.readouterr().out.splitlines()
    assert decision == "mine: 2 classes from `CLASS`, no splits" and first == "first step"
    assert note == "note: `a/inner` and 1 more: a folder below a class is read as part of the class"


def test_neither_a_backend_nor_scikit_learn_is_imported(raw):
    photos(raw, "a", 3)
    photos(raw, "b", 3)
    code = f"""
import sys
from pathlib import Path
from lib import __main__, check
from lib.core.schema import Params
source = {{"kind": "folder", "folder": {str(raw.folder)!r}}}
check.report(Params.model_validate({{"name": "mine", "source": source}}), Path("nowhere"))
print({{"tensorflow", "keras", "jax", "torch", "sklearn", "scipy", "cv2", "papermill"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_interval_is_that_of_wilson():
    low, high = check.wilson(0.9, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
