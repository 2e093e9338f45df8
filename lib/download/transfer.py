"""Download a file over HTTP, from the point at which an earlier attempt stopped."""

import re
import time
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

import requests

from lib.core import files, privacy, progress

RETRIES = 5
# Seconds before the first retry; doubled each time.
BACKOFF = 2.0
# Seconds without a byte.
TIMEOUT = 60
# Bytes that an interrupted download loses at most.
CHUNK = 2**16
TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
# Space for an archive of photos, its content and a margin, as a multiple of the archive's size.
UNPACKED = 2.2
# Bytes that must be free if the size is not known before.
UNKNOWN_SIZE = 10**9


class Unfinished(ValueError):
    """A transfer failed; the part that has arrived is kept, and the next attempt continues it."""


def is_url(text: str | None) -> TypeGuard[str]:
    """Return whether a text is an http or https URL."""
    return text is not None and text.startswith(("http://", "https://"))


def download(url: str, *, sha256: str, folder: Path) -> Path:
    """Download a file, from the point at which an earlier attempt stopped.

    Args:
        url: an http or https URL.
        sha256: the hash that the file should have, by which the parts of different files are kept apart.
        folder: the folder for the file and its part.

    Returns:
        The path of the file; its hash is not checked.

    Raises:
        NoSpace: the disk is too full.
        Unfinished: the server refused, or the transfer failed; the part is kept.
    """
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name).strip(".") or "archive"
    target = folder / sha256[:16] / name
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
                    f"{privacy.without_secrets(url)}: expected a download. "
                    f"Received: {status or type(error).__name__}. Run it again to go on where it stopped, "
                    "or download it in a browser and give ARCHIVE=path"
                ) from None
            time.sleep(BACKOFF * 2**attempt)
    return part.rename(target)


def _transfer(url: str, part: Path) -> None:
    """Append the missing bytes to the part of a file; write all of it if the server knows no ranges."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        if start and answer.status_code == 416:
            # The part is complete, or is another file, which its hash will show.
            return
        answer.raise_for_status()
        start = start if answer.status_code == 206 else 0
        size = start + int(answer.headers.get("Content-Length", 0))
        files.require_space(
            part.parent, UNPACKED * size - start, action=f"downloading {privacy.without_secrets(url)}"
        )
        with (
            part.open("ab" if start else "wb") as file,
            progress.Bar(size or None, "download", in_bytes=True) as bar,
        ):
            bar.step(start)
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.step(len(chunk))
