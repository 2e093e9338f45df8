"""Photos of real sources, through the cleaning and through the prediction of a folder."""

from types import SimpleNamespace

import numpy as np
import photo_cases
import profiles
import pytest
from shared import model_card

from lib.clean import manifest, photoset
from lib.core import files, steps
from lib.core.schema import Params
from lib.evaluate import inference
from lib.networks import models
from lib.networks.backend import keras
from lib.photos import decoding

SIZE = 32


def settings(**model):
    return Params.model_validate(
        {
            "name": "mine",
            "source": {"kind": "sample", "name": "mine"},
            "model": {"image_size": SIZE, "fit": "stretch"} | model,
            "clean": {"embeddings": False},
        }
    )


def cleaned(data, **model):
    """Return the result of the cleaning and, by class and number, each photo in the size of the network."""
    result = manifest.build(data, settings(**model), content="abc")
    names = result.table.path.str.removesuffix(".png").str.split(r"[/_.]", regex=True)
    photos = {
        (parts[0], int(next(part for part in parts if part.isdecimal()))): result.images[row]
        for row, parts in enumerate(names)
    }
    return result, photos


def expected(pixels):
    return decoding.resize(pixels, size=SIZE, fit="stretch").astype(int)


def gap(image, pixels):
    return np.abs(image.astype(int) - expected(pixels)).mean()


@pytest.mark.parametrize("options", [{}, {"codec": "TIFF"}, {"colours": True}])
def test_twelve_bits_in_sixteen_keep_their_brightness(tmp_path, options):
    photo_cases.twelve_bits(tmp_path / "raw", **options)
    result, photos = cleaned(tmp_path)
    assert result.bit_depth == 12 and result.table.status.eq("kept").all()
    assert result.notes == ["12 bits scaled to 8 (12 photos with more than 8 bits)"]
    for label, number, pixels in photo_cases.drawings():
        grey = pixels if options.get("colours") else pixels[..., :1].repeat(3, axis=2)
        assert gap(photos[label, number], grey) < 1


