"""Display progress bars in a terminal or a notebook, and nothing in a log."""

import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_UPDATES = 0.5
WIDTH = 24
_open: list["Bar"] = []


class Bar:
    """A progress bar below permanent lines of text, redrawn in place.

    In a notebook the bar is a single display that is updated, so that a saved notebook contains the final
    state. The kernels of the runner draw in the runner's terminal, whose path is in `CHRYSALIS_TERMINAL`.
    Without a notebook or a terminal the bar is silent. Nested bars, such as those of the trainings in a
    search, are silent too.

    Args:
        total: number of steps; `None` if it is unknown.
        title: text before the bar.
        in_bytes: whether the steps are bytes, which are displayed in kB, MB or GB.
    """

    def __init__(self, total: int | None, title: str, *, in_bytes: bool = False):
        self.total, self.title, self.in_bytes = total, title, in_bytes
        self.done, self.drawn, self.note = 0, 0.0, ""
        self.lines: list[str] = []
        self.inner = bool(_open)
        self.terminal = None if self.inner else _terminal()
        self.tqdm = self._in_terminal() if self.terminal else None
        self.display = None if self.inner else _display(self._text())

    def __enter__(self) -> "Bar":
        """Silence nested bars."""
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar and keep the lines."""
        _open.remove(self)
        if self.tqdm is not None:
            self.tqdm.close()
        if self.terminal not in (None, sys.stderr):
            self.terminal.close()
        self._draw(final=True)

    def step(self, count: int = 1, *, note: str = "") -> None:
        """Advance the bar by `count` steps and display a note."""
        self.done += count
        self.note = note
        if self.tqdm is not None:
            self.tqdm.set_postfix_str(note, refresh=not count)
            self.tqdm.update(count)
        if time.monotonic() - self.drawn > SECONDS_BETWEEN_UPDATES:
            self._draw()

    def line(self, text: str) -> None:
        """Add a permanent line of text."""
        self.lines.append(text)
        self._draw()

    def _in_terminal(self) -> tqdm:
        unit = "B" if self.in_bytes else "it"
        return tqdm(
            total=self.total,
            desc=self.title,
            file=self.terminal,
            leave=False,
            unit=unit,
            unit_scale=self.in_bytes,
        )

    def _text(self, *, final: bool = False) -> str:
        return "\n".join(self.lines if final else [*self.lines, self._bar()])

    def _bar(self) -> str:
        """Return the bar as a line of text; without a total, only the count."""
        if self.total is None:
            return f"{self.title} {self._count(self.done)} {self.note}".rstrip()
        filled = round(WIDTH * self.done / max(1, self.total))
        counts = f"{self._count(self.done)}/{self._count(self.total)}"
        return f"{self.title} [{'#' * filled}{'.' * (WIDTH - filled)}] {counts} {self.note}".rstrip()

    def _count(self, steps: int) -> str:
        return tqdm.format_sizeof(steps, "B") if self.in_bytes else str(steps)

    def _draw(self, *, final: bool = False) -> None:
        self.drawn = time.monotonic()
        if self.display is not None:
            self.display.update({"text/plain": self._text(final=final)}, raw=True)


def _terminal() -> TextIO | None:
    """Return the terminal of the runner, else standard error if it is a terminal, else None."""
    path = os.environ.get("CHRYSALIS_TERMINAL")
    try:
        if path:
            return Path(path).open("w")
    except OSError:
        return None
    return sys.stderr if sys.stderr.isatty() else None


def _display(text: str) -> Any:
    """Return a display that can be updated, or None outside a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or "IPKernelApp" not in shell.config:
        return None
    from IPython.display import display

    return display({"text/plain": text}, raw=True, display_id=True)
