"""Probes: embeddings that separate the classes score high, others near chance, the best backbone first."""

import numpy as np
import pandas as pd
import pytest

from lib.clean import embeddings, probes
from lib.core import schema

COUNT = 60
LABELS = ["cat", "dog"] * (COUNT // 2)


def settings(**model):
    clean = {"compare": ["ResNet50", "MobileNetV2"], "embeddings": model.pop("embeddings", True)}
    values = {"name": "mine", "source": {"kind": "sample"}, "clean": clean}
    return schema.Params.model_validate(
        values | {"model": {"backbone": "MobileNetV2", "image_size": 64} | model}
    )


@pytest.fixture
def embedded(monkeypatch):
    """The backbones that were used; the embeddings of the recipe's own have the classes, the others noise."""
    models = []

    def compute(images, *, content, folder, settings, pool):
        models.append(settings)
        assert content[-2:] == ["crop", "64"] and len(content) == len(images) + 2
        vectors = np.random.default_rng(0).uniform(0, 1, (COUNT, 16)).astype(np.float32)
        if settings.backbone == "MobileNetV2":
            vectors[:, 0] += 9 * (np.array(LABELS) == "cat")
        return vectors

    monkeypatch.setattr(embeddings, "compute", compute)
    return models


def table(**columns):
    rows = {"sha1": [str(row) for row in range(COUNT)], "label": LABELS, "cluster": range(COUNT), "group": ""}
    return pd.DataFrame(rows | columns)


IMAGES = np.zeros((COUNT, 64, 64, 3), np.uint8)


def test_the_backbone_that_sees_the_classes_is_first(embedded, tmp_path):
    scores = probes.compare(table(), IMAGES, settings=settings(), folder=tmp_path)
    assert list(scores.columns) == probes.COLUMNS
    assert scores.backbone[0] == "MobileNetV2" and set(scores.backbone[1:]) == {
        "EfficientNetLite0",
        "ResNet50",
    }
    assert scores.top_1[0] > 0.95 and (scores.top_1[1:] < 0.75).all()
    assert scores.log_loss.is_monotonic_increasing and (scores.low <= scores.top_1).all()
    assert (scores.top_1 <= scores.high).all() and (scores.channels == 16).all()


def test_the_recipe_s_own_backbone_comes_with_its_weights_and_size(embedded, tmp_path):
    probes.compare(table(), IMAGES, settings=settings(weights="mine.h5", scaling="unit"), folder=tmp_path)
    assert [(model.backbone, model.weights, model.image_size, model.scaling) for model in embedded] == [
        ("EfficientNetLite0", "imagenet", 128, "backbone"),
        ("ResNet50", "imagenet", 64, "backbone"),
        ("MobileNetV2", "mine.h5", 64, "unit"),
    ]


@pytest.mark.parametrize("own", [{"weights": None}, {"scaling": "measured"}])
def test_a_recipe_without_weights_is_compared_by_those_of_imagenet(own, embedded, tmp_path):
    probes.compare(table(), IMAGES, settings=settings(**own), folder=tmp_path)
    assert (embedded[2].backbone, embedded[2].weights, embedded[2].scaling) == (
        "MobileNetV2",
        "imagenet",
        "backbone",
    )


def test_photos_that_are_not_kept_do_not_count(embedded, tmp_path):
    clusters = [row if row < 40 else -1 for row in range(COUNT)]
    # They would lower the accuracy.
    wrong = LABELS[:40] + ["dog", "cat"] * 10
    scores = probes.compare(
        table(cluster=clusters, label=wrong), IMAGES, settings=settings(), folder=tmp_path
    )
    assert scores.top_1[0] > 0.9


def test_without_embeddings_there_is_nothing_to_compare(embedded, tmp_path):
    assert (
        probes.compare(table(), IMAGES, settings=settings(embeddings=False), folder=tmp_path).empty
        and not embedded
    )


def test_one_cluster_cannot_be_judged(embedded, tmp_path):
    assert probes.compare(table(cluster=0), IMAGES, settings=settings(), folder=tmp_path).empty


def test_no_backbone_is_compared_twice_and_each_sees_the_centre_that_training_sees(
    embedded, tmp_path, monkeypatch
):
    sizes = []
    original = embeddings.compute
    monkeypatch.setattr(
        embeddings,
        "compute",
        lambda images, **options: sizes.append(images.shape[1]) or original(images, **options),
    )
    own = settings(image_size=48, resize=64)
    twice = own.clean.model_copy(update={"compare": ("MobileNetV2", "MobileNetV2")})
    probes.compare(table(), IMAGES, settings=own.model_copy(update={"clean": twice}), folder=tmp_path)
    assert sizes == [64, 48]
    same = settings(backbone="EfficientNetLite0", image_size=128)
    again = same.clean.model_copy(update={"compare": ("EfficientNetLite0",)})
    # The second has the recipe's own weights and size.
    assert len(probes._models(same.model_copy(update={"clean": again}))) == 2
