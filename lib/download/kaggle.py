"""Download from Kaggle with its own client."""

import contextlib
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

from lib.core import files, schema
from lib.download import transfer

CLIENT_TIMEOUT = 24 * 3600  # seconds for a data set; the client's own calls have no limit


# The command `kaggle`, wherever its script lies. The client goes by the program's name to decide whether it may
# ask without a key; -P keeps a folder called kaggle in the current folder out of the way.
KAGGLE = [
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'kaggle'; from kaggle.cli import main; main()",
]


def download(source: schema.Source, place: Path) -> tuple[Path, str | None]:
    """Run Kaggle's client; return the archive and the licence that it names."""
    what = "datasets" if source.dataset else "competitions"
    name = source.dataset or source.competition
    # a folder for this name alone: the client takes any complete file of the same last part for it
    folder = place / re.sub(r"\W+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    size = _size(source.dataset)
    files.require_space(
        folder, transfer.UNPACKED * size if size else transfer.UNKNOWN_SIZE, what=f"downloading {name}"
    )
    try:
        result = _client(what, "download", name, "-p", str(folder), "-q", timeout=CLIENT_TIMEOUT)
        failed, reason = result.returncode != 0, _reason(result.stdout, result.stderr, folder=folder)
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no end after {CLIENT_TIMEOUT // 3600} hours"
    # the client names an archive that is only begun as a complete one, with a marker beside it
    complete = [
        path for path in folder.iterdir() if not path.with_name(path.name + ".kaggle-partial").exists()
    ]
    if failed or len(complete) != 1:
        raise transfer.Unfinished(_help(source, reason if failed else "no archive"))
    licence = re.search(r"^License\(s\): ((?!Error).+)$", result.stdout, re.MULTILINE)
    return complete[0], licence and licence[1].strip()


def _client(*arguments: str, timeout: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*KAGGLE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def _size(dataset: str | None) -> int | None:
    """Return the bytes of a data set as Kaggle's list says them; None where it does not: without a key, for a competition."""
    if dataset is None:
        return None
    owner_and_name = "/".join(dataset.split("/")[:2])
    try:
        listed = _client(
            "datasets", "list", "-s", owner_and_name.split("/")[1], "-v", timeout=transfer.TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return None
    for row in csv.reader(listed.stdout.splitlines()):
        sizes = [cell for cell in row if cell.isdecimal()]
        if row[:1] == [owner_and_name] and sizes:
            return int(sizes[0])
    return None


def _help(source: schema.Source, reason: str) -> str:
    what = f"data set {source.dataset}" if source.dataset else f"competition {source.competition}"
    rules = f" In both cases accept the rules first, at kaggle.com/c/{source.competition}/rules."
    return (
        f"Kaggle {what}: expected a download. Received: {reason}. Two ways on: (1) a Kaggle key: create an API token at "
        "kaggle.com/settings and put it into ~/.kaggle/kaggle.json or the environment variable KAGGLE_API_TOKEN; "
        f"(2) download the zip in a browser and run `make {source.name or '<name>'} ARCHIVE=path`.{'' if source.dataset else rules}"
    )


def _reason(stdout: str, stderr: str, *, folder: Path) -> str:
    """Say in one line why the client failed, without keys or paths."""
    said = f"{stdout}\n{stderr}"
    if re.search(r"Failed to resolve|Max retries exceeded|ConnectionError", said):
        return "no connection to Kaggle"
    if refused := re.search(r"\b([45]\d\d) (?:Client|Server) Error: (.*?) for url", said):
        return f"{refused[1]} {refused[2]}"
    if "Authentication required" in said:
        return "401, Kaggle asks for a key or does not accept the one it got"
    lines = [line for line in stderr.splitlines() if line.strip()]
    line = lines[-1] if lines else "no explanation"
    return _without_secrets(line.replace(str(folder), folder.name).replace(str(Path.home()), "~"))[:300]


def _without_secrets(text: str) -> str:
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    home, given = Path.home(), os.environ.get("KAGGLE_CONFIG_DIR", "")
    places = (home / ".kaggle", home / ".config/kaggle", Path(given))
    names = ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    secrets = {token, os.environ.get("KAGGLE_KEY", "")} - {""}
    # the token may be the path of a file that holds it
    for path in (Path(token), *(place / name for place in places for name in names)):
        with contextlib.suppress(OSError):
            secrets.update(re.findall(r'[^\s"{}:,]{8,}', path.read_text(errors="replace")))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
