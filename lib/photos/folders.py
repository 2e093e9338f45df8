"""Decide which folder level is the class and which is the split, from all paths of a source together."""

import fnmatch
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple, NoReturn

from lib.photos import folder_names

# Below this fraction of photos directly in the folders of a level, the classes may be a level below.
FEW = 0.1
# Fraction of names or photos that are evidence for a reading.
MOST = 0.8
# Names of folders in a message.
SHOWN = 4
# Depth below which folders are not told apart.
DEEPEST = 50
# Largest number of variants for which a single one is recommended.
FEW_VARIANTS = 6


class Role(NamedTuple):
    """The meaning of a folder for the photos in it and below, up to a folder that has a role of its own.

    Attributes:
        label: the class; empty for photos to predict.
        split: train, val, test or empty.
        problem: the reason that the photos are not used, or empty.
        class_depth, split_depth: depth of the folders of the class and of the split in the source, or 0.
    """

    label: str = ""
    split: str = ""
    problem: str = ""
    class_depth: int = 0
    split_depth: int = 0

    @property
    def pattern(self) -> str:
        """The layout, such as `SPLIT/CLASS`."""
        names = {self.split_depth: "SPLIT", self.class_depth: "CLASS"}
        return "/".join(names.get(depth, "*") for depth in range(1, max(names) + 1))


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


class Group(NamedTuple):
    """A folder whose subfolders are on the level that is decided next, and the split that it belongs to."""

    node: Node
    split: str = ""
    split_depth: int = 0


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


