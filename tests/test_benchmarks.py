"""Benchmarks: which of them run again, what counts as a failure, and the page that they write."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest

from lib.core import cache, params

BENCHMARKS = params.ROOT / "benchmarks"
ITEM = """
import measuring

def measure(data, weights, *, quick=False):
    print("measured")
    {body}
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The modules of benchmarks/, as they import one another."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("DATA", "WEIGHTS", "ITEM", "QUICK"):
        monkeypatch.delenv(name, raising=False)


def module(name):
    return importlib.import_module(name)


# Archives


def test_the_folder_of_an_argument_comes_before_data(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flowers.zip").touch()
    monkeypatch.setenv("DATA", str(tmp_path / "one"))
    assert module("data").archive(None, "flowers.zip") == tmp_path / "one/flowers.zip"
    assert module("data").archive(tmp_path / "two", "flowers.zip") == tmp_path / "two/flowers.zip"


@pytest.mark.parametrize(("data", "received"), [(None, "no folder"), ("", "no folder"), ("/gone", "/gone")])
def test_a_missing_archive_is_one_line(monkeypatch, data, received):
    if data is not None:
        monkeypatch.setenv("DATA", data)
    with pytest.raises(SystemExit) as error:
        module("data").archive(None, "flowers.zip")
    assert error.value.code == (
        f"expected flowers.zip in DATA=folder, see docs/datasets.md. Received: {received}"
    )


# Measuring


def test_programs_take_turns_and_the_first_round_is_not_measured():
    measuring, called, ticks = module("measuring"), [], iter(range(100))
    programs = {name: lambda name=name: called.append(name) for name in "AB"}
    seconds = measuring.in_turn(programs, rounds=2, clock=lambda: next(ticks))
    assert called == ["A", "B"] * 3 and seconds == {"A": [1, 1], "B": [1, 1]}
    called.clear()
    assert len(measuring.in_turn(programs, rounds=1, warm_up=False)["A"]) == 1 and called == ["A", "B"]


def test_a_row_has_the_median_the_range_and_whether_the_target_is_reached():
    row = module("measuring").row
    assert row([3, 1, 2], "s") == {"median": 2, "least": 1, "most": 3, "unit": "s"}
    assert row([1.0], at_least=1)["reached"] and not row([1.0], at_least=1.1)["reached"]
    assert row([1.0], at_most=1)["reached"] and not row([1.1], at_most=1)["reached"]
    assert row([1.0], at_most=0.5)["expected"] == "at most 0.5"


# Running


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """`run.py` with items, a page and outputs of its own; `bench(**variables)` returns its exit code."""
    run = module("run")
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "measuring.py").write_text((BENCHMARKS / "measuring.py").read_text())
    page = tmp_path / "page.md"
    page.write_text(f"Before\n\n{run.BEGIN}\nold\n{run.END}\n\nAfter\n")
    monkeypatch.setattr(run, "FOLDER", folder)
    monkeypatch.setattr(run, "PAGE", page)
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.syspath_prepend(str(folder))

    def call(**variables):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, str(value))
            for path in folder.glob("item_*.py"):
                sys.modules.pop(path.stem, None)
            importlib.invalidate_caches()
            cache._parse.cache_clear()
            return run.main()

    # A process per item would import everything again.
    monkeypatch.setattr(
        run.subprocess, "run", lambda command, env: SimpleNamespace(returncode=call(ITEM=env["ITEM"]))
    )
    call.folder, call.page, call.results = folder, page, tmp_path / "outputs/bench/bench.json"
    return call


def put(bench, name, body):
    (bench.folder / f"{name}.py").write_text(ITEM.format(body=body))


def measured(capsys):
    return capsys.readouterr().out.count("measured\n")


def test_an_item_is_measured_again_only_if_asked_or_if_code_or_data_has_changed(bench, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "flowers.zip").write_text("one")
    put(bench, "item_a", "return {'speed': measuring.row([1.0, 2.0, 3.0], 's')}")
    put(bench, "item_b", "return {'speed': 5}")
    (bench.folder / "other.py").write_text("")
    assert bench(DATA=data) == 0 and measured(capsys) == 2
    assert bench(DATA=data) == 0 and measured(capsys) == 0
    assert bench(DATA=data, ITEM="item_a") == 0 and measured(capsys) == 1
    put(bench, "item_b", "return {'speed': 6}")
    assert bench(DATA=data) == 0 and measured(capsys) == 1
    (data / "flowers.zip").write_text("two")
    assert bench(DATA=data) == 0 and measured(capsys) == 2
    assert json.loads(bench.results.read_text())["item_b"]["rows"] == {"speed": 6}


def test_a_wrong_result_fails_and_the_other_items_are_measured(bench, capsys):
    put(bench, "item_a", "measuring.check(1 == 2, 'one is not two')")
    put(bench, "item_b", "return {'speed': 5}")
    for quick in ("", "1"):
        assert bench(QUICK=quick) == 1
        out = capsys.readouterr().out
        assert "wrong result: one is not two" in out and "failed: item_a" in out
    assert set(json.loads(bench.results.read_text())) == {"item_b"}


def test_a_missed_target_fails_unless_quick(bench, capsys):
    put(bench, "item_a", "return {'TensorFlow': {'ratio': measuring.row([0.5], at_least=0.9)}}")
    assert bench() == 1
    assert "TensorFlow, ratio: 0.5 (expected: at least 0.9: missed)" in capsys.readouterr().out
    page = bench.page.read_text()
    assert bench(QUICK=1, ITEM="item_a") == 0 and bench.page.read_text() == page


def test_an_item_that_cannot_run_here_is_skipped_with_a_reason_and_not_kept(bench, capsys):
    put(bench, "item_a", "raise measuring.Skipped('it needs a GPU')")
    assert bench() == 0 and "skipped: it needs a GPU" in capsys.readouterr().out
    assert not bench.results.exists()


def test_an_item_without_a_quick_version_is_skipped_if_quick(bench, capsys):
    (bench.folder / "item_a.py").write_text("def measure(data, weights):\n    return {'speeds': [1, 2, 9]}\n")
    assert bench(QUICK=1, ITEM="item_a") == 0 and "skipped: it takes long" in capsys.readouterr().out
    assert bench(ITEM="item_a") == 0 and "speeds: 2 (1 to 9)" in capsys.readouterr().out


def test_the_page_gets_a_table_between_its_markers(bench):
    put(bench, "item_a", "return {'speed': measuring.row([1, 2, 3], 's', at_most=4), 'note': 'text'}")
    for _ in range(2):
        assert bench(ITEM="item_a") == 0
        page = bench.page.read_text()
        assert page.startswith("Before\n\n") and page.endswith("\n\nAfter\n") and "old" not in page
    assert page.count("| speed | 2 s (1 to 3) | at most 4 |") == 1 and "|  | note | text |  |" in page
    assert "cores" in page and "GB of memory" in page and "Python 3" in page


def test_an_unknown_item_is_named_with_the_nearest(bench):
    put(bench, "item_a", "return {}")
    with pytest.raises(
        SystemExit, match=r"^ITEM: expected item_a. Received: 'item_s'. Did you mean item_a\?$"
    ):
        bench(ITEM="item_s")


def test_every_benchmark_of_the_page_exists():
    page = (params.ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    items = module("run").items()
    assert {
        "cleaning",
        "input",
        "label_errors",
        "near_duplicates",
        "notebooks",
        "prediction",
        "startup",
    } <= set(items)
    assert [name for name in items if f"`{name}`" not in page and f"benchmarks/{name}.py" not in page] == []
