"""The packages of lib: a map that matches the folders, and imports that point in one direction."""

import ast
import re
from pathlib import Path

import lib
from lib.core import params

LIB = params.ROOT / "lib"
MODULES = {path.relative_to(LIB).with_suffix("") for path in LIB.rglob("*.py") if path.name != "__init__.py"}


def imported(path: Path) -> set[Path]:
    """Return the modules of lib that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lib":
            folder = Path(*node.module.split(".")[1:])
            modules |= {folder / name.name for name in node.names} | {folder}
        elif isinstance(node, ast.Import):
            modules |= {
                Path(*name.name.split(".")[1:]) for name in node.names if name.name.split(".")[0] == "lib"
            }
    return modules & MODULES


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of a cycle of a graph, or an empty list."""
    done: set[str] = set()

    def visit(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if loop := visit(other, [*path, node]):
                return loop
        done.add(node)
        return []

    return next((loop for node in graph if (loop := visit(node, []))), [])


def graph_of(level: int) -> dict[str, set[str]]:
    """Return the imports of each package (level 1) or module (level 2)."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        own = "/".join(module.parts[:level])
        others = {"/".join(other.parts[:level]) for other in imported(LIB / module.with_suffix(".py"))}
        graph.setdefault(own, set()).update(others - {own})
    return graph


def test_cycle_finds_a_loop():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_package_and_no_module_imports_itself_through_others():
    assert cycle(graph_of(1)) == []
    assert cycle(graph_of(2)) == []


def test_imports_go_down_the_map():
    names = listed()
    for name, others in graph_of(1).items():
        below = names[names.index(name) + 1 :]
        assert others <= set(below), (name, sorted(others - set(below)))


def listed() -> list[str]:
    """Return the names in the map of `lib/__init__.py`, from top to bottom."""
    return [name.strip("/") for name in re.findall(r"^    (\S+) {2,}\S", lib.__doc__, re.MULTILINE)]


def test_the_map_lists_every_package_and_module_on_top():
    assert sorted(listed()) == sorted({module.parts[0] for module in MODULES})


def test_every_package_has_two_modules_or_more():
    packages = [path for path in LIB.iterdir() if path.is_dir() and path.name != "__pycache__"]
    for package in packages:
        assert len(list(package.glob("*.py"))) > 2, package.name


def test_the_tests_mirror_the_packages():
    tests = params.ROOT / "tests"
    tested = {Path(path.parent.name, path.stem.removeprefix("test_")) for path in tests.glob("*/test_*.py")}
    # Data sets as people have them, for several modules at once.
    tested = {module for module in tested if module.parts[0] != "cases"}
    assert tested == {module for module in MODULES if len(module.parts) > 1}


def test_no_import_needs_an_alias():
    for module in MODULES:
        for node in ast.walk(ast.parse((LIB / module.with_suffix(".py")).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib"):
                assert not any(name.asname for name in node.names), (str(module), ast.unparse(node))
