"""Download a folder of Google Drive."""

import functools
import inspect
import re
from pathlib import Path

from lib.core import files, schema
from lib.download import transfer


def folder_id(text: str) -> str:
    """Return the ID of a Google Drive folder.

    Args:
        text: the ID, or a link to the folder.

    Raises:
        ValueError: if the text is neither.
    """
    match = re.search(r"(?:folders/|[?&]id=)([\w-]+)", text) or re.fullmatch(r"([\w-]+)", text)
    if not match:
        raise ValueError(f"source.drive: expected the link or ID of a Google Drive folder. Received: {text}")
    return match[1]


def download(source: schema.Drive, folder: Path) -> Path:
    """Download a folder of Google Drive.

    Args:
        source: parameters of the source.
        folder: the download folder; files from an earlier attempt are kept.

    Returns:
        The folder of the files.

    Raises:
        NoSpace: if less than 1 GB is free; the size of the files is unknown.
        Unfinished: if Google Drive refused the request, or the transfer failed.
    """
    # Imported here because only this kind of source needs it.
    import gdown

    target = folder / folder_id(source.drive)
    target.mkdir(parents=True, exist_ok=True)
    files.require_space(target, transfer.UNKNOWN_SIZE, action=f"downloading {source.drive}")
    call = gdown.download_folder
    # Older releases, such as that of Colab, do not have the argument `timeout`.
    if "timeout" in inspect.signature(call).parameters:
        call = functools.partial(call, timeout=transfer.TIMEOUT, retries=transfer.RETRIES)
    try:
        paths = call(id=target.name, output=str(target), quiet=True, use_cookies=False, resume=True)
    # The errors of gdown have no common base class, and requests and the HTML parser raise other errors.
    except Exception as error:
        reason = " ".join(str(error).replace(str(target), "").split())[:300] or type(error).__name__
        # The errors of requests contain the address and the name of an object.
        if isinstance(error, OSError) and "Connection" in f"{type(error).__name__}{error}":
            reason = "no connection to Google Drive"
        raise _refusal(source, reason) from None
    if not paths:
        raise _refusal(source, "no files")
    return target


def _refusal(source: schema.Drive, reason: str) -> transfer.Unfinished:
    return transfer.Unfinished(
        f"Google Drive folder {source.drive}: expected a download. Received: {reason}. "
        "There are two ways to continue: (1) share the folder as 'anyone with the link'; "
        "(2) download it in a browser, which gives a zip, and run "
        f"`make {source.name or '<name>'} ARCHIVE=path`"
    )
