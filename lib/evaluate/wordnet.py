"""How near two nouns are in meaning, by their place in WordNet 3.0, whose ids ImageNet's classes have.

`wordnet_nouns.npz` holds which noun is a kind of which. It was made by `python -m lib.evaluate.wordnet <folder>`
from the file `data.noun` of WordNet 3.0, whose licence stands in `wordnet_licence.txt`.
"""

import functools
import re
import sys
from pathlib import Path

import numpy as np

from lib.core import files

HIERARCHY = Path(__file__).with_name("wordnet_nouns.npz")
LICENCE = Path(__file__).with_name("wordnet_licence.txt")
ID = re.compile(r"n([0-9]{8})")
ROOT = 1740  # "entity", which every noun is a kind of
IS_A = ("@", "@i")  # pointers to a hypernym: of a kind (a dog is a canine), of an instance (Rome is a city)


def known(label: str) -> bool:
    """Tell whether a label is the id of a noun: `n` and the eight digits of its byte offset in `data.noun`."""
    match = ID.fullmatch(label)
    return match is not None and int(match[1]) in _hypernyms()


def path_similarity(first: str, second: str) -> float:
    """Return 1 / (1 + the number of steps on the shortest way from one noun to the other over a common hypernym).

    Args:
        first, second: ids such as `n01629819`.

    Returns:
        A number above 0, at most 1 (one and the same noun). A noun with several hypernyms has several
        ways up: the shortest counts. The same as NLTK's `path_similarity`.

    Raises:
        ValueError: a label is no id of a noun.
    """
    return 1 / (1 + _steps(_number(first), _number(second)))


def wu_palmer(first: str, second: str) -> float:
    """Return the similarity of Wu and Palmer (1994): 2 d / (2 d + the steps from both nouns up to their subsumer).

    The subsumer is the common hypernym whose shortest way to the root is longest; d is the number of
    nouns on its longest way to the root, both ends counted. That is how NLTK has it, which takes the
    first by name of several subsumers; here it is the one that gives most.

    Args:
        first, second: ids such as `n01629819`.

    Returns:
        A number above 0, at most 1 (one and the same noun).

    Raises:
        ValueError: a label is no id of a noun.
    """
    one, other = _number(first), _number(second)
    common = _above(one).keys() & _above(other).keys()
    deepest = max(_above(noun)[ROOT] for noun in common)
    doubled = {noun: 2 * (_depth(noun) + 1) for noun in common if _above(noun)[ROOT] == deepest}
    return max(
        double / (double + _steps(one, noun) + _steps(other, noun)) for noun, double in doubled.items()
    )


def height(first: str, second: str) -> int:
    """Return the height of the lowest common hypernym, the cost of a mistake in Deng et al. (ECCV 2010).

    The height of a noun is the number of steps on its longest way down, here among all nouns of WordNet.

    Args:
        first, second: ids such as `n01629819`.

    Returns:
        A whole number from 0 (one and the same noun, without any below it) up.

    Raises:
        ValueError: a label is no id of a noun.
    """
    return min(_height(noun) for noun in _above(_number(first)).keys() & _above(_number(second)).keys())


def _number(label: str) -> int:
    if not known(label):
        raise ValueError(f"expected the id of a noun in WordNet 3.0, such as n01629819. Received: {label!r}")
    return int(label[1:])


@functools.cache
def _pairs() -> np.ndarray:
    with np.load(HIERARCHY, allow_pickle=False) as stored:
        return np.stack([stored["noun"], stored["hypernym"]], axis=1).astype(int)


@functools.cache
def _hypernyms() -> dict[int, list[int]]:
    found = {ROOT: []}
    for noun, hypernym in _pairs().tolist():
        found.setdefault(noun, []).append(hypernym)
    return found


@functools.cache
def _hyponyms() -> dict[int, list[int]]:
    found = {}
    for noun, hypernym in _pairs().tolist():
        found.setdefault(hypernym, []).append(noun)
    return found


@functools.cache
def _above(noun: int) -> dict[int, int]:
    """Return a noun and all above it, with the least number of steps to each."""
    steps, reached = {noun: 0}, [noun]
    for lower in reached:
        for upper in _hypernyms()[lower]:
            if upper not in steps:
                steps[upper] = steps[lower] + 1
                reached.append(upper)
    return steps


def _steps(first: int, second: int) -> int:
    one, other = _above(first), _above(second)
    return min(one[noun] + other[noun] for noun in one.keys() & other.keys())


@functools.cache
def _depth(noun: int) -> int:
    """Return the number of steps on the longest way from a noun to the root."""
    return max((1 + _depth(upper) for upper in _hypernyms()[noun]), default=0)


@functools.cache
def _height(noun: int) -> int:
    """Return the number of steps on the longest way from a noun down."""
    return max((1 + _height(lower) for lower in _hyponyms().get(noun, [])), default=0)


def build(folder: Path) -> None:
    """Write `wordnet_nouns.npz` and `wordnet_licence.txt` beside this module, the same bytes each time.

    Args:
        folder: holds WordNet's `data.noun`.

    Raises:
        FileNotFoundError: it does not.
        ValueError: it is not that of WordNet 3.0.
    """
    file = Path(folder) / "data.noun"
    if not file.is_file():
        raise FileNotFoundError(f"expected a folder with WordNet's data.noun. Received: {folder}")
    lines = file.read_text(encoding="utf-8").splitlines()
    notice = [re.sub(r"^ +\d+ ", "", line).rstrip() for line in lines if line.startswith("  ")]
    if not any("WordNet 3.0 " in line for line in notice):
        raise ValueError("expected the data.noun of WordNet 3.0: ids are places in that very file")
    pairs = sorted(pair for line in lines if not line.startswith("  ") for pair in _parse(line))
    noun, hypernym = np.array(pairs, np.uint32).T
    files.write(HIERARCHY, lambda partial: np.savez_compressed(partial, noun=noun, hypernym=hypernym))
    files.write(LICENCE, lambda partial: partial.write_text("\n".join(notice) + "\n", encoding="utf-8"))


def _parse(line: str) -> list[tuple[int, int]]:
    """Read a line of `data.noun` (wndb(5WN)): offset, file, type, words in hexadecimal, words, pointers, gloss."""
    fields = line.split(" | ")[0].split()
    start = 4 + 2 * int(fields[3], 16)
    pointers = (fields[start + 1 + 4 * index :][:2] for index in range(int(fields[start])))
    return [(int(fields[0]), int(offset)) for symbol, offset in pointers if symbol in IS_A]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m lib.evaluate.wordnet <folder with WordNet's data.noun>")
    build(Path(sys.argv[1]))
