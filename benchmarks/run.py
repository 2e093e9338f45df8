"""Run the benchmarks, keep their results in `outputs/bench/bench.json`, and write docs/benchmarks.md.

    make bench DATA=folder WEIGHTS=file [ITEM=name] [QUICK=1]

An item is a module of this folder with a function `measure(data, weights)`, which returns rows of results by
name: the results of `measuring.row`, numbers, texts, lists of numbers by round, or a dictionary of those.
Without ITEM, an item that was measured with the same code, data and machine is not run again. QUICK runs
the items whose `measure` has an argument `quick`. The exit code is 1 if a result is wrong; without QUICK,
also if a target is missed.
"""

import difflib
import importlib
import inspect
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import measuring
import numpy as np

from lib.core import cache, engine, files, hashes, params, steps

FOLDER = Path(__file__).parent
PAGE = params.ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- written by make bench -->", "<!-- end of make bench -->"
PACKAGES = {"tensorflow": "TensorFlow", "jax": "JAX", "keras": "Keras", "numpy": "NumPy"}


def items() -> list[str]:
    """Return the names of the modules with a function `measure`."""
    return sorted(
        path.stem for path in FOLDER.glob("*.py") if re.search(r"^def measure\(", path.read_text(), re.M)
    )


def main() -> int:
    """Run one item or all of them, and return the exit code."""
    data, weights = (Path(os.environ[name]) if os.environ.get(name) else None for name in ("DATA", "WEIGHTS"))
    item, quick = os.environ.get("ITEM"), os.environ.get("QUICK", "") not in ("", "0")
    if item:
        if item not in items():
            near = difflib.get_close_matches(item, items(), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            sys.exit(f"ITEM: expected {', '.join(items())}. Received: {item!r}.{hint}")
        return run(item, data, weights, quick=quick)
    failed = []
    for name in items():
        if load(quick).get(name, {}).get("key") == key(name, data, weights):
            print(
                f"{name}: measured before with this code and data; ITEM={name} measures it again", flush=True
            )
        # Each in a process of its own, as each chooses its backend and the number of its cores.
        elif subprocess.run([sys.executable, __file__], env=os.environ | {"ITEM": name}).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def run(item: str, data: Path | None, weights: Path | None, *, quick: bool) -> int:
    """Run an item, print and keep its rows, and return the exit code."""
    began, load_average = time.monotonic(), os.getloadavg()[0]
    print(f"{item}:", flush=True)
    measure = importlib.import_module(item).measure
    has_quick = "quick" in inspect.signature(measure).parameters
    try:
        if quick and not has_quick:
            raise measuring.Skipped("it takes long")
        rows = plain(measure(data, weights, **({"quick": quick} if has_quick else {})))
    except measuring.Skipped as reason:
        print(f"  skipped: {reason}", flush=True)
        return 0
    except measuring.WrongResult as error:
        print(f"  wrong result: {error}", flush=True)
        return 1
    record = {
        "key": key(item, data, weights),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "load": round(load_average, 1),
        "machine": machine(),
        "rows": rows,
    }
    for name, text, expected in lines(rows):
        print(f"  {name}: {text}{f' (expected: {expected})' if expected else ''}", flush=True)
    print(f"  {record['seconds']} s", flush=True)
    path, results = results_path(quick), load(quick)
    files.write_json(path, results | {item: record})
    if quick:
        return 0
    write_page(load(quick))
    return 0 if all(reached(rows)) else 1


def key(item: str, data: Path | None, weights: Path | None) -> str:
    """Return a fingerprint of everything that a result depends on: code, data, backend and machine."""
    lib = sorted((params.ROOT / "lib").rglob("*.py"))
    code = [*lib, FOLDER / "measuring.py", FOLDER / f"{item}.py"]
    names = [path.name for path in data.glob("*.zip")] if data else []
    table = steps.outputs() / "bench" / hashes.TABLE
    read = hashes.of_files(data, sorted(names), table=table) if data else {}
    used = hashes.of_folder(weights, [], tables=table.parent) if weights else None
    return cache.fingerprint(cache.code_of_files(code), read, used, engine.name(), machine())


def results_path(quick: bool) -> Path:
    """Return the file of the results; quick ones are kept apart."""
    return steps.outputs() / "bench" / ("bench_quick.json" if quick else "bench.json")


def load(quick: bool) -> dict[str, Any]:
    """Return the results of earlier runs by item."""
    try:
        return files.read_json(results_path(quick))
    except (FileNotFoundError, ValueError):
        return {}


def machine() -> str:
    """Describe the processor, memory and versions of this machine, without its name."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    try:
        models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    versions = [f"{title} {version(name)}" for name, title in PACKAGES.items() if version(name)]
    return (
        f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{gigabytes:.0f} GB of memory, {platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(versions)}"
    )


def version(package: str) -> str | None:
    """Return the version of a package; `None` if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """Convert rows to types of JSON; values by round become a row."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return measuring.row([float(number) for number in value])
    return value.item() if isinstance(value, np.generic) else value


def lines(rows: dict[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return name, value and target of each row as text."""
    result = []
    for name, value in rows.items():
        if isinstance(value, dict) and "median" in value:
            median, least, most = (number(value[part]) for part in ("median", "least", "most"))
            unit = f" {value['unit']}" if value.get("unit") else ""
            spread = f" ({least} to {most})" if least != most else ""
            missed = "" if value.get("reached", True) else ": missed"
            result.append((prefix + name, f"{median}{unit}{spread}", f"{value.get('expected', '')}{missed}"))
        elif isinstance(value, dict):
            result += lines(value, f"{prefix}{name}, ")
        else:
            result.append((prefix + name, number(value) if isinstance(value, float) else str(value), ""))
    return result


def number(value: float) -> str:
    """Format a number with three significant digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def reached(rows: dict[str, Any]) -> list[bool]:
    """Return for each target whether it was reached."""
    result = []
    for value in rows.values():
        if isinstance(value, dict):
            result += [value["reached"]] if "reached" in value else reached(value)
    return result


def write_page(results: dict[str, Any]) -> None:
    """Write the tables of all results between the markers of docs/benchmarks.md."""
    parts = []
    for description in dict.fromkeys(record["machine"] for record in results.values()):
        parts += [f"{description}:", "", "| | | median (range) | expected |", "| --- | --- | --- | --- |"]
        for item, record in sorted(results.items()):
            if record["machine"] == description:
                title = f"`{item}`, load {record['load']}"
                for name, text, expected in lines(record["rows"]):
                    parts.append(f"| {title} | {name} | {text} | {expected} |")
                    title = ""
        parts.append("")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join([before + BEGIN, "", *parts, END]) + after
    files.write(PAGE, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
