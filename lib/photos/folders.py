"""Decide which folder level is the class and which is the split, from all paths of a source together."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lib.photos import folder_messages, folder_names, folder_tree
from lib.photos.folder_messages import listed, named, reading, refuse
from lib.photos.folder_tree import Node

# Below this fraction of photos directly in the folders of a level, the classes may be a level below.
FEW = 0.1


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


class Group(NamedTuple):
    """A folder whose subfolders are on the level that is decided next, and the split that it belongs to."""

    node: Node
    split: str = ""
    split_depth: int = 0


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
        root = folder_tree.tree(paths, splits)
        groups: list[Group] | None = [Group(root)]
        while groups:
            groups = self._next(groups)
        if splits and self.seeks_splits and not self.is_mapped:
            raise ValueError(
                f"`source.splits` contains {', '.join(splits)}, but no folder of photos has such a name "
                f"where splits can be. Folders: {named(root.children)}"
            )

    def of(self, path: str) -> Role:
        """Return the role of a photo: that of the nearest folder above it."""
        folders = tuple(path.split("/")[:-1])
        known = (self.roles.get(folders[:depth]) for depth in range(len(folders), -1, -1))
        return next((role for role in known if role), Role())

    def _next(self, groups: list[Group]) -> list[Group] | None:
        """Decide the level below folders; return the folders above the next level, None at the class."""
        self._set_aside_unlabelled(groups)
        self._set_aside_masks(groups)
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
                    f"`source.splits` contains {listed(list(mapped))}, but no folder beside it for train. "
                    f"Folders: {named(children)}"
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
                if self.splits and folder_tree.mapped(child.name, self.splits) == "predict":
                    self._predict(child, group.node)
                    self.is_mapped = True
        if not self.reads_unlabelled:
            return
        others = folder_tree.names(child for child in _children(groups) if not _is_unlabelled(child))
        can_descend = any(child.children for child in _children(groups))
        if len(others) < 2 and not can_descend and not any(group.split for group in groups):
            # For example `known` and `unknown`.
            return
        for group in groups:
            for child in list(group.node.children):
                if _is_unlabelled(child) and not _is_class_of_splits(child.name, groups):
                    self._predict(child, group.node)

    def _set_aside_masks(self, groups: list[Group]) -> None:
        """Remove a folder of masks without class folders if all folders beside it have class folders."""
        children = _children(groups)
        masks = [child for child in children if folder_names.is_mask(child.name) and not child.children]
        others = [child for child in children if child not in masks]
        if others and all(len(child.children) > 1 for child in others):
            for group in groups:
                for child in [child for child in group.node.children if child in masks]:
                    self._predict(child, group.node)
                    self.roles[child.path] = Role(problem=f"it is in {child.shown()}, beside class folders")

    def _predict(self, child: Node, parent: Node) -> None:
        self.roles[child.path] = Role()
        parent.children = [other for other in parent.children if other is not child]

    def _set_aside_dummies(self, groups: list[Group]) -> None:
        """Remove the only folder of a test split if it is no class of train: Keras needs such a folder."""
        trained = folder_tree.names(_children([group for group in groups if group.split == "train"]))
        for group in groups:
            if (
                group.split in ("val", "test")
                and len(trained) > 1
                and len(folder_tree.names(group.node.children)) == 1
            ):
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
            name
            for name in folder_tree.names(child for child, _ in pairs)
            if name not in folder_tree.names(c for c, _ in flat)
        ]
        for child, parent in flat if len(others) > 1 else ():
            if _split(child.name) == "test":
                self._predict(child, parent)
            elif child.name.casefold() in ("train", "valid"):
                self.notes.append(folder_messages.doubtful(child))
            else:
                raise ValueError(folder_messages.flat_split(child, others))

    # Splits

    def _split_names(self, children: list[Node]) -> dict[str, str]:
        """Return the split of each folder name that stands for a split among the folders of a level."""
        if self.splits:
            pairs = ((name, folder_tree.mapped(name, self.splits)) for name in folder_tree.names(children))
            return {name: split for name, split in pairs if split}
        known = {
            name: split for name in folder_tree.names(children) if (split := folder_names.split_of(name))
        }
        above = {word for child in children for part in child.path[:-1] for word in folder_names.words(part)}
        rests = Counter((rest, split) for split, rest in known.values())
        shared = Counter(rest for rest, _ in rests)
        complete = len(known) == len(folder_tree.names(children))
        result = {
            name: split
            for name, (split, rest) in known.items()
            if set(rest) <= above or shared[rest] > 1 or (complete and folder_tree.overlap(children))
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
        classes = folder_tree.below(train)
        if not train:
            if splits and not plain and not self.splits:
                self.notes.append(
                    f"{listed(list(splits))}: the name of a split, but no folder has that of train, so that "
                    "no split is read. To read one, set `source.splits`"
                )
            return None
        if self.splits:
            return splits
        if len(classes) < 2:
            if not plain:
                raise ValueError(folder_messages.no_classes(children, classes))
            return None
        if not plain or len(set(splits.values())) > 1:
            return splits
        if folder_tree.carry(classes):
            return None
        if set(folder_tree.below(plain)) & set(classes) or len(folder_tree.names(plain)) == 1:
            return splits
        readings = [
            reading("CLASS", children),
            reading("SPLIT/CLASS", [child for node in train for child in node.children]),
        ]
        reason = f"{named(train)} may be a split or a class like {named(plain)} beside it"
        return refuse(readings, reason)

    def _enter_splits(self, groups: list[Group], splits: dict[str, str]) -> list[Group]:
        """Return the folders of splits; photos of other folders have a problem."""
        result = []
        inside = listed(list(splits))
        for child in _children(groups):
            split = splits.get(child.name)
            if split is None:
                self.roles[child.path] = Role(problem=f"it is outside the folders {inside}")
            elif split == "predict":
                self.roles[child.path] = Role()
            else:
                result.append(Group(child, split, len(child.path)))
        return result

    def _beside_classes(self, children: list[Node]) -> bool:
        """Assign classes and a test or val folder beside them that contains the same classes again."""
        splits = self._split_names(children)
        plain = [child for child in children if child.name not in splits]
        inner = set(folder_tree.below(child for child in children if child.name in splits))
        if len(folder_tree.names(plain)) < 2 or len(inner) < 2 or not inner <= set(folder_tree.names(plain)):
            return False
        if "train" in splits.values():
            held = [child for child in children if child.name in splits]
            refuse(
                [
                    reading("CLASS", plain),
                    reading("SPLIT/CLASS", [n for c in held for n in c.children]),
                ],
                f"{listed(list(splits))} contains the folders beside it again",
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
            if (found := self._split_names(child.children))
            and len(found) == len(folder_tree.names(child.children))
        }
        divided = [child for child in children if id(child) in splits]
        used = {split for found in splits.values() for split in found.values()}
        if len(folder_tree.names(divided)) < 2 or 2 * len(divided) < len(children) or "train" not in used:
            return None
        train = [
            [node for node in child.children if splits[id(child)][node.name] == "train"] for child in divided
        ]
        inner = [set(folder_tree.below(nodes)) for nodes in train]
        if all(len(classes) > 1 for classes in inner) and not folder_tree.carry(sorted(set().union(*inner))):
            if folder_tree.alike(inner):
                self._note_variants(divided, sorted(set().union(*inner)), below="SPLIT/CLASS")
                return "variants"
            classes = [node for nodes in train for parent in nodes for node in parent.children]
            reason = f"{named(divided)} contain splits, and different folders below them"
            refuse(
                [
                    reading("CLASS/SPLIT", divided),
                    reading("*/SPLIT/CLASS", classes),
                ],
                reason,
            )
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
        nested: list[Node] = []
        doubtful: list[Node] = []
        for node, split, split_depth in groups:
            for child in node.children:
                self.roles[child.path] = Role(child.name, split, "", len(child.path), split_depth)
                nested += [inner for inner in child.children if not folder_tree.carry([inner.name])]
                is_new = all(other.name != child.name for other in doubtful)
                if child.name.casefold() in folder_names.DOUBTFUL and is_new:
                    doubtful.append(child)
                    self.notes.append(folder_messages.doubtful(child))
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
        inner = [set(folder_tree.below(same)) for same in tops.values()]
        union = sorted(set().union(*inner))
        carriers = self._group(list(tops)), folder_tree.carry(union)
        if len(union) < 2 or carriers == (False, True):
            return False
        if carriers == (True, True):
            # Groups of groups, such as the cameras of sites, may have classes below.
            deeper = [inner for node in nodes for child in node.children for inner in child.children]
            return len(folder_tree.names(deeper)) > 1 and not folder_tree.carry(folder_tree.names(deeper))
        if carriers == (True, False):
            if folder_tree.alike(inner):
                self._note_variants(nodes, union, split_depth=groups[0].split_depth)
            return True
        if all(len(subfolders) < 2 for subfolders in inner):
            return False
        numbered = sum(map(folder_names.is_number, union)) >= folder_tree.MOST * len(union)
        if not folder_tree.alike(inner):
            if numbered:
                return False
            reason = f"{listed(list(tops))} contain mostly folders, such as {listed(union)}"
        else:
            verdict = folder_tree.by_numbers(len(tops), len(union), list(tops)) or folder_tree.by_files(tops)
            if verdict == "below":
                self._note_variants(nodes, union, split_depth=groups[0].split_depth)
                return True
            if verdict == "here":
                return False
            reason = f"{listed(list(tops))} contain folders of the same names, {listed(union)}"
        return refuse(self._readings(groups), reason)

    def _group(self, level: list[str]) -> bool:
        """Return whether names group photos by anything but their class."""
        splits = not self.splits and [name for name in level if _split(name)]
        return folder_tree.is_series(level) or all(
            folder_names.is_carrier(name) or bool(splits and name in splits) for name in level
        )

    def _note_variants(
        self, nodes: list[Node], classes: list[str], *, below: str = "CLASS", split_depth: int = 0
    ) -> None:
        self.notes.append(folder_messages.variants(nodes, classes, below=below, split_depth=split_depth))

    def _readings(self, groups: list[Group]) -> list[str]:
        """Return the readings of each level at which the classes can be."""
        result: list[str] = []
        level = [(child, group.split_depth) for group in groups for child in group.node.children]
        while level:
            child, split_depth = level[0]
            nodes = [child for child, _ in level]
            pattern = Role(class_depth=len(child.path), split_depth=split_depth).pattern
            if len(folder_tree.names(nodes)) > 1 and not (
                result and folder_tree.carry(folder_tree.names(nodes))
            ):
                result.append(reading(pattern, nodes))
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
    if len(folder_tree.names(level)) != 1 or not any(node.children for node in level):
        return None
    classes = folder_tree.below(level)
    result = _descend(main)
    for group in groups:
        if group not in main:
            inner = folder_tree.names(group.node.children)
            result += [group] if len(inner) != 1 or inner[0] in classes else _descend([group])
    return result


def _is_unlabelled(node: Node) -> bool:
    """Return whether a folder, or each of its subfolders, has the name of photos without labels."""
    inner = [folder_names.is_unlabelled(child.name) for child in node.children]
    return folder_names.is_unlabelled(node.name) or (bool(inner) and all(inner) and not node.stems)


def _is_class_of_splits(name: str, groups: list[Group]) -> bool:
    """Return whether train and another split have a folder of this name."""
    splits = {group.split for group in groups if name in folder_tree.names(group.node.children)}
    return "train" in splits and len(splits) > 1


def _split(name: str) -> str | None:
    """Return the split that a name stands for without other words."""
    found = folder_names.split_of(name)
    return found.split if found and not found.rest else None
