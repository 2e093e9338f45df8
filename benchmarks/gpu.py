"""Check the project on a GPU: the demo, steps of four recipes, precision, and a training out of memory.

Run by `make gpu-check`. Each part is a process of its own with a time limit (gpu_parts.py). If the backend of
Keras sees no GPU, each part runs in a smaller setting on the CPU. With WHEELS=folder, the packages that
`make gpu-wheels` downloaded are installed from that folder, beside those of this Python.

The table, gpu_check.md and gpu_check.json, is in outputs/gpu_check. The exit code is 1 if a part failed or a
value is wrong; a time limit or a low speed is no failure.
"""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SITE = ROOT / ".gpu"
PARTS = Path(__file__).with_name("gpu_parts.py")
# Seconds that each part may take in the full setting, on a GPU. Its target is 8 minutes in all.
LIMITS = {
    "machine": 60,
    "demo": 200,
    "butterfly": 60,
    "flowers": 60,
    "biology": 90,
    "imagenet100": 90,
    "agreement": 60,
    "memory": 60,
}
# A CPU is slower, and may be shared.
SMALL_LIMITS = dict.fromkeys(LIMITS, 180) | {"demo": 480}
# The part `memory` may use this fraction of a GPU's memory, which JAX must know before it is imported.
FRACTION = "0.03"
# On a CPU the compilation takes nearly all the time.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclass(frozen=True)
class Row:
    """A result of a part: the value, and the text that the table shows; a wrong value is not `ok`."""

    part: str
    measure: str
    value: Any
    text: str
    ok: bool = True


def main() -> int:
    """Run the parts, print the table, write it to files, and return the exit code."""
    outputs = os.environ.get("OUTPUTS") or os.environ.get("CHRYSALIS_OUTPUTS") or ROOT / "outputs"
    folder = Path(outputs).expanduser().resolve() / "gpu_check"
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    wheels = os.environ.get("WHEELS")
    environment = base_environment(install(Path(wheels)) if wheels else None, scratch)
    rows = run("machine", "full", environment, scratch)
    if not all(row.ok for row in rows):
        print(table(rows))
        return 1
    machine = {row.measure: row for row in rows}
    setting = "full" if machine["GPUs"].value else "small"
    print(first_line(machine["GPUs"], setting), flush=True)
    for part in list(LIMITS)[1:]:
        new = run(part, setting, environment, scratch)
        rows += new
        write(folder, rows, setting)
        stopped = any(row.measure == "time limit" for row in new)
        print(table(rows) if stopped else "\n".join(map(line, new)), flush=True)
    print(f"\n{table(rows)}")
    return 0 if all(row.ok for row in rows) else 1


def first_line(gpus: Row, setting: str) -> str:
    """Return the line that names the device and the setting."""
    if setting == "full":
        return f"{gpus.text}; the full setting"
    return f"No GPU: {gpus.text}; a smaller setting, whose numbers describe no GPU"


def install(wheels: Path) -> Path:
    """Install wheels into a folder of the project, unless they are installed, and return the folder."""
    paths = sorted(wheels.expanduser().glob("*.whl"))
    if not paths:
        sys.exit(f"WHEELS: expected a folder that `make gpu-wheels` filled. Received: no wheel in {wheels}")
    installed = "\n".join([sys.version, *(path.name for path in paths)])
    record = SITE / "wheels.txt"
    if not record.is_file() or record.read_text(encoding="utf-8") != installed:
        shutil.rmtree(SITE, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-index", "--no-deps", "--target", str(SITE), *map(str, paths)]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
        record.write_text(installed, encoding="utf-8")
    return SITE


def base_environment(site: Path | None, scratch: Path) -> dict[str, str]:
    """Return the environment variables of the parts and of their kernels.

    Args:
        site: the folder of the installed wheels, if any. Its kernel and templates come before all others.
        scratch: the folder of the runs.
    """
    # A user's own archive or weights must not reach the demo.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHRYSALIS_")}
    path = [*([str(site)] if site else []), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if site:
        environment["JUPYTER_PATH"] = str(site / "share/jupyter")
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    environment.setdefault("KERAS_BACKEND", "tensorflow" if has_tensorflow else "jax")
    return environment | {"CHRYSALIS_OUTPUTS": str(scratch)}


def part_environment(part: str, setting: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a part."""
    if setting == "small":
        flags = f"{environment.get('XLA_FLAGS', '')} {QUICK_COMPILATION}".strip()
        return {**environment, "XLA_FLAGS": flags}
    return (
        {**environment, "XLA_PYTHON_CLIENT_MEM_FRACTION": FRACTION} if part == "memory" else {**environment}
    )


def run(part: str, setting: str, environment: Mapping[str, str], scratch: Path) -> list[Row]:
    """Run a part to its end or its time limit, and return its results and the seconds that it took."""
    path, log = scratch / f"{part}.jsonl", scratch / f"{part}.log"
    limit = (LIMITS if setting == "full" else SMALL_LIMITS)[part]
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, str(PARTS), part, setting, str(path)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=part_environment(part, setting, environment),
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                # With the processes that the part started.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [Row(part, **json.loads(text)) for text in lines]
    if code is None:
        rows.append(Row(part, "time limit", limit, f"stopped after {limit} s"))
    elif code:
        rows.append(Row(part, "failed", code, f"exit code {code}: {last_line(log)}", ok=False))
    seconds = round(time.monotonic() - began, 1)
    return [*rows, Row(part, "seconds in all", seconds, f"{seconds:.0f}")]


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = [text.strip() for text in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    text = next((text for text in reversed(lines) if text), "no message")
    # A message can contain the folders of this machine.
    return re.sub(r"(/[^/\s'\"]+)+/", "", text)[:300]


def line(row: Row) -> str:
    """Return a result as a line of text."""
    return f"{row.part}: {row.measure}: {row.text}{'' if row.ok else ' (wrong)'}"


def table(rows: Iterable[Row]) -> str:
    """Return the table of some results, in Markdown."""
    cells = [(row.part, row.measure, row.text + ("" if row.ok else " (wrong)")) for row in rows]
    lines = [f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in cells]
    return "\n".join(["| part | measure | result |", "| --- | --- | --- |", *lines])


def write(folder: Path, rows: list[Row], setting: str) -> None:
    """Write the results as a page and as JSON."""
    machine = {row.measure: row.value for row in rows if row.part == "machine"}
    gpus = next(row.text for row in rows if row.measure == "GPUs")
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if isinstance(value, str))
    title = f"`make gpu-check`, {datetime.now(UTC):%Y-%m-%d}. {first_line(Row('', '', None, gpus), setting)}."
    text = f"{title} {machine['CPU cores']} CPU cores; {versions}.\n\n"
    results = [row for row in rows if row.part != "machine"]
    (folder / "gpu_check.md").write_text(text + table(results) + "\n", encoding="utf-8")
    record = {"setting": setting, "machine": machine, "results": [dataclasses.asdict(row) for row in results]}
    (folder / "gpu_check.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # An exception, so that the part that runs is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
