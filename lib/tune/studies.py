"""Studies: the trials of searches in a database, whole after any kill, one's own or shared by many machines.

Optuna makes a trial that was interrupted a failed one and queues another like it. Here the two are
attempts at one trial, so a search that was interrupted has the trials of one that was not.
"""

import contextlib
import fcntl
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lib.core import cache, params
from lib.core.schema import Tune

HEARTBEAT = 60  # seconds between signs of life of a trial in a shared database
PATIENCE = 60  # seconds that a process waits for another one's write to an SQLite file
GRACE = 300  # seconds without one, after which another process takes the trial up
PRUNERS = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


@contextlib.contextmanager
def opened(name: str, *, monitor: str, seed: int, settings: Tune, folder: Path) -> Iterator[optuna.Study]:
    """Open a study, a new one where there is none of the name, and queue its trials that were interrupted.

    Args:
        name: the study's name.
        monitor: val_loss is minimised, val_accuracy maximised.
        seed: decides what is drawn.
        settings: storage, sampler and pruner.
        folder: holds the database where none is shared.

    Raises:
        ValueError: another process is at work on the folder, or the shared database cannot be used.
    """
    with quiet(), _database(settings.storage, folder) as storage:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="minimize" if monitor == "val_loss" else "maximize",
            sampler=_Sampler(settings.sampler, seed),
            pruner=PRUNERS[settings.pruner](),
            load_if_exists=True,
        )
        try:
            if settings.storage is None:
                _take_up(study)
            yield study
        finally:
            storage.engine.dispose()


@contextlib.contextmanager
def quiet():
    """Drop what Optuna says of each trial, and TensorFlow of many networks in a row: a regression test reads
    the notebook's error stream."""
    loggers = [logging.getLogger(name) for name in ("optuna", "tensorflow")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def latest(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the last attempt at each trial, by the trial's number from 0."""
    attempts = study.get_trials(deepcopy=False)
    return {trial: attempts[attempt] for attempt, trial in numbers(study).items()}


def numbers(study: optuna.Study) -> dict[int, int]:
    """Return the number of the trial that each attempt belongs to."""
    found, trials = {}, 0
    for attempt in study.get_trials(deepcopy=False):
        first = _first(attempt)
        found[attempt.number] = trials if first is None else found[first]
        trials += first is None
    return found


def again(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Queue another attempt at a trial, with the values, reports and notes of this one."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, attempt)


def _first(attempt: FrozenTrial) -> int | None:
    """Return the number of the first attempt at a trial; None for the first itself."""
    return RetryHeartbeatStaleTrialCallback.retried_trial_number(attempt)


def _take_up(study: optuna.Study) -> None:
    """Queue the trials that a process which is gone has left; no other may be at work on the study."""
    attempts = study.get_trials(deepcopy=False)
    waiting = {_first(attempt) for attempt in attempts if attempt.state == TrialState.WAITING}
    for attempt in attempts:
        if attempt.state == TrialState.RUNNING:
            first = attempt.number if _first(attempt) is None else _first(attempt)
            if first not in waiting:  # queued first, failed then: a kill in between loses nothing
                again(study, attempt)
            study.tell(attempt.number, state=TrialState.FAIL)


class _Sampler(optuna.samplers.BaseSampler):
    """Draws as one of Optuna's samplers that is seeded anew for each trial, by the trial's number.

    So a search that was interrupted draws what it would have drawn, and no two processes draw the same.
    """

    def __init__(self, kind: str, seed: int):
        self.make, self.seed = SAMPLERS[kind], seed

    def before_trial(self, study, trial):
        key = cache.fingerprint(self.seed, numbers(study)[trial.number])
        self.sampler = self.make(seed=int(key, 16) % 2**32)

    def infer_relative_search_space(self, study, trial):
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


@contextlib.contextmanager
def _database(url: str | None, folder: Path):
    """Open the database that a URL names, or the folder's own, which one process at a time may use.

    The own one is an SQLite file: what a kill interrupts there is undone when it is opened next.
    """
    if url:
        yield _connected(_address(url), heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                "another process searches in this run's folder: wait for it, or let several share a database (`tune.storage`)"
            ) from None
        yield _connected(sqlalchemy.URL.create("sqlite", database=str(folder / "study.db")))


def _address(url: str) -> sqlalchemy.URL:
    """Return the address of a shared database; the path of a file is read as everywhere in the parameters."""
    try:
        address = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        address = None
    if address is None or address.database in (None, "", ":memory:"):
        raise ValueError(
            "`tune.storage` must be the URL of a database that lasts, such as postgresql://host/name or sqlite:///file.db"
        )
    if address.get_backend_name() == "sqlite":
        address = address.set(database=str(params.find_file(address.database).resolve()))
    return address


def _connected(address: sqlalchemy.URL, *, tries: int = 2, **options) -> optuna.storages.RDBStorage:
    kind = address.get_backend_name()
    try:
        return optuna.storages.RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True}  # an epoch may last longer than an idle connection
            | ({"connect_args": {"timeout": PATIENCE}} if kind == "sqlite" else {}),
            heartbeat_stale_trial_callback=again,
            **options,
        )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        if tries > 1:  # two processes that create one database at once get into each other's way
            time.sleep(1)
            return _connected(address, tries=tries - 1, **options)
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).split("\n")[0]
        raise ValueError(f"the database of the search ({kind}) cannot be used: {reason}") from None
