"""Embeddings: the output of the backbone, stored, and the neighbours that a search of all pairs finds."""

import cv2
import numpy as np
import pytest
from shared import scene

from lib.clean import embeddings
from lib.core import files, schema
from lib.networks import backend, efficientnet_lite

SETTINGS = schema.Model(image_size=32)


@pytest.fixture(autouse=True)
def no_network():
    """No network of an earlier test."""
    embeddings._last_network.cache_clear()


class Means:
    """Stands for the network: the mean colour of each photo."""

    output_shape = (None, 3)
    jit_compile = False

    def predict_on_batch(self, batch):
        return batch.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def images():
    """Six photos in squares that are larger than the network's input, the fourth unreadable."""
    squares = np.stack([scene(seed, 64, 64) for seed in range(6)])
    squares[3] = 0
    return squares


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def computed(images, folder):
    # Six photos in two batches.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "BATCH_SIZE", 4)
        return embeddings.compute(images, content=list("abcdef"), folder=folder, settings=SETTINGS)


@pytest.mark.backend
def test_embeddings_are_the_mean_of_the_feature_map(images, computed):
    small = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in images])
    backbone = efficientnet_lite.EfficientNetLite0("imagenet", (32, 32, 3))
    features = backend.outputs(backbone, (small.astype(np.float32) - 127) / 128)
    assert computed.shape == (6, 1280) and computed.dtype == np.float32
    np.testing.assert_allclose(computed, features.mean(axis=(1, 2)), atol=1e-4)
    assert features.std() > 0.1 and (computed >= 0).all()


def test_a_second_pass_is_read_back(images, folder, computed, monkeypatch):
    def called(settings, pool):
        raise AssertionError("the backbone was built again")

    monkeypatch.setattr(embeddings, "network", called)
    again = embeddings.compute(images, content=list("abcdef"), folder=folder, settings=SETTINGS)
    np.testing.assert_array_equal(again, computed)
    changes = [
        {"content": list("abcdeg")},
        {"settings": schema.Model(image_size=64)},
        {"settings": schema.Model(image_size=32, weights=None)},
        {"images": images[:, :60, :60]},
    ]
    for change in changes:
        given = {"images": images, "content": list("abcdef"), "settings": SETTINGS} | change
        with pytest.raises(AssertionError, match="built again"):
            embeddings.compute(given.pop("images"), folder=folder, **given)


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damaged_embeddings_are_computed_again(images, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setattr(embeddings, "network", lambda settings, pool: Means())
    known = embeddings.compute(images, content=list("abcdef"), folder=tmp_path, settings=SETTINGS).copy()
    (path,) = tmp_path.glob("embeddings-*/vectors.npy")
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data[:-4] if damage == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))
    again = embeddings.compute(images, content=list("abcdef"), folder=tmp_path, settings=SETTINGS)
    assert (again == known).all() and "is damaged: it is removed" in capsys.readouterr().out


def test_a_full_disk_is_an_error(images, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "network", lambda settings, pool: Means())
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("usage", (), {"free": 71}))
    with pytest.raises(files.NoSpace, match="expected 72 bytes of free disk space. Received: 71 bytes"):
        embeddings.compute(images, content=list("abcdef"), folder=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_pass_is_not_read_back(images, tmp_path, monkeypatch):
    def cut_off(settings, pool):
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "network", cut_off)
    with pytest.raises(KeyboardInterrupt):
        embeddings.compute(images, content=list("abcdef"), folder=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.glob("embeddings-*"))


# Neighbours


def groups(random, count, *, families):
    """Draw vectors around a few directions, as embeddings of classes lie."""
    centres = random.normal(size=(families, 32))
    return (centres[random.integers(families, size=count)] + 0.3 * random.normal(size=(count, 32))).astype(
        np.float32
    )


def by_brute_force(vectors, count):
    """Rank all the others by cosine, one photo after the other."""
    cosines = [
        [float(a @ b / np.sqrt((a @ a) * (b @ b))) if i != j else -2 for j, b in enumerate(vectors)]
        for i, a in enumerate(vectors.astype(np.float64))
    ]
    rows = [sorted(range(len(vectors)), key=lambda j, own=own: -own[j])[:count] for own in cosines]
    return np.array(rows), np.array([[own[j] for j in best] for own, best in zip(cosines, rows, strict=True)])


@pytest.mark.parametrize("rows_at_once", [1024, 7])
def test_neighbours_of_few_photos_are_those_of_all_pairs(rows_at_once, monkeypatch):
    monkeypatch.setattr(embeddings, "ROWS_AT_ONCE", rows_at_once)
    vectors = groups(np.random.default_rng(0), 60, families=5)
    rows, cosines = embeddings.neighbours(vectors, 4)
    expected_rows, expected_cosines = by_brute_force(vectors, 4)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
    assert rows.dtype == np.int64 and cosines.dtype == np.float32


