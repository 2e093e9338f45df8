"""Runs: paths of results, files that a step must write, and its record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core import engine, files, params, reference, steps
from lib.core.schema import Params


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """An empty folder for the outputs."""
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def settings(**sections):
    return Params.model_validate({"name": "mine", "source": {"kind": "sample", "name": "shared"}} | sections)


def fill(run):
    """Write the files that a step reads and writes."""
    for name in (*run.step.reads, *run.step.writes):
        run.path(name).parent.mkdir(parents=True, exist_ok=True)
        run.path(name).write_text(f"{name} of {run.step.name}")


def test_outputs_is_a_folder_of_the_project_or_of_the_environment(monkeypatch, tmp_path):
    assert steps.outputs() == tmp_path / "outputs"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", "~/big disk")
    assert steps.outputs() == tmp_path / "home/big disk"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", "here")
    assert steps.outputs() == tmp_path / "here"
    for value in ("", None):
        monkeypatch.delenv("CHRYSALIS_OUTPUTS") if value is None else monkeypatch.setenv(
            "CHRYSALIS_OUTPUTS", value
        )
        assert steps.outputs() == params.ROOT / "outputs"


def test_start_makes_the_folder(outputs):
    run = steps.start(settings(run="quick"), steps.CLEAN)
    assert run.folder == outputs / "quick" and run.folder.is_dir()
    assert run.data == outputs / "data/shared"
    assert run.path("manifest.csv") == outputs / "quick/manifest.csv"
    assert run.path("source.json") == outputs / "data/shared/source.json"


@pytest.mark.parametrize(
    ("step", "name", "writer"),
    [
        (steps.CLEAN, "source.json", "01_download"),
        (steps.TRAIN, "manifest.csv", "02_clean"),
        (steps.EVALUATE, "model.keras", "03_train"),
        (steps.GRADCAM, "predictions.csv", "04_evaluate"),
    ],
)
def test_need_names_the_step_to_run(step, name, writer):
    run = steps.start(settings(), step)
    with pytest.raises(FileNotFoundError) as caught:
        run.need(name)
    assert (
        str(caught.value) == f"mine has no {name} yet: run {writer} first "
        f"(notebooks/{writer}.ipynb with name = 'mine', or `make mine`)"
    )
    fill(run)
    run.path(name).parent.mkdir(parents=True, exist_ok=True)
    run.path(name).write_text("x")
    assert run.need(name) == run.path(name)


def test_every_file_that_a_step_reads_is_written_by_an_earlier_step_or_by_the_user():
    written = set(steps.DECISIONS)
    for step in steps.ALL:
        assert set(step.reads) | set(step.reads_of_runs) <= written, step.name
        written |= set(step.writes)
    assert [step.name for step in steps.ALL] == sorted(step.name for step in steps.ALL)


def test_every_parameter_that_a_step_uses_exists():
    for step in steps.ALL:
        for key in step.parameters:
            params.pick(settings(), key)
        assert not steps.parameters(steps.Run(settings(), step)).empty


def test_every_file_of_the_user_is_a_parameter_that_its_step_uses():
    for step in steps.ALL:
        for key in step.user_files:
            assert reference.parameter(key), key
            assert any(key == used or key.startswith(f"{used}.") for used in step.parameters), (
                step.name,
                key,
            )


@pytest.mark.parametrize("missing", steps.TRAIN.writes)
def test_finish_fails_if_a_file_is_missing(missing):
    run = steps.start(settings(), steps.TRAIN)
    fill(run)
    run.path(missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"^03_train ended without writing {missing}: run all its cells in order"
    ):
        run.finish()
    assert not (run.folder / "provenance.json").exists() and not (run.folder / "params.json").exists()


def test_finish_records_how_the_results_were_made():
    run = steps.start(settings(seed=7), steps.TRAIN)
    fill(run)
    assert run.finish() == run.folder / "provenance.json"
    assert files.read_json(run.folder / "params.json") == params.public(run.settings)
    entry = steps.provenance(run.folder)["steps"]["03_train"]
    assert entry["seed"] == 7 and entry["seconds"] >= 0 and entry["finished_at"].endswith("+00:00")
    assert entry["outputs"] == {name: files.file_sha256(run.path(name)) for name in steps.TRAIN.writes}
    assert entry["read"] == {
        name: files.file_sha256(run.path(name)) for name in ("source.json", "manifest.csv")
    }
    assert {engine.name(), "keras", "numpy", "pandas"} < set(entry["packages"]) and entry["python"].count(
        "."
    ) == 2
    assert entry["hardware"]["cores"] == os.cpu_count() and "device" in entry["hardware"]


def test_decisions_of_the_user_belong_to_the_photos_and_are_optional(outputs):
    run = steps.start(settings(), steps.CLEAN)
    fill(run)
    for name in steps.DECISIONS:
        assert run.path(name).parent == run.data
        run.path(name).unlink(missing_ok=True)
    run.finish()
    assert set(steps.provenance(run.folder)["steps"]["02_clean"]["read"]) == {"source.json"}
    run.path("relabels.csv").write_text("path,label\n")
    run.finish()
    read = steps.provenance(run.folder)["steps"]["02_clean"]["read"]
    assert read["relabels.csv"] == files.file_sha256(run.path("relabels.csv"))


def test_finish_keeps_the_entries_of_other_steps():
    for step in (steps.CLEAN, steps.EVALUATE, steps.CLEAN):
        run = steps.start(settings(), step)
        fill(run)
        run.finish()
    assert set(steps.provenance(run.folder)["steps"]) == {"02_clean", "04_evaluate"}
    files.write_json(run.folder / "provenance.json", {"steps": {"x": {"seconds": 1}}})
    run.finish()
    assert steps.provenance(run.folder)["steps"]["x"] == {"seconds": 1}


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"steps": {}}', '{"steps": []}'])
def test_a_record_that_is_missing_damaged_or_of_an_earlier_version_is_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "provenance.json").write_text(text)
    assert steps.provenance(tmp_path) == {"steps": {}, "report": {}}


def test_hashes_of_a_run_are_those_of_its_files_and_of_its_source(outputs):
    run = steps.start(settings(), steps.TRAIN)
    fill(run)
    names = ("source.json", "model.json")
    for content in ("one", "other"):
        for name in names:
            run.path(name).write_text(f"{name} {content}")
        assert run.sha256((*names, "gone")) == {name: files.file_sha256(run.path(name)) for name in names}


def test_no_record_holds_a_path_of_this_machine(outputs):
    run = steps.start(
        settings(
            source={"kind": "folder", "folder": "/home/ann/photos", "name": "x"},
            model={"weights": "~/ann/w.h5"},
        ),
        steps.CLEAN,
    )
    fill(run)
    run.finish()
    for name in ("params.json", "provenance.json"):
        text = (run.folder / name).read_text()
        for word in ("/home", "ann/", "~", str(params.ROOT), str(outputs), str(Path.home())):
            assert len(word) < 2 or word not in text, (name, word)
        json.loads(text)


def test_git_is_none_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run = steps.start(settings(), steps.CLEAN)
    fill(run)
    run.finish()
    assert steps.provenance(run.folder)["steps"]["02_clean"]["git"] is None


def test_runs_of_a_source_share_its_photos_but_not_their_results():
    one, two = (steps.start(settings(run=name), steps.CLEAN) for name in ("one", "two"))
    assert one.data == two.data and one.folder != two.folder


# Locks


def test_a_step_in_jupyter_holds_its_run_until_its_end(outputs, monkeypatch):
    code = (
        "import json, sys; from lib.core import schema, steps\n"
        "settings = schema.Params.model_validate(json.loads(sys.argv[1]))\n"
        "steps.start(settings, steps.CLEAN)"
    )
    words = [sys.executable, "-c", code, settings().model_dump_json()]

    def other_kernel(**environment):
        done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
        return done.stderr

    monkeypatch.delenv(steps.RUNNER, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(params.ROOT))
    run = steps.start(settings(), steps.CLEAN)
    assert "another process is using outputs/mine" in other_kernel()
    # The kernels of the runner, which holds the lock itself.
    assert other_kernel(**{steps.RUNNER: "1"}) == ""
    fill(run)
    run.finish()
    assert other_kernel() == ""
