"""The commands: parameters and steps that they pass to the runner, and errors before anything runs."""

import json
import os
import re

import nbformat
import pytest
from shared import model_card

from lib import commands, pipeline
from lib.core import files, params, steps
from lib.networks import cards

PASSWORD = "s3cr3tpw"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for outputs; the current folder is its parent."""
    (tmp_path / "outputs").mkdir()
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)
    monkeypatch.setenv(params.PRIVATE, "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(place, monkeypatch):
    """The runners that commands start, which execute nothing."""
    runners = []

    def run(self):
        runners.append(self)
        return self.folder

    monkeypatch.setattr(pipeline.Runner, "run", run)
    return runners


def names(runner):
    return [step.name for step in runner.sequence]


def trained(folder, name="demo", **sections):
    """Write the files of a finished training with these parameters, and return the folder."""
    folder.mkdir()
    for file in steps.EVALUATE.reads:
        (folder / file).write_text("x")
    settings = params.load(name, sections)
    chosen = {key: params.pick(settings, key) for key in steps.TRAIN.parameters}
    files.write_json(folder / "model.json", model_card(parameters=chosen))
    return folder


# Steps


def test_each_command_runs_its_steps(place, started):
    trained(place / "outputs/demo")
    commands.run("demo")
    commands.evaluate("demo")
    commands.tune("demo")
    commands.compare()
    commands.clean("demo")
    assert [names(runner)[0] for runner in started] == [
        "01_download",
        "04_evaluate",
        "01_download",
        "07_compare",
        "01_download",
    ]
    assert [len(runner.sequence) for runner in started] == [5, 2, 3, 1, 2]
    assert started[3].folder == place / "outputs/compare"


def test_train_needs_cleaned_photos_and_a_launcher(place, monkeypatch):
    with pytest.raises(
        ValueError, match="01_download is out of date: not executed yet. Run `chrysalis clean"
    ):
        commands.train("demo")
    monkeypatch.setattr(pipeline.Runner, "reasons", lambda self, step: [])
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(ValueError, match="expected KERAS_BACKEND=jax to train in several processes"):
        commands.train("demo")


def test_evaluate_needs_a_trained_model(place, started):
    with pytest.raises(FileNotFoundError, match=r"demo has no manifest.csv yet: run 02_clean first"):
        commands.evaluate("demo")
    assert started == []


def test_evaluate_takes_the_parameters_that_the_model_was_trained_with(place, started):
    trained(place / "outputs/demo", train={"batch_size": 7}, seed=3)
    folder = commands.evaluate("demo", assignments="evaluate.hardest=3")
    settings = started[-1].settings
    assert folder == place / "outputs/demo"
    assert (settings.train.batch_size, settings.seed, settings.evaluate.hardest) == (7, 3, 3)
    cards.require_parameters(cards.load(folder / "model.json"), settings)
    trained(place / "outputs/mine")
    assert commands.evaluate("demo", run_name="mine") == place / "outputs/mine"


@pytest.mark.parametrize("name", params.names())
def test_every_recipe_can_be_evaluated_as_it_was_trained(place, started, name):
    trained(place / "outputs" / name, name=name)
    commands.evaluate(name)
    card = cards.load(place / "outputs" / name / "model.json")
    cards.require_parameters(card, started[-1].settings)


def test_layers_and_stages_that_the_file_has_gained_since_are_not_evaluated(place, started):
    folder = trained(place / "outputs/demo")
    card = files.read_json(folder / "model.json")
    del card["parameters"]["model"]["head"]["dropout"], card["parameters"]["train"]["stages"]["fine_tune"]
    files.write_json(folder / "model.json", card)
    commands.evaluate("demo")
    settings = started[-1].settings
    assert list(settings.model.head) == ["pool", "classes"] and list(settings.train.stages) == ["head"]


def test_a_wrong_space_is_refused_before_anything_runs(place, started):
    with pytest.raises(ValueError, match="`model.simple_cnn.filters` is invalid"):
        commands.tune("demo", assignments="tune.space.filters.low=0")
    assert started == []


# Resuming


def resumed(started, **change):
    commands.resume("demo", **change)
    train = started[-1].settings.train
    return train.resume_stages, train.stages


def test_resume_takes_the_stages_of_the_change_or_the_last_one(place, started):
    for name in ("demo", "mine"):
        trained(place / "outputs" / name)
    stages = params.load("demo").train.stages
    last = list(stages)[-1]
    assert resumed(started)[0] == [last]
    assert resumed(started, assignments="train.stages.head.epochs=20")[0] == ["head"]
    assert resumed(started, assignments="seed=3")[0] == [last]
    assert started[-1].folder == place / "outputs/demo"
    assert resumed(started, run_name="mine") and started[-1].folder == place / "outputs/mine"


def test_a_run_without_a_model_cannot_be_resumed(place, started):
    with pytest.raises(FileNotFoundError, match="demo has no model.json yet: run 03_train first"):
        commands.resume("demo")
    with pytest.raises(ValueError, match="`train`"):
        commands.resume("demo", assignments="train=3")


def test_epochs_and_rate_are_those_of_the_last_stage(place, started):
    trained(place / "outputs/demo")
    last = list(params.load("demo").train.stages)[-1]
    chosen, stages = resumed(started, epochs=10, learning_rate=1e-4)
    assert chosen == [last] and (stages[last].epochs, stages[last].learning_rate) == (10, 1e-4)
    before = params.load("demo").train.stages["head"]
    assert stages["head"] == before
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"resume needs at least one epoch. Received: {number}"):
            commands.resume("demo", epochs=number)


# Names of runs


def run_from_change(name, assignments):
    return commands.run_from_change(name, params.parse_assignments(assignments))


def test_a_change_gets_a_folder_of_its_own():
    assert re.fullmatch(
        r"butterfly-image_size-96-[0-9a-f]{8}", run_from_change("butterfly", "model.image_size=96")
    )
    assert run_from_change("b", "model.image_size=96 seed=3").startswith("b-image_size-96-seed-3-")
    alike = [
        "augment.zoom=0.2",
        "augment.contrast=0.2",
        "augment.zoom=1.2",
        "train.stages.head.epochs=2",
        "train.stages.fine_tune.epochs=2",
        "seed=7",
        "source.seed=7",
        "clean.near_duplicate_cosine=0.5",
        "clean.near_duplicate_cosine=-0.5",
        "evaluate.test_time_augmentation=true",
        "compare.test_time_augmentation=true",
    ]
    assert len({run_from_change("b", change) for change in alike}) == len(alike)


@pytest.mark.parametrize("name", ["b", "photos_of_my_garden_2024_summer_and_autumn_and_winter"])
def test_a_long_change_gives_a_name_that_a_run_can_have(name):
    change = "train.stages.fine_tune.learning_rate=0.0001 train.batch_size=16 seed="
    names = {run_from_change(name, f"{change}{seed}") for seed in (1, 2)}
    # A recipe whose long name differs only at its end.
    names.add(run_from_change(f"{name:_<52}2", f"{change}1"))
    assert len(names) == 3
    for run in names:
        assert run.startswith(name[:50]) and params.load("demo", {"run": run}).run_name == run
    assert params.load("demo", {"run": run_from_change("demo", "model.weights='/a b/c.h5'")})


def test_the_folder_is_the_name_or_derived_from_the_change_or_chosen(place, started):
    def folder(**change):
        return commands.run("demo", **change).name

    assert folder() == "demo"
    assert folder(assignments="seed=7") == run_from_change("demo", "seed=7")
    assert folder(assignments="seed=7", run_name="quick") == "quick"
    assert folder(assignments="seed=7 run=mine") == "mine"


# Secrets


def test_a_password_reaches_no_name_cell_or_record(place, started):
    address = f"postgresql://u:{PASSWORD}@h/db?sslpassword={PASSWORD}"
    commands.tune("demo", assignments=f"tune.storage={address} tune.trials=3 model.weights=/home/jane/w.h5")
    runner = started[-1]
    shown = json.dumps(runner.overrides) + runner.folder.name + json.dumps(params.public(runner.settings))
    assert PASSWORD not in shown and "jane" not in shown
    assert runner.folder.name.startswith("demo-storage-postgresql-h-db")
    assert runner.overrides["tune"] == {"trials": 3}
    # The kernels read it from the environment.
    assert PASSWORD in os.environ[params.PRIVATE]
    inside = params.resolve({"name": "demo"} | runner.overrides)
    assert inside == runner.settings and inside.tune.storage == address


def test_the_next_command_does_not_use_private_values_of_the_last_one(place, started):
    folder = commands.run("demo", assignments="model.weights=/home/jane/w.h5")
    assert folder.name.startswith("demo-weights-w-h5-")
    other = commands.run("demo", assignments="model.weights=/home/joan/w.h5")
    assert other.name.startswith("demo-weights-w-h5-") and other != folder
    commands.run("demo", assignments="model.weights=/home/jane/w.h5")
    assert params.load("demo").model.weights == "/home/jane/w.h5"
    commands.run("demo")
    assert started[-1].settings.model.weights != "/home/jane/w.h5"
    assert started[-1].folder.name == "demo"


# Report and removal


def test_report_writes_it_again(place, capsys):
    folder = place / "outputs/demo"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="no executed notebook yet"):
        commands.report("demo")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Hello")]),
        folder / "01_download.ipynb",
    )
    commands.report("demo")
    assert "Hello" in (folder / "report.html").read_text()
    assert capsys.readouterr().out == "report: outputs/demo/report.html\n"
    assert list(steps.provenance(folder)["report"]) == ["01_download"]


def test_removing_a_run_leaves_the_photos_and_the_other_runs(place, capsys):
    for name in ("demo", "other", "data"):
        (place / "outputs" / name).mkdir()
        (place / "outputs" / name / "provenance.json").write_text("{}")
    commands.remove("demo")
    assert sorted(path.name for path in (place / "outputs").iterdir()) == ["data", "other"]
    assert capsys.readouterr().out == "removed outputs/demo; the photos are kept in outputs/data\n"


@pytest.mark.parametrize(
    "name", ["data", "bench", "compare", "..", ".", "", "../outputs", "demo/x", "/tmp", "data/"]
)
def test_only_the_name_of_a_run_can_be_removed_or_predict(place, name):
    for folder in ("data", "demo", "demo/x", "bench"):
        (place / "outputs" / folder).mkdir()
    with pytest.raises(ValueError, match="expected the name of a run"):
        commands.remove(name)
    with pytest.raises(ValueError, match="expected the name of a run"):
        commands.predict(name, photos=".")
    assert len(list((place / "outputs").rglob("*"))) == 4


def test_the_error_for_a_missing_run_lists_the_runs(place):
    (place / "outputs/mine").mkdir()
    files.write_json(place / "outputs/mine/provenance.json", {})
    with pytest.raises(FileNotFoundError, match="there is no run nothing. Choose with RUN: mine"):
        commands.remove("nothing")
    with pytest.raises(ValueError, match="predict needs a folder of photos: make predict-demo PHOTOS=folder"):
        commands.predict("demo", photos="")
