"""The generated pages of docs/: complete, up to date, and true."""

import json
import re
import runpy
import typing
from collections.abc import Iterator

import pytest

from lib import __main__ as command_line
from lib.core import params, reference, schema

GENERATE = runpy.run_path(str(params.ROOT / "docs/generate.py"))
ROWS = [
    (name, row)
    for name, recipe in GENERATE["RECIPES"].items()
    for rows in recipe["parts"].values()
    for row in rows
]
SAME = {"value": "batch size", "author": 32, "key": "train.batch_size"}


@pytest.fixture(autouse=True)
def no_files_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the paths that the caller's shell may hold."""
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE", "PRIVATE"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)


def leaves(section: type[schema.Section] = schema.Params, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of all single values of the schema."""
    for key, field in section.model_fields.items():
        sections = reference.sections(field.annotation)
        name = ".<name>" if typing.get_origin(field.annotation) is dict else ""
        for inner in sections:
            yield from leaves(inner, f"{path}{key}{name if sections else ''}.")
        if not sections:
            yield f"{path}{key}"


def page_rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page that begin with a key."""
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("name", GENERATE["PAGES"])
def test_a_committed_page_is_up_to_date(name: str) -> None:
    committed = (params.ROOT / "docs" / name).read_text(encoding="utf-8")
    assert committed == GENERATE["PAGES"][name](), f"docs/{name} is stale: run `make docs`"


# Parameters


def test_every_parameter_is_described_once() -> None:
    rows = page_rows(GENERATE["parameters"]())
    keys = [row[0].strip("`") for row in rows]
    assert sorted(keys) == sorted(set(leaves())) and len(keys) > 90
    assert [row[0] for row in rows if not (row[1] and row[3] and len(row[4]) > 4)] == []


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("train.batch_size", ["whole number", "1 to 4096", "`32`"]),
        ("split.val", ["number", "above 0 and below 0.5", "`0.15`"]),
        ("model.resize", ["whole number or null", "32 to 1024", "`null`"]),
        ("clean.embeddings", ["true or false", "", "`true`"]),
        ("train.optimizer.kind", ["text", "one of `adamw`, `adam`, `sgd`", "`adamw`"]),
        ("train.stages.<name>.epochs", ["whole number", "0 to 10000", "*required*"]),
        ("compare.runs", ["list of text", "letters, digits, - and _", "`[]`"]),
        ("source.tables.<name>.photos", ["list of text", "", "`[]`"]),
        ("tune.changes", ["mapping", "", "`{}`"]),
    ],
)
def test_type_range_and_default_are_in_plain_words(key: str, cells: list[str]) -> None:
    rows = {row[0].strip("`"): row for row in page_rows(GENERATE["parameters"]())}
    assert rows[key][1:4] == cells


def test_a_key_of_some_kinds_names_them() -> None:
    rows = {row[0].strip("`"): row for row in page_rows(GENERATE["parameters"]())}
    assert "kind kaggle, archive, drive; required by archive" in rows["source.archive"][4]
    assert "layer dropout" in rows["model.head.<name>.rate"][4] and "*required*" in rows["source.drive"][3]
    assert "required" not in "".join(rows["source.name"])


# Commands


def test_every_command_and_option_is_listed() -> None:
    page = GENERATE["commands"]()
    for name in ("run", "resume", "evaluate", "tune", "compare", "predict", "why", "report", "remove"):
        assert f"### chrysalis {name}\n" in page
        with pytest.raises(SystemExit):
            command_line.parser().parse_args([name, "--help"])
    assert "`--epochs N` | epochs to add" in page and "`--photos DIR` *(required)*" in page


def test_every_target_of_make_is_listed() -> None:
    database = GENERATE["make"]("-pnRr", "help")
    targets = next(line for line in database.splitlines() if line.startswith(".PHONY: ")).split()[1:]
    suffix = f"-({'|'.join(GENERATE['NAMES'])})$"
    patterns = {re.sub(suffix, "-<name>", target) for target in targets if not target.startswith(".")}
    patterns -= {"help", *GENERATE["NAMES"]} - {"demo"}
    assert {"demo", "test", "docs", "resume-<name>"} <= patterns
    listed = GENERATE["make"]("help")
    assert [
        name for name in patterns - {"help"} if not re.search(rf"\b{re.escape(name)}(?!\w)", listed)
    ] == []


