"""The cache: keys change with the parameters and the code, and damaged files are computed again."""

import hashlib
import pkgutil
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import lib
from lib.core import cache, files

# Every other module of lib can decide a cached result.
EXCLUDED_MODULES = {
    "lib.__main__",
    "lib.commands",
    "lib.core.cache",
    "lib.core.files",
    "lib.core.hashes",
    "lib.core.locks",
    "lib.core.params",
    "lib.core.prefetch",
    "lib.core.progress",
    "lib.core.schema",
    "lib.core.steps",
    "lib.core.tables",
    "lib.pipeline",
    "lib.report",
}


def test_fingerprint_changes_with_every_part():
    values = [
        (),
        (1,),
        ("1",),
        (1, 2),
        (2, 1),
        ([1, 2],),
        ({"a": 1},),
        ({"a": 2},),
        ({"b": 1},),
        (None,),
        ("",),
        (0.1,),
        (True,),
        (Path("a"),),
        ("é",),
    ]
    fingerprints = [cache.fingerprint(*value) for value in values]
    assert len(set(fingerprints)) == len(values)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in fingerprints)


def test_fingerprint_ignores_the_order_of_keys_and_stays_the_same_forever():
    assert cache.fingerprint({"a": 1, "b": 2}) == cache.fingerprint({"b": 2, "a": 1})
    assert cache.fingerprint("a") == hashlib.sha256(b'["a"]').hexdigest()[:16]


# Keys of code

MODULE = '''"""A docstring."""

LIMIT = 2


class Options:
    """Options."""

    side: int = 3


def check(x: int) -> int:
    """Check x."""
    if x > LIMIT:
        raise ValueError(f"expected at most {LIMIT}. Received: {x}")
    return x + 1
'''
UNCHANGED = {
    "docstring of the module": ('"""A docstring."""', '"""Another one.\n\nIt is longer.\n"""'),
    "docstring of a function": ('    """Check x."""\n', ""),
    "docstring of a class": ('"""Options."""', '"""What can be chosen."""'),
    "comment": ("LIMIT = 2\n", "# Über\nLIMIT = 2  # two\n"),
    "layout": ("x + 1", "(x  +\n        1)"),
    "annotation": ("(x: int) -> int", "(x)"),
    "message of an error": ('"expected at most', '"at most'),
}
CHANGED = {
    "constant": ("LIMIT = 2", "LIMIT = 3"),
    "name of an argument": ("check(x: int)", "check(y: int)"),
    "expression": ("x + 1", "1 + x"),
    "field of a class": ("side: int = 3", "side: float = 3"),
    "type of an error": ("ValueError", "TypeError"),
    "name of a function": ("def check", "def verify"),
}