class Decision:
    """The decision for a source: the role of each folder, and notes on it.

    Args:
        paths: paths of the photos.
        splits: the parameter `source.splits`.
        unlabelled: the parameter `source.unlabelled`; its photos are not in `paths`.

    Raises:
        ValueError: if several readings are plausible, or the folders of splits contain no class folders.
    """

    def __init__(
        self, paths: Iterable[str], *, splits: Mapping[str, str] | None, unlabelled: Sequence[str] | None
    ):
        self.splits, self.reads_unlabelled = splits, unlabelled is None
        self.roles: dict[tuple[str, ...], Role] = {}
        self.notes: list[str] = []
        # Whether the level of the splits is still to be found.
        self.seeks_splits = splits != {}
        # Whether a folder of photos without labels is in `source.splits`.
        self.is_mapped = False
        groups: list[Group] | None = [Group(tree(paths, splits))]
        while groups:
            groups = self._next(groups)
        if splits and self.seeks_splits and not self.is_mapped:
            raise ValueError(
                f"`source.splits` contains {', '.join(splits)}, but no folder of photos has such a name "
                f"where splits can be. Folders: {_listed(names(tree(paths, splits).children))}"
            )

    def of(self, path: str) -> Role:
        """Return the role of a photo: that of the nearest folder above it."""
        folders = tuple(path.split("/")[:-1])
        known = (self.roles.get(folders[:depth]) for depth in range(len(folders), -1, -1))
        return next((role for role in known if role), Role())

    def _next(self, groups: list[Group]) -> list[Group] | None:
        """Decide the level below folders; return the folders above the next level, None at the class."""
        self._set_aside_unlabelled(groups)
        children = _children(groups)
        if not children:
            return None
        if self.seeks_splits:
            if splits := self._splits(children):
                self.seeks_splits = False
                return self._enter_splits(groups, splits)
            if self._beside_classes(children):
                return None
            if self.splits and (mapped := self._split_names(children)):
                raise ValueError(
                    f"`source.splits` contains {_listed(list(mapped))}, but no folder beside it for train. "
                    f"Folders: {_listed(names(children))}"
                )
        if inner := _through_single(groups):
            return inner
        if self.seeks_splits and (splits_below := self._class_then_split(children)) is not None:
            return _descend(groups) if splits_below == "variants" else None
        self._set_aside_flat_splits(groups)
        self._set_aside_dummies(groups)
        if self._classes_are_below(groups):
            return _descend(groups)
        self._assign_classes(groups)
        return None

    # Photos without labels

    def _set_aside_unlabelled(self, groups: list[Group]) -> None:
        """Remove folders with a name such as `unknown`; their photos are to be predicted."""
        for group in groups:
            for child in list(group.node.children):
                if self.splits and mapped(child.name, self.splits) == "predict":
                    self._predict(child, group.node)
                    self.is_mapped = True
        if not self.reads_unlabelled:
            return
        others = [name for name in names(_children(groups)) if not folder_names.is_unlabelled(name)]
        can_descend = any(child.children for child in _children(groups))
        if len(others) < 2 and not can_descend and not any(group.split for group in groups):
            # For example `known` and `unknown`.
            return
        for group in groups:
            for child in list(group.node.children):
                if folder_names.is_unlabelled(child.name) and not _is_class_of_splits(child.name, groups):
                    self._predict(child, group.node)

    def _predict(self, child: Node, parent: Node) -> None:
        self.roles[child.path] = Role()
        parent.children = [other for other in parent.children if other is not child]

    def _set_aside_dummies(self, groups: list[Group]) -> None:
        """Remove the only folder of a test split if it is no class of train: Keras needs such a folder."""
        trained = names(_children([group for group in groups if group.split == "train"]))
        for group in groups:
            if group.split in ("val", "test") and len(trained) > 1 and len(names(group.node.children)) == 1:
                only = group.node.children[0]
                if only.name not in trained:
                    self._predict(only, group.node)

    def _set_aside_flat_splits(self, groups: list[Group]) -> None:
        """Decide whether a folder such as `test` without class folders, beside classes, is a class."""
        if not self.seeks_splits or self.splits or not self.reads_unlabelled:
            return
        pairs = [(child, group.node) for group in groups for child in group.node.children]
        flat = [(child, parent) for child, parent in pairs if _split(child.name) and len(child.children) < 2]
        others = [
            name for name in names(child for child, _ in pairs) if name not in names(c for c, _ in flat)
        ]
        for child, parent in flat if len(others) > 1 else ():
            if _split(child.name) == "test":
                self._predict(child, parent)
            elif child.name.casefold() in ("train", "valid"):
                self.notes.append(
                    f"{child.shown()} is read as a class like the folders beside it. If its photos have no "
                    f"label, set `source.unlabelled: [{child.path[-1]}]`"
                )
            else:
                raise ValueError(
                    f"{child.shown()} has the name of a split, but contains no class folders, and is beside "
                    f"{_listed(others)}. Its {child.total()} photos are a class ({len(others) + 1} classes) "
                    f"or have no labels ({len(others)} classes). Set `source.splits: false` for a class, or "
                    f"`source.unlabelled: [{child.path[-1]}]`"
                )

    # Splits

    def _split_names(self, children: list[Node]) -> dict[str, str]:
        """Return the split of each folder name that stands for a split among the folders of a level."""
        if self.splits:
            pairs = ((name, mapped(name, self.splits)) for name in names(children))
            return {name: split for name, split in pairs if split}
        known = {name: split for name in names(children) if (split := folder_names.split_of(name))}
        above = {word for child in children for part in child.path[:-1] for word in folder_names.words(part)}
        rests = Counter((rest, split) for split, rest in known.values())
        shared = Counter(rest for rest, _ in rests)
        complete = len(known) == len(names(children))
        result = {
            name: split
            for name, (split, rest) in known.items()
            if set(rest) <= above or shared[rest] > 1 or (complete and _overlap(children))
        }
        validation = [name for name in result if result[name] == "val"]
        for name in validation:
            # As in train, dev, eval.
            evaluates = {"eval", "evaluation"} & set(folder_names.words(name))
            if evaluates and len(validation) > 1 and "test" not in result.values():
                result[name] = "test"
        return result

    def _splits(self, children: list[Node]) -> dict[str, str] | None:
        """Return the splits if they are on the level of these folders, by name."""
        splits = self._split_names(children)
        train = [child for child in children if splits.get(child.name) == "train"]
        plain = [child for child in children if child.name not in splits]
        classes = below(train)
        if not train:
            if splits and not plain and not self.splits:
                self.notes.append(
                    f"{_listed(list(splits))}: the name of a split, but no folder has that of train, so that "
                    "no split is read. To read one, set `source.splits`"
                )
            return None
        if self.splits:
            return splits
        if len(classes) < 2:
            if not plain:
                raise ValueError(_no_classes(children, classes))
            return None
        if not plain or len(set(splits.values())) > 1:
            return splits
        if _carry(classes):
            return None
        if set(below(plain)) & set(classes) or len(names(plain)) == 1:
            return splits
        readings = [
            _reading("CLASS", children),
            _reading("SPLIT/CLASS", [child for node in train for child in node.children]),
        ]
        reason = f"{_listed(names(train))} may be a split or a class like {_listed(names(plain))} beside it"
        return _refuse(readings, reason)

    def _enter_splits(self, groups: list[Group], splits: dict[str, str]) -> list[Group]:
        """Return the folders of splits; photos of other folders have a problem."""
        result = []
        listed = _listed(list(splits))
        for child in _children(groups):
            split = splits.get(child.name)
            if split is None:
                self.roles[child.path] = Role(problem=f"it is outside the folders {listed}")
            elif split == "predict":
                self.roles[child.path] = Role()
            else:
                result.append(Group(child, split, len(child.path)))
        return result

    def _beside_classes(self, children: list[Node]) -> bool:
        """Assign classes and a test or val folder beside them that contains the same classes again."""
        splits = self._split_names(children)
        plain = [child for child in children if child.name not in splits]
        inner = set(below(child for child in children if child.name in splits))
        if len(names(plain)) < 2 or len(inner) < 2 or not inner <= set(names(plain)):
            return False
        if "train" in splits.values():
            held = [child for child in children if child.name in splits]
            _refuse(
                [_reading("CLASS", plain), _reading("SPLIT/CLASS", [n for c in held for n in c.children])],
                f"{_listed(list(splits))} contains the folders beside it again",
            )
        for child in children:
            if child.name in splits:
                group = Group(child, splits[child.name], len(child.path))
                self._assign_classes([group])
            else:
                self.roles[child.path] = Role(child.name, class_depth=len(child.path))
        self.seeks_splits = False
        return True

    def _class_then_split(self, children: list[Node]) -> str | None:
        """Assign classes whose subfolders are splits; return "classes", or "variants" above the splits."""
        splits = {
            id(child): found
            for child in children
            if (found := self._split_names(child.children)) and len(found) == len(names(child.children))
        }
        divided = [child for child in children if id(child) in splits]
        used = {split for found in splits.values() for split in found.values()}
        if len(names(divided)) < 2 or 2 * len(divided) < len(children) or "train" not in used:
            return None
        train = [
            [node for node in child.children if splits[id(child)][node.name] == "train"] for child in divided
        ]
        inner = [set(below(nodes)) for nodes in train]
        if all(len(classes) > 1 for classes in inner) and not _carry(sorted(set().union(*inner))):
            if _alike(inner):
                self._note_variants(divided, sorted(set().union(*inner)), below="SPLIT/CLASS")
                return "variants"
            classes = [node for nodes in train for parent in nodes for node in parent.children]
            reason = f"{_listed(names(divided))} contain splits, and different folders below them"
            _refuse([_reading("CLASS/SPLIT", divided), _reading("*/SPLIT/CLASS", classes)], reason)
        for child in children:
            depth = len(child.path)
            self.roles[child.path] = Role(child.name, class_depth=depth)
            for inner_node in child.children:
                if split := splits.get(id(child), {}).get(inner_node.name):
                    role = Role(child.name, split, "", depth, len(inner_node.path))
                    self.roles[inner_node.path] = Role() if split == "predict" else role
        self.seeks_splits = False
        return "classes"

    # Classes

    def _assign_classes(self, groups: list[Group]) -> None:
        nested = []
        for node, split, split_depth in groups:
            for child in node.children:
                self.roles[child.path] = Role(child.name, split, "", len(child.path), split_depth)
                nested += [inner for inner in child.children if not _carry([inner.name])]
                if child.name.casefold() in folder_names.DOUBTFUL:
                    self.notes.append(
                        f"{child.shown()} is read as a class. If its photos have no label, set "
                        f"`source.unlabelled: [{child.path[-1]}]`"
                    )
        nested = [node for node in nested if not folder_names.is_number(node.name)]
        if nested:
            more = f" and {len(nested) - 1} more" if len(nested) > 1 else ""
            self.notes.append(
                f"{nested[0].shown()}{more}: a folder below a class is read as part of the class"
            )

    def _classes_are_below(self, groups: list[Group]) -> bool:
        """Return whether the folders of a level only group the folders below, which are the classes.

        Raises:
            ValueError: if both levels may be the classes.
        """
        tops: dict[str, list[Node]] = {}
        for child in _children(groups):
            tops.setdefault(child.name, []).append(child)
        nodes = [node for same in tops.values() for node in same]
        if sum(len(node.stems) for node in nodes) > FEW * sum(node.total() for node in nodes):
            return False
        inner = [set(below(same)) for same in tops.values()]
        union = sorted(set().union(*inner))
        carriers = self._group(list(tops)), _carry(union)
        if len(union) < 2 or carriers == (False, True):
            return False
        if carriers == (True, False):
            if _alike(inner):
                self._note_variants(nodes, union, split_depth=groups[0].split_depth)
            return True
        if all(len(subfolders) < 2 for subfolders in inner):
            return False
        numbered = sum(map(folder_names.is_number, union)) >= MOST * len(union)
        if not _alike(inner):
            if numbered:
                return False
            reason = f"{_listed(list(tops))} contain mostly folders, such as {_listed(union)}"
        else:
            verdict = _many(len(tops), len(union), list(tops)) or _named_in_files(tops)
            if verdict == "below":
                self._note_variants(nodes, union, split_depth=groups[0].split_depth)
                return True
            if verdict == "here":
                return False
            reason = f"{_listed(list(tops))} contain folders of the same names, {_listed(union)}"
        return _refuse(self._readings(groups), reason)

    def _group(self, level: list[str]) -> bool:
        """Return whether names group photos by anything but their class."""
        return all(folder_names.is_carrier(name) or bool(_split(name) and not self.splits) for name in level)

    def _note_variants(
        self, nodes: list[Node], classes: list[str], *, below: str = "CLASS", split_depth: int = 0
    ) -> None:
        parts = list(nodes[0].path)
        if split_depth:
            parts[split_depth - 1] = "SPLIT"
        advice = f"use a single variant, such as `source.layout: {'/'.join(parts)}/{below}`"
        several = len(names(nodes)) > FEW_VARIANTS
        self.notes.append(
            f"{_listed(names(nodes))} contain the same class folders, such as `{classes[0]}`: they are read "
            "as variants of a data set, and the photos of all of them are used."
            + (
                ""
                if several
                else f" If they show the same scenes, {advice}, so that no scene is in two splits"
            )
        )

    def _readings(self, groups: list[Group]) -> list[str]:
        """Return the readings of each level at which the classes can be."""
        result: list[str] = []
        level = [(child, group.split_depth) for group in groups for child in group.node.children]
        while level:
            child, split_depth = level[0]
            nodes = [child for child, _ in level]
            pattern = Role(class_depth=len(child.path), split_depth=split_depth).pattern
            if len(names(nodes)) > 1 and not (result and _carry(names(nodes))):
                result.append(_reading(pattern, nodes))
            level = [(inner, depth) for child, depth in level for inner in child.children]
        return result


