"""The committed notebooks: one structure, parameters that match the schema, outputs anyone may see."""

import ast
import getpass
import itertools
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lib import pipeline
from lib.core import files, params, schema, steps

FILES = sorted((params.ROOT / "notebooks").glob("*.ipynb"))
# 00_start runs the others.
START, *STEPS = FILES
PARAMETERS = set(schema.Params.model_fields)
every_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_step = pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)


def cells(path, kind=None):
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


def is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def parameters_of(path):
    """Return the parameters cell of a notebook."""
    return next(cell for cell in cells(path) if is_parameters(cell))


def headings(path):
    """Return (level, text, index of the cell) for each heading outside code blocks."""
    rows = []
    for index, cell in enumerate(cells(path)):
        if cell.cell_type == "markdown":
            text = re.sub(r"^```.*?^```", "", cell.source, flags=re.DOTALL | re.MULTILINE)
            rows += [
                (len(match[1]), match[2], index) for match in re.finditer(r"^(#+) +(.+)$", text, re.MULTILINE)
            ]
    return rows


def test_the_notebooks_are_the_steps():
    assert [path.stem for path in STEPS] == [step.name for step in steps.ALL]


@every_notebook
def test_valid_and_of_one_kernel(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3" and book.metadata.kernelspec.language == "python"
    assert "papermill" not in book.metadata and "widgets" not in book.metadata
    assert len({cell.id for cell in book.cells}) == len(book.cells)


# Parameters


@every_step
def test_the_parameters_cell_is_the_schema(path):
    tagged = [cell for cell in cells(path) if is_parameters(cell)]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    lines = ast.parse(tagged[0].source).body
    assert all(isinstance(line, ast.Assign) and len(line.targets) == 1 for line in lines)
    assert [line.lineno for line in lines] == list(range(1, len(lines) + 1)), "one assignment per line"
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    assert list(values) == list(schema.Params.model_fields)
    assert values == dict.fromkeys(schema.Params.model_fields) | {"name": "demo"}


@every_step
def test_papermill_sees_every_parameter(path):
    assert list(papermill.inspect_notebook(path)) == list(schema.Params.model_fields)


def bound(tree):
    """Return the names that top-level code binds: assigned, imported, looped over, `with ... as`, `:=`."""
    names = set()
    for statement in tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
                names.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(name.asname or name.name).split(".")[0] for name in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
    return names - comprehension_names(tree)


def comprehension_names(tree):
    """Return the names that only comprehensions bind: they have a scope of their own."""
    inside, outside = set(), set()
    targets = [
        generator.target
        for node in ast.walk(tree)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp)
        for generator in node.generators
    ]
    own = {id(name) for target in targets for name in ast.walk(target)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            (inside if id(node) in own else outside).add(node.id)
    return inside - outside


def test_bound_finds_every_kind_of_binding():
    code = (
        "a = 1\nimport b.x\nfrom c import d as e\nfor f, (g, h) in []: pass\n"
        "with open('') as i: pass\n(j := 2)\nk += 1\n[l for l in m]\ndef n(): pass"
    )
    assert bound(ast.parse(code)) == set("abefghijkn")


@every_step
def test_no_other_cell_binds_a_parameter(path):
    for cell in cells(path, "code"):
        if not is_parameters(cell):
            assert not bound(ast.parse(cell.source)) & PARAMETERS, cell.source


@every_step
def test_values_saved_in_its_cell_never_change_a_run(path, tmp_path, monkeypatch):
    """The runner executes the notebook's own first cells, as a person has edited and saved them."""
    edited = parameters_of(path)
    for old, new in (("seed = None", "seed = 5"), ("train = None", "train = {'batch_size': 7}")):
        assert old in edited.source
        edited.source = edited.source.replace(old, new)
    resolve = next(cell.source for cell in cells(path) if "params.resolve(vars())" in cell.source)
    texts = (
        "from lib.core import files, params, steps",
        resolve,
        "files.write_json(current.folder / 'values.json', params.public(settings))",
    )
    code = [edited, *map(nbformat.v4.new_code_cell, texts)]
    notebook = nbformat.v4.new_notebook(cells=code, metadata=nbformat.read(path, as_version=4).metadata)
    nbformat.write(notebook, tmp_path / path.name)
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    settings = params.load("demo")
    runner = pipeline.Runner(settings, {}, notebooks=tmp_path)
    step = next(step for step in steps.ALL if step.name == path.stem)
    assert runner.run_notebook(step, tmp_path / "out.ipynb") is None
    (written,) = tmp_path.glob("outputs/*/values.json")
    values = files.read_json(written)
    assert values == params.public(settings) and (values["seed"], values["train"]["batch_size"]) != (5, 7)


# Text


@every_notebook
def test_headings(path):
    rows = headings(path)
    assert [index for level, _, index in rows if level == 1] == [0], "one H1, in the first cell"
    first = cells(path)[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    levels = [level for level, _, _ in rows]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
    texts = [text for _, text, _ in rows]
    assert len(set(texts)) == len(texts)
    number = str(int(path.stem[:2]))
    numbered = [text.split()[0] for level, text, _ in rows if level == 2]
    assert numbered == [f"{number}.{index}" for index in range(1, len(numbered) + 1)]


@every_notebook
def test_it_introduces_its_files_and_ends_with_the_next_step(path):
    texts = [cell.source for cell in cells(path, "markdown")]
    assert "**Reads**" in texts[1] and "**Writes**" in texts[1]
    following = [other.stem for other in FILES[FILES.index(path) + 1 :]]
    assert cells(path)[-1].cell_type == "markdown"
    assert not following or following[0] in texts[-1]


@every_step
def test_files_named_in_the_text_as_written_exist_in_the_design(path):
    step = next(step for step in steps.ALL if step.name == path.stem)
    introduction = cells(path, "markdown")[1].source
    assert [name for name in step.writes if name not in introduction] == []


# Code


@every_notebook
def test_code_cells_are_short_and_define_nothing(path):
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 20, cell.source
        assert cell.source.strip(), "an empty cell"
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), "shell or magic"
        kinds = [type(node) for node in ast.walk(ast.parse(cell.source))]
        assert not {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef} & set(kinds), cell.source
        assert kinds.count(ast.Lambda) <= 1, cell.source


@every_step
def test_imports_are_in_one_cell(path):
    with_imports = [
        cell
        for cell in cells(path, "code")
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(cell.source)))
    ]
    assert len(with_imports) == 1
    assert all(
        isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse(with_imports[0].source).body
    )