def code_of(folder, text):
    cache._parse.cache_clear()
    (folder / "module.py").write_text(text, encoding="utf-8")
    return cache.code_of_files([folder / "module.py"])


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_is_not_executed_changes_no_key(tmp_path, case):
    assert UNCHANGED[case][0] in MODULE
    assert code_of(tmp_path, MODULE) == code_of(tmp_path, MODULE.replace(*UNCHANGED[case]))


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_executed_changes_the_key(tmp_path, case):
    assert CHANGED[case][0] in MODULE
    assert code_of(tmp_path, MODULE) != code_of(tmp_path, MODULE.replace(*CHANGED[case]))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of lib whose files a test may change."""
    shutil.copytree(cache.PACKAGE, tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    monkeypatch.setattr(cache, "PACKAGE", tmp_path / "lib")
    cache._parse.cache_clear()
    yield tmp_path / "lib"
    cache._parse.cache_clear()


def changes(package, file, *modules):
    """Return for each module whether its key changes with a constant of a file."""
    before = [cache.code(module) for module in modules]
    with (package / file).open("a", encoding="utf-8") as opened:
        opened.write("\nANOTHER = 1\n")
    cache._parse.cache_clear()
    return [cache.code(module) != known for module, known in zip(modules, before, strict=True)]


MODULES = ("lib.photos.decoding", "lib.clean.embeddings", "lib.train.training", "lib.evaluate.inference")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("photos/quality.py", [True, True, True, True]),
        # Imported by way of efficientnet_lite and backbones.
        ("networks/checkpoints.py", [False, True, True, True]),
        ("train/augmentation.py", [False, False, True, False]),
        ("core/metrics.py", [False, False, False, True]),
        # Imported, but it decides no result.
        ("core/schema.py", [False, False, False, False]),
        ("evaluate/wordnet.py", [False, False, False, False]),
    ],
)
def test_a_key_changes_with_all_code_that_decides_the_result(package, file, expected):
    assert changes(package, file, *MODULES) == expected


def test_imports_in_every_form_are_found(package):
    (package / "new").mkdir()
    (package / "new/first.py").write_text("import lib.new.second\n")
    (package / "new/second.py").write_text("def f():\n    from lib.new.third import g\n    return g()\n")
    (package / "new/third.py").write_text(
        "from lib.new import first, fourth\nfrom lib.figures import style\n"
    )
    (package / "new/fourth.py").write_text("import numpy.lib\n")
    assert cache.closure("lib.new.first") == [
        f"lib.new.{name}" for name in ("first", "fourth", "second", "third")
    ]


def test_the_closure_of_the_embeddings():
    names = cache.closure("lib.clean.embeddings")
    assert "lib.networks.checkpoints" in names and "lib.clean.embeddings" in names


def test_a_new_module_counts_unless_somebody_lists_it():
    modules = [module.name for module in pkgutil.walk_packages(lib.__path__, "lib.")]
    excluded = {name for name in modules if cache._is_excluded(name)}
    packages = {"lib.download", "lib.figures"}
    assert {
        name for name in excluded if name.rpartition(".")[0] not in packages
    } == EXCLUDED_MODULES | packages
    # No name of the list is that of a module that is gone.
    assert {f"lib.{name}" for name in cache.EXCLUDED} <= set(modules)


def test_no_module_escapes_the_search_for_imports():
    for path in cache.PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from ." not in text, path
        # The backend of Keras is a package, not a module of the project.
        foreign = r'import_module\((ENGINE|"jax\.|"pillow_heif")'
        assert "import_module" not in re.sub(foreign, "", text), path
        # The search would miss imports in a package.
        assert path.name != "__init__.py" or "import " not in text, path


# Arrays


def test_arrays_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.zeros((2, 0), np.float16)}

    for _ in range(3):
        stored = cache.arrays(tmp_path / "deep/key.npz", compute)
        assert (
            set(stored) == {"a", "b"}
            and stored["a"].tolist() == [0, 1, 2]
            and stored["b"].dtype == np.float16
        )
    assert len(calls) == 1
    cache.arrays(tmp_path / "deep/other.npz", compute)
    assert len(calls) == 2


def test_arrays_that_could_not_be_computed_leave_nothing(tmp_path):
    def compute():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.arrays(tmp_path / "key.npz", compute)
    assert list(tmp_path.iterdir()) == []
    assert cache.arrays(tmp_path / "key.npz", lambda: {"a": np.ones(2)})["a"].tolist() == [1, 1]


def test_arrays_run_no_pickle(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    np.savez(tmp_path / "key.npz", a=np.array([Harmful()], dtype=object))
    assert cache.arrays(tmp_path / "key.npz", lambda: {"a": np.ones(1)})["a"] == 1
    assert not (tmp_path / "ran").exists()


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 0x10
    path.write_bytes(data)


DAMAGES = {
    "truncate": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "flip": flip,
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_arrays_are_computed_again(tmp_path, capsys, damage):
    values, calls = np.random.default_rng(0).normal(size=1000), []

    def compute():
        calls.append(1)
        return {"a": values}

    path = tmp_path / "key.npz"
    for count in (1, 2):
        assert (cache.arrays(path, compute)["a"] == values).all() and len(calls) == count
        DAMAGES[damage](path)
    assert (cache.load_arrays(path) is None) and not path.exists()
    line = f"{tmp_path.name}/key.npz is damaged: it is removed and computed again\n"
    assert capsys.readouterr().out == ("" if damage == "delete" else 2 * line)


def test_no_flipped_bit_of_arrays_is_used(tmp_path, monkeypatch):
    known = {"first": np.arange(4.0), "second": np.array(["a", "bc"])}
    monkeypatch.setattr(cache, "_remove_damaged", lambda path: None)
    path = tmp_path / "key.npz"
    np.savez(path, **known)
    data = path.read_bytes()
    # The first array's header and data, then the archive's directory.
    for position in [*range(60), *range(len(data) - 200, len(data))]:
        path.write_bytes(data)
        flip(path, position)
        stored = cache.load_arrays(path)
        assert stored is None or {name: values.tolist() for name, values in stored.items()} == {
            name: values.tolist() for name, values in known.items()
        }, position


def test_an_array_that_its_header_makes_smaller_is_damaged(tmp_path):
    np.savez(tmp_path / "key.npz", a=np.arange(4000.0))
    data = (tmp_path / "key.npz").read_bytes()
    assert b"(4000,)" in data
    (tmp_path / "key.npz").write_bytes(data.replace(b"(4000,)", b"(1000,)"))
    assert cache.load_arrays(tmp_path / "key.npz") is None


# Folders


def filled(path, calls):
    def compute(folder):
        calls.append(1)
        np.save(folder / "vectors.npy", np.arange(1000.0))
        (folder / "table.csv").write_text("a,b\n1,2\n")

    return cache.folder(path, compute)


def test_a_folder_is_computed_once(tmp_path, capsys):
    calls = []
    for _ in range(3):
        assert filled(tmp_path / "deep/key", calls) == tmp_path / "deep/key"
    assert len(calls) == 1 and capsys.readouterr().out == ""
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["key"]


@pytest.mark.parametrize("file", ["vectors.npy", "table.csv", "checksums.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_computed_again(tmp_path, capsys, file, damage):
    calls, path = [], tmp_path / "key"
    filled(path, calls)
    DAMAGES[damage](path / file)
    assert np.load(filled(path, calls) / "vectors.npy").sum() == np.arange(1000.0).sum()
    assert len(calls) == 2 and cache.is_intact(path)
    assert capsys.readouterr().out == f"{tmp_path.name}/key is damaged: it is removed and computed again\n"


def test_a_record_of_another_form_counts_as_damage(tmp_path):
    path = filled(tmp_path / "key", [])
    for record in ([], {"table.csv": {}}, {"table.csv": 3}):
        files.write_json(path / "checksums.json", record)
        assert not cache.is_intact(path)


def test_a_very_large_file_is_hashed_only_if_its_size_or_time_changed(tmp_path, monkeypatch):
    path, hashed = filled(tmp_path / "key", []), []
    monkeypatch.setattr(cache, "MAX_HASHED_BYTES", 1000)
    monkeypatch.setattr(files, "file_sha256", lambda file: hashed.append(file.name) or "another")
    assert not cache.is_intact(path) and hashed == ["table.csv"]
    hashed.clear()
    (path / "table.csv").unlink()
    record = files.read_json(path / "checksums.json")
    files.write_json(path / "checksums.json", {"vectors.npy": record["vectors.npy"]})
    assert cache.is_intact(path) and hashed == []
    flip(path / "vectors.npy")
    assert not cache.is_intact(path) and hashed == ["vectors.npy"]


def test_another_process_may_be_faster_with_the_same_folder(tmp_path):
    path = tmp_path / "key"

    def compute(folder):
        filled(path, [])
        (folder / "table.csv").write_text("a,b\n1,2\n")

    cache.folder(path, compute)
    assert cache.is_intact(path) and [file.name for file in tmp_path.iterdir()] == ["key"]


def test_an_array_is_written_in_parts(tmp_path, monkeypatch):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        cache.begin_array(file, values.shape, dtype=np.float32)
        file.write(values[:2].tobytes())
        file.write(values[2:].tobytes())
    assert (np.load(tmp_path / "a.npy", mmap_mode="r") == values).all()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("usage", (), {"free": 47}))
    with (
        (tmp_path / "b.npy").open("wb") as file,
        pytest.raises(files.NoSpace, match="writing b.npy: expected 48"),
    ):
        cache.begin_array(file, values.shape, dtype=np.float32)
