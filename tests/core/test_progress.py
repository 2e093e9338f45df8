"""Progress bars: drawn in a terminal or a notebook, silent otherwise."""

import io
import sys

import pytest

from lib.core import progress


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """Neither a terminal nor a kernel."""
    monkeypatch.delenv("CHRYSALIS_TERMINAL", raising=False)


def work(total=4):
    with progress.Bar(total, "decode") as bar:
        for number in range(total):
            bar.step(note=f"photo {number}")
            bar.line(f"line {number}")
    return bar


def test_silent_without_a_kernel_or_a_terminal(capfd):
    bar = work()
    assert capfd.readouterr() == ("", "")
    assert bar.done == 4 and bar.lines == [f"line {number}" for number in range(4)]


def test_a_bar_in_the_terminal_that_the_runner_names(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CHRYSALIS_TERMINAL", str(tmp_path / "terminal"))
    bar = work()
    text = (tmp_path / "terminal").read_text()
    assert "decode" in text and "0/4" in text
    assert bar.terminal.closed and capfd.readouterr() == ("", "")


def test_a_terminal_that_cannot_be_opened_is_ignored(tmp_path, monkeypatch, capfd):
    for path in (tmp_path / "gone/terminal", tmp_path):
        monkeypatch.setenv("CHRYSALIS_TERMINAL", str(path))
        assert work().done == 4
    assert capfd.readouterr() == ("", "")


class Display:
    """Records the updates of a display."""

    def __init__(self):
        self.shown = []

    def update(self, data, raw):
        assert raw
        self.shown.append(data["text/plain"])


def test_one_display_in_a_notebook_that_ends_with_the_lines(monkeypatch):
    display = Display()
    monkeypatch.setattr(progress, "_display", lambda text: display)
    with progress.Bar(2, "fit") as bar:
        bar.step()
        bar.line("epoch 1")
        assert display.shown[-1] == f"epoch 1\nfit [{'#' * 12}{'.' * 12}] 1/2"
        bar.step()
    assert display.shown[-1] == "epoch 1"


def test_a_plain_interpreter_with_ipython_loaded_is_no_notebook(monkeypatch):
    class IPython:
        @staticmethod
        def get_ipython():
            return None

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert progress.Bar(1, "x").display is None


def test_the_bar_closes_when_the_work_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_TERMINAL", str(tmp_path / "terminal"))
    with pytest.raises(RuntimeError, match="mine"), progress.Bar(3, "x") as bar:
        raise RuntimeError("mine")
    assert bar.terminal.closed


def test_no_steps_at_all():
    with progress.Bar(0, "nothing") as bar:
        assert "0/0" in bar._text()


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def test_a_bar_on_standard_error_if_it_is_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work()
    assert "decode" in terminal.getvalue() and not terminal.closed


def test_bytes_are_shown_in_units():
    bar = progress.Bar(2_500_000, "download", in_bytes=True)
    bar.step(1_250_000)
    assert bar._text() == f"download [{'#' * 12}{'.' * 12}] 1.25MB/2.50MB"


def test_an_unknown_total(tmp_path, monkeypatch):
    monkeypatch.setenv("CHRYSALIS_TERMINAL", str(tmp_path / "terminal"))
    with progress.Bar(None, "download", in_bytes=True) as bar:
        bar.step(2000)
        assert bar._text() == "download 2.00kB"
    assert "download" in (tmp_path / "terminal").read_text()


def test_a_bar_inside_another_is_silent(tmp_path, monkeypatch):
    displays = []
    monkeypatch.setattr(progress, "_display", lambda text: displays.append(Display()) or displays[-1])
    monkeypatch.setenv("CHRYSALIS_TERMINAL", str(tmp_path / "terminal"))
    with progress.Bar(2, "search") as outer:
        inner = work()
        assert inner.done == 4 and inner.terminal is None and inner.display is None
        outer.step(note="trial 1")
    assert len(displays) == 1 and "decode" not in (tmp_path / "terminal").read_text()
    with pytest.raises(RuntimeError), progress.Bar(1, "search"), progress.Bar(1, "fit"):
        raise RuntimeError
    # The next bar is not nested.
    assert work().display is not None


def test_a_note_is_displayed_after_the_bar():
    bar = progress.Bar(2, "search")
    bar.step(note="trial 1, epoch 3")
    assert bar._text() == f"search [{'#' * 12}{'.' * 12}] 1/2 trial 1, epoch 3"
    bar.step()
    assert bar._text().endswith("2/2")
