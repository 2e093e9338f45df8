"""Studies: interrupted trials are queued again with the same values, and a database can be shared."""

import shutil
import subprocess
import sys
import textwrap

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from lib.core import params, schema
from lib.tune import spaces, studies


class Killed(BaseException):
    """Simulate a killed process: no code catches this error."""


@pytest.fixture(scope="module", autouse=True)
def empty(tmp_path_factory):
    """A database without trials. Copying it is faster than creating another."""
    folder = tmp_path_factory.mktemp("empty")
    with opened(folder, name="another", copied=False):
        pass
    opened.database = folder / "tune/study.db"


def opened(folder, *, seed=0, name="study", monitor="val_loss", copied=True, **settings):
    own = folder / "tune/study.db"
    if copied and not own.exists() and "storage" not in settings:
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(opened.database, own)
    return studies.opened(
        name, monitor=monitor, seed=seed, settings=schema.Tune(**settings), folder=folder / "tune"
    )


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.report(x, 1)
    return x


def kill(trial):
    objective(trial)
    raise Killed


def sampled(study):
    return [attempt.params["x"] for attempt in studies.latest(study).values()]


@pytest.mark.parametrize(("sampler", "trials"), [("random", (1, 1, 2)), ("tpe", (3, 9))])
def test_an_interrupted_study_has_the_trials_of_an_uninterrupted_study(tmp_path, sampler, trials):
    count = sum(trials) + 2
    with opened(tmp_path / "whole", sampler=sampler) as study:
        study.optimize(objective, n_trials=count)
        whole = sampled(study)
    for some in trials:
        with pytest.raises(Killed), opened(tmp_path / "cut", sampler=sampler) as study:
            study.optimize(objective, n_trials=some) if some else None
            study.optimize(kill, n_trials=1)
    with opened(tmp_path / "cut", sampler=sampler) as study:
        assert study.get_trials(deepcopy=False)[-1].state == TrialState.WAITING
        study.optimize(objective, n_trials=count + len(trials) - len(study.trials) + 1)
        states = [attempt.state for attempt in studies.latest(study).values()]
        assert states == [TrialState.COMPLETE] * count and len(study.trials) == count + len(trials)
        assert sampled(study) == whole and len(set(whole)) == count


def test_a_second_attempt_keeps_values_reports_and_attributes(tmp_path):
    def noted(trial):
        trial.set_user_attr("epochs", 7)
        kill(trial)

    with pytest.raises(Killed), opened(tmp_path) as study:
        study.optimize(noted, n_trials=1)
    with opened(tmp_path) as study:
        first, second = study.get_trials()
        assert (first.state, second.state) == (TrialState.FAIL, TrialState.WAITING)
        assert second.params == first.params and second.intermediate_values == {1: first.params["x"]}
        assert second.user_attrs == {"epochs": 7, studies.KILLS: 1}
        assert studies.numbers(study) == {0: 0, 1: 0}


def test_a_trial_whose_process_was_killed_twice_has_failed(tmp_path):
    for _ in range(2):
        with pytest.raises(Killed), opened(tmp_path) as study:
            study.optimize(kill, n_trials=1)
    with opened(tmp_path) as study:
        first, second = study.get_trials()
        assert (first.state, second.state) == (TrialState.FAIL, TrialState.FAIL)
        assert first.params == second.params and studies.numbers(study) == {0: 0, 1: 0}
        assert studies.problem(second) == "the process was killed twice"
        study.optimize(objective, n_trials=1)
        assert studies.numbers(study)[2] == 1 and studies.problem(study.trials[2]) == ""


def test_interruptions_that_the_process_handles_do_not_count_as_kills(tmp_path):
    with pytest.raises(Killed), opened(tmp_path) as study:
        study.optimize(kill, n_trials=1)

    def interrupted(trial):
        objective(trial)
        studies.requeue(study, study.get_trials(deepcopy=False)[trial.number])
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), opened(tmp_path) as study:
            study.optimize(interrupted, n_trials=1)
    with opened(tmp_path) as study:
        study.optimize(objective, n_trials=1)
        (last,) = studies.latest(study).values()
        assert last.state == TrialState.COMPLETE and last.params == study.trials[0].params