def test_neighbours_of_255_and_256_have_the_same_scale(tmp_path):
    photo_cases.neighbours(tmp_path / "raw")
    result, photos = cleaned(tmp_path)
    assert result.bit_depth == 9 and result.table.status.eq("kept").all()
    for label, number, pixels in photo_cases.drawings():
        assert gap(photos[label, number], pixels[..., :1].repeat(3, axis=2) // 2) < 1


def test_a_series_of_exposures_keeps_its_differences(tmp_path):
    photo_cases.exposures(tmp_path / "raw", [1, 2, 4, 8])
    result, photos = cleaned(tmp_path)
    assert result.table.status.eq("kept").all()
    means = [[photos[label, number].mean() for number in range(4)] for label in photo_cases.CLASSES]
    largest = max(int(pixels[..., 0].max()) for *_, pixels in photo_cases.drawings(4)) * 8
    assert result.bit_depth == largest.bit_length()
    for label, number, pixels in photo_cases.drawings(4):
        scaled = pixels[..., 0].mean() * 2**number * 255 / (2**result.bit_depth - 1)
        assert means[photo_cases.CLASSES.index(label)][number] == pytest.approx(scaled, abs=0.6)


def test_a_photo_that_would_be_black_is_excluded_with_the_reason(tmp_path):
    photo_cases.exposures(tmp_path / "raw", [256, 256, 1, 1])
    table = cleaned(tmp_path)[0].table
    assert table.status.tolist() == ["kept", "kept", "corrupt", "corrupt"] * 2
    assert table.reason[2].endswith("set `model.bit_depth`, or save the photo with 8 bits")
    assert "are black at the bit depth of the source, 1" in table.reason[2]


def test_the_bit_depth_can_be_chosen(tmp_path):
    photo_cases.exposures(tmp_path / "raw", [1, 1, 1, 300])
    result, photos = cleaned(tmp_path, bit_depth=8)
    assert result.bit_depth == 8 and result.table.status.eq("kept").all()
    for label, number, pixels in photo_cases.drawings(3):
        assert gap(photos[label, number], pixels[..., :1].repeat(3, axis=2)) < 1
    assert (photos["a", 3] == 255).all()
    assert result.notes == [
        "values of more than 8 bits were clipped (2 photos)",
        "8 bits scaled to 8 (8 photos with more than 8 bits)",
    ]


def test_photos_of_eight_bits_have_no_bit_depth(tmp_path):
    photo_cases.telephones(tmp_path / "raw")
    assert cleaned(tmp_path, bit_depth=12)[0].bit_depth is None


def test_photos_of_telephones_are_upright_and_in_srgb(tmp_path):
    photo_cases.telephones(tmp_path / "raw")
    result, photos = cleaned(tmp_path)
    assert result.table.status.eq("kept").all() and result.notes == []
    assert set(zip(result.table.width, result.table.height, strict=True)) == {(80, 60)}
    for label, number, pixels in photo_cases.drawings():
        assert gap(photos[label, number], pixels) < 2


@pytest.fixture
def finished(tmp_path):
    """Return a function that writes a run of 03_train and a network of which each pixel moves the result."""

    def write(data):
        inputs = keras.Input((SIZE, SIZE, 3))
        scaled = keras.layers.Rescaling(1 / 255)(inputs)
        values = keras.layers.Dense(2, kernel_initializer="orthogonal")(keras.layers.Flatten()(scaled))
        network = keras.Model(inputs, keras.layers.Softmax()(values))
        run = steps.Run(settings(), steps.TRAIN)
        result = manifest.build(data, run.settings, content="abc")
        photos = photoset.Photos(
            result.table, result.images, SIZE, list(photo_cases.CLASSES), bit_depth=result.bit_depth
        )
        changes = {"bit_depth": result.bit_depth} if result.bit_depth else {}
        card = model_card(
            fit="stretch",
            classes=list(photo_cases.CLASSES),
            weights_sha256=models.weights_sha256(network),
            **changes,
        )
        folder = tmp_path / "run"
        models.save(network, folder / "model.keras")
        files.write_json(folder / "model.json", card)
        chosen = {"evaluate": {}, "augment": {"flip": "none"}, "clean": {"minimum_side": 16}}
        files.write_json(folder / "params.json", chosen)
        return SimpleNamespace(folder=folder, photos=photos, network=network)

    return write


@pytest.mark.parametrize(
    "generate",
    [
        photo_cases.telephones,
        photo_cases.twelve_bits,
        photo_cases.neighbours,
        lambda folder: photo_cases.twelve_bits(folder, colours=True),
    ],
)
def test_a_folder_is_decoded_as_in_the_training(tmp_path, finished, generate):
    generate(tmp_path / "raw")
    run = finished(tmp_path)
    rows = np.arange(len(run.photos.table))
    evaluated = inference.of_rows(
        run.network, run.photos, rows=rows, folder=tmp_path / "cache", batch_size=32
    )
    predicted = inference.of_folder(run.folder, tmp_path / "raw")
    assert predicted.filename.tolist() == run.photos.table.path.tolist()
    assert predicted.problem.eq("").all()
    np.testing.assert_allclose(predicted.confidence, evaluated.max(axis=1), atol=1e-4)


def test_a_photo_beyond_the_bit_depth_of_the_training_has_a_problem(tmp_path, finished):
    photo_cases.twelve_bits(tmp_path / "raw")
    run = finished(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/1.png").write_bytes(photo_cases.png16(np.full((30, 30), 5000, np.uint16)))
    (tmp_path / "new/2.png").write_bytes(photo_cases.png16(np.full((30, 30), 3, np.uint16)))
    predicted = inference.of_folder(run.folder, tmp_path / "new")
    assert predicted.problem[0] == "values of more than 12 bits were clipped" and predicted.label[0]
    assert predicted.problem[1].startswith("its values, up to 3, are black") and not predicted.label[1]


def test_sixteen_bits_after_a_training_on_eight_are_stated(tmp_path, finished):
    photo_cases.telephones(tmp_path / "raw")
    run = finished(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/1.png").write_bytes(photo_cases.png16(np.full((30, 30), 5000, np.uint16)))
    predicted = inference.of_folder(run.folder, tmp_path / "new")
    assert predicted.problem[0] == "more than 8 bits, unlike the photos of the training"
    assert predicted.label[0]


@pytest.mark.parametrize("name", ["IMG_0001", "photo.txt", "x.HEIC", "x.png"])
@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "GIF", "BMP"])
def test_content_decides_and_the_name_does_not(tmp_path, name, codec):
    pixels = next(photo_cases.drawings())[2]
    options = {"quality": 97} if codec in ("JPEG", "WEBP", "HEIF", "AVIF") else {}
    (tmp_path / name).write_bytes(photo_cases.saved(pixels, codec, **options))
    table, images = decoding.scan(
        tmp_path, [name], content="abc", folder=tmp_path / "cache", size=SIZE, fit="stretch"
    )
    assert table.problem[0] == "" and gap(images[0], pixels) < 4


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (b"x" * 500, "cannot open profile"),
        (profiles.rgb_profile(profiles.DISPLAY_P3)[:300], ""),
        (profiles.grey_profile(2.2), "a profile of L in an image of RGB"),
        (profiles.rgb_profile(profiles.DISPLAY_P3) + bytes(9_000_000), "more than 8,000,000"),
    ],
)
def test_a_damaged_profile_is_ignored_and_counted(tmp_path, profile, words):
    for label, number, pixels in photo_cases.drawings():
        content = photo_cases.saved(pixels, "TIFF", icc_profile=profile if number == 0 else None)
        photo_cases.Drawing(tmp_path / "raw").put(f"{label}/{number}.png", content)
    result, photos = cleaned(tmp_path)
    assert result.table.status.eq("kept").all()
    (note,) = result.notes
    assert note.startswith("its colour profile was ignored: ") and note.endswith("(2 photos)")
    assert words in note
    assert gap(photos["a", 0], next(photo_cases.drawings())[2]) == 0
