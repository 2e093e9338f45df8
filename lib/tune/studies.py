"""Store the trials of searches in a database, private to the run or shared between machines (studies).

When a trial is interrupted, Optuna marks it as failed and queues a copy. Here both are attempts at the same
trial, so that an interrupted search has the same trials as an uninterrupted search. If the process of a trial
is killed, for example because memory ran out, the trial gets a second attempt.
"""

import contextlib
import copy
import logging
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lib.core import cache, params
from lib.core.schema import Dimension, Tune
from lib.tune import spaces

# Seconds between the heartbeats of a trial in a shared database.
HEARTBEAT = 60
# Seconds without a heartbeat after which another process continues the trial.
GRACE = 300
# Seconds that a process waits while another process writes to an SQLite file.
TIMEOUT = 60
# Attempts at a trial whose process is killed.
ATTEMPTS = 2
DATABASE = "study.db"
KILLS = "kills"
KILLED = "the process was killed twice"
# Maximum number of samples of a trial; then values of an earlier trial are accepted.
MAX_SAMPLES = 50
PRUNERS = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


@contextlib.contextmanager
def opened(name: str, *, monitor: str, seed: int, settings: Tune, folder: Path) -> Iterator[optuna.Study]:
    """Open or create a study and queue its interrupted trials.

    Args:
        name: name of the study.
        monitor: `val_loss`, which is minimised, or `val_accuracy`, which is maximised.
        seed: seed of the sampler.
        settings: storage, space, sampler and pruner.
        folder: folder of the database if `tune.storage` is not set.

    Raises:
        ValueError: if the shared database cannot be used, or the database of the folder is damaged.
    """
    with _quiet():
        storage = _database(settings.storage, folder)
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="minimize" if monitor == "val_loss" else "maximize",
            sampler=_Sampler(settings.sampler, seed, space=settings.space),
            pruner=PRUNERS[settings.pruner](),
            load_if_exists=True,
        )
        try:
            if settings.storage is None:
                _requeue_interrupted(study)
            yield study
        finally:
            storage.engine.dispose()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log lines of Optuna and TensorFlow, so that the notebook has no error output."""
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
    """Return a mapping from the number of each attempt to the number of its trial."""
    trial_of: dict[int, int] = {}
    trials = 0
    for attempt in study.get_trials(deepcopy=False):
        first = _first(attempt)
        trial_of[attempt.number] = trials if first is None else trial_of[first]
        trials += first is None
    return trial_of


def requeue(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Queue another attempt at a trial, with the values, reports and attributes of this attempt."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, attempt)


def requeue_killed(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Queue another attempt at a trial whose process was killed, unless `ATTEMPTS` have been killed."""
    kills = attempt.user_attrs.get(KILLS, 0) + 1
    if kills < ATTEMPTS:
        attempt = copy.deepcopy(attempt)
        attempt.set_user_attr(KILLS, kills)
        requeue(study, attempt)


def problem(attempt: FrozenTrial) -> str:
    """Return the reason why an attempt failed, or an empty string if it did not fail."""
    if attempt.state != TrialState.FAIL:
        return ""
    # Only a killed process records no reason.
    return attempt.user_attrs.get("problem", KILLED)


def combinations(study: optuna.Study, space: Mapping[str, Dimension]) -> set[tuple]:
    """Return the combinations of values of all trials, in the order of the space."""
    return {tuple(values.values()) for values in _complete(study, space).values()}


def _complete(study: optuna.Study, space: Mapping[str, Dimension]) -> dict[int, dict]:
    """Return the values of each trial with a value for every dimension, by the trial's number."""
    sampled = {number: spaces.values(space, attempt.params) for number, attempt in latest(study).items()}
    return {number: values for number, values in sampled.items() if values and len(values) == len(space)}


def _first(attempt: FrozenTrial) -> int | None:
    """Return the number of the first attempt at a trial; `None` if this is the first attempt."""
    return RetryHeartbeatStaleTrialCallback.retried_trial_number(attempt)


