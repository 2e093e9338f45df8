"""Locks between real processes: a process waits for another, and a killed process does not block others."""

import errno
import fcntl
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from shared import encoded

from lib.core import locks
from lib.photos import decoding

HOLD = """
import sys
from pathlib import Path
from lib.core import locks

with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""
WITHOUT_FLOCK = """
import fcntl

def missing(*_):
    raise OSError({number}, "not supported")

fcntl.flock = missing
"""
SCAN = """
import sys
from pathlib import Path
from lib.photos import decoding

source = Path(sys.argv[1])
paths = [f"{number}.png" for number in range(900)]
print("ready", flush=True)
sys.stdin.readline()
cache = source / "cache"
table, images = decoding.scan(source / "raw", paths, content="abc", folder=cache, size=16, fit="crop")
print(table.to_csv(), images.sum())
"""
FETCH = """
import sys, time
from pathlib import Path
from lib.core import schema
from lib.download import archives, sources

def slow(archive, folder, extract=archives.extract, **options):
    print("unpacking", flush=True)
    time.sleep(2)
    return extract(archive, folder, **options)

archives.extract = slow
source = schema.Archive(kind="archive", archive=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sources.fetch(source, Path(sys.argv[2])).content_sha256)
"""


@pytest.fixture
def start():
    """Start a Python process, which is ended after the test."""
    processes = []

    def started(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch):
    monkeypatch.setattr(locks, "TIMEOUT_SECONDS", 0.1)
    locks._print_fallback.cache_clear()


def test_a_process_waits_for_a_locked_source_and_prints_a_message(tmp_path, start, capsys):
    holder = start(HOLD, "source", tmp_path / "demo")
    assert holder.stdout.readline() == "held\n"
    threading.Timer(0.5, holder.stdin.close).start()
    began = time.monotonic()
    with locks.source(tmp_path / "demo"):
        assert time.monotonic() - began > 0.3
    assert capsys.readouterr().out == "another process is reading the photos of demo: waiting\n"


def test_a_run_that_another_process_holds_is_refused(tmp_path, start):
    holder = start(HOLD, "run", tmp_path / "demo")
    assert holder.stdout.readline() == "held\n"
    message = f"another process is using {tmp_path.name}/demo: wait until it ends, .* another name"
    with pytest.raises(ValueError, match=message), locks.run(tmp_path / "demo"):
        pass
    with locks.run(tmp_path / "other"):
        pass
    # A lock file of a process that was killed does no harm.
    holder.kill()
    holder.wait()
    with locks.run(tmp_path / "demo"):
        assert (tmp_path / "demo/.lock").is_file()


@pytest.mark.parametrize("lock", [locks.source, locks.run])
def test_a_process_may_hold_a_lock_twice(tmp_path, start, capsys, lock):
    with lock(tmp_path):
        with lock(tmp_path):
            pass
        # It is still held.
        with pytest.raises(BlockingIOError), (tmp_path / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert capsys.readouterr().out == ""


def test_a_lock_is_released_when_the_work_fails(tmp_path):
    with pytest.raises(KeyError), locks.run(tmp_path):
        raise KeyError
    with (tmp_path / ".lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_file_locks(tmp_path, start, monkeypatch, capsys, number):
    # The file that a process left on another disk, before the folder was copied.
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/.lock").touch()

    def missing(*_):
        raise OSError(number, "not supported")

    monkeypatch.setattr(fcntl, "flock", missing)
    holder = start(WITHOUT_FLOCK.format(number=number) + HOLD, "run", tmp_path / "demo")
    until(lambda: holder.stdout.readline() == "held\n")
    with pytest.raises(ValueError, match="another process is using"), locks.run(tmp_path / "demo"):
        pass
    # The lock of a process that is gone is taken over.
    holder.kill()
    holder.wait()
    monkeypatch.setattr(locks, "TIMEOUT_SECONDS", 5)
    with locks.run(tmp_path / "demo"), locks.run(tmp_path / "demo"):
        pass
    assert capsys.readouterr().out == (
        f"the disk of {tmp_path.name}/demo has no file locks: the file .lock.process is used "
        "instead. It is ignored if its process is no longer running on this machine\n"
    )


def test_an_earlier_version_of_filelock_falls_back_too(tmp_path, monkeypatch):
    class Earlier(locks.FileLock):
        def __init__(self, path, *, is_singleton):
            super().__init__(path)

        def acquire(self, **_):
            raise NotImplementedError

    monkeypatch.setattr(locks, "FileLock", Earlier)
    with locks.run(tmp_path / "demo"):
        assert (tmp_path / "demo/.lock.process").is_file()


def test_other_errors_of_the_disk_are_raised(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(OSError, match="No space left"), locks.run(tmp_path):
        pass


# Two processes on one source


@pytest.fixture
def photos(tmp_path):
    """A source of 900 small photos."""
    (tmp_path / "demo/raw").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 24, 24, 3), np.uint8)
    for number in range(900):
        (tmp_path / f"demo/raw/{number}.png").write_bytes(encoded(pixels[number]))
    return tmp_path / "demo"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def scans(photos):
    return list(photos.glob("cache/.partial-*"))


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_scan_one_source(photos, start):
    first, second = start(SCAN, photos), start(SCAN, photos)
    assert first.stdout.readline() == second.stdout.readline() == "ready\n"
    go(first)
    until(lambda: scans(photos))
    outputs = [process.communicate(input="\n")[0] for process in (second, first)]
    assert first.returncode == second.returncode == 0
    assert outputs[0].removeprefix("another process is reading the photos of demo: waiting\n") == outputs[1]
    assert len(outputs[1].splitlines()) == 902 and len(names(photos / "cache")) == 1


def test_a_killed_scan_does_not_block_the_next_one(photos, start):
    killed = start(SCAN, photos)
    killed.stdout.readline()
    go(killed)
    until(lambda: scans(photos))
    killed.kill()
    killed.wait()
    assert scans(photos) == [path for path in (photos / "cache").iterdir() if path.is_dir()]
    paths = [f"{number}.png" for number in range(900)]
    table, images = decoding.scan(
        photos / "raw", paths, content="abc", folder=photos / "cache", size=16, fit="crop"
    )
    assert list(table.path) == paths and images.any(axis=(1, 2, 3)).all()
    assert scans(photos) == []


def test_two_processes_fetch_one_source(tmp_path, start):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"cat/{number}.png", encoded(np.full((8, 8, 3), number, np.uint8)))
    processes = [start(FETCH, tmp_path / "photos.zip", tmp_path / "demo") for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        go(process)
    outputs = sorted((process.communicate()[0].splitlines() for process in processes), key=len)
    assert [process.returncode for process in processes] == [0, 0]
    content = outputs[0][-1]
    assert sorted(outputs) == [
        ["another process is reading the photos of demo: waiting", content],
        ["unpacking", content],
    ]
    assert names(tmp_path / "demo") == [".lock", "raw", "source.json"]
