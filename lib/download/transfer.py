"""Download a file over HTTP, and resume interrupted downloads."""

import re
import time
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

import requests

from lib.core import files, privacy, progress

RETRIES = 5
# Seconds before the first retry; they double with each retry.
BACKOFF = 2.0
# Maximum time between two bytes, in seconds.
TIMEOUT = 60
# Size of a chunk in bytes, which an interruption can lose.
CHUNK = 2**16
TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
# Disk space for an archive of photos and its content, with a margin, as a multiple of the archive's size.
UNPACKED = 2.2
# Disk space that must be free if the size is unknown, in bytes.
UNKNOWN_SIZE = 10**9


class Unfinished(ValueError):
    """Raised if a transfer failed. The received part is kept, and the next attempt resumes it."""


def is_url(text: str | None) -> TypeGuard[str]:
    """Return whether a text is an http or https URL."""
    return text is not None and text.startswith(("http://", "https://"))


def download(url: str, *, sha256: str, folder: Path) -> Path:
    """Download a file; resume the download if an earlier attempt was interrupted.

    Args:
        url: an http or https URL.
        sha256: expected SHA-256 of the file. It identifies the download to resume and is not verified here.
        folder: the download folder.

    Returns:
        The path of the file.

    Raises:
        NoSpace: if the disk is too full.
        Unfinished: if the server refused the request, or the transfer failed.
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
                    f"Received: {status or type(error).__name__}. Run it again to resume the download, "
                    "or download the file in a browser and give ARCHIVE=path"
                ) from None
            time.sleep(BACKOFF * 2**attempt)
    return part.rename(target)


def _transfer(url: str, part: Path) -> None:
    """Append the missing bytes to the part of a file, or replace it if the server does not support ranges."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if start and response.status_code == 416:
            # The part is complete, or belongs to another file, which the caller detects by its hash.
            return
        response.raise_for_status()
        start = start if response.status_code == 206 else 0
        size = start + int(response.headers.get("Content-Length", 0))
        files.require_space(
            part.parent, UNPACKED * size - start, action=f"downloading {privacy.without_secrets(url)}"
        )
        with (
            part.open("ab" if start else "wb") as file,
            progress.Bar(size or None, "download", in_bytes=True) as bar,
        ):
            bar.step(start)
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.step(len(chunk))