def test_a_kill_while_a_trial_is_queued_again_does_not_duplicate_it(tmp_path, monkeypatch):
    with pytest.raises(Killed), opened(tmp_path) as study:
        study.optimize(kill, n_trials=1)

    def tell(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optuna.Study, "tell", tell)
        with opened(tmp_path):
            pass
    for _ in range(2):
        with opened(tmp_path) as study:
            assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_killed_before_sampling_samples_the_same_values(tmp_path):
    def nothing(trial):
        raise Killed

    with opened(tmp_path / "whole") as study:
        study.optimize(objective, n_trials=2)
        whole = sampled(study)
    with pytest.raises(Killed), opened(tmp_path / "cut") as study:
        study.optimize(nothing, n_trials=1)
    with opened(tmp_path / "cut") as study:
        study.optimize(objective, n_trials=2)
        assert sampled(study) == whole


def test_another_seed_samples_other_values(tmp_path):
    for seed in (0, 1):
        with opened(tmp_path / str(seed), seed=seed) as study:
            study.optimize(objective, n_trials=2)
    with opened(tmp_path / "0") as zero, opened(tmp_path / "1") as one:
        assert not set(sampled(zero)) & set(sampled(one))


SPACE = {
    "x": {"parameter": "train.batch_size", "low": 1, "high": 3},
    "y": {"parameter": "model.fit", "choices": ["crop", "stretch"]},
}


@pytest.mark.parametrize(("sampler", "seed"), [("random", 0), ("random", 1), ("tpe", 2)])
def test_values_of_earlier_trials_are_sampled_again(tmp_path, sampler, seed):
    settings = schema.Tune(space=SPACE)
    space = settings.space

    def objective(trial):
        return spaces.suggest(trial, space)["x"]

    def kill(trial):
        objective(trial)
        raise Killed

    with opened(tmp_path / "whole", seed=seed, sampler=sampler, space=SPACE) as study:
        study.optimize(objective, n_trials=6)
        whole = [attempt.params for attempt in studies.latest(study).values()]
        assert len(studies.combinations(study, space)) == 6 == spaces.size(space)
        study.optimize(objective, n_trials=1)
        assert study.trials[6].params in whole
    with pytest.raises(Killed), opened(tmp_path / "cut", seed=seed, sampler=sampler, space=SPACE) as study:
        study.optimize(objective, n_trials=3)
        study.optimize(kill, n_trials=1)
    with opened(tmp_path / "cut", seed=seed, sampler=sampler, space=SPACE) as study:
        study.optimize(objective, n_trials=3)
        assert [attempt.params for attempt in studies.latest(study).values()] == whole


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", min), ("val_accuracy", max)])
def test_the_monitored_value_determines_the_direction(tmp_path, monitor, best):
    with opened(tmp_path, monitor=monitor) as study:
        study.optimize(objective, n_trials=4)
        assert study.best_value == best(sampled(study))


@pytest.mark.parametrize(("pruner", "ends"), [("median", True), ("none", False)])
def test_only_the_median_pruner_prunes(tmp_path, pruner, ends):
    def worse(trial):
        trial.report(trial.number, 1)
        assert trial.should_prune() == (ends and trial.number >= 5)  # after five complete ones
        return trial.number

    with opened(tmp_path, pruner=pruner) as study:
        study.optimize(worse, n_trials=8)


# The folder's own database


def test_studies_with_other_names_are_not_changed(tmp_path):
    with pytest.raises(Killed), opened(tmp_path, name="one", copied=False) as study:
        study.optimize(kill, n_trials=1)
    with opened(tmp_path, name="two") as study:
        assert study.trials == []
    with opened(tmp_path, name="one") as study:
        assert len(study.trials) == 2


def test_a_real_kill_does_not_damage_the_database(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(params.ROOT)!r})
        from pathlib import Path
        from lib.core import schema
        from lib.tune import studies

        def objective(trial):
            x = trial.suggest_float("x", 0, 1)
            for step in range(1000):
                trial.report(x, step)
                if trial.number == 2 and step == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                if step == 6:
                    return x

        with studies.opened("study", monitor="val_loss", seed=0, settings=schema.Tune(),
                            folder=Path({str(tmp_path / "tune")!r})) as study:
            study.optimize(objective, n_trials=4)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == -9 and (done.stdout, done.stderr) == ("", "")
    with opened(tmp_path) as study:
        states = [attempt.state for attempt in studies.latest(study).values()]
        assert states == [TrialState.COMPLETE] * 2 + [TrialState.WAITING]
        assert list(study.trials[-1].intermediate_values) == [0, 1, 2, 3, 4, 5]


