"""The runner: it executes the steps that are out of date, and keeps the last results if a notebook fails."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest

from lib import pipeline
from lib.clean import decisions
from lib.core import cache, files, params, schema, steps

ONE = steps.Step("one", parameters=("seed", "source"), writes=("one.txt",))
TWO = steps.Step("two", parameters=("evaluate",), reads=("one.txt",), writes=("two.txt",))
THREE = steps.Step("three", parameters=("gradcam",), writes=("three.txt",))
STEPS = (ONE, TWO, THREE)
NOTHING = "pass"
WRITES = {
    "one": "_ = current.path('one.txt').write_text(str(settings.seed))",
    "two": (
        "text = current.path('one.txt').read_text()\n"
        "_ = current.path('two.txt').write_text(f'{text} {settings.evaluate.hardest}')"
    ),
    "three": "_ = current.path('three.txt').write_text('3')",
}


def write_notebook(folder, step, body=NOTHING, *, saved=""):
    """Write the short notebook of a step.

    `body` is a cell before its result, `saved` a line that a user has saved in its parameters cell.
    """
    cells = [
        nbformat.v4.new_code_cell(
            "\n".join(
                [
                    "name = 'demo'",
                    *(f"{key} = None" for key in schema.Params.model_fields if key != "name"),
                    saved,
                ]
            )
        ),
        nbformat.v4.new_code_cell(
            "from lib.core import params, steps\n"
            "settings = params.resolve(vars())\n"
            f"current = steps.start(settings, steps.{step!r})\n"
            "steps.parameters(current)"
        ),
        nbformat.v4.new_code_cell(body),
        nbformat.v4.new_code_cell(f"{WRITES[step.name]}\ncurrent.finish().name"),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{step.name}.ipynb")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three notebooks in `notebooks/` and the outputs in `outputs/`."""
    for folder in ("notebooks", "outputs", "home"):
        (tmp_path / folder).mkdir()
    for step in STEPS:
        write_notebook(tmp_path / "notebooks", step)
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    for variable in ("ARCHIVE", "WEIGHTS", "STORAGE", "PRIVATE", "TERMINAL"):
        monkeypatch.delenv(f"CHRYSALIS_{variable}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runner(place, overrides=None, *, only=STEPS, name="demo"):
    """Return the runner of the three steps, or of some of them."""
    settings = params.load(name, overrides)
    return pipeline.Runner(settings, overrides or {}, sequence=only, notebooks=place / "notebooks")


@pytest.fixture
def kernel(monkeypatch):
    """Execute notebooks in this process instead of a kernel, for speed; list the executed notebooks."""
    executed = []

    def execute(notebook, output, *, parameters, **_):
        executed.append(Path(notebook).stem)
        book = nbformat.read(notebook, as_version=4)
        nbformat.write(book, output)
        variables = {}
        for number, cell in enumerate(book.cells):
            exec(cell.source, variables)
            if number == 0:
                variables |= parameters

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return executed


@pytest.fixture
def run_all(place, kernel, capsys):
    """Return a function that runs the three steps, and returns the executed steps and the reasons before."""

    def run(overrides=None):
        this = runner(place, {"run": "demo"} | (overrides or {}))
        capsys.readouterr()
        this.why()
        reasons = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        kernel.clear()
        this.run()
        return list(kernel), reasons

    return run


# Whole runs


def test_a_run_executes_the_notebooks_in_order_and_the_next_one_nothing(place, monkeypatch, capsys):
    folder = runner(place).run()
    assert folder == place / "outputs" / "demo"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["one", "two", "three", "report:"]
    assert lines[0].endswith(" s")
    settings = params.load("demo")
    assert (folder / "two.txt").read_text() == f"{settings.seed} {settings.evaluate.hardest}"
    assert not list(folder.glob("*.partial.ipynb")) and not list(folder.glob("*.failed.ipynb"))
    report = (folder / "report.html").read_text()
    assert "current.finish" not in report and "provenance.json" in report
    for step in STEPS:
        book = nbformat.read(folder / f"{step.name}.ipynb", as_version=4)
        assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]
    before = (folder / "provenance.json").read_bytes()
    runner(place).run()
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[:3]] == [
        "up to date"
    ] * 3
    runner(place).why()
    assert [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()] == ["up to date"] * 3
    assert (folder / "provenance.json").read_bytes() == before