def test_neighbours_of_many_photos_are_nearly_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(embeddings, "ONE_CELL", 100)
    monkeypatch.setattr(embeddings, "CELL", 40)
    vectors = groups(np.random.default_rng(1), 600, families=40)
    assert embeddings._cells(vectors).shape == (600, embeddings.NEAREST_CELLS)
    rows, cosines = embeddings.neighbours(vectors, 3)
    expected_rows, expected_cosines = by_brute_force(vectors, 3)
    assert (rows == expected_rows).mean() > 0.98 and (rows != np.arange(600)[:, None]).all()
    right = rows == expected_rows
    np.testing.assert_allclose(cosines[right], expected_cosines[right], atol=1e-6)


def test_a_copy_is_a_neighbour_and_the_photo_itself_is_not():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0.1]], np.float32)
    rows, cosines = embeddings.neighbours(vectors, 2)
    assert rows[0].tolist() == [2, 3] and rows[2].tolist() == [0, 3] and rows[1].tolist()[0] == 3
    assert cosines[0, 0] == 1


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [[-1, -1]]), (2, [[1, -1], [0, -1]])])
def test_fewer_photos_than_neighbours(count, expected):
    rows, cosines = embeddings.neighbours(np.ones((count, 3), np.float32), 2)
    assert rows.tolist() == expected and cosines.shape == (count, 2)
    assert (cosines[rows < 0] == -1).all()


# The map


def two_groups(count=40):
    random = np.random.default_rng(0)
    vectors = random.uniform(0, 0.1, (count, 16)).astype(np.float32)
    vectors[: count // 2, 0] += 1
    vectors[count // 2 :, 1] += 1
    return vectors


def test_similar_photos_are_close_on_the_map(tmp_path):
    vectors, rows = two_groups(), np.arange(40)
    positions = embeddings.arrange(vectors, rows, folder=tmp_path, seed=0)
    assert list(positions.index) == list(range(40)) and list(positions.columns) == ["x", "y"]
    points = positions.to_numpy()
    middles = points[:20].mean(axis=0), points[20:].mean(axis=0)
    nearer = np.linalg.norm(points - middles[0], axis=1) < np.linalg.norm(points - middles[1], axis=1)
    assert nearer[:20].all() and not nearer[20:].any()


def test_the_map_is_read_back_and_belongs_to_the_photos_and_the_seed(tmp_path, monkeypatch):
    vectors, rows = two_groups(), np.arange(40)
    first = embeddings.arrange(vectors, rows, folder=tmp_path, seed=0)

    def called(*_):
        raise AssertionError("arranged again")

    monkeypatch.setattr(embeddings, "_map", called)
    assert embeddings.arrange(vectors, rows, folder=tmp_path, seed=0).equals(first)
    for changed in ((vectors, rows[1:], 0), (vectors + 0.1, rows, 0), (vectors, rows, 1)):
        with pytest.raises(AssertionError, match="arranged again"):
            embeddings.arrange(*changed[:2], folder=tmp_path, seed=changed[2])


def test_of_too_many_photos_some_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "MAPPED", 15)
    rows = np.arange(5, 40)
    positions = embeddings.arrange(two_groups(), rows, folder=tmp_path, seed=3)
    assert (
        len(positions) == 15 and set(positions.index) <= set(rows) and positions.index.is_monotonic_increasing
    )


@pytest.mark.parametrize("count", [2, 3, 9, 10])
def test_few_photos_have_a_map_too(count, tmp_path):
    positions = embeddings.arrange(two_groups(count), np.arange(count), folder=tmp_path, seed=0)
    assert positions.shape == (count, 2) and np.isfinite(positions).all(axis=None)


def test_without_embeddings_there_is_no_map(tmp_path):
    assert embeddings.arrange(None, np.arange(3), folder=tmp_path, seed=0).empty


def test_another_cut_of_the_same_photos_is_not_read_back(tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(
        embeddings,
        "compute",
        lambda images, **options: keys.append((images.shape, tuple(options["content"]))),
    )
    full = np.zeros((2, 180, 180, 3), np.uint8)
    embeddings.of_photos(["a", "b"], full, fit="crop", folder=tmp_path, size=160)
    embeddings.of_photos(["a", "b"], full[:, :160, :160], fit="crop", folder=tmp_path, size=160)
    embeddings.of_photos(["a", "b"], full[:, :160, :160], fit="crop", folder=tmp_path)
    assert keys[0][0] == keys[1][0] and keys[0] != keys[1] == keys[2]
