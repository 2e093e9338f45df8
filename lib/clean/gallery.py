"""Show pages of photos with buttons and keys; each decision is immediately written to the source's files."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np

from lib.clean import decisions

# Longer side of a photo on its card, in pixels.
PICTURE_SIDE = 200
KEYS = {"k": "keep", "e": "exclude", "r": "relabel", "u": "undo", "o": "only", "n": "next", "b": "back"}
BUTTONS = {
    "keep": "Keep",
    "exclude": "Exclude",
    "relabel": "Relabel to",
    "undo": "Undo",
    "only": "Keep only this",
}
COLOURS = {"": "transparent", "keep": "#5aa469", "exclude": "#c44536", "relabel": "#e9a23b"}
INK, PAPER, ALARM = "#22313f", "#ffffff", "#c44536"
NOTHING = decisions.Decision("")


@dataclass(frozen=True)
class Item:
    """A photo to review.

    Attributes:
        path, sha1: as in the manifest.
        label: the label in the source; can be empty.
        suggested: the suggested label; can be empty.
        note: a line of text to display.
        picture: `uint8` of shape `(height, width, 3)`, RGB.
        group: index of its cluster, or -1; different clusters are on different pages.
    """

    path: str
    sha1: str
    label: str
    suggested: str
    note: str
    picture: np.ndarray
    group: int


class Card(widgets.VBox):
    """A photo with its buttons; it shows the decision but does not store it.

    Args:
        item: the photo.
        labels: the labels to choose from, as pairs of display name and label.
        act: function that is called with an action, a value of `KEYS`, when a button is clicked.
    """

    def __init__(self, item: Item, *, labels: Sequence[tuple[str, str]], act: Callable[[str], None]):
        self.item = item
        self.state = widgets.HTML()
        selected = item.suggested or item.label
        self.label = widgets.Dropdown(options=labels, layout=widgets.Layout(width="200px"))
        self.label.value = selected if selected in [label for _, label in labels] else None
        small = widgets.Layout(width="98px", margin="1px")
        self.buttons = {
            name: widgets.Button(description=text, tooltip=f"key {name[0]}", layout=small)
            for name, text in BUTTONS.items()
            if name != "only" or item.group >= 0
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: act(name))
        keep, exclude, relabel, undo, *only = self.buttons.values()
        picture = widgets.Image(value=_jpeg(item.picture), format="jpeg")
        rows = [picture, self.state, widgets.HBox([keep, exclude]), self.label, widgets.HBox([relabel, undo])]
        super().__init__([*rows, *only], layout=widgets.Layout(width="212px", padding="4px", margin="3px"))

    def refresh(self, decision: decisions.Decision, *, current: bool, names: Mapping[str, str]) -> None:
        """Update the displayed decision, and show a border if the cursor is on the photo."""
        if decision.kind == "relabel" and decision.label in [label for _, label in self.label.options]:
            self.label.value = decision.label
        self.state.value = _caption(self.item, decision, names)
        self.layout.border = f"3px solid {INK if current else 'transparent'}"


class Gallery(widgets.VBox):
    """Pages of photos to review, with a cursor for keyboard input.

    Args:
        pages: the photos of each page.
        folder: the source's folder, with the files of decisions.
        classes: the labels to choose from.
        names: the display names of labels; a label without a name is displayed unchanged.

    Attributes:
        at: index of the photo under the cursor, initially the first photo without a decision.
        cards: the cards of the current page by index of their photo.
        slider: slider that moves the cursor, also with the arrow keys after a click on it.
        letters: text field in which each typed letter performs an action (see `KEYS`).
    """

    def __init__(
        self,
        pages: Sequence[Sequence[Item]],
        *,
        folder: Path,
        classes: Sequence[str],
        names: Mapping[str, str],
    ):
        self.items = [item for page in pages for item in page]
        self.page_of = [number for number, page in enumerate(pages) for _ in page]
        self.folder, self.names = folder, names
        self.cards: dict[int, Card] = {}
        self.labels = [(names.get(label, label), label) for label in classes]
        self.sha1 = {item.path: item.sha1 for item in self.items}
        self.decided = decisions.of_each(folder, self.sha1)
        self.at = next((i for i, item in enumerate(self.items) if item.path not in self.decided), 0)
        self.head, self.typed = widgets.HTML(), ""
        self.page = widgets.Box(layout=widgets.Layout(flex_flow="row wrap"))
        self.slider = widgets.IntSlider(
            value=self.at + 1,
            min=1,
            max=max(1, len(self.items)),
            description="photo",
            layout=widgets.Layout(width="95%"),
        )
        hint = "click here and type: k keep, e exclude, r relabel, u undo, n next, b back"
        hint += ", o keep only this" if any(item.group >= 0 for item in self.items) else ""
        self.letters = widgets.Text(
            placeholder=hint, description="keys", continuous_update=True, layout=widgets.Layout(width="95%")
        )
        self.slider.observe(self._slide, names="value")
        self.letters.observe(self._type, names="value")
        super().__init__([self.head, self.page, self.slider, self.letters] if self.items else [self.head])
        self.draw()

    def act(self, name: str, number: int | None = None) -> None:
        """Perform the action of a key or button.

        Args:
            name: a value of `KEYS`.
            number: index of the photo; if `None`, that under the cursor, which then moves to the next photo.
        """
        index = self.at if number is None else number
        # Without a cluster, there are no other photos to exclude.
        if name == "only" and self.items[index].group < 0:
            return
        if name in ("next", "back"):
            self.move(index + (1 if name == "next" else -1))
            return
        try:
            problem = "" if self._decide(name, index) else "no label is selected: select a label first"
        # For example a damaged file of decisions: nothing was written.
        except (ValueError, OSError) as error:
            problem = str(error)
        self.move(index + 1 if number is None and not problem else index, problem)

    def move(self, number: int, problem: str = "") -> None:
        """Move the cursor to a photo, limited to the first and the last, and show its page."""
        if self.items:
            self.at = min(max(number, 0), len(self.items) - 1)
            self.draw(problem)

    def draw(self, problem: str = "") -> None:
        """Show the page of the cursor with the decisions in the files, and an error message if any."""
        try:
            self.decided = decisions.of_each(self.folder, self.sha1)
        except (ValueError, OSError) as error:
            problem = problem or str(error)
        self.head.value = self._headline(problem)
        if not self.items:
            return
        shown = [number for number, page in enumerate(self.page_of) if page == self.page_of[self.at]]
        if list(self.cards) != shown:
            self.cards = {number: self._card(number) for number in shown}
            self.page.children = tuple(self.cards.values())
        for number, card in self.cards.items():
            card.refresh(
                self.decided.get(card.item.path, NOTHING), current=number == self.at, names=self.names
            )
        self.slider.value = self.at + 1

    def _headline(self, problem: str) -> str:
        if not self.items:
            return "Nothing to review."
        done = sum(item.path in self.decided for item in self.items)
        alarm = f'<br><b style="color:{ALARM}">{html.escape(problem)}</b>' if problem else ""
        return f"{done} of {len(self.items)} photos decided{alarm}"

    def _card(self, number: int) -> Card:
        return Card(self.items[number], labels=self.labels, act=lambda name: self.act(name, number))

    def _decide(self, name: str, number: int) -> bool:
        """Write a decision; return False if no new label is selected."""
        item = self.items[number]
        label = self.cards[number].label.value if name == "relabel" else item.label
        if name == "exclude":
            decisions.exclude(self.folder, item.path, sha1=item.sha1, reason="reviewed")
        elif name == "only":
            self._keep_only(item)
        # A photo without a label has no label to confirm.
        elif name == "undo" or (name == "keep" and not label):
            decisions.forget(self.folder, item.path)
        elif label:
            decisions.relabel(self.folder, item.path, sha1=item.sha1, label=label, source_label=item.label)
        return name != "relabel" or bool(label)

    def _keep_only(self, kept: Item) -> None:
        """Exclude the other photos of a cluster, and confirm the label of the kept photo."""
        for item in self.items:
            if item.group == kept.group and item is not kept:
                decisions.exclude(
                    self.folder, item.path, sha1=item.sha1, reason=f"near-duplicate of {kept.path}"
                )
        if kept.label and self.decided.get(kept.path, NOTHING).kind in ("", "exclude"):
            decisions.relabel(
                self.folder, kept.path, sha1=kept.sha1, label=kept.label, source_label=kept.label
            )

    def _slide(self, change: Mapping[str, Any]) -> None:
        if change["new"] - 1 != self.at:
            self.move(change["new"] - 1)

    def _type(self, change: Mapping[str, Any]) -> None:
        """Perform the actions of the letters that were added to the field.

        The field is not cleared: the front end always sends its full content, so a letter that is typed at
        that moment would be lost or counted twice. Deleted letters are ignored.
        """
        text, before = change["new"], self.typed
        self.typed = text
        if before.startswith(text):
            return
        for letter in text[len(before) :] if text.startswith(before) else text:
            if letter.lower() in KEYS:
                self.act(KEYS[letter.lower()])


def _caption(item: Item, decision: decisions.Decision, names: Mapping[str, str]) -> str:
    """Return the lines below a photo as escaped HTML: labels, note, file, decision."""
    title = names.get(item.label, item.label) or "no label"
    if item.suggested:
        title += f" → {names.get(item.suggested, item.suggested)}?"
    relabelled = f"relabelled to {names.get(decision.label, decision.label)}"
    state = {"": "", "keep": "kept", "exclude": "excluded", "relabel": relabelled}[decision.kind]
    title, note, file, state = map(html.escape, (title, item.note, item.path.rpartition("/")[2], state))
    badge = f'<b style="background:{COLOURS[decision.kind]};color:{PAPER}">&nbsp;{state}&nbsp;</b>'
    return f'<div style="line-height:1.3"><b>{title}</b><br>{note}<br>{file}<br>{badge}</div>'


def _jpeg(picture: np.ndarray) -> bytes:
    """Return a photo as JPEG with a longer side of `PICTURE_SIDE` pixels."""
    scale = PICTURE_SIDE / max(picture.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=interpolation)
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
