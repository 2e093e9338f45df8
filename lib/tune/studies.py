"""Studies: the trials of searches in a database, the run's own or one that many machines share.

When a trial is interrupted, Optuna marks it as failed and queues a copy. Here the two are attempts at one
trial, so that an interrupted search has the same trials as an uninterrupted one. A trial whose process was
killed, as when it filled the memory, gets one more attempt.
"""

import contextlib
import copy
import logging
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
# Seconds without a heartbeat after which another process takes the trial up.
GRACE = 300
# Seconds that a process waits for another one's write to an SQLite file.
PATIENCE = 60
# Attempts at a trial whose process is killed.
ATTEMPTS = 2
KILLS = "kills"
KILLED = "the process was killed twice"
# Draws after which values that were tried before are accepted.
DRAWS = 50
PRUNERS = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


@contextlib.contextmanager
def opened(name: str, *, monitor: str, seed: int, settings: Tune, folder: Path) -> Iterator[optuna.Study]:
    """Open a study, or create it, and queue its interrupted trials.

    Args:
        name: the study's name.
        monitor: val_loss is minimised, val_accuracy maximised.
        seed: seed of the sampler.
        settings: storage, space, sampler and pruner.
        folder: holds the database if none is shared.

    Raises:
        ValueError: another process is at work on the folder, or the shared database cannot be used.
    """
    with quiet(), _database(settings.storage, folder) as storage:
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
                _take_up(study)
            yield study
        finally:
            storage.engine.dispose()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's lines on each trial, and TensorFlow's on many networks in a row: a regression test
    reads the notebook's error stream."""
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
    trial_of: dict[int, int] = {}
    trials = 0
    for attempt in study.get_trials(deepcopy=False):
        first = _first(attempt)
        trial_of[attempt.number] = trials if first is None else trial_of[first]
        trials += first is None
    return trial_of


def again(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Queue another attempt at a trial, with the values, reports and notes of this one."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, attempt)


def again_after_kill(study: optuna.Study, attempt: FrozenTrial) -> None:
    """Queue another attempt at a trial whose process was killed, unless `ATTEMPTS` have been killed."""
    kills = attempt.user_attrs.get(KILLS, 0) + 1
    if kills < ATTEMPTS:
        attempt = copy.deepcopy(attempt)
        attempt.set_user_attr(KILLS, kills)
        again(study, attempt)


def problem(attempt: FrozenTrial) -> str:
    """Return why a trial failed; an empty text if it did not."""
    if attempt.state != TrialState.FAIL:
        return ""
    # Only a process that is gone leaves no reason.
    return attempt.user_attrs.get("problem", KILLED)


def tried(study: optuna.Study, space: Mapping[str, Dimension]) -> set[tuple]:
    """Return the combinations of values that the trials of a study have, in the order of the space."""
    return {tuple(values.values()) for values in _complete(study, space).values()}


def _complete(study: optuna.Study, space: Mapping[str, Dimension]) -> dict[int, dict]:
    """Return the values of each trial that has one for every dimension, by the trial's number."""
    drawn = {number: spaces.values(space, attempt.params) for number, attempt in latest(study).items()}
    return {number: values for number, values in drawn.items() if values and len(values) == len(space)}


def _first(attempt: FrozenTrial) -> int | None:
    """Return the number of the first attempt at a trial; `None` for the first itself."""
    return RetryHeartbeatStaleTrialCallback.retried_trial_number(attempt)


def _take_up(study: optuna.Study) -> None:
    """Queue the trials of processes that are gone; no other process may be using the study."""
    attempts = study.get_trials(deepcopy=False)
    waiting = {_first(attempt) for attempt in attempts if attempt.state == TrialState.WAITING}
    for attempt in attempts:
        if attempt.state == TrialState.RUNNING:
            first = attempt.number if _first(attempt) is None else _first(attempt)
            # Queued first, marked as failed then: a kill in between loses nothing.
            if first not in waiting:
                again_after_kill(study, attempt)
            study.tell(attempt.number, state=TrialState.FAIL)


class _Sampler(optuna.samplers.BaseSampler):
    """One of Optuna's samplers, seeded anew for each trial by the trial's number.

    So an interrupted search draws what it would have drawn, and no two processes draw the same. Values that
    were tried before are drawn again, with another seed.
    """

    def __init__(self, kind: str, seed: int, *, space: Mapping[str, Dimension]):
        self.kind, self.seed, self.space = kind, seed, space
        self.sampler = self._seeded(0, 0)

    def _seeded(self, number: int, draw: int) -> optuna.samplers.BaseSampler:
        key = cache.fingerprint(self.seed, number, draw)
        return SAMPLERS[self.kind](seed=int(key, 16) % 2**32)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose the seed of a trial: the first that draws values that no other trial has."""
        number = numbers(study)[trial.number]
        others = _complete(study, self.space)
        others.pop(number, None)
        draw = 0
        while draw < DRAWS - 1 and self._draw(study, trial, number=number, draw=draw) in others.values():
            draw += 1
        self.sampler = self._seeded(number, draw)

    def _draw(self, study: optuna.Study, trial: FrozenTrial, *, number: int, draw: int) -> dict:
        """Return the values that a seed draws."""
        sampler = self._seeded(number, draw)
        drawn = {
            name: sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in spaces.distributions(self.space).items()
        }
        return spaces.values(self.space, drawn)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: each value is drawn by itself."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, for there is no relative search space."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one value."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


@contextlib.contextmanager
def _database(url: str | None, folder: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open the database of a URL, or the folder's own, which the lock of the run keeps from other processes.

    The folder's own is an SQLite file: a write that a kill interrupts is undone when the file is opened next.
    """
    if url:
        yield _connected(_address(url), heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        return
    folder.mkdir(parents=True, exist_ok=True)
    yield _connected(sqlalchemy.URL.create("sqlite", database=str(folder / "study.db")))


def _address(url: str) -> sqlalchemy.URL:
    """Return the address of a shared database; the path of a file is read as in all parameters."""
    try:
        address = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        address = None
    if address is None or not address.database or address.database == ":memory:":
        raise ValueError(
            "`tune.storage` must be the URL of a database that lasts, such as postgresql://host/name "
            "or sqlite:///file.db"
        )
    if address.get_backend_name() == "sqlite":
        address = address.set(database=str(params.find_file(address.database).resolve()))
    return address


def _connected(
    address: sqlalchemy.URL,
    *,
    tries: int = 2,
    heartbeat_interval: int | None = None,
    grace_period: int | None = None,
) -> optuna.storages.RDBStorage:
    """Connect to a database; a second try helps two processes that create one at the same time.

    Raises:
        ValueError: the database cannot be used; the message names no password.
    """
    kind = address.get_backend_name()
    # An epoch may last longer than an idle connection.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        options["connect_args"] = {"timeout": PATIENCE}
    try:
        return optuna.storages.RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=heartbeat_interval,
            grace_period=grace_period,
            heartbeat_stale_trial_callback=again_after_kill,
        )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        if tries > 1:
            time.sleep(1)
            return _connected(
                address,
                tries=tries - 1,
                heartbeat_interval=heartbeat_interval,
                grace_period=grace_period,
            )
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).split("\n")[0]
        raise ValueError(f"the database of the search ({kind}) cannot be used: {reason}") from None
