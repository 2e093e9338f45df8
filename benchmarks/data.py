"""Find the archives of photos that the benchmarks read; see docs/datasets.md."""

import os
import sys
from pathlib import Path


def archive(folder: Path | None, name: str) -> Path:
    """Return the path of an archive; exit with a message if it does not exist.

    Args:
        folder: the folder of the archives; if `None`, the environment variable `DATA`.
        name: the name of the file, such as `flowers.zip`.
    """
    data = folder or os.environ.get("DATA")
    if not data or not Path(data, name).is_file():
        sys.exit(f"expected {name} in DATA=folder, see docs/datasets.md. Received: {data or 'no folder'}")
    return Path(data, name)
