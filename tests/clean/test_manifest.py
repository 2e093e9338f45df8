"""The manifest: every photo of the source has a row and a status, and a reason if it is not kept."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from shared import encoded, scene

from lib.clean import duplicates, manifest
from lib.core import tables
from lib.core.schema import Params


def settings(**sections):
    values = {
        "name": "mine",
        "source": {"kind": "sample", "name": "mine"},
        "model": {"image_size": 32},
        "clean": {"embeddings": False},
    } | sections
    return Params.model_validate(values)


def build(raw, given=None, content="abc"):
    cleaned = manifest.build(raw.folder.parent, given or settings(), content=content)
    assert list(cleaned.table.columns) == manifest.COLUMNS
    assert cleaned.images.shape == (len(cleaned.table), 32, 32, 3)
    return cleaned.table.set_index("path", drop=False)


def two_classes(raw, count=6, start=0):
    for number in range(count):
        raw.photo(f"cat/{number}.png", start + number)
        raw.photo(f"dog/{number}.png", start + 500 + number)


def put_dirt(raw):
    two_classes(raw, 12)
    raw.put("cat/empty.jpg", b"")
    raw.put("cat/page.jpg", b"<html>gone</html>")
    raw.put("dog/cut.jpg", encoded(scene(70, 200, 150), "JPEG")[:900])
    raw.put("dog/tiny.png", encoded(scene(71, 40, 15)))
    raw.photo("cat/copy of 3.png", 3)
    raw.photo("cat/a copy of 3.png", 3)
    raw.photo("cat/both.png", 80)
    raw.photo("dog/both.png", 80)
    raw.photo("dog/both again.png", 80)
    raw.put("cat/0 smaller.jpg", encoded(scene(0, 64, 48), "JPEG", quality=60))
    raw.photo("asked.png", 501)
    raw.photo("asked too.png", 90)
    raw.photo("asked too again.png", 90)
    raw.put("asked but broken.jpg", b"\xff\xd8\xff")


# Photos that are added later


def test_photos_stay_in_their_split_when_others_are_added(raw):
    two_classes(raw, 15)
    first = build(raw)
    # The same names, other photos.
    two_classes(raw, 15, start=100)
    for number in range(15):
        raw.photo(f"cat/old {number}.png", number)
        raw.photo(f"dog/old {number}.png", 500 + number)
    second = build(raw, content="more")
    old = second[second.sha1.isin(first.sha1)].set_index("sha1").split
    assert (old == first.set_index("sha1").split[old.index]).all() and len(old) == 30
    assert second.split.value_counts().gt(first.split.value_counts()).all()
    assert second.reason.eq("").all()


def test_a_cluster_that_a_new_photo_joins_across_splits_moves_and_is_listed(raw, monkeypatch):
    two_classes(raw, 15)
    first = build(raw)
    train, test = (
        first.index[first.split.eq(split) & first.label.eq("cat")][0] for split in ("train", "test")
    )
    joined = first.path.isin([train, test])
    monkeypatch.setattr(
        duplicates, "clusters", lambda *args, **kwargs: np.where(joined, 99, np.arange(len(first)))
    )
    second = build(raw)
    assert second.split[test] == second.split[train] == "train"
    assert second.reason[test] == "moved to this split from test"
    assert second.status[test] == "kept" and (second.reason != "").sum() == 1
    assert second.moved_from[test] == "test" and (second.moved_from != "").sum() == 1


def test_a_run_of_another_name_joins_the_division_and_keeps_it(raw):
    two_classes(raw, 15)
    first = build(raw)
    two_classes(raw, 5, start=100)
    for number in range(5):
        raw.photo(f"cat/old {number}.png", number)
        raw.photo(f"dog/old {number}.png", 500 + number)
    second = build(raw, settings(run="other"), content="more").set_index("sha1").split
    old = first.set_index("sha1").split
    assert (second[old.index] == old).all() and len(second) == 40
    third = build(raw, content="more").set_index("sha1").split
    assert third.equals(second)


def test_photos_that_come_back_are_in_the_same_split(raw):
    two_classes(raw, 15)
    first = build(raw).split
    (raw.folder / "cat/3.png").unlink()
    assert build(raw, content="less").split.equals(first.drop("cat/3.png"))
    raw.photo("cat/3.png", 3)
    assert build(raw, content="again").split.equals(first)


def test_a_damaged_division_is_computed_again(raw, capsys):
    two_classes(raw, 15)
    first = build(raw)
    (path,) = raw.folder.parent.glob("division-*.npz")
    path.write_bytes(path.read_bytes()[:-9])
    pd.testing.assert_frame_equal(build(raw), first)
    assert f"{path.name} is damaged" in capsys.readouterr().out and path.is_file()


# Statuses and reasons


def test_every_photo_has_a_row_and_every_loss_a_reason(raw):
    put_dirt(raw)
    table = build(raw)
    assert len(table) == 24 + 14 and table.path.is_unique and list(table.path) == sorted(table.path)
    kept = table.status.eq("kept")
    assert table.reason[~kept].ne("").all() and table.reason[kept].eq("").all()
    assert table.split[~kept].eq("").all() and table.split[kept].isin(manifest.ORDER).all()
    assert table.cluster[~kept].eq(-1).all()
    assert table.sha1.str.fullmatch("[0-9a-f]{40}").all()
    counts = {"kept": 24 + 1 + 3, "corrupt": 4, "small": 1, "duplicate": 2, "conflict": 3}
    assert table.status.value_counts().to_dict() == counts
    assert table.loc["dog/tiny.png", "reason"] == "the shorter side is 15 px"
    assert (
        table.loc["cat/empty.jpg", "reason"] == "the file is empty"
        and "HTML" in table.loc["cat/page.jpg", "reason"]
    )
    assert table.loc["dog/cut.jpg", "reason"].startswith("damaged")


def test_copies_with_one_label_keep_the_first_and_name_it(raw):
    put_dirt(raw)
    table = build(raw)
    copies = table[table.sha1.eq(table.sha1["cat/3.png"])]
    assert sorted(copies.status) == ["duplicate", "duplicate", "kept"]
    first = copies.path[copies.status.eq("kept")].item()
    assert set(copies.reason[copies.status.eq("duplicate")]) == {f"the same file as {first}"}


def test_copies_with_two_labels_are_all_excluded(raw):
    put_dirt(raw)
    table = build(raw)
    rows = table.loc[["cat/both.png", "dog/both.png", "dog/both again.png"]]
    assert set(rows.status) == {"conflict"}
    assert all(
        "the same file with several labels" in reason and "dog/both.png" in reason for reason in rows.reason
    )


def test_near_duplicates_share_a_cluster_and_a_split(raw):
    put_dirt(raw)
    table = build(raw)
    assert table.cluster["cat/0.png"] == table.cluster["cat/0 smaller.jpg"] >= 0
    assert table.split["cat/0.png"] == table.split["cat/0 smaller.jpg"]
    assert table.query("cluster >= 0").groupby("cluster").split.nunique().max() == 1
    assert manifest.clusters(table) == [
        sorted(np.flatnonzero(table.path.isin(["cat/0.png", "cat/0 smaller.jpg"])))
    ]


def test_photos_to_predict_are_all_kept_even_copies_of_labelled_ones(raw):
    put_dirt(raw)
    table = build(raw)
    asked = table.loc[["asked.png", "asked too.png", "asked too again.png"]]
    assert set(asked.status) == {"kept"} and set(asked.split) == {"predict"} and set(asked.cluster) == {-1}
    assert table.loc["dog/1.png", "status"] == "kept"
    assert table.loc["asked but broken.jpg", ["status", "split"]].tolist() == ["corrupt", ""]


def test_rows_that_a_table_does_not_settle_are_mislabelled(raw):
    for number in range(8):
        raw.photo(f"photos/{number}.png", number)
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(6)]
    raw.put("labels.csv", "\n".join(["filename,label", *lines, "6.png,", "0.png,cat"]).encode())
    source = {
        "kind": "sample",
        "name": "mine",
        "tables": {"t": {"file": "labels.csv", "photos": "photos", "label": "label"}},
    }
    table = build(raw, settings(source=source))
    assert set(table.status[["photos/0.png", "photos/6.png", "photos/7.png"]]) == {"mislabelled"}
    assert (
        table.reason["photos/7.png"] == "no table lists it" and "two labels" in table.reason["photos/0.png"]
    )
    assert table.status.eq("kept").sum() == 5


# Splits that the source fixes


def test_missing_files_of_a_table_have_a_row_and_never_become_photos(raw, tmp_path):
    lines = ["filename,label", "gone.png,cat", "link.png,cat"]
    for number in range(12):
        raw.photo(f"{number}.png", number)
        lines.append(f"{number}.png,{['cat', 'dog'][number % 2]}")
    (raw.folder / "link.png").symlink_to(raw.photo("../secret.png", 99))
    raw.put("labels.csv", "\n".join(lines).encode())
    (raw.folder.parent / "relabels.csv").write_text("path,label\ngone.png,dog\n")
    given = settings(source={"kind": "sample", "tables": {"t": {"file": "labels.csv", "label": "label"}}})
    cleaned = manifest.build(raw.folder.parent, given, content="abc")
    table = cleaned.table.set_index("path")
    assert list(table.status[["gone.png", "link.png"]]) == ["corrupt", "corrupt"]
    assert set(table.reason[["gone.png", "link.png"]]) == {"a table lists it, but there is no such file"}
    assert table.status.value_counts().to_dict() == {"kept": 12, "corrupt": 2}
    assert cleaned.notes[0].endswith("lists 2 of 14 files that are not in the source: gone.png, link.png")
    # the same photos are found in the cache
    again, images = manifest.resized(raw.folder.parent, given, content="abc", paths=list(table.index))
    assert list(again.sha1) == list(table.sha1) and (images == cleaned.images).all()


def put_splits(raw):
    for number in range(4):
        for label, start in (("cat", 0), ("dog", 500)):
            raw.photo(f"train/{label}/{number}.png", start + number)
            raw.photo(f"val/{label}/{number}.png", start + 10 + number)
            raw.photo(f"test/{label}/{number}.png", start + 20 + number)


def test_given_splits_are_kept(raw):
    put_splits(raw)
    table = build(raw)
    assert table.status.eq("kept").all() and (table.split == table.path.str.split("/").str[0]).all()


def test_the_fraction_of_a_given_split_that_is_left_out_is_noted(raw):
    put_splits(raw)
    raw.put("test/dog/dark.png", encoded(scene(72) // 4))
    raw.photo("test/cat/a copy.png", 0)
    decide(raw, "exclusions.csv", "test/cat/0.png,,a sketch")
    table = build(raw, settings(clean={"embeddings": False, "exclude": ["dark"]}))
    summary = manifest.summary(table)
    assert summary["given"] == {
        "train": {"kept": 8},
        "val": {"kept": 8},
        "test": {"kept": 7, "excluded": 1, "flagged": 1, "leak": 1},
    }
    (note,) = summary["notes"]
    assert note.startswith("test: 30.0 % of the source's 10 photos are left out: ") and "1 flagged" in note


@pytest.mark.parametrize("on_leak", ["drop", "keep"])
def test_copies_across_given_splits(raw, on_leak):
    put_splits(raw)
    # A copy of train/cat/0.png.
    raw.photo("test/cat/a copy.png", 0)
    # A copy of test/dog/0.png.
    raw.photo("val/dog/a copy.png", 520)
    table = build(raw, settings(split={"on_leak": on_leak}))
    copies = table.loc[
        ["train/cat/0.png", "test/cat/a copy.png", "test/dog/0.png", "val/dog/a copy.png"],
        ["status", "split"],
    ]
    if on_leak == "keep":
        assert copies.values.tolist() == [
            ["kept", "train"],
            ["kept", "test"],
            ["kept", "test"],
            ["kept", "val"],
        ]
    else:
        assert copies.values.tolist() == [
            ["kept", "train"],
            ["leak", ""],
            ["leak", ""],
            ["kept", "val"],
        ]
    assert manifest.summary(table)["leaks"] == 2


def test_a_copy_names_the_first_in_the_order_of_the_splits_not_of_the_paths(raw):
    for number in range(3):
        raw.photo(f"train/cat/{number}.png", number)
        raw.photo(f"train/dog/{number}.png", 500 + number)
        raw.photo(f"Val/dog/{number}.png", 510 + number)
        raw.photo(f"test/dog/{number}.png", 520 + number)
    raw.photo("Val/cat/1.png", 0)
    raw.photo("Val/cat/2.png", 0)
    table = build(raw)
    assert table.status[["Val/cat/1.png", "Val/cat/2.png"]].tolist() == ["leak", "duplicate"]
    assert table.reason["Val/cat/2.png"] == "the same file as train/cat/0.png"


@pytest.mark.parametrize("on_leak", ["drop", "keep"])
def test_near_duplicates_across_given_splits(raw, on_leak):
    put_splits(raw)
    raw.put("val/cat/near.jpg", encoded(scene(0, 60, 45), "JPEG", quality=70))
    raw.put("test/dog/near.jpg", encoded(scene(510, 60, 45), "JPEG", quality=70))
    table = build(raw, settings(split={"on_leak": on_leak}))
    assert table.status.eq("kept").sum() == 24 + 2 * (on_leak == "keep")
    for near, split in (("val/cat/near.jpg", "val"), ("test/dog/near.jpg", "test")):
        expected = (
            ["kept", split, "leak: a near-duplicate of it is in an earlier split"]
            if on_leak == "keep"
            else ["leak", "", "a near-duplicate of it is in an earlier split"]
        )
        assert table.loc[near, ["status", "split", "reason"]].tolist() == expected
    assert list(table.path[table.leak]) == ["test/dog/near.jpg", "val/cat/near.jpg"]
    assert table.loc[["train/cat/0.png", "val/dog/0.png"], "status"].eq("kept").all()


def test_a_class_without_training_photos_is_not_measured(raw):
    put_splits(raw)
    raw.photo("test/bird/1.png", 900)
    raw.photo("val/bird/1.png", 901)
    table = build(raw)
    rows = table[table.label.eq("bird")]
    assert (
        set(rows.status) == {"untrained"}
        and set(rows.split) == {""}
        and set(rows.reason) == {"no photo of its class is in train"}
    )


def test_val_is_taken_from_train_if_the_source_has_only_train_and_test(raw):
    for number in range(10):
        for label, start in (("cat", 0), ("dog", 500)):
            raw.photo(f"train/{label}/{number}.png", start + number)
            raw.photo(f"test/{label}/{number}.png", start + 20 + number)
    table = build(raw)
    assert table.split.value_counts().to_dict() == {"test": 20, "train": 16, "val": 4}
    assert (table.split.eq("test") == table.path.str.startswith("test/")).all()


@pytest.mark.parametrize("cats", [0, 4])
def test_fewer_than_two_classes_left(raw, cats):
    for number in range(4):
        raw.photo(f"cat/{number}.png", number)
        # The same photos: a conflict each.
        raw.photo(f"dog/{number}.png", number)
    for number in range(10, 10 + cats):
        raw.photo(f"cat/{number}.png", number)
    with pytest.raises(ValueError, match=r"expected at least two classes in train .*'conflict': 8"):
        build(raw)


def test_no_photo_can_be_read(raw):
    for path in ("cat/1.jpg", "dog/1.jpg"):
        raw.put(path, b"")
    with pytest.raises(ValueError, match=r"expected at least two classes in train .*'corrupt': 2"):
        build(raw)


def test_names_and_order_do_not_decide_the_split(raw, tmp_path):
    two_classes(raw, 15)
    before = build(raw).set_index("sha1").split
    for number, path in enumerate(sorted(raw.folder.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"renamed {number}.png"))
    after = build(raw, content="renamed").set_index("sha1").split
    assert set(before) == {"train", "val", "test"} and (after[before.index] == before).all()


# Files


def test_written_and_read_back(raw, tmp_path):
    put_dirt(raw)
    (raw.folder / "cat/1.png").rename(raw.folder / 'cat/1, "ö"\n.png')
    table = build(raw).reset_index(drop=True)
    tables.write(table, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(manifest.read(tmp_path / "manifest.csv"), table, check_dtype=False)
    assert manifest.read(tmp_path / "manifest.csv").leak.dtype == bool


def test_a_manifest_of_an_earlier_version_is_refused(raw, tmp_path):
    two_classes(raw)
    tables.write(build(raw).drop(columns="leak"), tmp_path / "manifest.csv")
    with pytest.raises(
        ValueError, match=r"^manifest.csv was written by an earlier version: run 02_clean again$"
    ):
        manifest.read(tmp_path / "manifest.csv")


@pytest.mark.parametrize("spelling", ["True", "TRUE"])
def test_a_leak_is_read_in_the_spelling_of_spreadsheets(raw, tmp_path, spelling):
    two_classes(raw)
    table = build(raw)
    table["leak"] = [spelling, *["False"] * (len(table) - 1)]
    tables.write(table, tmp_path / "manifest.csv")
    assert manifest.read(tmp_path / "manifest.csv").leak.tolist() == [True, *[False] * (len(table) - 1)]


def test_class_names_that_look_like_numbers_or_nothing_come_back(tmp_path):
    row = dict.fromkeys(manifest.COLUMNS, "") | {"width": 3, "height": 4, "cluster": -1, "leak": False}
    table = pd.DataFrame(
        [
            row | {"path": name, "label": name, "sha1": "1e5", "phash": "0" * 16}
            for name in ("NA", "007", "null", "1.0")
        ]
    )
    tables.write(table, tmp_path / "manifest.csv")
    again = manifest.read(tmp_path / "manifest.csv")
    assert (
        list(again.label) == ["NA", "007", "null", "1.0"]
        and set(again.sha1) == {"1e5"}
        and set(again.phash) == {"0" * 16}
    )
    assert again.cluster.dtype == np.int64


def test_the_photos_are_decoded_once(raw):
    two_classes(raw)
    first = build(raw)
    for path in raw.folder.rglob("*.png"):
        # The names and the fingerprint of the content are the same.
        path.write_bytes(b"")
    pd.testing.assert_frame_equal(build(raw), first)


def test_raw_is_never_changed(raw):
    put_dirt(raw)
    before = {path: path.read_bytes() for path in raw.folder.rglob("*") if path.is_file()}
    build(raw)
    assert {path: path.read_bytes() for path in raw.folder.rglob("*") if path.is_file()} == before


def test_summary_counts_add_up(raw):
    put_dirt(raw)
    table = build(raw)
    summary = manifest.summary(table)
    assert summary["photos"] == len(table) == sum(summary["status"].values())
    assert summary["split"]["predict"] == 3 and sum(summary["split"].values()) == summary["status"]["kept"]
    assert summary["near_duplicate_clusters"] == 1
    cat = summary["classes"]["cat"]
    assert cat["found"] == 12 + 6 and cat["kept"] == 12 + 1 == cat["train"] + cat["val"] + cat["test"]
    assert json.loads(json.dumps(summary)) == summary and summary["notes"] == []


def test_summary_notes_the_classes_too_small_to_split(raw):
    two_classes(raw, 8)
    raw.photo("bird/1.png", 901)
    summary = manifest.summary(build(raw))
    assert summary["classes"]["bird"] == {"found": 1, "kept": 1, "train": 1, "val": 0, "test": 0}
    assert summary["notes"] == [
        "bird: 1 photo kept, 0 in val",
        "bird: 1 photo kept, 0 in test",
    ]


# Decisions, flags and near-duplicates


def decide(raw, file, *rows):
    columns = {"exclusions.csv": "path,sha1,reason", "relabels.csv": "path,sha1,label,from"}[file]
    (raw.folder.parent / file).write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


def test_the_decisions_of_a_person_are_applied(raw):
    two_classes(raw, 12)
    raw.photo("cat/twin.png", 80)
    # Two labels, until a person decides.
    raw.photo("dog/twin.png", 80)
    decide(raw, "exclusions.csv", "cat/3.png,,a sketch")
    decide(raw, "relabels.csv", "cat/5.png,,dog,cat", "dog/twin.png,,cat,dog")
    table = build(raw)
    assert table.loc["cat/3.png", ["status", "reason", "split", "cluster"]].tolist() == [
        *["excluded", "excluded by hand: a sketch"],
        *["", -1],
    ]
    row = table.loc["cat/5.png"]
    assert (row.label, row.status, row.reason) == ("dog", "kept", "relabelled by hand from cat") and row.split
    assert table.relabelled_from["cat/5.png"] == "cat" and table.relabelled_from["dog/5.png"] == ""
    assert sorted(table.status[["cat/twin.png", "dog/twin.png"]]) == ["duplicate", "kept"]
    summary = manifest.summary(table)
    assert summary["relabelled"] == 1 + (table.status["dog/twin.png"] == "kept")
    assert summary["status"]["excluded"] == 1


def test_decisions_that_cannot_be_applied_are_notes(raw):
    two_classes(raw)
    decide(raw, "exclusions.csv", "cat/99.png,,gone")
    cleaned = manifest.build(raw.folder.parent, settings(), content="abc")
    assert (
        len(cleaned.notes) == 1
        and "cat/99.png" in cleaned.notes[0]
        and "not in the source" in cleaned.notes[0]
    )


def test_a_sentence_of_a_person_is_no_state(raw):
    two_classes(raw, 12)
    reason = (
        "moved to this split from the other folder, relabelled by hand from cat; leak: blurred (and dark)"
    )
    decide(raw, "exclusions.csv", f'cat/3.png,,"{reason}"')
    table = build(raw)
    assert table.reason["cat/3.png"] == f"excluded by hand: {reason}"
    summary = manifest.summary(table)
    assert (summary["moved"], summary["relabelled"], summary["leaks"]) == (0, 0, 0)
    assert not any(manifest.flagged(table, kind)["cat/3.png"] for kind in manifest.quality.KINDS)


def test_the_reason_of_a_kept_photo_has_all_changes(raw, monkeypatch):
    two_classes(raw, 15)
    first = build(raw)
    train, test = (
        first.index[first.split.eq(split) & first.label.eq("cat")][0] for split in ("train", "test")
    )
    decide(raw, "relabels.csv", f"{test},,dog,cat")
    joined = first.path.isin([train, test])
    monkeypatch.setattr(duplicates, "clusters", lambda *_: np.where(joined, 99, np.arange(len(first))))
    leak = first.path.eq(test).reset_index(drop=True)
    monkeypatch.setattr(
        manifest.splits, "leaks", lambda photos: (leak[photos.index], leak[photos.index] & False)
    )
    table = build(raw, settings(split={"on_leak": "keep"}))
    assert table.reason[test] == (
        "relabelled by hand from cat; moved to this split from test; "
        "leak: a near-duplicate of it is in an earlier split"
    )
    summary = manifest.summary(table)
    assert (summary["moved"], summary["relabelled"], summary["leaks"]) == (1, 1, 1)
    dropped = build(raw)
    columns = ["status", "split", "moved_from", "leak", "relabelled_from", "cluster"]
    assert dropped.loc[test, columns].tolist() == ["leak", "", "", True, "cat", -1]
    summary = manifest.summary(dropped)
    assert (summary["moved"], summary["relabelled"], summary["leaks"]) == (0, 0, 1)


def put_quality_issues(raw):
    two_classes(raw, 12)
    raw.put("cat/grey.png", encoded(np.repeat(scene(71)[..., :1], 3, axis=2)))
    raw.put("dog/dark.png", encoded(scene(72) // 4))


def test_photos_with_quality_issues_are_flagged_and_kept(raw):
    put_quality_issues(raw)
    table = build(raw)
    flagged = {kind: list(table.path[manifest.flagged(table, kind)]) for kind in ("greyscale", "dark")}
    assert flagged == {"greyscale": ["cat/grey.png"], "dark": ["dog/dark.png"]}
    assert table["flags"]["cat/grey.png"] == "greyscale"
    assert table.quality["cat/grey.png"] == "greyscale (colour 0)"
    assert table.status.eq("kept").all()
    summary = manifest.summary(table)["flags"]
    assert (summary["greyscale"], summary["dark"], summary["outlier"]) == (1, 1, 0)


def test_flagged_photos_are_excluded_if_the_parameters_name_the_flag(raw):
    put_quality_issues(raw)
    raw.put("asked.png", encoded(np.repeat(scene(73)[..., :1], 3, axis=2)))
    table = build(raw, settings(clean={"embeddings": False, "exclude": ["greyscale"]}))
    assert table.status["cat/grey.png"] == "flagged" and table.reason["cat/grey.png"].startswith(
        "greyscale ("
    )
    assert table.status["dog/dark.png"] == "kept"
    # Photos to predict are never excluded by a flag.
    assert table.split["asked.png"] == "predict"
    # Only kept photos are counted.
    assert manifest.summary(table)["flags"]["greyscale"] == 1


def test_embeddings_find_copies_that_hashes_do_not(raw, monkeypatch):
    two_classes(raw, 12)
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    photo = cv2.resize(photo, (160, 160), interpolation=cv2.INTER_CUBIC)
    raw.put("cat/whole.png", encoded(photo))
    raw.put("cat/mirrored.png", encoded(photo[:, ::-1]))
    plain = build(raw)
    assert plain.cluster["cat/whole.png"] != plain.cluster["cat/mirrored.png"]

    def compute(images, *, content, folder, settings, pool):
        assert content[-2:] == ["crop", "160"] and len(content) == len(images) + 2
        return np.abs(np.random.default_rng(0).normal(3, 0.1, (len(images), 8))).astype(np.float32)

    monkeypatch.setattr(manifest.embeddings, "compute", compute)
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 30)
    given = settings(clean={"embeddings": True}, model={"image_size": 160})
    cleaned = manifest.build(raw.folder.parent, given, content="abc")
    table = cleaned.table.set_index("path", drop=False)
    assert table.cluster["cat/whole.png"] == table.cluster["cat/mirrored.png"] >= 0
    assert table.split["cat/whole.png"] == table.split["cat/mirrored.png"]
    pairs = manifest.near_duplicates(cleaned)
    assert pairs[["kind", "first", "second", "labels"]].values.tolist() == [
        ["embedding", "cat/mirrored.png", "cat/whole.png", "cat / cat"]
    ]
    assert pairs.correlation.item() > 0.85 and cleaned.vectors.shape == (26, 8)


def test_near_duplicates_name_the_photos_the_surest_first(raw):
    put_dirt(raw)
    cleaned = manifest.build(raw.folder.parent, settings(), content="abc")
    pairs = manifest.near_duplicates(cleaned)
    # First exact, then perceptual.
    assert list(pairs.kind) == sorted(pairs.kind)
    assert set(pairs[pairs.kind.eq("exact")].labels) == {"cat / cat", "cat / dog"}
    smaller = pairs[pairs.kind.eq("perceptual")]
    assert smaller[["first", "second"]].values.tolist() == [["cat/0 smaller.jpg", "cat/0.png"]]
    splits = cleaned.table.set_index("path").split
    assert smaller.splits.item() == f"{splits['cat/0 smaller.jpg']} / {splits['cat/0.png']}"
    assert all(
        cleaned.table.path[row] == path
        for row, path in zip(cleaned.pairs["first"][pairs.index], pairs["first"], strict=True)
    )


def test_a_photo_that_leaves_val_is_listed_if_the_source_fixes_train_and_test(raw, monkeypatch):
    for number in range(12):
        for split in ("train", "test"):
            for label, start in (("cat", 0), ("dog", 500)):
                raw.photo(f"{split}/{label}/{number}.png", start + number + 100 * (split == "test"))
    first = build(raw)
    train, val = (first.index[first.split.eq(split) & first.label.eq("cat")][0] for split in ("train", "val"))
    joined = first.path.isin([train, val])
    monkeypatch.setattr(duplicates, "clusters", lambda *_: np.where(joined, 99, np.arange(len(first))))
    table = build(raw)
    assert table.reason[val] == "moved to this split from val" and manifest.summary(table)["moved"] == 1


def test_many_copies_under_several_labels_are_counted_and_not_all_named(raw):
    two_classes(raw)
    for number in range(30):
        raw.photo(f"cat/gone {number}.png", 80)
        raw.photo(f"dog/gone {number}.png", 80)
    table = build(raw)
    reasons = table.reason[table.status.eq("conflict")]
    assert len(reasons) == 60 and reasons.str.len().max() < 150
    assert reasons.iloc[0].startswith("the same file with several labels: 60 photos (cat/gone 0.png, ")
    (group,) = manifest.conflicts(table)
    assert set(table.path.iloc[group]) == set(table.path[table.status.eq("conflict")])


def test_a_name_that_a_spreadsheet_would_run_is_written_behind_an_apostrophe(raw, tmp_path):
    two_classes(raw)
    for number in range(4):
        raw.photo(f"=cmd|' /C calc'!A0/{number}.png", 300 + number)
    table = build(raw)
    tables.write(table, tmp_path / "manifest.csv")
    text = (tmp_path / "manifest.csv").read_text(encoding="utf-8")
    assert "\n'=cmd" in text and "\n=cmd" not in text and ",=cmd" not in text
    pd.testing.assert_frame_equal(manifest.read(tmp_path / "manifest.csv"), table.reset_index(drop=True))