# A shared database


def shared(folder, name="trials.db"):
    return f"sqlite:///{folder / name}"


def test_two_processes_share_a_study_and_sample_different_values(tmp_path):
    url = shared(tmp_path)
    with opened(tmp_path / "a", storage=url) as one, opened(tmp_path / "b", storage=url) as two:
        for study in (one, two, one, two):
            study.optimize(objective, n_trials=1)
        assert sampled(one) == sampled(two) and len(set(sampled(one))) == 4
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_trial_without_heartbeat_is_queued_again_and_a_running_trial_is_not(tmp_path):
    url = shared(tmp_path)
    with pytest.raises(Killed), opened(tmp_path, storage=url) as study:
        study.optimize(kill, n_trials=1)
    with opened(tmp_path, storage=url) as study:
        study.optimize(objective, n_trials=1)
        assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.COMPLETE]
    stop_hearts(url)
    with opened(tmp_path, storage=url) as study:
        study.optimize(objective, n_trials=1)
        assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
        assert studies.numbers(study) == {0: 0, 1: 1, 2: 0}
        assert study.trials[2].params == study.trials[0].params


def stop_hearts(url):
    """Set the last heartbeats of all trials so far back that their processes count as killed."""
    long_ago = f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{studies.GRACE + 5} seconds')"
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text(long_ago))


def test_a_trial_that_killed_two_machines_is_not_repeated_by_others(tmp_path):
    url = shared(tmp_path)
    for _ in range(2):
        with pytest.raises(Killed), opened(tmp_path, storage=url) as study:
            study.optimize(kill, n_trials=1)
        stop_hearts(url)
    with opened(tmp_path, storage=url) as study:
        study.optimize(objective, n_trials=1)
        states = [attempt.state for attempt in studies.latest(study).values()]
        assert states == [TrialState.FAIL, TrialState.COMPLETE] and len(study.trials) == 3
        assert studies.problem(studies.latest(study)[0]) == studies.KILLED


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://host", "postgresql://host:port/db"]
)
def test_a_storage_that_is_not_persistent_is_refused(tmp_path, url):
    with (
        pytest.raises(
            ValueError, match="`tune.storage` must be the URL of a persistent database.*sqlite:///file"
        ),
        opened(tmp_path, storage=url),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "sqlite:////nowhere/at/all/trials.db",
            "`tune.storage` (sqlite) cannot be used: unable to open database file",
        ),
        ("nosuch://ann:secret@host/db", "(nosuch) cannot be used: Can't load plugin"),
        ("postgresql+nodriver://ann:secret@host/db", "(postgresql) cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_an_error_without_its_password(tmp_path, monkeypatch, url, words):
    monkeypatch.setattr(studies.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError) as caught, opened(tmp_path, storage=url):
        pass
    assert words in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("damage", ["another file", "the beginning", "the middle"])
def test_a_damaged_database_is_named(tmp_path, damage):
    with opened(tmp_path) as study:
        study.optimize(objective, n_trials=1)
    path = tmp_path / "tune/study.db"
    content = path.read_bytes()
    page = 4096
    damaged = {
        "another file": b"name: demo\n" * 100,
        "the beginning": content[:page],
        "the middle": content[:page] + b"x" * (2 * page) + content[3 * page :],
    }[damage]
    path.write_bytes(damaged)
    with (
        pytest.raises(ValueError, match="tune/study.db, the database of the search, is damaged: .*remove it"),
        opened(tmp_path),
    ):
        pass
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("url", ["sqlite:///~/x.db", "sqlite:///x.db"])
def test_the_path_of_a_shared_file_is_relative_to_the_home_folder_or_the_project(tmp_path, monkeypatch, url):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with opened(tmp_path, storage=url):
        assert (tmp_path / "x.db").is_file()


def test_a_study_prints_nothing(tmp_path, capfd, recwarn):
    def fail(trial):
        raise RuntimeError("mine")

    with opened(tmp_path) as study:
        study.optimize(fail, n_trials=1, catch=RuntimeError)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1, step=0.3), n_trials=1)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_opening_loads_no_tensorflow():
    code = (
        f"import sys; sys.path.insert(0, {str(params.ROOT)!r}); import lib.tune.studies, lib.tune.spaces; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