@every_notebook
def test_every_import_is_used(path):
    trees = [ast.parse(cell.source) for cell in cells(path, "code")]
    imported = {
        name.asname or name.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    used = {
        node.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert imported - used == set()


@every_step
def test_its_own_step_begins_and_ends_it(path):
    code = [cell.source for cell in cells(path, "code")]
    constant = path.stem.split("_")[1].upper()
    assert getattr(steps, constant).name == path.stem
    assert sum(f"steps.start(settings, steps.{constant})" in source for source in code) == 1
    assert "current.finish(" in code[-1]


# State: as executed from top to bottom


@every_notebook
def test_light_enough_to_commit(path):
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_executed_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    counts = [
        output.execution_count
        for cell in code
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert counts and counts == sorted(counts)


@every_notebook
def test_no_error_and_nothing_on_stderr(path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source


@every_notebook
def test_outputs_name_no_person_and_no_folder_of_theirs(path):
    text = json.dumps([cell.get("outputs", []) for cell in cells(path)])
    assert not re.search(r"/home/|/Users/|/root/|/tmp/|[A-Z]:\\\\\\\\Users", text)
    assert str(params.ROOT) not in text and (len(str(Path.home())) < 2 or str(Path.home()) not in text)
    user = getpass.getuser()
    assert user in ("root", "user", "runner") or not re.search(rf"\b{re.escape(user)}\b", text)


@every_notebook
def test_no_timing_is_kept(path):
    assert all("execution" not in cell.metadata and "papermill" not in cell.metadata for cell in cells(path))
