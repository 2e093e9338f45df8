"""`make gpu-check` and `make gpu-wheels`: the list of packages, the time limits, the table, and the parts."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
import zipfile

import pytest
from test_requirements import canonical, imported

from lib.core import params

BENCHMARKS = params.ROOT / "benchmarks"


def module(name, monkeypatch):
    """Import a module of the folder benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def wheels(monkeypatch):
    return module("gpu_wheels", monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    return module("gpu", monkeypatch)


@pytest.fixture
def parts(monkeypatch):
    return module("gpu_parts", monkeypatch)


# The packages


def test_the_list_has_the_packages_that_the_machine_lacks(wheels):
    names = wheels.needed()
    assert {"keras", "papermill", "ipykernel", "pydantic-core", "filelock", "pyzmq"} <= names
    machine = {"jax", "numpy", "pandas", "packaging", "pillow", "markupsafe", "python-dateutil"}
    assert names.isdisjoint({*machine, *wheels.UNUSED, "grpcio", "alembic", "kagglesdk", "multidict"})


def test_every_package_that_lib_imports_is_known(wheels):
    known = {*wheels.needed(), *wheels.closure(wheels.MACHINE), *wheels.UNUSED}
    assert imported("lib") - known == set()


def test_the_exclusions_are_dependencies(wheels):
    locked = {canonical(line) for line in (params.ROOT / "requirements.txt").read_text().splitlines()}
    # JAX is an extra, and so are the dependencies that only Python 3.12 has.
    assert {*wheels.MACHINE, *wheels.UNUSED} - locked <= {"jax"}


LOCK = """\
one==1.0 ; python_version < "3.12" \\
    --hash=sha256:aa
one==2.0 ; python_version >= "3.12" \\
    --hash=sha256:bb \\
    --hash=sha256:cc
two[extra]==3.0 \\
    --hash=sha256:dd
three==4.0 \\
    --hash=sha256:ee
"""


def test_the_versions_and_hashes_are_those_of_the_lock(wheels):
    assert wheels.pinned(LOCK, {"one", "two"}) == {
        "one": "one==2.0 --hash=sha256:bb --hash=sha256:cc",
        "two": "two==3.0 --hash=sha256:dd",
    }


def test_a_package_that_is_not_locked_is_named(wheels):
    with pytest.raises(ValueError, match=r"requirements.txt: expected a version of four\. Received: none"):
        wheels.pinned(LOCK, {"one", "four"})


def test_wheels_of_an_earlier_lock_are_removed(wheels, tmp_path):
    for name in ("one-1.0", "one-2.0", "two-3.0", "other-1.0"):
        (tmp_path / f"{name}-py3-none-any.whl").touch()
    wheels.remove_others(tmp_path, wheels.pinned(LOCK, {"one", "two"}))
    left = sorted(path.name.split("-py3")[0] for path in tmp_path.iterdir())
    assert left == ["one-2.0", "other-1.0", "two-3.0"]


BLOCKED = """
    import importlib.abc, json, sys
    from pathlib import Path

    blocked = set(sys.argv[1].split(","))

    class Blocked(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path=None, target=None):
            if fullname.partition(".")[0] in blocked:
                raise ModuleNotFoundError(f"{fullname} is blocked", name=fullname)

    sys.meta_path.insert(0, Blocked())
    for path in sorted(Path("notebooks").glob("0[1-5]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                exec("\\n".join(line for line in lines if line.startswith(("import ", "from "))))
    import papermill
    from lib import commands, pipeline, report
    from lib.core import schema
    print("imported")
"""


def test_the_steps_of_the_demo_import_nothing_else(wheels):
    names = {*wheels.UNUSED, "sqlalchemy", "alembic", "grpc", "torch"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKED), ",".join(names)],
        cwd=params.ROOT,
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "imported\n", done.stderr[-2000:]


# The installation


