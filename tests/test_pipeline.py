"""The runner: executes what is out of date and nothing else, and keeps what was good when a notebook fails."""

import fcntl
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lib import pipeline
from lib.clean import decisions
from lib.core import cache, files, params, schema, steps

STAGES = (
    steps.Stage("one", ("seed", "source"), (), ("one.txt",)),
    steps.Stage("two", ("evaluate",), ("one.txt",), ("two.txt",)),
    steps.Stage("three", ("gradcam",), (), ("three.txt",)),
)
NOTHING = "pass"
WRITES = {
    "one": "current.path('one.txt').write_text(str(settings.seed))",
    "two": "current.path('two.txt').write_text(current.need('one.txt').read_text() + ' ' + str(settings.evaluate.hardest))",
    "three": "current.path('three.txt').write_text('3')",
}


def write_notebook(folder, name, body=NOTHING):
    """Writes a notebook of a stage that takes no time; `body` is a cell before its result."""
    cells = [
        nbformat.v4.new_code_cell(
            "\n".join(
                ["name = 'demo'", *(f"{key} = None" for key in schema.Params.model_fields if key != "name")]
            )
        ),
        nbformat.v4.new_code_cell(
            "from lib.core import params, steps\n"
            f"steps.STAGES = {{stage.name: stage for stage in (lambda Stage: {STAGES!r})(steps.Stage)}}\n"
            "settings = params.resolve(vars())\n"
            f"current = steps.start(settings, {name!r})\n"
            "steps.parameters(current)"
        ),
        nbformat.v4.new_code_cell(body),
        nbformat.v4.new_code_cell(f"_ = {WRITES[name]}\ncurrent.finish().name"),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three notebooks in `notebooks/`, outputs that go to `outputs/`, the current folder beside them."""
    for folder in ("notebooks", "outputs", "home"):
        (tmp_path / folder).mkdir()
    for stage in STAGES:
        write_notebook(tmp_path / "notebooks", stage.name)
    monkeypatch.setattr(pipeline, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(steps, "STAGES", {stage.name: stage for stage in STAGES})
    monkeypatch.setattr(steps, "PIPELINE", tuple(stage.name for stage in STAGES))
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    for variable in ("CHRYSALIS_ARCHIVE", "CHRYSALIS_WEIGHTS", "CHRYSALIS_STORAGE", "CHRYSALIS_TERMINAL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only(monkeypatch, *names):
    monkeypatch.setattr(steps, "STAGES", {stage.name: stage for stage in STAGES if stage.name in names})
    monkeypatch.setattr(steps, "PIPELINE", names)


def forbid_execution(monkeypatch):
    def execute(*args):
        raise AssertionError("it executes a notebook")

    monkeypatch.setattr(pipeline, "_execute", execute)


def executed(folder):
    """Returns what the record says of each executed notebook."""
    return {
        path.stem: files.read_json(folder / "provenance.json")["stages"][path.stem]
        for path in folder.glob("*.ipynb")
    }


def pretend(folder, monkeypatch, ran):
    """Executes nothing, but leaves what an execution leaves."""

    def execute(stage, settings, overrides):
        ran.append(stage.name)
        at = steps.Run(settings, stage)
        at.folder.mkdir(parents=True, exist_ok=True)
        for name in stage.writes:
            at.path(name).write_text(WRITES[stage.name] + str(settings.seed))
        nbformat.write(nbformat.v4.new_notebook(), at.folder / f"{stage.name}.ipynb")
        record = steps.provenance(at.folder)
        record["stages"][stage.name] = {"inputs": pipeline._inputs(stage, settings)}
        files.write_json(at.folder / "provenance.json", record)
        return 1.0

    monkeypatch.setattr(pipeline, "_execute", execute)
    monkeypatch.setattr(cache, "code", functools.cache(cache.code))  # nobody edits lib meanwhile


# Whole runs


def test_a_run_executes_the_notebooks_in_order_and_the_next_one_nothing(place, monkeypatch, capsys):
    folder = pipeline.run("demo")
    assert folder == place / "outputs" / "demo"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["one", "two", "three", "report:"]
    assert lines[0].endswith(" s")
    assert (
        folder / "two.txt"
    ).read_text() == f"{params.load('demo').seed} {params.load('demo').evaluate.hardest}"
    assert not list(folder.glob("*.partial.ipynb")) and not list(folder.glob("*.failed.ipynb"))
    assert (
        "current.finish" not in (folder / "report.html").read_text()
        and "provenance.json" in (folder / "report.html").read_text()
    )
    for stage in STAGES:
        book = nbformat.read(folder / f"{stage.name}.ipynb", as_version=4)
        assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]
    before = executed(folder)
    forbid_execution(monkeypatch)
    pipeline.run("demo")
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[:3]] == [
        "up to date"
    ] * 3
    assert executed(folder) == before
    pipeline.why("demo")
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()] == ["up to date"] * 3


def test_what_is_published_names_no_folder_of_this_machine(place, monkeypatch):
    only(monkeypatch, "one")
    monkeypatch.setenv("HOME", str(place / "home"))
    archive = place / "secret place" / "photos.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"zip")
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", str(archive))
    body = "from pathlib import Path\nprint(params.ROOT / 'lib', runs.outputs() / 'demo', Path.home() / 'x')"
    write_notebook(place / "notebooks", "one", body)
    folder = pipeline.run("demo")
    text = (folder / "one.ipynb").read_text()
    book = nbformat.reads(text, as_version=4)
    assert book.cells[3].outputs[0].text.replace("\\", "/").split() == ["./lib", "outputs/demo", "~/x"]
    for name in ("one.ipynb", "params.json", "provenance.json", "report.html"):
        for secret in (str(params.ROOT), str(place), "secret place"):
            assert secret not in (folder / name).read_text(), (name, secret)
    assert "photos.zip" in (folder / "params.json").read_text()
    assert "papermill" not in book.metadata
    assert not any(key in cell.metadata for cell in book.cells for key in ("papermill", "execution"))


def test_files_of_the_user_are_looked_at_by_size_and_time(place, monkeypatch):
    archive = place / "photos.zip"
    archive.write_bytes(b"zip")
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", str(archive))
    found = dict(pipeline._files_named(steps.Stage("01_download", (), (), ()), params.load("demo")))
    assert found == {"the file of source.archive": archive}
    before = pipeline._listing(archive)
    assert pipeline._listing(archive) == before
    archive.write_bytes(b"another")
    assert pipeline._listing(archive) != before


def test_what_changed_is_executed_again_with_what_depends_on_it(place, monkeypatch, capsys):
    ran = []
    pretend(place, monkeypatch, ran)
    folder = pipeline.run("demo")
    (folder / "report.html").touch()

    def rerun(**change):
        ran.clear()
        capsys.readouterr()
        pipeline.why("demo", run_name="demo", **change)
        reasons = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        pipeline.run("demo", run_name="demo", **change)
        return list(ran), reasons

    ran, found = ran, rerun()
    assert found[0] == [] and set(found[1].values()) == {"up to date"}

    write_notebook(place / "notebooks", "three", "1 + 1")
    again, reasons = rerun()
    assert (
        again == ["three"]
        and reasons["three"] == "the notebook has changed"
        and reasons["one"] == "up to date"
    )

    again, reasons = rerun(assignments="gradcam.examples=3")
    assert again == ["three"] and reasons["three"] == "parameter gradcam has changed"
    assert rerun()[0] == ["three"]

    again, reasons = rerun(assignments="seed=7")  # `one` writes other content, which `two` reads
    assert again == ["one", "two"]
    assert reasons["one"] == "parameter seed has changed" and reasons["two"].startswith(
        "maybe: an earlier stage may change"
    )
    assert rerun()[0] == ["one", "two"]

    (folder / "one.txt").write_text("by hand")
    again, reasons = rerun()
    assert again == ["two"] and reasons["two"] == "one.txt has changed"

    (folder / "two.txt").unlink()
    again, reasons = rerun()
    assert again == ["two"] and reasons["two"] == "two.txt is missing"

    (folder / "three.ipynb").unlink()
    again, reasons = rerun()
    assert again == ["three"] and reasons["three"] == "it has not been executed"

    (place / "notebooks" / "one.ipynb").touch()  # by content, not by date
    assert rerun()[0] == []


def test_a_decision_of_a_person_has_02_executed_again(place, monkeypatch):
    settings = params.load("demo")
    stage = steps.Stage("two", (), steps.DECISIONS, ())
    at = steps.Run(settings, stage)
    folder = at.folder
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), folder / "two.ipynb")

    def record():
        entry = {"inputs": pipeline._inputs(stage, settings)}
        files.write_json(folder / "provenance.json", {"stages": {"two": entry}})

    record()
    assert pipeline.reasons(stage, settings) == []
    for number, name in enumerate(steps.DECISIONS):
        decide = decisions.exclude if number == 0 else decisions.relabel
        words = {"reason": "a sketch"} if number == 0 else {"label": "dog", "given": "cat"}
        decide(at.data, "cat/1.jpg", sha1="", **words)
        assert f"{name} has changed" in pipeline.reasons(stage, settings)
        record()
        assert pipeline.reasons(stage, settings) == []
    assert set(steps.DECISIONS) == {decisions.EXCLUSIONS, decisions.RELABELS}


def test_output_of_a_notebook_is_not_its_source(place, monkeypatch):
    ran = []
    pretend(place, monkeypatch, ran)
    pipeline.run("demo")
    path = place / "notebooks" / "one.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[1].execution_count = 5
    nbformat.write(book, path)
    ran.clear()
    pipeline.run("demo")
    assert ran == []


# Failures


FAILURES = {
    "an error": ("raise ValueError('too few photos')", "ValueError: too few photos"),
    "sys.exit": ("import sys; sys.exit(0)", "the notebook ended before its last cell"),
    "a killed kernel": ("import os; os._exit(1)", "DeadKernelError"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_notebook_is_kept_beside_the_good_one(place, monkeypatch, capsys, kind):
    only(monkeypatch, "three")
    body, message = FAILURES[kind]
    write_notebook(place / "notebooks", "three", body)
    folder = place / "outputs" / "demo"
    folder.mkdir()
    (folder / "three.ipynb").write_text("the good one")
    files.write_json(folder / "provenance.json", {"stages": {"three": {"inputs": {}}}})
    monkeypatch.setattr(sys, "argv", ["pipeline", "run", "demo"])
    assert pipeline.main() == 1
    error = capsys.readouterr().err
    assert "three failed." in error and message in error and "outputs/demo/three.failed.ipynb" in error
    assert "Traceback" not in error
    assert (folder / "three.ipynb").read_text() == "the good one"
    assert body in nbformat.read(folder / "three.failed.ipynb", as_version=4).cells[-2].source
    assert not (folder / "three.partial.ipynb").exists() and not (folder / "three.txt").exists()
    assert pipeline.reasons(STAGES[2], params.load("demo"))  # it is not taken for up to date
    if kind == "an error":
        write_notebook(place / "notebooks", "three")
        pipeline.run("demo")
        assert not (folder / "three.failed.ipynb").exists() and (folder / "three.txt").exists()


def test_the_stages_after_a_failure_are_not_executed(place, monkeypatch):
    seen = []

    def execute(stage, *args):
        seen.append(stage.name)
        if stage.name == "two":
            raise pipeline.StageFailed("two failed.")
        return 1.0

    monkeypatch.setattr(pipeline, "_execute", execute)
    with pytest.raises(pipeline.StageFailed):
        pipeline.run("demo")
    assert seen == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "demo", "--set", "evaluate.hardst=3"],
            "unknown key `evaluate.hardst`. Did you mean `hardest`?",
        ),
        (["run", "demo", "--set", "evaluate.hardest"], "SET takes key=value pairs"),
        (["run", "nothing"], "there is no params/nothing.yaml"),
        (["resume", "demo", "--set", "train.stages.head.epochs=-1"], "`train.stages.head.epochs` is wrong"),
        (["why", "demo", "--run", "data"], "the names data, bench, compare are reserved"),
        (["predict", "demo"], "predict needs a folder of photos: make predict-demo PHOTOS=folder"),
        (["remove", "nothing"], "there is no run nothing. Runs: none"),
        (
            ["tune", "demo", "--set", "tune.space.filters.low=0"],
            "tune.space: `model.simple_cnn.filters` is wrong",
        ),
    ],
    ids=str,
)
def test_a_wrong_command_is_one_line_and_stops_before_any_notebook(
    place, monkeypatch, capsys, arguments, message
):
    forbid_execution(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    assert pipeline.main() == 1
    written = capsys.readouterr()
    assert message in written.err and "Traceback" not in written.err and written.out == ""
    assert not list((place / "outputs").iterdir())


def test_two_runs_at_once_in_one_folder_are_refused(place, monkeypatch):
    ran = []
    pretend(place, monkeypatch, ran)
    (place / "outputs" / "demo").mkdir()
    with (place / "outputs" / "demo" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            ValueError,
            match="another process is at work in outputs/demo: wait for it, or give this run a name",
        ):
            pipeline.run("demo")
        with pytest.raises(ValueError, match="another process"):
            pipeline.remove("demo")
        assert ran == []
        pipeline.run("demo", run_name="other")
    pipeline.run("demo")
    with pipeline._alone(place / "outputs" / "demo"), pytest.raises(ValueError, match="another process"):
        pipeline.run("demo")


# Names of runs


def test_a_change_gets_a_folder_of_its_own():
    assert pipeline.run_from_change("butterfly", "model.image_size=96") == "butterfly-image_size-96"
    assert pipeline.run_from_change("b", "model.image_size=96 seed=3") == "b-image_size-96-seed-3"
    alike = [
        "augment.zoom=0.2",
        "augment.contrast=0.2",
        "augment.zoom=1.2",
        "train.stages.head.epochs=2",
        "train.stages.fine_tune.epochs=2",
    ]
    assert len({pipeline.run_from_change("b", change) for change in alike}) == len(alike)
    long = [
        pipeline.run_from_change("b", "train.stages.fine_tune.learning_rate=0.0001 train.batch_size=16" + end)
        for end in (" seed=1", " seed=2")
    ]
    assert long[0] != long[1]
    for name in long:
        assert len(name) <= 2 + 40 and name.startswith("b-fine_tune-learning_rate-0-0001")
        params.load("demo", {"run": name})  # a name that a run can have
    params.load("demo", {"run": pipeline.run_from_change("demo", "model.weights='/a b/c.h5'")})


def test_settings_of_the_command_line():
    def run_name(**change):
        return pipeline._settings("demo", **{"assignments": "", "run_name": None, "resume": False} | change)[
            0
        ].run_name

    assert run_name() == "demo"
    assert run_name(assignments="seed=7") == "demo-seed-7"
    assert run_name(assignments="seed=7", run_name="quick") == "quick"
    assert run_name(assignments="seed=7 run=mine") == "mine"
    assert run_name(assignments="train.stages.fine_tune.epochs=20", resume=True) == "demo"


def test_resuming_takes_the_stages_of_the_change_or_the_last_one():
    def resumed(assignments):
        settings, overrides = pipeline._settings("demo", assignments, None, True)
        assert overrides["train"]["resume_stages"] == settings.train.resume_stages
        return settings.train.resume_stages

    assert resumed("") == [list(params.load("demo").train.stages)[-1]] == ["fine_tune"]
    assert resumed("train.stages.head.epochs=20") == ["head"]
    assert resumed("seed=3") == ["fine_tune"]


# Removing


def test_removing_a_run_leaves_the_photos_and_the_other_runs(place, capsys):
    for name in ("demo", "other", "data"):
        (place / "outputs" / name).mkdir()
        (place / "outputs" / name / "provenance.json").write_text("{}")
    pipeline.remove("demo")
    assert sorted(path.name for path in (place / "outputs").iterdir()) == ["data", "other"]
    assert capsys.readouterr().out == "removed outputs/demo; the photos are still in outputs/data\n"


@pytest.mark.parametrize(
    "name", ["data", "bench", "compare", "..", ".", "", "../outputs", "demo/x", "/tmp", "data/"]
)
def test_only_the_name_of_a_run_can_be_removed(place, name):
    for folder in ("data", "demo", "demo/x", "bench"):
        (place / "outputs" / folder).mkdir()
    with pytest.raises(ValueError, match="remove takes the name of a run"):
        pipeline.remove(name)
    assert len(list((place / "outputs").rglob("*"))) == 4


# The package


def test_lib_is_imported_where_the_current_folder_has_a_lib_of_its_own(tmp_path):
    (tmp_path / "lib").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "import lib.core.params; print(lib.core.params.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parts[-3:] == (
        "lib",
        "core",
        "params.py",
    ) and not done.stdout.startswith(str(tmp_path))


def test_an_up_to_date_run_needs_no_tensorflow():
    code = "import sys, json; from lib import pipeline; print(json.dumps([m for m in ('tensorflow', 'papermill', 'nbconvert') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == []
