"""Each layout is read right, from a folder and from an archive, and stated before anything runs."""

import zipfile

import pytest
from layout_cases import CASES, a_taxonomy_of_which_the_species_is_the_class

from lib import check
from lib.core.schema import Params
from lib.download.packed import Packed
from lib.photos import labels, listing


def parameters(raw, **keys):
    source = {"kind": "folder", "folder": str(raw.folder)} | keys
    return Params.model_validate({"name": "mine", "source": source})


@pytest.fixture(params=CASES, ids=lambda case: case.name + " with keys" * bool(case.source))
def case(request, raw):
    request.param.draw(raw)
    return request.param


def test_the_photos_are_read_right_and_every_file_is_accounted_for(case, raw):
    contents = listing.Folder(raw.folder)
    table = labels.find(contents, parameters(raw, **case.source).source)
    usable = table[table.problem.eq("")]
    assert usable[usable.label.ne("")].label.value_counts().to_dict() == case.classes
    assert usable[usable.split.ne("")].split.value_counts().to_dict() == case.splits
    assert f"`{case.layout}`" in table.attrs["layout"] or case.source.get("layout")
    notes = table.attrs["notes"]
    assert len(notes) == len(case.notes)
    assert all(part in note for part, note in zip(case.notes, notes, strict=True))
    others = labels.others(contents, table)
    assert others == case.others
    counted = sum(others.values()) - sum(contents.others.values())
    assert len(table) + counted == len(contents.paths)


def test_check_states_it(case, raw, tmp_path):
    text = check.report(parameters(raw, **case.source), tmp_path / "out")
    first, second, *lines = text.splitlines()
    assert first.startswith(f"mine: {len(case.classes)} classes from `")
    assert all(f"{count} {kind}" in second for kind, count in case.others.items())
    found = [line.split()[-4:] for line in lines if line.split()[-4:-3] and line.split()[-4].isdecimal()]
    assert [row[0] for row in found] == [
        *(str(case.classes[name]) for name in labels.classes(case.classes)),
        str(sum(case.classes.values())),
    ]
    for split in ("train", "val", "test"):
        if split != "train" and split in case.splits:
            assert f"{split} from " in first
    assert not list(tmp_path.glob("out*"))


def test_an_archive_is_read_like_its_folder(case, raw, tmp_path):
    contents = listing.Folder(raw.folder)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in contents.paths:
            archive.write(raw.folder / path, path)
    source = parameters(raw, **case.source).source
    expected = labels.find(contents, source)
    with Packed(tmp_path / "photos.zip") as packed:
        found = labels.find(packed, source)
    assert found.equals(expected) and found.attrs == expected.attrs


def test_a_taxonomy_is_a_question_that_a_parameter_answers(raw, tmp_path):
    a_taxonomy_of_which_the_species_is_the_class(raw)
    with pytest.raises(
        ValueError, match="in 2 ways.*`CLASS`: 2 classes .*`\\*/CLASS`: 3 classes.*`source.layout`"
    ):
        check.report(parameters(raw), tmp_path / "out")
    assert "2 classes from `CLASS`" in check.report(parameters(raw, layout="CLASS"), tmp_path / "out")
    assert "3 classes from `*/CLASS`" in check.report(parameters(raw, layout="*/CLASS"), tmp_path / "out")
