"""Download a file over HTTP, going on where an earlier try stopped."""

import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

from lib.core import files, progress

RETRIES = 5
BACKOFF = 2.0  # seconds before the first retry; doubled each time
TIMEOUT = 60  # seconds without a byte
CHUNK = 2**16  # what a cut in a download loses at most
TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
UNPACKED = 2.2  # space that an archive of photos takes in all: itself, its content and a margin
UNKNOWN_SIZE = 10**9  # bytes that must be free where nothing tells the size beforehand


class Unfinished(ValueError):
    """A transfer failed: what has arrived is kept, for the next try to go on from."""


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def download(url: str, sha256: str, place: Path) -> Path:
    """Download a file, going on where an earlier try stopped; return it, its hash still unchecked."""
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name).strip(".") or "archive"
    target = place / sha256[:16] / name  # by its hash: never the beginning of another file
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(name + ".partial")
    for attempt in range(RETRIES + 1):
        try:
            _transfer(url, part)
            break
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            if attempt == RETRIES or not (isinstance(error, TRANSIENT) or (status or 0) >= 500):
                raise Unfinished(
                    f"{without_secrets(url)}: expected a download. Received: {status or type(error).__name__}. Run it again to "
                    "go on where it stopped, or download it in a browser and give ARCHIVE=path"
                ) from None
            time.sleep(BACKOFF * 2**attempt)
    return part.rename(target)


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        if start and answer.status_code == 416:
            return  # all of it is there: the hash will tell
        answer.raise_for_status()
        start = start if answer.status_code == 206 else 0
        size = start + int(answer.headers.get("Content-Length", 0))
        files.require_space(part.parent, UNPACKED * size - start, what=f"downloading {without_secrets(url)}")
        with (
            part.open("ab" if start else "wb") as file,
            progress.Bar(size or None, "download", in_bytes=True) as bar,
        ):
            bar.step(start)
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.step(len(chunk))