def put_wheel(folder, version):
    """Write a wheel of a package with a single module and a kernel."""
    folder.mkdir(exist_ok=True)
    info = f"tiny_tool-{version}.dist-info"
    files = {
        "tiny_tool.py": f"version = {version!r}\n",
        f"tiny_tool-{version}.data/data/share/jupyter/kernels/python3/kernel.json": "{}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-tool\nVersion: {version}\n"
        "Requires-Dist: no-such\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"tiny_tool-{version}-py3-none-any.whl", "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)


def test_wheels_are_installed_once_without_an_index_and_their_kernel_comes_first(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SITE", tmp_path / "site")
    put_wheel(tmp_path / "wheels", "1.0")
    site = gpu.install(tmp_path / "wheels")
    assert "1.0" in (site / "tiny_tool.py").read_text()
    environment = gpu.base_environment(site, tmp_path)
    assert environment["PYTHONPATH"].split(os.pathsep)[:2] == [str(site), str(params.ROOT)]
    assert (site / "share/jupyter/kernels/python3/kernel.json").is_file()
    assert environment["JUPYTER_PATH"] == str(site / "share/jupyter")
    (site / "tiny_tool.py").write_text("untouched")
    gpu.install(tmp_path / "wheels")
    assert (site / "tiny_tool.py").read_text() == "untouched"
    (tmp_path / "wheels/tiny_tool-1.0-py3-none-any.whl").unlink()
    put_wheel(tmp_path / "wheels", "2.0")
    gpu.install(tmp_path / "wheels")
    assert "2.0" in (site / "tiny_tool.py").read_text()


def test_a_folder_without_wheels_is_an_error(gpu, tmp_path):
    with pytest.raises(SystemExit, match="WHEELS: expected a folder that `make gpu-wheels` filled"):
        gpu.install(tmp_path / "absent")


@pytest.mark.parametrize(
    ("chosen", "installed", "backend"),
    [(None, True, "tensorflow"), (None, False, "jax"), ("torch", True, "torch"), ("jax", True, "jax")],
)
def test_the_backend_is_jax_if_there_is_no_tensorflow(gpu, tmp_path, monkeypatch, chosen, installed, backend):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if chosen:
        monkeypatch.setenv("KERAS_BACKEND", chosen)
    monkeypatch.setenv("CHRYSALIS_ARCHIVE", "my.zip")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object() if installed else None)
    environment = gpu.base_environment(None, tmp_path)
    assert environment["KERAS_BACKEND"] == backend
    # The demo has no archive.
    assert "CHRYSALIS_ARCHIVE" not in environment and environment["CHRYSALIS_OUTPUTS"] == str(tmp_path)


# Time limits and exit codes, with a stand-in for the parts

STAND_IN = """
    import json, sys, time

    part, setting, path = sys.argv[1:]
    gpus = {gpus}

    def add(measure, value, ok=True):
        with open(path, "a") as file:
            file.write(json.dumps(dict(measure=measure, value=value, text=str(value), ok=ok)) + "\\n")

    if part == "machine":
        add("jax", "1.2.3")
        add("CPU cores", 3)
        add("GPUs", gpus)
    else:
        add("setting", setting)
        {action}
"""
ACTIONS = {
    "works": ("pass", 0, "| quick | setting | small |"),
    "is wrong": ("add('difference', 0.5, ok=False)", 1, "| quick | difference | 0.5 (wrong) |"),
    "fails": ("sys.exit('no cuDNN')", 1, "| quick | failed | exit code 1: no cuDNN (wrong) |"),
    "is slow": ("time.sleep(60)", 0, "| quick | time limit | stopped after 8 s |"),
}