def test_published_files_contain_no_folder_of_this_machine(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    archive = place / "secret place" / "photos.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"zip")
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", str(archive))
    body = (
        "from pathlib import Path\n"
        "print(params.ROOT / 'lib', steps.outputs() / 'butterfly', Path.home() / 'x')"
    )
    write_notebook(place / "notebooks", ONE, body)
    folder = runner(place, only=(ONE,), name="butterfly").run()
    book = nbformat.read(folder / "one.ipynb", as_version=4)
    assert book.cells[3].outputs[0].text.replace("\\", "/").split() == ["./lib", "outputs/butterfly", "~/x"]
    for name in ("one.ipynb", "params.json", "provenance.json", "report.html"):
        for secret in (str(params.ROOT), str(place), "secret place"):
            assert secret not in (folder / name).read_text(), (name, secret)
    assert "photos.zip" in (folder / "params.json").read_text()
    assert "papermill" not in book.metadata
    assert not any(key in cell.metadata for cell in book.cells for key in ("papermill", "execution"))


def test_files_of_the_user_are_compared_by_content(place, monkeypatch):
    archive = place / "photos.zip"
    archive.write_bytes(b"zip")
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", str(archive))
    monkeypatch.setenv("CHRYSALIS_WEIGHTS", "https://somewhere/w.h5")
    step = replace(ONE, user_files=("source.archive", "source.folder", "model.weights", "gradcam.photo"))

    def named():
        inputs = runner(place, name="butterfly").inputs(step)
        return {key: value for key, value in inputs.items() if key.startswith("the file or folder of ")}

    before = named()
    assert list(before) == ["the file or folder of source.archive"] and named() == before
    os.utime(archive, (0, 0))
    assert named() == before
    archive.write_bytes(b"another")
    assert named() != before


def test_a_step_that_reads_all_runs_depends_on_each_of_them(place):
    step = replace(ONE, reads_of_runs=("metrics.json",))
    for name in ("b", "a", "data"):
        (place / "outputs" / name).mkdir()
        (place / "outputs" / name / "metrics.json").write_text(name)
    inputs = runner(place).inputs(step)
    assert [key for key in inputs if key.startswith("metrics.json")] == [
        "metrics.json of a",
        "metrics.json of b",
    ]
    (place / "outputs" / "a" / "metrics.json").write_text("changed")
    assert runner(place).inputs(step)["metrics.json of a"] != inputs["metrics.json of a"]


def test_a_changed_step_is_executed_again_with_the_steps_that_depend_on_it(place, run_all):
    folder = place / "outputs" / "demo"
    assert run_all()[0] == ["one", "two", "three"]
    ran, reasons = run_all()
    assert ran == [] and set(reasons.values()) == {"up to date"}

    write_notebook(place / "notebooks", THREE, "1 + 1")
    ran, reasons = run_all()
    assert ran == ["three"]
    assert reasons["three"] == "the notebook has changed" and reasons["one"] == "up to date"

    ran, reasons = run_all({"gradcam": {"examples": 3}})
    assert ran == ["three"] and reasons["three"] == "parameter gradcam has changed"
    assert run_all()[0] == ["three"]

    # `one` writes other content, which `two` reads.
    ran, reasons = run_all({"seed": 7})
    assert ran == ["one", "two"]
    assert reasons["one"] == "parameter seed has changed"
    assert reasons["two"].startswith("maybe: an earlier step may change")
    assert run_all()[0] == ["one", "two"]

    (folder / "two.txt").unlink()
    ran, reasons = run_all()
    assert ran == ["two"] and reasons["two"] == "two.txt is missing"

    (folder / "three.ipynb").unlink()
    ran, reasons = run_all()
    assert ran == ["three"] and reasons["three"] == "not executed yet"

    # By content, not by date.
    (place / "notebooks" / "one.ipynb").touch()
    (folder / "one.txt").touch()
    assert run_all()[0] == []


def test_a_result_that_was_edited_or_truncated_is_written_again(place, run_all):
    folder = place / "outputs" / "demo"
    run_all()
    whole = (folder / "one.txt").read_text()
    for text in ("by hand", ""):
        (folder / "one.txt").write_text(text)
        ran, reasons = run_all()
        assert ran == ["one"] and (folder / "one.txt").read_text() == whole
        assert reasons["one"] == "one.txt has changed since the step wrote it"
        assert reasons["two"] == "one.txt has changed"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stages": {}}'])
def test_after_damage_to_the_record_the_steps_are_executed_again(place, run_all, text):
    run_all()
    (place / "outputs" / "demo" / "provenance.json").write_text(text)
    assert run_all()[0] == ["one", "two", "three"]
    assert run_all()[0] == []


def test_a_decision_of_a_user_makes_the_cleaning_out_of_date(place, kernel):
    step = replace(THREE, reads=steps.DECISIONS)
    write_notebook(place / "notebooks", step)
    this = runner(place, only=(step,))
    this.run()
    assert this.reasons(step) == []
    data = steps.Run(this.settings, step).data
    decisions.exclude(data, "cat/1.jpg", sha1="", reason="a sketch")
    assert this.reasons(step) == ["exclusions.csv has changed"]
    decisions.relabel(data, "cat/2.jpg", sha1="", label="dog", source_label="cat")
    assert this.reasons(step) == ["exclusions.csv has changed", "relabels.csv has changed"]
    this.run()
    assert this.reasons(step) == [] and kernel == ["three", "three"]


def test_outputs_and_parameters_saved_in_a_notebook_are_not_its_source(place, run_all):
    run_all()
    path = place / "notebooks" / "one.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[1].execution_count = 5
    book.cells[0].source += "\nseed = 5"
    nbformat.write(book, path)
    assert run_all()[0] == []


def test_values_saved_in_a_notebook_never_change_a_run(place):
    write_notebook(place / "notebooks", ONE, saved="seed = 5\nname = 'flowers'\nrun = 'elsewhere'")
    folder = runner(place, only=(ONE,)).run()
    assert folder == place / "outputs" / "demo"
    assert (folder / "one.txt").read_text() == str(params.load("demo").seed) != "5"
    assert files.read_json(folder / "params.json")["seed"] == params.load("demo").seed
    assert [path.name for path in (place / "outputs").iterdir()] == ["demo"]


def test_a_change_while_a_notebook_runs_makes_it_out_of_date(place, kernel):
    path = place / "notebooks" / "one.ipynb"
    edit = f"""1 + 1
from pathlib import Path
book = Path({str(path)!r})
_ = book.write_text(book.read_text().replace('1 + 1', '2 + 2'))"""
    write_notebook(place / "notebooks", ONE, edit)
    this = runner(place, only=(ONE,))
    this.run()
    assert this.reasons(ONE) == ["the notebook has changed"]


def last_cell(place, before, after):
    """Change the last cell of the notebook of the first step."""
    path = place / "notebooks" / "one.ipynb"
    book = nbformat.read(path, as_version=4)
    assert before in book.cells[-1].source
    book.cells[-1].source = book.cells[-1].source.replace(before, after)
    nbformat.write(book, path)


def test_parameters_that_change_while_a_notebook_runs_fail_it(place, kernel):
    other = "steps.Run(settings.model_copy(update={'seed': 3}), current.step)"
    last_cell(place, "current.finish()", f"{other}.finish()")
    with pytest.raises(pipeline.StepFailed, match=r"params/demo.yaml has changed during the run"):
        runner(place, only=(ONE,)).run()


def test_a_step_depends_on_the_additional_files_that_it_wrote(place, kernel):
    write_notebook(place / "notebooks", ONE, "_ = current.path('more.csv').write_text('rows')")
    last_cell(place, "finish()", "finish('more.csv')")
    this = runner(place, only=(ONE,))
    folder = this.run()
    assert this.reasons(ONE) == []
    (folder / "more.csv").unlink()
    assert this.reasons(ONE) == ["more.csv is missing"]


def test_a_foreign_kernel_of_the_same_name_is_not_used(place, monkeypatch):
    spec = place / "jupyter/kernels/python3"
    spec.mkdir(parents=True)
    files.write_json(
        spec / "kernel.json", {"argv": ["/nonexistent/python"], "display_name": "other", "language": "python"}
    )
    monkeypatch.setenv("JUPYTER_PATH", str(place / "jupyter"))
    write_notebook(place / "notebooks", ONE, "import sys\nprint(sys.executable)")
    folder = runner(place, only=(ONE,), name="butterfly").run()
    (printed,) = nbformat.read(folder / "one.ipynb", as_version=4).cells[3].outputs
    assert printed.text.strip().endswith(sys.executable.removeprefix(str(params.ROOT)))


def test_pictures_are_published_unchanged(place, monkeypatch):
    image = "iVBORw0KGgo/tmp/tmpAAAA"
    html = f'<img src="data:image/png;base64,{image}"> {place}'
    body = (
        "from IPython.display import display\n"
        f"display({{'text/html': {html!r}, 'image/png': {image!r}}}, raw=True)\n"
        "print('/tmp/x /tmpx')"
    )
    monkeypatch.setenv("HOME", "/tmp")
    write_notebook(place / "notebooks", ONE, body)
    folder = runner(place, only=(ONE,), name="butterfly").run()
    shown, printed = nbformat.read(folder / "one.ipynb", as_version=4).cells[3].outputs
    assert shown.data["image/png"].strip() == image and f"base64,{image}" in shown.data["text/html"]
    assert str(place) not in shown.data["text/html"] and printed.text == "~/x /tmpx\n"


def test_the_code_is_parsed_again_only_if_a_file_of_lib_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    (tmp_path / "lib").mkdir()
    module = tmp_path / "lib/a.py"
    parsed = []
    code_of_files = cache.code_of_files
    monkeypatch.setattr(cache, "code_of_files", lambda paths: parsed.append(1) or code_of_files(paths))

    def fingerprint(text):
        module.write_text(text)
        pipeline._lib.cache_clear()
        cache._parse.cache_clear()
        return pipeline._lib(tmp_path / "run")

    try:
        first = fingerprint("A = 1\n")
        assert fingerprint("A = 1\n") == first and len(parsed) == 1
        assert fingerprint("A = 1  # a comment\n") == first and len(parsed) == 2
        assert fingerprint("A = 2\n") != first and len(parsed) == 3
        for damaged in ("", "[]", "{"):
            (tmp_path / "run/.code.json").write_text(damaged)
            assert fingerprint("A = 1\n") == first
    finally:
        pipeline._lib.cache_clear()
        cache._parse.cache_clear()


def test_a_step_depends_on_masks_in_the_source(place):
    step = replace(THREE, user_files=("gradcam.masks",))
    this = runner(place, {"gradcam": {"masks": "masks"}}, only=(step,))
    masks = steps.Run(this.settings, step).data / "masks"
    masks.mkdir(parents=True)
    before = this.inputs(step)["the file or folder of gradcam.masks"]
    (masks / "one.png").write_bytes(b"x")
    assert this.inputs(step)["the file or folder of gradcam.masks"] != before


def test_a_folder_of_another_name_is_announced_first(place, run_all, capsys):
    run_all({"run": "other"})
    assert capsys.readouterr().out.splitlines()[0] == "run: outputs/other"
    run_all()
    assert not capsys.readouterr().out.startswith("run:")


# The report


def test_a_report_that_is_older_than_its_notebooks_is_written_again(place, run_all):
    report = place / "outputs" / "demo" / "report.html"
    run_all()
    before = report.read_text()
    report.write_text("an older one")
    run_all()
    assert report.read_text() == "an older one"
    # As after a kill between the last notebook and the report.
    record = steps.provenance(report.parent)
    record["report"]["two"] = "another"
    files.write_json(report.parent / "provenance.json", record)
    assert run_all()[0] == []
    assert len(report.read_text()) == len(before)
    report.unlink()
    run_all()
    assert report.is_file()


def test_a_report_needs_an_executed_notebook(place):
    with pytest.raises(FileNotFoundError, match="demo has no executed notebook yet: run `make demo` first"):
        runner(place).write_report()


# Failures


FAILURES = {
    "an error": ("raise ValueError('too few photos')", "ValueError: too few photos"),
    "sys.exit": ("import sys; sys.exit(0)", "the notebook ended before its last cell"),
    "a killed kernel": ("import os; os._exit(1)", "DeadKernelError"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_notebook_is_kept_beside_the_last_good_one(place, kind):
    body, message = FAILURES[kind]
    write_notebook(place / "notebooks", THREE, body)
    folder = place / "outputs" / "demo"
    folder.mkdir()
    (folder / "three.ipynb").write_text("the good one")
    files.write_json(folder / "provenance.json", {"steps": {"three": {"inputs": {}, "outputs": {}}}})
    this = runner(place, only=(THREE,))
    with pytest.raises(pipeline.StepFailed) as caught:
        this.run()
    assert str(caught.value).startswith("three failed. ") and message in str(caught.value)
    assert str(caught.value).endswith("The executed part of the notebook: outputs/demo/three.failed.ipynb")
    assert ("It may have run out of memory" in str(caught.value)) == (kind == "a killed kernel")
    assert (folder / "three.ipynb").read_text() == "the good one"
    assert body in nbformat.read(folder / "three.failed.ipynb", as_version=4).cells[-2].source
    assert not (folder / "three.partial.ipynb").exists() and not (folder / "three.txt").exists()
    # It is not taken for up to date.
    assert this.reasons(THREE)
    if kind == "an error":
        write_notebook(place / "notebooks", THREE)
        this.run()
        assert not (folder / "three.failed.ipynb").exists() and (folder / "three.txt").exists()


def test_a_truncated_notebook_does_not_hide_the_error(place, monkeypatch):
    def disk_full(notebook, output, **_):
        output.write_text('{\n "cells": [')
        raise OSError("No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", disk_full)
    with pytest.raises(pipeline.StepFailed, match="^one failed. OSError: No space left on device$"):
        runner(place).run()


def test_the_steps_after_a_failure_are_not_executed(place, kernel):
    write_notebook(place / "notebooks", TWO, "raise ValueError('too few photos')")
    with pytest.raises(pipeline.StepFailed, match="two failed. ValueError: too few photos"):
        runner(place).run()
    assert kernel == ["one", "two"]


def test_two_runs_at_once_in_one_folder_are_refused(place, run_all):
    code = (
        "import sys, time; from pathlib import Path; from lib.core import locks\n"
        "with locks.run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(place / "outputs" / "demo")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(params.ROOT)},
    )
    try:
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(ValueError, match="another process is using .*demo"):
            run_all()
        run_all({"run": "other"})
    finally:
        holder.communicate()
    assert run_all()[0] == ["one", "two", "three"]


# The package


def test_lib_is_imported_if_the_current_folder_has_a_lib_of_its_own(tmp_path):
    (tmp_path / "lib").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "import lib.core.params; print(lib.core.params.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parts[-3:] == ("lib", "core", "params.py")
    assert not done.stdout.startswith(str(tmp_path))


def test_an_up_to_date_run_imports_no_backend_and_no_tables(place, kernel):
    heavy = "('tensorflow', 'keras', 'papermill', 'nbconvert', 'optuna', 'sklearn', 'pandas', 'numpy')"
    code = f"""
import sys
from pathlib import Path
from lib import pipeline
from lib.core import params, steps
from lib.__main__ import main
one = steps.Step("one", parameters=("seed", "source"), writes=("one.txt",))
pipeline.Runner(params.load("demo"), {{}}, sequence=(one,), notebooks=Path("notebooks")).run()
assert main(["why", "demo"]) == 0
print([name for name in {heavy} if name in sys.modules])"""
    runner(place, only=(ONE,)).run()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(params.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "one          up to date" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
