"""The photos of a run: rows and targets by split, statistics of the training photos, identity by content."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lib.clean import manifest, photoset
from lib.core import files, schema, steps, tables
from lib.core.schema import Params


def test_the_rows_targets_and_identity_of_loaded_photos(raw, monkeypatch, tmp_path):
    for number in range(12):
        raw.photo(f"cat/{number}.png", number)
        raw.photo(f"dog/{number}.png", 500 + number)
    raw.put("cat/empty.jpg", b"")
    monkeypatch.setenv("CHRYSALIS_OUTPUTS", str(tmp_path / "outputs"))
    settings = Params.model_validate(
        {
            "name": "mine",
            "source": {"kind": "sample", "name": "mine"},
            "model": {"image_size": 32},
            "clean": {"embeddings": False},
        }
    )
    run = steps.start(settings, steps.TRAIN)
    run.data.parent.mkdir(parents=True)
    raw.folder.parent.rename(run.data)
    cleaned = manifest.build(run.data, settings, content="abc")
    table, images = cleaned.table, cleaned.images
    tables.write(table, run.path("manifest.csv"))
    files.write_json(run.path("source.json"), {"content_sha256": "abc"})
    photos = photoset.load(run)
    assert photos.classes == ["cat", "dog"] and (photos.images == images).all()
    for split in ("train", "val", "test"):
        rows = photos.rows(split)
        assert (table.split.iloc[rows] == split).all() and len(rows) == table.split.eq(split).sum()
        assert [photos.classes[target] for target in photos.targets(split)] == list(table.label.iloc[rows])
        assert photos.targets(split).dtype == np.int64
    assert photos.identity("train") == photos.identity("train") != photos.identity("train", "val")
    relabelled = dataclasses.replace(photos, table=table.assign(label=table.label.replace("cat", "dog")))
    assert relabelled.identity("train") != photos.identity("train")
    renamed = dataclasses.replace(photos, table=table.assign(path=table.path + "x"))
    assert renamed.identity("train") == photos.identity("train")


def test_statistics_are_of_the_training_photos_as_the_network_takes_them(monkeypatch):
    full = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), np.uint8)
    full[..., 2] //= 4
    table = pd.DataFrame({"split": ["train", "val", "train", "train", "test", "train", "train", "", "val"]})
    # Five photos in three parts.
    monkeypatch.setattr(photoset, "CHUNK", 2)
    mean, std = photoset.Photos(table, full, 8, ["cat"]).statistics
    seen = full[[0, 2, 3, 5, 6], 2:10, 2:10] / 255
    np.testing.assert_allclose(mean, seen.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, seen.std(axis=(0, 1, 2)), rtol=1e-12)


def test_photos_without_a_folder_are_not_embedded():
    photos = photoset.Photos(pd.DataFrame({"sha1": []}), np.zeros((0, 8, 8, 3), np.uint8), 8, ["cat"])
    with pytest.raises(
        ValueError, match="expected photos with a folder to store embeddings. Received: folder=None"
    ):
        photos.embed(schema.Model())
