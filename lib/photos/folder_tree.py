"""The folders of photos as a tree, and the evidence in their names and numbers."""

import fnmatch
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from lib.photos import folder_names

# Fraction of names or photos that are evidence for a reading.
MOST = 0.8
# Depth below which folders are not told apart.
DEEPEST = 50
# Words of numbered classes; other numbered folders, such as `leaf 1` and `leaf 2`, group photos.
NUMBERED = frozenset(("category", "class", "grade", "kind", "label", "level", "species", "stage", "type"))


@dataclass(eq=False)
class Node:
    """A folder with photos in it or below it.

    Attributes:
        path: its path in the source, as parts.
        stems: names of the photos directly in it, without suffix.
        children: its subfolders. Folders without a meaning are left out, and theirs are listed instead.
    """

    path: tuple[str, ...] = ()
    stems: list[str] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return unicodedata.normalize("NFC", self.path[-1]) if self.path else ""

    def total(self) -> int:
        """Return the number of photos in it and below."""
        return len(self.stems) + sum(child.total() for child in self.children)

    def shown(self) -> str:
        return f"`{'/'.join(self.path)}`"


def tree(paths: Iterable[str], splits: Mapping[str, str] | None) -> Node:
    """Return the folders of photos as a tree, without folders that only repeat another level.

    Args:
        paths: paths of the photos.
        splits: the parameter `source.splits`, whose folders are left in.
    """
    root = Node()
    nodes: dict[tuple[str, ...], Node] = {(): root}
    for path in paths:
        *folders, name = path.split("/")
        del folders[DEEPEST:]
        for depth in range(1, len(folders) + 1):
            key = tuple(folders[:depth])
            if key not in nodes:
                nodes[key] = Node(key)
                nodes[key[:-1]].children.append(nodes[key])
        nodes[tuple(folders)].stems.append(PurePosixPath(name).stem)
    _tidy(root, splits or {})
    return root


def _tidy(node: Node, splits: Mapping[str, str]) -> None:
    """Skip a subfolder with the name of its only parent, or whose subfolders are beside it, too."""
    for child in node.children:
        _tidy(child, splits)
    if len(node.children) == 1 and not node.stems and _same(node.name, node.children[0].name):
        _skip(node, node.children[0])
    copies = [child for child in node.children if _repeats(child, node) and not mapped(child.name, splits)]
    if len(copies) == 1:
        _skip(node, copies[0])


def _repeats(child: Node, parent: Node) -> bool:
    """Return whether a folder contains the folders beside it again, as some archives do."""
    inner = names(child.children)
    beside = set(names(parent.children)) - {child.name}
    is_split = folder_names.split_of(child.name) is not None
    return len(inner) > 1 and set(inner) <= beside and not is_split


def _skip(node: Node, child: Node) -> None:
    node.children = [other for other in node.children if other is not child] + child.children
    node.stems = node.stems + child.stems


def _same(first: str, second: str) -> bool:
    return first.casefold() == second.casefold()


def names(nodes: Iterable[Node]) -> list[str]:
    """Return the distinct names of folders, in order."""
    return list(dict.fromkeys(node.name for node in nodes))


def below(nodes: Iterable[Node]) -> list[str]:
    """Return the distinct names of the subfolders of folders; a single one without photos is skipped."""
    inner = [child for node in nodes for child in node.children]
    while len(names(inner)) == 1 and any(node.children for node in inner):
        inner = [child for node in inner for child in node.children]
    return names(inner)


def mapped(name: str, splits: Mapping[str, str]) -> str | None:
    """Return the split of a folder in the parameter `source.splits`, whose keys may be patterns."""
    matches = (split for key, split in splits.items() if fnmatch.fnmatchcase(name.casefold(), key.casefold()))
    return next(matches, None)


def overlap(nodes: list[Node]) -> bool:
    """Return whether at least two folders contain folders, and these have common names."""
    inner = [set(below([node])) for node in nodes if node.children]
    return len(inner) > 1 and alike(inner)


def alike(inner: list[set[str]]) -> bool:
    """Return whether most names in each set are in another set, too."""
    counts = Counter(name for subfolders in inner for name in subfolders)
    common = {name for name, count in counts.items() if count > 1}
    fractions = [len(subfolders & common) / len(subfolders) for subfolders in inner if subfolders]
    return len(common) > 1 and sum(fractions) >= 0.5 * len(fractions)


def is_series(level: list[str]) -> bool:
    """Return whether names differ by their numbers only, such as `leaf 1` and `leaf 2`, unlike `class 1`."""
    texts = {re.sub(r"\d+", "", name).casefold() for name in level}
    is_numbered = any(re.search(r"\d", name) for name in level) and not folder_names.is_number(level[0])
    is_class = any(map(folder_names.is_wordnet, level)) or NUMBERED & set(folder_names.words(" ".join(texts)))
    return len(level) > 1 and len(texts) == 1 and is_numbered and not is_class


def carry(level: list[str]) -> bool:
    """Return whether most names of a level group photos by anything but their class."""
    carriers = sum(map(folder_names.is_carrier, level))
    return is_series(level) or 0 < carriers >= MOST * len(level)


def by_numbers(tops: int, inner: int, level: list[str]) -> str | None:
    """Return the level of the classes if the numbers of folders are evidence."""
    if inner >= 6 and inner >= 3 * tops:
        return "below"
    return "below" if tops >= 3 * inner and all(map(folder_names.is_number, level)) else None


def by_files(tops: dict[str, list[Node]]) -> str | None:
    """Return the level whose folder names are in the names of their photos."""
    photos, here, inside = 0, 0, 0
    for top, nodes in tops.items():
        for node in nodes:
            for child in node.children:
                for stem in child.stems:
                    photos += 1
                    here += len(top) > 2 and top.casefold() in stem.casefold()
                    inside += len(child.name) > 2 and child.name.casefold() in stem.casefold()
    if inside >= MOST * photos > 0 and 2 * here < photos:
        return "below"
    return "here" if here >= MOST * photos > 0 and 2 * inside < photos else None
