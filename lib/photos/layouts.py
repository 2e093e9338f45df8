"""Read the labels and splits of photos from their folders, by `source.layout` or as decided."""

import fnmatch
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lib.core.schema import Source
from lib.photos import folder_names, folder_tree, folders, listing
from lib.photos.folders import Role

# Patterns and folders in the sentence.
SHOWN = 3


class Reading(NamedTuple):
    """The labels of photos from their folders.

    Attributes:
        rows: path, label, split and problem of each photo, see `labels.find`.
        layout: the decision as a sentence without a full stop.
        notes: warnings and assumptions.
    """

    rows: list[tuple[str, str, str, str]]
    layout: str
    notes: list[str]


def read(paths: list[str], source: Source) -> Reading:
    """Read the labels and splits of photos from their folders.

    Args:
        paths: paths of the photos.
        source: `layout`, `splits` and `unlabelled` are used.

    Raises:
        ValueError: if the folders can be read in several ways, or a folder is not in `source.splits`.
    """
    is_unlabelled = listing.matcher(source.unlabelled or [])
    labelled = [path for path in paths if not is_unlabelled(path)]
    notes = unused(source.unlabelled or [], paths, key="unlabelled")
    if source.layout:
        roles = _by_pattern(labelled, source.layout, splits=source.splits, names=source.unlabelled is None)
    else:
        decision = folders.Decision(labelled, splits=source.splits, unlabelled=source.unlabelled)
        roles = {path: decision.of(path) for path in labelled}
        notes += decision.notes
    roles |= {path: Role() for path in paths if path not in roles}
    rows = [_row(path, role) for path, role in roles.items()]
    return Reading(rows, _sentence(roles, source), notes + _untrained(rows))


def unused(patterns: Iterable[str], paths: list[str], *, key: str) -> list[str]:
    """Return a note for each pattern of a parameter that matches no path."""
    unmatched = [pattern for pattern in patterns if not any(map(listing.matcher([pattern]), paths))]
    return [f"`source.{key}` contains {pattern!r}, which matches no file" for pattern in unmatched]


def _row(path: str, role: Role) -> tuple[str, str, str, str]:
    label = unicodedata.normalize("NFC", role.label)
    return path, label, role.split if label or role.problem else "predict", role.problem


def _by_pattern(
    paths: list[str], layout: str, *, splits: Mapping[str, str] | None, names: bool
) -> dict[str, Role]:
    """Return the roles of photos by the parameter `source.layout`."""
    parts = layout.strip("/").split("/")
    roles = {path: _role(path.split("/")[:-1], parts, splits=splits, names=names) for path in paths}
    if "SPLIT" in parts and not any(role.split == "train" for role in roles.values()):
        depth = parts.index("SPLIT")
        found = {path.split("/")[depth] for path in paths if path.count("/") > depth}
        raise ValueError(
            f"`source.layout` is {layout}, but no folder at SPLIT has the name of train. Folders there: "
            f"{_quoted(sorted(found)) or 'none'}. Set `source.splits`, which maps these names to train, val, "
            "test or predict"
        )
    return roles


def _role(above: list[str], parts: list[str], *, splits: Mapping[str, str] | None, names: bool) -> Role:
    """Return the role of a photo in the folders `above`."""
    role = Role()
    for depth, (name, part) in enumerate(zip(above, parts, strict=False), start=1):
        if part == "CLASS":
            if names and folder_names.is_unlabelled(name):
                return Role()
            role = role._replace(label=name, class_depth=depth)
        elif part == "SPLIT":
            split = split_of(name, splits)
            if split is None:
                return Role(problem=f"its folder {name} is not in `source.splits`")
            role = role._replace(split=split, split_depth=depth)
        elif not fnmatch.fnmatchcase(name, part):
            return Role(problem=f"its folder {name} does not match {part} in `source.layout`")
    return role if role.label and role.split != "predict" else Role()


def split_of(name: str, splits: Mapping[str, str] | None) -> str | None:
    """Return the split of a folder, by `source.splits` if it is set, else by its name."""
    if splits:
        return folder_tree.mapped(name, splits)
    known = folder_names.split_of(name)
    return known.split if known else None


def _sentence(roles: dict[str, Role], source: Source) -> str:
    """Return the decision as a sentence, such as "3 classes from `*/CLASS`, no splits"."""
    labelled = {path: role for path, role in roles.items() if role.label}
    patterns = Counter(role.pattern for role in labelled.values()).most_common(SHOWN)
    origin = " and ".join(f"`{pattern}`" for pattern, _ in patterns) or "no folder"
    classes = len({role.label for role in labelled.values()})
    text = f"{classes} class{'es' * (classes != 1)} from {origin}{' (source.layout)' * bool(source.layout)}"
    text += f", {_splits(labelled)}"
    unlabelled = [path for path, role in roles.items() if not role.label and not role.problem]
    if unlabelled:
        text += f", {len(unlabelled)} photos without labels in {_places(unlabelled)}"
    outside = [path for path, role in roles.items() if role.problem]
    return text + (f", {len(outside)} photos outside of them in {_places(outside)}" if outside else "")


def _splits(labelled: dict[str, Role]) -> str:
    """Describe the folders of the splits."""
    found: dict[str, dict[str, None]] = {}
    for path, role in labelled.items():
        if role.split:
            found.setdefault(role.split, {})[path.split("/")[role.split_depth - 1]] = None
    if not found:
        return "no splits"
    texts = [
        f"{split} from {_quoted(list(found[split]))}" for split in ("train", "val", "test") if split in found
    ]
    return f"splits from the folder names ({'; '.join(texts)})"


def _places(paths: list[str]) -> str:
    """Describe the folders of photos, the most frequent first."""
    counts = Counter(path.rpartition("/")[0] for path in paths)
    return _quoted([f"{folder}/" if folder else "./" for folder, _ in counts.most_common()])


def _quoted(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(f"`{text}`" for text in texts[:SHOWN]) + more


def _untrained(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Return a note on classes that val or test has, but not train."""
    of = {
        split: {label for _, label, found, _ in rows if found == split} - {""}
        for split in ("train", "val", "test")
    }
    free = {label for _, label, found, _ in rows if not found} - {""}
    return [
        f"{split} has classes that train lacks, whose photos cannot be used: {_quoted(sorted(missing))}"
        for split in ("val", "test")
        if of["train"] | free and (missing := of[split] - of["train"] - free)
    ]
