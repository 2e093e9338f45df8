"""Messages on the levels of folders: readings, notes and questions."""

from collections.abc import Sequence
from typing import NoReturn

from lib.photos import folder_tree
from lib.photos.folder_tree import Node

# Names of folders in a message.
SHOWN = 4
# Largest number of variants for which a single one is recommended.
FEW_VARIANTS = 6


def reading(pattern: str, nodes: list[Node]) -> str:
    """Return a reading of the folders: the pattern with the classes that it leads to."""
    photos = sum(node.total() for node in nodes)
    return f"`{pattern}`: {len(folder_tree.names(nodes))} classes ({named(nodes)}) of {photos} photos"


def refuse(readings: list[str], reason: str) -> NoReturn:
    """Raise the ValueError for folders that can be read in several ways."""
    shown = readings[:SHOWN]
    patterns = " or ".join(reading.partition(": ")[0] for reading in shown)
    raise ValueError(
        f"the folders can be read in {len(readings)} ways, because {reason}. {'; '.join(shown)}. "
        f"Set `source.layout` to {patterns}"
    )


def no_classes(children: list[Node], classes: list[str]) -> str:
    """Return the message for folders of splits without class folders."""
    found = f"only one, {classes[0]}" if classes else "none"
    return (
        f"{named(children)} have the names of splits: expected at least two class folders in train. "
        f"Received: {found}. If the labels are in a CSV file, set `source.tables`; if the folders are "
        "classes, set `source.splits: false`"
    )


def listed(found: Sequence[str]) -> str:
    """Format folder names for a message."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in found[:SHOWN]) + more


def named(nodes: Sequence[Node]) -> str:
    """Format the distinct names of folders for a message."""
    return listed(folder_tree.names(nodes))


def variants(nodes: list[Node], classes: list[str], *, below: str, split_depth: int) -> str:
    """Return a note on folders that contain the same class folders.

    Args:
        nodes: the folders.
        classes: names of the class folders.
        below: levels below the variants, such as `SPLIT/CLASS`.
        split_depth: depth of the folder of the split above the variants, or 0.
    """
    parts = list(nodes[0].path)
    if split_depth:
        parts[split_depth - 1] = "SPLIT"
    # Folders that only repeat a level.
    parts += ["*"] * (len(nodes[0].children[0].path) - len(parts) - 1 if nodes[0].children else 0)
    text = (
        f"{named(nodes)} contain the same class folders, such as `{classes[0]}`: they are read as "
        "variants of a data set, and the photos of all of them are used."
    )
    if len(folder_tree.names(nodes)) > FEW_VARIANTS:
        return text
    return (
        f"{text} If they show the same scenes, use a single variant, such as `source.layout: "
        f"{'/'.join(parts)}/{below}`, so that no scene is in two splits"
    )


def flat_split(child: Node, others: list[str]) -> str:
    """Return the message for a folder such as `val` without class folders, beside classes."""
    return (
        f"{child.shown()} has the name of a split, but contains no class folders, and is beside "
        f"{listed(others)}. Its {child.total()} photos are a class ({len(others) + 1} classes) or have no "
        f"labels ({len(others)} classes). Set `source.splits: false` for a class, or "
        f"`source.unlabelled: [{child.path[-1]}]`"
    )


def doubtful(child: Node) -> str:
    """Return a note on a class that may be photos without labels."""
    return (
        f"{child.shown()} is read as a class. If its photos have no label, set "
        f"`source.unlabelled: [{child.path[-1]}]`"
    )