def test_every_committed_parameter_file_is_a_target_and_no_other() -> None:
    assert sorted(GENERATE["NAMES"]) == sorted({*GENERATE["NAMES"]} & {*params.names()})
    assert f"data set: {' '.join(sorted(GENERATE['NAMES']))}" in GENERATE["make"]("help")


# Recipes


def test_the_rows_of_the_recipes_are_complete() -> None:
    verdicts = GENERATE["VERDICTS"]
    keys = {"value", "author", "key", "equals", "file", "ours", "note", *verdicts}
    for name, row in ROWS:
        label = f"{name}: {row['value']}"
        assert {"value", "author"} <= set(row) <= keys and ("key" in row) != ("ours" in row), label
        assert sum(word in row for word in ("note", *verdicts)) <= 1, label
    assert {name for name, _ in ROWS} == {"butterfly", "flowers", "mammals", "biology", "imagenet100"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"author": 64}, "the author has 64, params/ 32. Received: same"),
        ({"equals": 64}, "the author has 64, params/ 32. Received: same"),
        ({"differs": "faster"}, "the author has 32, params/ 32. Received: differs"),
        ({"chosen": "faster"}, "Received: chosen"),
        ({"author": 64, "differs": ""}, "expected a reason at `differs`"),
        ({"author": 64, "chosen": None}, "expected a reason at `chosen`"),
        ({"key": "train.batchsize"}, "expected a key of params/. Received: train.batchsize"),
        ({"file": "demo"}, "the author has 32, params/ 16. Received: same"),
    ],
)
def test_a_row_that_is_not_true_is_refused(change: dict, message: str) -> None:
    GENERATE["compare"]("butterfly", SAME)
    with pytest.raises(ValueError, match=re.escape(message)):
        GENERATE["compare"]("butterfly", SAME | change)


def test_a_value_that_differs_shows_ours_and_the_reason() -> None:
    row = {"value": "batch size", "author": 64, "key": "train.batch_size", "differs": "less memory"}
    cells = ("batch size", 64, "`train.batch_size`: `32`", "differs", "less memory")
    assert GENERATE["compare"]("butterfly", row) == cells
    row = {"value": "stages", "author": "two", "key": "train.stages", "equals": ["head", "fine_tune"]}
    assert GENERATE["compare"]("butterfly", row)[2:4] == ("`train.stages`: `head`, `fine_tune`", "same")


def test_files_targets_and_keys_that_the_recipes_name_exist() -> None:
    notebooks = [
        json.loads(path.read_text(encoding="utf-8")) for path in params.ROOT.glob("notebooks/*.ipynb")
    ]
    sources = ["".join(cell["source"]) for notebook in notebooks for cell in notebook["cells"]]
    sources += [path.read_text(encoding="utf-8") for path in params.ROOT.glob("lib/**/*.py")]
    text = "\n".join(
        str(row.get(key, "")) for _, row in ROWS for key in ("ours", "note", *GENERATE["VERDICTS"])
    )
    words = set(re.findall("`([^`]+)`", text))
    targets = GENERATE["make"]("-pnRr", "help")
    for word in words:
        if target := re.fullmatch(r"make ([\w-]+).*", word):
            assert re.search(rf"^\.PHONY: .*\b{target[1]}\b", targets, re.MULTILINE), word
        elif re.search(r"\.(csv|json|png|keras|html)$", word):
            file = word.rpartition("/")[2].partition("<")[0]
            assert any(file in source for source in sources), word
        elif re.fullmatch(r"[a-z]+\.[\w.]+", word):
            assert reference.parameter(word), word
        elif re.fullmatch(r"\d\d_\w+", word):
            assert (params.ROOT / f"notebooks/{word}.ipynb").exists(), word
    assert len(words) > 30