def _requeue_interrupted(study: optuna.Study) -> None:
    """Queue the trials of processes that have ended. No other process may use the study meanwhile."""
    attempts = study.get_trials(deepcopy=False)
    waiting = {_first(attempt) for attempt in attempts if attempt.state == TrialState.WAITING}
    for attempt in attempts:
        if attempt.state == TrialState.RUNNING:
            first = attempt.number if _first(attempt) is None else _first(attempt)
            # Queue the copy before the attempt is marked as failed, so that no trial is lost if the process
            # is killed in between.
            if first not in waiting:
                requeue_killed(study, attempt)
            study.tell(attempt.number, state=TrialState.FAIL)


class _Sampler(optuna.samplers.BaseSampler):
    """A sampler of Optuna, seeded for each trial by the trial's number.

    An interrupted search samples the same values as an uninterrupted search, and two processes sample
    different values. Values of an earlier trial are sampled again, with another seed.
    """

    def __init__(self, kind: str, seed: int, *, space: Mapping[str, Dimension]):
        self.kind, self.seed, self.space = kind, seed, space
        self.sampler = self._seeded(0, 0)

    def _seeded(self, number: int, sample: int) -> optuna.samplers.BaseSampler:
        key = cache.fingerprint(self.seed, number, sample)
        return SAMPLERS[self.kind](seed=int(key, 16) % 2**32)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Select the first seed that samples values of no other trial."""
        number = numbers(study)[trial.number]
        others = _complete(study, self.space)
        others.pop(number, None)
        sample = 0
        while sample < MAX_SAMPLES - 1 and self._values(study, trial, number, sample) in others.values():
            sample += 1
        self.sampler = self._seeded(number, sample)

    def _values(self, study: optuna.Study, trial: FrozenTrial, number: int, sample: int) -> dict:
        """Return the values that the seed of a sample generates for a trial."""
        sampler = self._seeded(number, sample)
        sampled = {
            name: sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in spaces.distributions(self.space).items()
        }
        return spaces.values(self.space, sampled)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return an empty space, because each value is sampled independently."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return no values, because the relative search space is empty."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample a value."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


def _database(url: str | None, folder: Path) -> optuna.storages.RDBStorage:
    """Open the shared database of a URL, or the SQLite file of a folder, protected by the lock of the run."""
    if url:
        return _connected(_address(url), shared=True)
    folder.mkdir(parents=True, exist_ok=True)
    require_intact(folder)
    return _connected(sqlalchemy.URL.create("sqlite", database=str(folder / DATABASE)), shared=False)


def require_intact(folder: Path) -> None:
    """Check the database of a search that is not shared.

    Args:
        folder: the folder of the database; it may not exist yet.

    Raises:
        ValueError: if the database is damaged.
    """
    path = folder / DATABASE
    if not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        problem = str(error)
    if problem != "ok":
        raise ValueError(
            f"{folder.parent.name}/{folder.name}/{DATABASE}, the database of the search, is damaged: "
            f"{' '.join(problem.split())}. Restore it from a copy, or remove it: the search then starts again"
        )


def _address(url: str) -> sqlalchemy.URL:
    """Return the address of a shared database. The path of a file is resolved as in other parameters."""
    try:
        address = sqlalchemy.make_url(url)
    except ValueError:
        # The port is not a number.
        address = None
    if address is None or not address.database or address.database == ":memory:":
        raise ValueError(
            "`tune.storage` must be the URL of a persistent database, such as postgresql://host/name "
            "or sqlite:///file.db"
        )
    if address.get_backend_name() == "sqlite":
        address = address.set(database=str(params.find_file(address.database).resolve()))
    return address


def _connected(address: sqlalchemy.URL, *, shared: bool, tries: int = 2) -> optuna.storages.RDBStorage:
    """Connect to a database, and try again if this fails, since another process may be creating it.

    Raises:
        ValueError: if the database cannot be used. The message contains no password.
    """
    kind = address.get_backend_name()
    # An epoch may last longer than an idle connection.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        options["connect_args"] = {"timeout": TIMEOUT}
    try:
        return optuna.storages.RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT if shared else None,
            grace_period=GRACE if shared else None,
            heartbeat_stale_trial_callback=requeue_killed,
        )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        if tries > 1:
            time.sleep(1)
            return _connected(address, shared=shared, tries=tries - 1)
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).split("\n")[0]
        raise ValueError(f"`tune.storage` ({kind}) cannot be used: {reason}. Check its URL") from None
