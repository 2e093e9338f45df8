"""Compute what NLTK says of pairs of ImageNet100's classes, for tests/test_wordnet.py.

Run once, in an environment of its own, with the folder that holds WordNet 3.0's data files:
    pip install nltk
    python tests/reference/wordnet.py <folder>
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader

# Near and far, animals and things, nouns with several hypernyms, one noun above another.
PAIRS = """
n02094433 n02085620  n02094433 n02123045  n02125311 n02123045  n02481823 n02486410  n01774384 n01774750
n01629819 n01644900  n01698640 n01742172  n02206856 n02165456  n02231487 n02236044  n02403003 n02437312
n02002724 n02058221  n03100240 n04285008  n04146614 n04487081  n07747607 n07749582  n07749582 n07753592
n07715103 n07720875  n03838899 n03854065  n03400231 n04596742  n03970156 n04597913  n04398044 n04560804
n04254777 n04259630  n04532106 n03763968  n09332890 n09428293  n09193705 n09256479  n02909870 n03937543
n12267677 n07747607  n06596364 n03599486  n02123045 n04146614  n01910747 n02843684  n03733131 n07583066
n03837869 n03355925  n02892201 n02999410  n03404251 n02085620  n02364673 n02364673  n04275548 n01774384
n02084071 n02085620  n02084071 n02121808  n00007846 n02084071  n00001740 n12267677  n09193705 n09192708
n02691156 n04552348  n02958343 n04285008  n08524735 n09044862  n01629819 n02085620  n02123045 n01644900
"""


class Reader(WordNetCorpusReader):
    """WordNet in English alone: there is nothing to map to other languages."""

    def map_wn(self, version="wordnet"):
        return {}


def reader(folder: Path) -> WordNetCorpusReader:
    """Open a copy of WordNet; the two lists that some packages of it leave out say nothing of the hierarchy."""
    place = Path(tempfile.mkdtemp())
    shutil.copytree(folder, place, dirs_exist_ok=True)
    for name, content in (("lexnames", "".join(f"{n:02}\tx{n}\t1\n" for n in range(45))), ("adv.exc", "")):
        if not (place / name).exists():
            (place / name).write_text(content)
    nltk.data.path.append(str(place))  # it reads nowhere else
    return Reader(str(place), None)


wordnet = reader(Path(sys.argv[1]))
labels = PAIRS.split()
found = []
for first, second in zip(labels[::2], labels[1::2], strict=True):
    one, other = (wordnet.synset_from_pos_and_offset(label[0], int(label[1:])) for label in (first, second))
    found.append([first, second, one.path_similarity(other), one.wup_similarity(other)])
Path(__file__).with_suffix(".json").write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