def check(gpu, tmp_path, monkeypatch, *, action, gpus=()):
    script = tmp_path / "parts.py"
    script.write_text(textwrap.dedent(STAND_IN).format(gpus=list(gpus), action=action))
    monkeypatch.setattr(gpu, "PARTS", script)
    for limits in ("LIMITS", "SMALL_LIMITS"):
        monkeypatch.setattr(gpu, limits, {"machine": 60, "quick": 8, "last": 60})
    monkeypatch.setenv("OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.delenv("WHEELS", raising=False)
    return gpu.main()


@pytest.mark.parametrize("case", ACTIONS)
def test_only_a_failure_and_a_wrong_number_are_errors(gpu, tmp_path, monkeypatch, capsys, case):
    action, code, row = ACTIONS[case]
    first_part = f"if part == 'quick': {action}"
    assert check(gpu, tmp_path, monkeypatch, action=first_part) == code
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("No GPU: ")
    end = printed[len(printed) - printed[::-1].index("| part | measure | result |") - 1 :]
    # The results before the end of a part are kept, and the parts after it run.
    assert {row, "| quick | setting | small |", "| last | setting | small |"} <= set(end)
    # If a part exceeds its time limit, the table so far is printed at once.
    assert printed.count("| part | measure | result |") == (2 if case == "is slow" else 1)
    folder = tmp_path / "outputs/gpu_check"
    assert row in (folder / "gpu_check.md").read_text()
    assert "3 CPU cores; jax 1.2.3." in (folder / "gpu_check.md").read_text()
    record = json.loads((folder / "gpu_check.json").read_text())
    assert record["setting"] == "small" and {row["part"] for row in record["results"]} == {"quick", "last"}


def test_a_gpu_has_the_full_setting_and_its_name_in_the_first_line(gpu, tmp_path, monkeypatch, capsys):
    assert check(gpu, tmp_path, monkeypatch, action="pass", gpus=["Some GPU"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "['Some GPU']; the full setting" and "| quick | setting | full |" in printed


def test_a_machine_without_a_backend_is_an_error(gpu, tmp_path, monkeypatch, capsys):
    script = tmp_path / "parts.py"
    script.write_text("import sys; sys.exit('no backend')")
    monkeypatch.setattr(gpu, "PARTS", script)
    monkeypatch.setenv("OUTPUTS", str(tmp_path))
    assert gpu.main() == 1
    assert "exit code 1: no backend" in capsys.readouterr().out


# The parts


def test_every_recipe_and_the_demo_have_both_settings(parts):
    for name in parts.RECIPES:
        full, small = parts.recipe_settings(name, False), parts.recipe_settings(name, True)
        recipe = params.load(name)
        assert full.model.weights is None and full.model.image_size == recipe.model.image_size
        assert full.train == recipe.train and full.augment == recipe.augment == small.augment
        assert small.model.image_size < full.model.image_size
        assert small.train.stages == full.train.stages
    assert parts.demo_settings(False) == params.load("demo", {"run": "demo"})
    assert parts.demo_settings(True).model.image_size < parts.demo_settings(False).model.image_size


def test_every_part_has_a_time_limit(gpu, parts):
    assert list(parts.PARTS) == [*gpu.LIMITS, "reference"] and list(gpu.SMALL_LIMITS) == list(gpu.LIMITS)
    assert float(gpu.FRACTION) == parts.FRACTION


def test_a_recipe_has_its_photos_per_second(parts, tmp_path, monkeypatch):
    builders = module_of_train("builders", monkeypatch)
    from lib.networks import backbones

    entry = backbones.Backbone(builders.Tiny, backbones.SIGNED)
    monkeypatch.setitem(backbones.REGISTRY, "Tiny", entry)
    monkeypatch.setattr(parts, "recipe_settings", lambda name, small: builders.make_settings())
    monkeypatch.setitem(parts.RECIPES, "tiny", 3)
    results = parts.Results(tmp_path / "tiny.jsonl")
    parts.recipe("tiny", results, True)
    rows = {row["measure"]: row for row in map(json.loads, results.path.read_text().splitlines())}
    assert all(row["ok"] for row in rows.values())
    assert rows["setting"]["text"].startswith(
        "Tiny, stage fine_tune (last 2 layers), 32 pixels, batches of 8;"
    )
    rates = [row["value"] for name, row in rows.items() if name.startswith("photos/s")]
    assert len(rates) == 3 and min(rates) > 0
    assert any(name.startswith("peak memory of the ") for name in rows)


def module_of_train(name, monkeypatch):
    monkeypatch.syspath_prepend(str(params.ROOT / "tests/train"))
    return importlib.import_module(name)
