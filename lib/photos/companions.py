"""Find images such as masks that are beside the photos that they belong to."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from lib.photos import folder_names

# A photo's name with an ending such as `_mask`, `-seg` or `_mask_1`.
_ENDING = re.compile(
    rf"(?P<stem>.+?)(?P<ending>[ ._-]?(?:{'|'.join(sorted(folder_names.MASKS, key=len, reverse=True))}))"
    r"(?P<number>[ ._-]?\d+)?",
    re.IGNORECASE,
)


def notes(paths: Iterable[str]) -> list[str]:
    """Return a note for each kind of images that belong to photos, with the pattern for `source.ignore`.

    Args:
        paths: paths of the photos of a source, without those that are ignored already.
    """
    files = [PurePosixPath(path) for path in paths]
    return [*_pairs(files), *_folders(files)]


def _pairs(files: list[PurePosixPath]) -> list[str]:
    """Find pairs in a folder such as `x.png` and `x_mask.png`."""
    stems = {(file.parent, file.stem) for file in files}
    found: dict[str, list[PurePosixPath]] = defaultdict(list)
    photos: dict[str, str] = {}
    for file in files:
        match = _ENDING.fullmatch(file.stem)
        if match and (file.parent, match["stem"]) in stems:
            pattern = f"*{match['ending']}{'*' if match['number'] else ''}{'.*' if file.suffix else ''}"
            found[pattern].append(file)
            photos.setdefault(pattern, match["stem"])
    return [
        f"{len(same)} files pair up with photos, such as `{same[0].name}` with `{photos[pattern]}`: they may "
        f'be masks, which are no photos. To leave them out, set `source.ignore: ["{pattern}"]`'
        for pattern, same in found.items()
    ]


def _folders(files: list[PurePosixPath]) -> list[str]:
    """Find folders such as `masks` whose files have the names of photos in other folders."""
    masks: dict[str, list[PurePosixPath]] = defaultdict(list)
    photos = set()
    for file in files:
        folder = next((part for part in file.parts[:-1] if folder_names.is_mask(part)), None)
        if folder:
            masks[folder].append(file)
        else:
            photos.add(file.stem)
    counts = {folder: Counter(file.stem in photos for file in same)[True] for folder, same in masks.items()}
    return [
        f"`{folder}/` contains {count} files with the names of photos, such as `{masks[folder][0].name}`: "
        f'they may be masks, which are no photos. To leave them out, set `source.ignore: ["{folder}"]`'
        for folder, count in counts.items()
        if count
    ]