def _children(groups: list[Group]) -> list[Node]:
    return [child for group in groups for child in group.node.children]


def _descend(groups: list[Group]) -> list[Group]:
    return [group._replace(node=child) for group in groups for child in group.node.children]


def _through_single(groups: list[Group]) -> list[Group] | None:
    """Return the folders below if all class folders are inside the same folder, such as `images`."""
    main = [group for group in groups if group.split in ("", "train")]
    level = _children(main)
    if len(names(level)) != 1 or not any(node.children for node in level):
        return None
    classes = below(level)
    only = [group.node.children[0] if len(group.node.children) == 1 else None for group in groups]
    return [
        group._replace(node=child) if child and child.name not in classes else group
        for group, child in zip(groups, only, strict=True)
    ]


def _is_class_of_splits(name: str, groups: list[Group]) -> bool:
    """Return whether train and another split have a folder of this name."""
    splits = {group.split for group in groups if name in names(group.node.children)}
    return "train" in splits and len(splits) > 1


def _split(name: str) -> str | None:
    """Return the split that a name stands for without other words."""
    found = folder_names.split_of(name)
    return found.split if found and not found.rest else None


def mapped(name: str, splits: Mapping[str, str]) -> str | None:
    """Return the split of a folder in the parameter `source.splits`, whose keys may be patterns."""
    matches = (split for key, split in splits.items() if fnmatch.fnmatchcase(name.casefold(), key.casefold()))
    return next(matches, None)


