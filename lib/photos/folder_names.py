"""Meanings of folder names: a split, photos without labels, or a part of a class or of a data set."""

import re
import unicodedata
from typing import NamedTuple

# Words for splits. A folder of `predict` contains photos without labels.
SPLITS = {
    "train": "train training trainval trn tr learning",
    "val": "val valid validation validate valset dev devel development eval evaluation",
    "test": "test testing tst te holdout heldout",
    "predict": "predict prediction predictions pred inference",
}
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words.split()}
# A word and its affixes without a separator, such as trainset.
_JOINED = re.compile(
    r"(?:images?|imgs?|photos?|pictures?|data|x|my)?"
    r"(train|training|val|valid|validation|test|testing|eval|dev)"
    r"(?:set|data|dataset|images?|imgs?|photos?|pictures?|folder|split)?"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that add nothing to the meaning of a name.
GENERIC = _words(
    "all data dataset file files final folder image images img imgs my new of part photo photos pic "
    "pics picture pictures private public set split the"
)
UNLABELLED = _words(
    "unlabelled unlabeled unknown unknowns unsorted unclassified unidentified unannotated uncategorised "
    "uncategorized unassigned todo tolabel tosort topredict toclassify nolabel nolabels notlabelled "
    "notlabeled withoutlabel withoutlabels"
)
# Names that may be a class, or photos without labels.
DOUBTFUL = _words("misc miscellaneous new other others rest temp tmp trash junk")
# Images that belong to a photo of the same name.
MASKS = _words(
    "annotation annotations anno annot contour contours depth edges groundtruth gt label labels mask "
    "masks overlay roi seg segm segmentation segmentations trimap"
)
# Names of folders that group photos by anything but their class: by camera, time, place or processing.
CARRIERS = (
    _words(
        "android cam camera cameras canon dcim drone dslr fujifilm gopro huawei iphone leica lens "
        "microscope mobile motorola nikon olympus panasonic phone pixel samsung scan scanner scans "
        "sensor smartphone sony video videos webcam xiaomi"
    )
    | _words(
        "afternoon autumn dawn day days dusk evening fall month morning night noon season session "
        "sessions spring summer week winter year january february march april may june july august "
        "september october november december jan feb mar apr jun jul aug sep sept oct nov dec monday "
        "tuesday wednesday thursday friday saturday sunday"
    )
    | _words(
        "album area batch centre center chunk fold frame frames group id individual instance lab "
        "location participant patient photographer place region run sample sequence seq series shard "
        "shot site specimen station study subject take trip user version visit volume writer"
    )
    | _words(
        "augmented augmentation augmentations backup binary blurred bw clean color colored colour "
        "coloured compressed copy crop cropped crops denoised enhanced equalized flipped full gray "
        "grayscale grey greyscale highres hires hr hsv infrared ir large lowres lr masked nir noisy "
        "normalized original originals orig preprocessed processed raw resized rgb rotated scaled "
        "segmented sharpened small thermal thumb thumbnail thumbnails thumbs unprocessed bmp gif jpeg "
        "jpg png tif tiff webp"
    )
    | _words(
        "back bottom close closeup detail dorsal far front indoor indoors inside lateral left lower "
        "magnification near outdoor outdoors outside profile right side top upper ventral view wide "
        "zoom"
    )
)
_WORDNET = re.compile(r"n\d{8}")
_DATE = re.compile(r"(19|20)\d\d(\D?\d\d?){0,2}(\D?\d\d?){0,3}|\d\d?\D\d\d?\D(19|20)?\d\d")


class SplitName(NamedTuple):
    """The split that a folder name stands for, and its other words, such as `seg` in `seg_train`."""

    split: str
    rest: tuple[str, ...]


def words(name: str) -> list[str]:
    """Return the words of a name in lower case; `Training_Set`, `trainingSet` and `X1` have two."""
    name = unicodedata.normalize("NFC", name)
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name)
    return [word.lower() for word in found]


def split_of(name: str) -> SplitName | None:
    """Return the split in a folder's name, such as `seg_train` or `Test images`; None if there is none."""
    all_words = words(name)
    if all_words[:2] in (["hold", "out"], ["held", "out"]):
        all_words = ["holdout", *all_words[2:]]
    if {"train", "val"} <= set(all_words):
        all_words = ["trainval", *(word for word in all_words if word not in ("train", "val"))]
    splits = [(word, split) for word in all_words if (split := _split_of_word(word))]
    if len({split for _, split in splits}) != 1:
        return None
    used = {word for word, _ in splits}
    return SplitName(splits[0][1], tuple(word for word in meaningful(all_words) if word not in used))


def _split_of_word(word: str) -> str | None:
    joined = _JOINED.fullmatch(word)
    return _SPLIT_OF.get(word) or (_SPLIT_OF[joined[1]] if joined else None)


def meaningful(all_words: list[str]) -> list[str]:
    """Return the words that are neither generic nor numbers nor single letters."""
    return [word for word in all_words if word not in GENERIC and not word.isdecimal() and len(word) > 1]


def is_unlabelled(name: str) -> bool:
    """Return whether a name means photos without labels, such as `unknown` or `images to predict`."""
    split = split_of(name)
    rest = split.rest if split else tuple(meaningful(words(name)))
    is_predicted = split is not None and split.split == "predict" and set(rest) <= {"to", "for"}
    return is_predicted or "".join(rest) in UNLABELLED


def is_mask(name: str) -> bool:
    """Return whether a name means images such as masks that belong to photos."""
    rest = meaningful(words(name))
    return bool(rest) and ("".join(rest) in MASKS or all(word in MASKS for word in rest))


def is_number(name: str) -> bool:
    """Return whether a name is a single letter, or a number that is not a year."""
    return (name.isdecimal() or len(name) == 1) and not _DATE.fullmatch(name)


def is_wordnet(name: str) -> bool:
    """Return whether a name is the number of a class in WordNet, as in ImageNet."""
    return _WORDNET.fullmatch(name) is not None


def is_carrier(name: str) -> bool:
    """Return whether a name groups photos by anything but a class, such as `cam2`, `2023-05` or `P017`."""
    if _DATE.fullmatch(name) or is_mask(name):
        return True
    if is_number(name) or is_wordnet(name):
        return False
    all_words = words(name)
    letters = [word for word in all_words if not word.isdecimal()]
    is_code = len(letters) < len(all_words) and all(len(word) <= 3 for word in letters)
    rest = [word for word in meaningful(all_words) if word not in CARRIERS]
    return bool(all_words) and (is_code or not rest)
