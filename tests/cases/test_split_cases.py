"""Photos that depend on each other are cleaned and split as a person would do it."""

import pandas as pd
import pytest
import split_cases

from lib.clean import manifest, mirrors
from lib.core.schema import Params


def settings(**sections):
    values = {
        "name": "mine",
        "source": {"kind": "sample", "name": "mine"},
        "model": {"image_size": 64},
        "clean": {"embeddings": False},
    }
    return Params.model_validate(values | sections)


def build(folder, given):
    return manifest.build(folder, given, content="abc")


@pytest.fixture
def patients(tmp_path):
    split_cases.patients(tmp_path / "raw")
    return tmp_path


def test_no_patient_is_in_two_splits(patients):
    table = build(patients, settings(split={"group": r"/(\w+_patient\d+)_"})).table
    assert table.status.eq("kept").all() and table.group.nunique() == 12
    assert table.groupby("group").split.nunique().eq(1).all()
    # A class of six patients has one in val, one in test and four in train.
    patients_of = table.drop_duplicates("group").groupby(["label", "split"]).size()
    assert patients_of.unstack().to_dict("list") == {"test": [1, 1], "train": [4, 4], "val": [1, 1]}
    counts = manifest.summary(table)["groups"]
    assert counts == {
        "groups": 12,
        "largest": "ill_patient00",
        "photos_in_largest": 8,
        "photos_without": 0,
    }
    assert manifest.describe_groups(counts).startswith("12 groups; the largest, ill_patient00, has 8 photos.")


def test_patients_with_the_same_number_in_two_classes_stay_together(patients):
    table = build(patients, settings(split={"group": r"patient(\d+)"})).table
    assert table.group.nunique() == 6 and table.groupby("group").split.nunique().eq(1).all()
    assert table.groupby("label").split.nunique().eq(3).all()


def test_a_patient_in_two_given_splits_is_a_leak(patients):
    for part, views in (("train", "[0-4]"), ("test", "[5-7]")):
        for path in list((patients / "raw").glob(f"*/*_{views}.png")):
            target = patients / "raw" / part / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    # Another patient, who is in test only.
    for view, path in enumerate(sorted((patients / "raw/test/ill").glob("*patient00*"))):
        path.rename(path.with_name(f"ill_patient77_{view}.png"))
    given = {"group": r"/(\w+_patient\d+)_"}
    cleaned = build(patients, settings(split=given))
    table = cleaned.table.set_index("path")
    test = table[table.given_split.eq("test")]
    assert test.status.value_counts().to_dict() == {"leak": 33, "kept": 3}
    assert set(test.group[test.status.eq("kept")]) == {"ill_patient77"}
    assert (
        test.reason["test/well/well_patient03_6.png"]
        == "photos of its group, well_patient03, are in an earlier split"
    )
    summary = manifest.summary(cleaned.table)
    assert summary["leaks"] == 33 and summary["given"]["test"] == {"leak": 33, "kept": 3}
    assert "test: 91.7 % of the source's 36 photos are left out: 33 leak" in summary["notes"]
    kept = build(patients, settings(split=given | {"on_leak": "keep"})).table
    assert kept.split.value_counts()["test"] == 36 and kept.leak.sum() == 33
    assert kept.reason[kept.leak].str.contains("^leak: photos of its group, |near-duplicate").all()


def test_a_column_of_a_table_is_a_group(patients):
    paths = sorted(path.relative_to(patients / "raw") for path in (patients / "raw").rglob("*.png"))
    rows = [(path.as_posix(), path.parts[0], path.name.split("_")[1] + path.parts[0]) for path in paths]
    pd.DataFrame(rows, columns=["filename", "label", "patient"]).to_csv(patients / "raw/t.csv", index=False)
    source = {"kind": "sample", "name": "mine", "tables": {"t": {"file": "t.csv", "label": "label"}}}
    table = build(patients, settings(source=source, split={"group": "patient"})).table
    assert table.group.nunique() == 12 and table.groupby("group").split.nunique().eq(1).all()
    with pytest.raises(
        ValueError, match=r"`split.group`.*'specimen'. Columns: 'filename', 'label', 'patient'"
    ):
        build(patients, settings(source=source, split={"group": "specimen"}))


def test_photos_that_the_pattern_does_not_match_are_groups_of_their_own_and_noted(patients):
    cleaned = build(patients, settings(split={"group": r"(ill_patient\d+)"}))
    assert cleaned.table.group[cleaned.table.label.eq("well")].eq("").all()
    (note,) = cleaned.notes
    assert note.startswith("`split.group` finds no group for 48 photos (well/well_patient00_0.png, ")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (r"specimen(\d+)", r"matches none of 96 paths"),
        (r"(\w+)/", r"puts all photos of each class into one group, such as 'ill'"),
    ],
)
def test_a_pattern_that_cannot_divide_is_an_error_before_the_photos_are_read(
    patients, monkeypatch, group, message
):
    monkeypatch.setattr(manifest, "resized", lambda *_, **__: pytest.fail("the photos are read"))
    with pytest.raises(ValueError, match=rf"`split.group`.*{message}|{message}"):
        build(patients, settings(split={"group": group}))


def test_a_film_leaves_enough_of_the_other_photos_to_train(tmp_path):
    split_cases.film(tmp_path / "raw")
    table = build(tmp_path, settings()).table
    frames = table.path.str.contains("frame_")
    assert table.cluster[frames].nunique() == 1 and set(table.split[frames]) == {"train"}
    others = table.split[table.label.eq("sky") & ~frames].value_counts()
    assert others.sum() == 30 and others["train"] >= 18 and others["val"] >= 4 and others["test"] >= 4
    assert manifest.summary(table)["notes"] == [
        "sky: 240 of 270 photos are near-duplicates (sky/frame_000.png ...), all in train; "
        "the class has 31 independent units"
    ]


@pytest.mark.parametrize("flip", ["horizontal", "none"])
def test_arrows_are_noted_as_mirror_images_before_training(tmp_path, flip):
    split_cases.arrows(tmp_path / "raw")
    given = settings(clean={"embeddings": True}, augment={"flip": flip})
    cleaned = build(tmp_path, given)
    table = cleaned.table.assign(label=cleaned.table.label.map({"turn left": "a", "turn right": "z"}))
    pairs = mirrors.find(
        table, cleaned.images, vectors=cleaned.vectors, settings=given, folder=tmp_path / "cache"
    )
    found = [("a", "z", "horizontal", "embeddings")] if flip != "none" else []
    columns = pairs[["first", "second", "flip", "evidence"]]
    assert list(columns.itertuples(index=False, name=None)) == found
    by_names = mirrors.find(
        cleaned.table, cleaned.images, vectors=None, settings=given, folder=tmp_path / "cache"
    )
    assert len(by_names) == len(found)
    if found:
        assert mirrors.notes(by_names) == [
            "turn left and turn right are mirror images of each other (horizontal flip), by their names: "
            "random flips make them indistinguishable. Set `augment.flip: none`"
        ]