def _overlap(nodes: list[Node]) -> bool:
    """Return whether at least two folders contain folders, and these have common names."""
    inner = [set(below([node])) for node in nodes if node.children]
    return len(inner) > 1 and _alike(inner)


def _alike(inner: list[set[str]]) -> bool:
    """Return whether most names in each set are in another set, too."""
    counts = Counter(name for subfolders in inner for name in subfolders)
    common = {name for name, count in counts.items() if count > 1}
    fractions = [len(subfolders & common) / len(subfolders) for subfolders in inner if subfolders]
    return len(common) > 1 and sum(fractions) >= 0.5 * len(fractions)


def _carry(level: list[str]) -> bool:
    """Return whether most names of a level group photos by anything but their class."""
    return bool(level) and sum(map(folder_names.is_carrier, level)) >= MOST * len(level)


def _many(tops: int, inner: int, level: list[str]) -> str | None:
    """Return the level of the classes if the numbers of folders are evidence."""
    if inner >= 6 and inner >= 3 * tops:
        return "below"
    return "below" if tops >= 3 * inner and all(map(folder_names.is_number, level)) else None


def _named_in_files(tops: dict[str, list[Node]]) -> str | None:
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


def _reading(pattern: str, nodes: list[Node]) -> str:
    photos = sum(node.total() for node in nodes)
    return f"`{pattern}`: {len(names(nodes))} classes ({_listed(names(nodes))}) of {photos} photos"


def _refuse(readings: list[str], reason: str) -> NoReturn:
    patterns = " or ".join(reading.partition(": ")[0] for reading in readings)
    raise ValueError(
        f"the folders can be read in {len(readings)} ways, because {reason}. {'; '.join(readings)}. "
        f"Set `source.layout` to {patterns}"
    )


def _no_classes(children: list[Node], classes: list[str]) -> str:
    found = f"only one, {classes[0]}" if classes else "none"
    return (
        f"{_listed(names(children))} have the names of splits: expected at least two class folders in train. "
        f"Received: {found}. If the labels are in a CSV file, set `source.tables`; if the folders are "
        "classes, set `source.splits: false`"
    )


def _listed(found: Sequence[str]) -> str:
    """Format folder names for a message."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in found[:SHOWN]) + more
