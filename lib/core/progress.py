"""Show how far a long computation is: one bar in a terminal, one cell output in a notebook, nothing in a log."""

import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

SECONDS_BETWEEN_UPDATES = 0.5
WIDTH = 24
_open = []


class Bar:
    """A bar with finished lines above it, redrawn in place.

    In a notebook it is one display that is updated, so that the saved notebook holds its last state.
    A headless run has no terminal of its own: the runner names its own in `CHRYSALIS_TERMINAL`.
    Elsewhere it is silent, and so is a bar inside another one, as each training of a search has it.

    Args:
        total: number of steps.
        title: what is being done.
    """

    def __init__(self, total: int, title: str):
        self.total, self.title, self.done, self.lines, self.drawn = total, title, 0, [], 0.0
        self.note = ""
        self.inner = bool(_open)
        self.terminal = None if self.inner else _terminal()
        self.tqdm = tqdm(total=total, desc=title, file=self.terminal, leave=False) if self.terminal else None
        self.display = None if self.inner else _display(self._text())

    def __enter__(self) -> "Bar":
        _open.append(self)
        return self

    def __exit__(self, *_) -> None:
        """Remove the bar and leave the lines."""
        _open.remove(self)
        if self.tqdm is not None:
            self.tqdm.close()
            self.terminal.close()
        self._draw(final=True)

    def step(self, count: int = 1, note: str = "") -> None:
        """Say that so many more steps are done, and with a note what is at work."""
        self.done += count
        self.note = note
        if self.tqdm is not None:
            self.tqdm.set_postfix_str(note, refresh=not count)
            self.tqdm.update(count)
        if time.monotonic() - self.drawn > SECONDS_BETWEEN_UPDATES:
            self._draw()

    def line(self, text: str) -> None:
        """Add a line that stays."""
        self.lines.append(text)
        self._draw()

    def _text(self, final=False) -> str:
        filled = round(WIDTH * self.done / max(1, self.total))
        bar = (
            []
            if final
            else [
                f"{self.title} [{'#' * filled}{'.' * (WIDTH - filled)}] {self.done}/{self.total} {self.note}".rstrip()
            ]
        )
        return "\n".join([*self.lines, *bar])

    def _draw(self, final=False) -> None:
        self.drawn = time.monotonic()
        if self.display is not None:
            self.display.update({"text/plain": self._text(final)}, raw=True)


def _terminal():
    path = os.environ.get("CHRYSALIS_TERMINAL")
    try:
        return Path(path).open("w") if path else None
    except OSError:
        return None


def _display(text):
    """Return a display that can be updated, inside a notebook's kernel; None elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or "IPKernelApp" not in shell.config:
        return None
    from IPython.display import display

    return display({"text/plain": text}, raw=True, display_id=True)
