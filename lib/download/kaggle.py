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

# Kaggle's client runs in a separate process: its import prints, creates folders or ends the process, and its
# calls have no time limit. Without a key it sends requests only if the program is named kaggle. With -P,
# Python imports no folder named kaggle from the current folder.
KAGGLE = [
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'kaggle'; from kaggle.cli import main; main()",
]
# Time limit of a download, in seconds.
CLIENT_TIMEOUT = 24 * 3600
# Folder of the data sets that are attached to a notebook on Kaggle.
INPUT = Path("/kaggle/input")


def attached(source: schema.Kaggle) -> Path | None:
    """Return the folder of a data set or competition that is attached to this Kaggle notebook, or None."""
    owner, _, slug = "/".join(str(source.dataset).split("/")[:2]).partition("/")
    # The first has the owner too: two data sets of the same name can be attached.
    candidates = (f"datasets/{owner}/{slug}", slug)
    if source.competition:
        candidates = (f"competitions/{source.competition}", source.competition)
    return next((INPUT / name for name in candidates if (INPUT / name).is_dir()), None)


def download(source: schema.Kaggle, folder: Path) -> tuple[Path, str | None]:
    """Download the archive of a data set or competition with Kaggle's client.

    Args:
        source: parameters of the source.
        folder: the download folder; an interrupted download in it is resumed.

    Returns:
        The path of the archive; and the licence of the data set, or None if it is unknown.

    Raises:
        NoSpace: if the disk is too full.
        Unfinished: if the download was refused or failed; the message lists the ways to continue.
    """
    command = "datasets" if source.dataset else "competitions"
    name = source.dataset or str(source.competition)
    # Each data set has its own folder: the client skips a download if a file of the same name exists.
    target = folder / re.sub(r"\W+", "_", name)
    target.mkdir(parents=True, exist_ok=True)
    size = _size(source.dataset)
    needed = transfer.UNPACKED * size if size else transfer.UNKNOWN_SIZE
    files.require_space(target, needed, action=f"downloading {name}")
    try:
        result = _client(command, "download", name, "-p", str(target), "-q", timeout=CLIENT_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise transfer.Unfinished(_failure(source, f"no archive in {CLIENT_TIMEOUT // 3600} hours")) from None
    if result.returncode != 0:
        raise transfer.Unfinished(_failure(source, _reason(result.stdout, result.stderr, folder=target)))
    # The client downloads to the final name, and marks an unfinished archive with a second file.
    marker = ".kaggle-partial"
    complete = [
        path
        for path in target.iterdir()
        if path.suffix != marker and not path.with_name(path.name + marker).exists()
    ]
    if len(complete) != 1:
        raise transfer.Unfinished(_failure(source, "no archive"))
    licence = re.search(r"^License\(s\): ((?!Error).+)$", result.stdout, re.MULTILINE)
    return complete[0], licence[1].strip() if licence else None


def require_key(source: schema.Kaggle) -> None:
    """Check that there is a key if the source is a competition; public data sets need no key.

    Raises:
        ValueError: if there is no key; the message lists the ways to continue.
    """
    if source.competition and not key():
        raise ValueError(_failure(source, "no Kaggle key, which competitions require"))


def _client(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KAGGLE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def _size(dataset: str | None) -> int | None:
    """Return the size of a data set in bytes; None for a competition or if Kaggle does not list it."""
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


def _failure(source: schema.Kaggle, reason: str) -> str:
    """Return the message for a download that failed, with the ways to continue."""
    title, rules = f"data set {source.dataset}", ""
    if source.competition:
        title = f"competition {source.competition}"
        rules = f" In both cases accept the rules first, at kaggle.com/c/{source.competition}/rules."
    return (
        f"Kaggle {title}: expected a download. Received: {reason}. There are two ways to continue: "
        "(1) a Kaggle key: create an API token at kaggle.com/settings and put it into ~/.kaggle/kaggle.json "
        "or the environment variable KAGGLE_API_TOKEN; (2) download the zip in a browser and run "
        f"`make {source.name or '<name>'} ARCHIVE=path`.{rules}"
    )


def _reason(stdout: str, stderr: str, *, folder: Path) -> str:
    """Return the reason why the client failed, as a line without keys or paths."""
    output = f"{stdout}\n{stderr}"
    if re.search(r"Failed to resolve|Max retries exceeded|ConnectionError", output):
        return "no connection to Kaggle"
    if status := re.search(r"\b([45]\d\d) (?:Client|Server) Error: (.*?) for url", output):
        return f"{status[1]} {status[2]}"
    if "Authentication required" in output:
        return "401, Kaggle requires a key, or does not accept the key that it received"
    lines = [line for line in stderr.splitlines() if line.strip()]
    line = lines[-1] if lines else "no error message"
    return _without_secrets(line.replace(str(folder), folder.name).replace(str(Path.home()), "~"))[:300]


def _without_secrets(text: str) -> str:
    """Replace the keys in the environment and in the files of the client with asterisks."""
    token = os.environ.get("KAGGLE_API_TOKEN", "")
    secrets = {token, os.environ.get("KAGGLE_KEY", "")} - {""}
    # The environment variable may also be the path of a file with the token.
    for path in (Path(token), *_key_files()):
        with contextlib.suppress(OSError):
            secrets.update(re.findall(r'[^\s"{}:,]{8,}', path.read_text(errors="replace")))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def key() -> str | None:
    """Return the place of the key that the client uses, such as `KAGGLE_API_TOKEN`; None without a key."""
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "KAGGLE_API_TOKEN"
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "KAGGLE_USERNAME and KAGGLE_KEY"
    file = next((path for path in _key_files() if path.is_file()), None)
    return f"{file.parent.name}/{file.name}" if file else None


def _key_files() -> list[Path]:
    """Return the paths at which the client looks for a key."""
    # Unlike `Path.home`, this does not fail for a user without a home folder.
    names_of_folders = ("~/.kaggle", "~/.config/kaggle", os.environ.get("KAGGLE_CONFIG_DIR"))
    folders = [Path(os.path.expanduser(name)) for name in names_of_folders if name]  # noqa: PTH111
    names = ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    return [folder / name for folder in folders for name in names]
