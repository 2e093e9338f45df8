"""Mutation test: change a module in small ways, and list the changes that its tests do not detect.

    python3 -m venv .venv/mutants && .venv/mutants/bin/pip install cosmic-ray
    .venv/mutants/bin/python benchmarks/mutants.py lib/clean/splits.py tests/clean/test_splits.py

Commit first: the module is changed in place, and restored after each mutant. CONTRIBUTING.md describes how
to read the result. The exit code is 1 if a mutant survived.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import use_db


def main() -> int:
    """Print the diff of each survivor, then the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description="Mutation test of one module.")
    parser.add_argument("module", type=Path, help="module of lib to change")
    parser.add_argument("tests", nargs="+", help="test files that should fail")
    parser.add_argument("--count", type=int, default=40, help="number of mutants to sample (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument("--timeout", type=float, default=180, help="seconds per mutant (default: 180)")
    parser.add_argument("--python", default=".venv/bin/python", help="Python that runs the tests")
    options = parser.parse_args()
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", options.module]).returncode:
        parser.error(f"{options.module} must be committed, since it is changed in place")
    # `-x` stops at the first failure, which is enough to detect a mutant.
    pytest = [options.python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    # Write no compiled files, which could outlive a mutant, and import `lib` from the current folder.
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(Path.cwd())}
    subprocess.run([*pytest, *options.tests], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/mutants.sqlite") as database:
        init([options.module], database, {})
        mutations = sorted((item.mutations for item in database.work_items), key=repr)
    sample = random.Random(options.seed).sample(mutations, min(options.count, len(mutations)))
    survivors = 0
    for mutation in sample:
        result = mutate_and_test(mutation, shlex.join([*pytest, *options.tests]), options.timeout)
        if not result.is_killed:
            survivors += 1
            print(f"survived: {mutation[0].operator_name}\n{result.diff}", flush=True)
    detected = len(sample) - survivors
    drawn = f"{len(sample)} of {len(mutations)} mutants with seed {options.seed}"
    print(f"{options.module}: {detected} detected of {drawn}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
