"""Check the results of `make acceptance`, the butterfly recipe on real photos."""

import csv
import json
import sys

from lib.core import steps

MIN_TOP_1 = 0.95
UNLABELLED = 167


def main() -> int:
    """Print the results and whether they reach the targets; return the exit code."""
    folder = steps.outputs() / "acceptance"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    with (folder / "test_predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    top_1, (low, high) = metrics["top_1"], metrics["intervals"]["top_1"]
    figure = f"top-1 on test {top_1:.3f} ({low:.3f} to {high:.3f}, {metrics['n']} photos)"
    checks = {
        f"{figure}, at least {MIN_TOP_1}": top_1 >= MIN_TOP_1,
        f"{len(rows)} predictions for photos without labels, expected {UNLABELLED}": len(rows) == UNLABELLED,
    }
    for text, passed in checks.items():
        print("passed" if passed else "FAILED", text)
    print(f"\n{sum(checks.values())} passed, {len(checks) - sum(checks.values())} failed")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
