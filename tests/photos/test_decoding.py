"""Photos as people store them: decoded upright and in 8-bit RGB, or refused with the reason."""

import hashlib
import io
import os
import struct
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import EpsImagePlugin, Image
from scipy import fft
from shared import scene

from lib.core import files
from lib.photos import decoding, formats

CORNERS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (128, 128, 128)}


def picture(width=48, height=32):
    """Draw a picture whose four quarters differ: red green / blue grey."""
    pixels = np.empty((height, width, 3), np.uint8)
    for index, colour in enumerate(CORNERS.values()):
        row, column = divmod(index, 2)
        pixels[
            row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2
        ] = colour
    return pixels


def saved(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def corners(pixels):
    """Name the four quarters of a picture, row by row, by their nearest colour."""
    height, width = pixels.shape[:2]
    names = []
    for row in (height // 4, 3 * height // 4):
        for column in (width // 4, 3 * width // 4):
            gaps = {
                name: np.abs(pixels[row, column].astype(int) - colour).sum()
                for name, colour in CORNERS.items()
            }
            names.append(min(gaps, key=gaps.get))
    return names


def refusal(data, side=None):
    with pytest.raises(ValueError) as caught:
        decoding.decode(data, side=side)
    return str(caught.value)


def is_photo(pixels):
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


# Decoding; tests/test_strange_files.py has the kinds of files


@pytest.mark.parametrize("value", [0, 9, 300])
def test_decode_takes_an_unknown_orientation_for_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    pixels, size = decoding.decode(saved(picture(), "PNG", exif=exif))
    assert (pixels == picture()).all() and size == (48, 32)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_small_upright_and_measured_whole(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(picture(1600, 1200), 1 if orientation == 6 else 0)
    pixels, size = decoding.decode(
        saved(np.ascontiguousarray(stored), "JPEG", exif=exif, quality=90), side=96
    )
    assert size == (1600, 1200)
    assert 192 <= min(pixels.shape[:2]) < 600 and pixels.shape[1] > pixels.shape[0]
    assert corners(pixels) == ["red", "green", "blue", "grey"]


def test_draft_decoding_changes_the_resized_photo_little():
    data = saved(scene(1, 1600, 1200), "JPEG", quality=92)
    drafted, whole = (
        decoding.resize(decoding.decode(data, side=side)[0], size=96, fit="crop") for side in (96, None)
    )
    assert np.abs(drafted.astype(int) - whole).mean() < 2


def test_decode_scales_16_bit_grey_and_does_not_clip_it():
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pixels, _ = decoding.decode(saved(Image.fromarray(values), "PNG"))
    assert is_photo(pixels) and (pixels[..., 0] == pixels[..., 2]).all()
    assert np.abs(pixels[..., 0] - values / 257).max() < 1.01
    assert len(np.unique(pixels)) == 64


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("codec", [".png", ".tiff"])
@pytest.mark.parametrize("place", [(0, 0), (7, 3), (7, 7)])
def test_the_largest_value_of_16_bits_is_that_of_all_pixels_but_not_of_transparency(channels, codec, place):
    values = np.full((8, 8, channels), 100, np.uint16)
    values[..., 3:] = 65535
    values[place] = 1000
    values[..., 3:] = 65535
    photo = decoding.read(cv2.imencode(codec, values)[1].tobytes())
    assert photo.maximum == 1000 and photo.pixels.max() == round(1000 * 255 / 1023)
    assert decoding.read(saved(picture(), "PNG")).maximum == 0


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_kinds_of_pixels_are_exact_or_refused(kind, channels):
    values = np.arange(400).reshape(20, 20, 1).repeat(channels, axis=2).astype(kind)
    data = cv2.imencode(".tiff", values)[1].tobytes()
    if channels == 1 and np.issubdtype(kind, np.integer):
        assert np.abs(decoding.decode(data)[0] - values * (255 / 511)).max() <= 0.5
        assert refusal(cv2.imencode(".tiff", (values - 1).astype(kind))[1].tobytes())
    else:
        assert "pixels" in refusal(data)


@pytest.mark.parametrize(("bits", "levels"), [(1, [0, 255]), (2, [0, 85, 170, 255]), (4, range(0, 256, 17))])
def test_fewer_than_8_bits_are_scaled_to_white(bits, levels):
    values = np.arange(2**bits, dtype=np.uint8).repeat(8)
    packed = np.packbits(np.unpackbits(values[:, None], axis=1)[:, -bits:].ravel())
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + packed.tobytes())), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    pixels, _ = decoding.decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert pixels[0, ::8, 0].tolist() == list(levels)


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("options", [{"progressive": True}, {}])
def test_a_truncated_jpeg_is_refused_even_where_it_would_be_decoded_small(tenth, options):
    data = saved(scene(3, 1600, 1200), "JPEG", quality=80, **options)
    assert refusal(data[: len(data) * tenth // 10], side=96)


def test_no_other_program_is_asked_to_read_a_file(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was asked"))
    assert "not a photo in a supported format" in refusal(saved(picture(), "EPS"))


def test_a_reason_is_never_empty(monkeypatch):
    monkeypatch.setattr(decoding, "_to_rgb", lambda *_: (_ for _ in ()).throw(MemoryError))
    assert refusal(saved(picture(), "PNG")) == "damaged: MemoryError"


def test_photos_of_many_pixels_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "MANY_PIXELS", 1000)
    whole, at_once, most = decoding._to_rgb, [], []

    def counted(image, profile):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        return whole(image, profile)

    monkeypatch.setattr(decoding, "_to_rgb", counted)
    with ThreadPoolExecutor(4) as pool:
        for side, expected in ((40, 1), (20, 4)):
            most.clear()
            list(pool.map(decoding.decode, [saved(picture(side, side), "PNG")] * 8))
            assert len(most) == 8 and 1 <= max(most) <= expected and (expected == 1 or max(most) > 1)


# Bounded time and memory


def test_a_large_jpeg_is_decoded_small_where_other_formats_are_refused(monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_DECODED", 500_000)
    pixels = scene(1, 1600, 1600)
    assert decoding.decode(saved(pixels, "JPEG"), side=64)[0].shape == (400, 400, 3)
    assert refusal(saved(pixels, "JPEG")) == "1600 x 1600 pixels are too many to decode at full size"
    for data in (saved(pixels, "JPEG", progressive=True), saved(pixels, "PNG", compress_level=1)):
        assert refusal(data, side=64).startswith("1600 x 1600 pixels are more than 0 million, the maximum")


def test_the_scans_of_a_jpeg_are_counted_before_they_are_decoded():
    data = saved(scene(1, 2000, 2000), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    hostile = data[:start] + data[start:-2] * 3000 + b"\xff\xd9"
    started = time.process_time()
    assert "scans, more than 100" in refusal(hostile, side=64)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("codec", ["GIF", "WEBP", "PNG", "AVIF"])
def test_only_the_first_frame_of_an_animation_is_decoded(codec):
    frames = [Image.fromarray(scene(seed, 40, 30)) for seed in range(2)]
    data = saved(frames[0], codec, save_all=True, append_images=frames[1:] * 30, duration=100)
    if codec == "GIF":
        # All but the first frame again, many times.
        second = data.index(b"\x21\xf9", data.index(b"\x21\xf9") + 2)
        data = data[:-1] + data[second:-1] * 1000
    started = time.process_time()
    pixels, size = decoding.decode(data)
    assert size == (40, 30) and np.abs(pixels.astype(int) - scene(0, 40, 30)).mean() < 12
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("codec", ["PNG", "WEBP", "TIFF", "JPEG", "HEIF"])
def test_megabytes_of_metadata_are_no_problem(codec):
    formats.register_heif()
    exif = Image.Exif()
    exif[0x0112] = 3
    options = {"exif": exif.tobytes() + bytes(3_000_000)} if codec in ("PNG", "WEBP") else {}
    options |= {"icc_profile": bytes(7_000_000)} if codec != "PNG" else {}
    options |= {"xmp": b"tiff:Orientation " * 100_000} if codec in ("WEBP", "HEIF") else {}
    started = time.process_time()
    photo = decoding.read(saved(picture(), codec, **options), side=32)
    assert time.process_time() - started < 1
    assert photo.size == (48, 32) and bool(photo.note) == (codec != "PNG")


@pytest.mark.parametrize("codec", ["PNG", "TIFF", "GIF", "HEIF", "WEBP", "AVIF", "BMP"])
def test_the_size_in_a_header_is_checked_before_memory_is_reserved(codec, monkeypatch):
    formats.register_heif()
    data = saved(picture(), codec)
    monkeypatch.setattr(formats, "LARGEST_PIXELS", 1000)
    tracemalloc.start()
    assert refusal(data) == "48 x 32 pixels are more than 0 million"
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# Resizing


def test_resize_gives_the_size_asked_for():
    for fit in ("crop", "stretch", "pad"):
        for width, height in ((100, 40), (40, 100), (7, 7), (1, 300), (300, 1), (33, 64), (64, 63)):
            image = np.full((height, width, 3), 9, np.uint8)
            assert decoding.resize(image, size=64, fit=fit).shape == (64, 64, 3), (fit, width, height)
            assert decoding.resize(image, size=33, fit=fit).dtype == np.uint8


def test_resize_crop_keeps_the_centre():
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, 40:80] = 200
    assert (decoding.resize(image, size=40, fit="crop") == 200).all()
    assert (decoding.resize(image.transpose(1, 0, 2), size=40, fit="crop") == 200).all()


def test_resize_stretch_keeps_everything():
    small = decoding.resize(picture(120, 40), size=20, fit="stretch")
    assert (small == picture(20, 20)).all()


def test_resize_pad_adds_black_bars():
    padded = decoding.resize(np.full((20, 80, 3), 250, np.uint8), size=40, fit="pad")
    assert (padded[:15] == 0).all() and (padded[15:25] == 250).all() and (padded[25:] == 0).all()
    turned = decoding.resize(np.full((80, 20, 3), 250, np.uint8), size=40, fit="pad")
    assert (turned == padded.transpose(1, 0, 2)).all()


def test_resize_averages_areas_where_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (decoding.resize(stripes, size=32, fit="crop") == 100).all()
    blocks = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    means = blocks.reshape(10, 4, 10, 4, 3).mean(axis=(1, 3))
    assert np.abs(decoding.resize(blocks, size=10, fit="stretch") - means).max() <= 0.51


@pytest.mark.parametrize("shape", [(1, 300_000), (300_000, 1), (2, 100_000)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_resize_of_a_line_of_pixels_takes_little_memory(shape, fit, monkeypatch):
    whole, largest = cv2.resize, []

    def watched(image, size, **options):
        largest.append(size[0] * size[1])
        return whole(image, size, **options)

    monkeypatch.setattr(decoding.cv2, "resize", watched)
    image = np.zeros((*shape, 3), np.uint8)
    image[shape[0] // 2 - 1 : shape[0] // 2 + 1, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 200
    small = decoding.resize(image, size=64, fit=fit)
    assert small.shape == (64, 64, 3) and max(largest) <= 64 * 64 * decoding.LARGEST_ASPECT_RATIO
    if fit == "crop":
        assert small[32, 32].tolist() == [200] * 3  # the middle


def test_the_centre_of_squares_is_a_view():
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8)
    small = decoding.centre(images, 4)
    assert np.array_equal(small, images[:, 1:5, 1:5]) and np.shares_memory(small, images)


def test_resize_of_a_panorama_keeps_the_middle():
    image = scene(9, 3000, 100)
    small = decoding.resize(image, size=50, fit="crop").astype(int)
    assert np.abs(small - decoding.resize(image[:, 1450:1550], size=50, fit="crop")).mean() < 1


def test_resize_at_the_same_size_changes_nothing():
    assert (decoding.resize(picture(32, 32), size=32, fit="crop") == picture(32, 32)).all()


# Perceptual hash


def test_perceptual_hash_is_the_sign_of_the_lowest_frequencies():
    for seed in range(5):
        image = scene(seed, 320, 240)
        grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
        low = fft.dctn(grey.astype(np.float64), norm="ortho")[:8, :8]
        bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
        phash = decoding.perceptual_hash(image)
        assert len(phash) == 16
        assert bits_between(phash, f"{int(bits, 2):016x}") <= 1  # float32 may move one bit across the median


def bits_between(one, two):
    return (int(one, 16) ^ int(two, 16)).bit_count()


@pytest.mark.parametrize("seed", range(6))
def test_perceptual_hash_of_copies_and_of_others(seed):
    image = scene(seed, 320, 240)
    known = decoding.perceptual_hash(image)
    again, _ = decoding.decode(
        saved(cv2.resize(image, (200, 150), interpolation=cv2.INTER_AREA), "JPEG", quality=50)
    )
    assert bits_between(known, decoding.perceptual_hash(again)) <= 6
    assert (
        min(bits_between(known, decoding.perceptual_hash(scene(other, 320, 240))) for other in range(20, 40))
        > 10
    )


def test_perceptual_hash_of_a_plain_picture():
    assert len(decoding.perceptual_hash(np.full((50, 50, 3), 128, np.uint8))) == 16


# Whole folders


NAMES = ['a b/it\'s, "it".jpg', "蝶/Ünï.png", "new\nline.jpg", "#1;2.bmp", "NA", "nan.webp", "007.gif"]


def fill(root, names=NAMES):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(scene(number, 60 + number, 40), "PNG"))
    return names


def test_scan_describes_every_file(tmp_path):
    names = fill(tmp_path / "raw")
    (tmp_path / "raw/empty.jpg").write_bytes(b"")
    (tmp_path / "raw/page.jpg").write_bytes(b"<html>\n</html>")
    paths = [*names, "empty.jpg", "page.jpg"]
    table, images = decoding.scan(
        tmp_path / "raw", paths, content="abc", folder=tmp_path / "cache", size=32, fit="stretch"
    )
    assert list(table.columns) == decoding.COLUMNS and list(table.path) == paths
    for row, path in enumerate(paths):
        data = (tmp_path / "raw" / path).read_bytes()
        assert table.sha1[row] == hashlib.sha1(data).hexdigest()
    for row in range(len(names)):
        assert (table.width[row], table.height[row], table.problem[row]) == (60 + row, 40, "")
        assert (images[row] == decoding.resize(scene(row, 60 + row, 40), size=32, fit="stretch")).all()
        assert table.phash[row] == decoding.perceptual_hash(scene(row, 60 + row, 40))
    assert list(table.problem[-2:]) == [
        "the file is empty",
        "not a photo: the file contains text such as HTML",
    ]
    assert list(table.phash[-2:]) == ["", ""] and not images[-2:].any() and not table.width[-2:].any()
    assert images.shape == (len(paths), 32, 32, 3) and images.dtype == np.uint8 and not images.flags.writeable


def test_scan_reads_back_without_the_photos(tmp_path):
    names = fill(tmp_path / "raw")
    first = decoding.scan(
        tmp_path / "raw", names, content="abc", folder=tmp_path / "cache", size=24, fit="crop"
    )
    for name in names:
        (tmp_path / "raw" / name).unlink()
    again = decoding.scan(
        tmp_path / "raw", names, content="abc", folder=tmp_path / "cache", size=24, fit="crop"
    )
    pd.testing.assert_frame_equal(first[0], again[0])
    assert (first[1] == again[1]).all() and len(again[1]) == len(names)


@pytest.mark.parametrize("phash", ["0" * 16, "1234567890123456", "12345678e1234567"])
def test_scan_keeps_hashes_that_look_like_numbers_as_text(tmp_path, monkeypatch, phash):
    fill(tmp_path / "raw", ["1.png"])
    monkeypatch.setattr(decoding, "perceptual_hash", lambda image: phash)
    table, _ = decoding.scan(
        tmp_path / "raw", ["1.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop"
    )
    assert list(table.phash) == [phash]


def test_a_killed_scan_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch):
    names = fill(tmp_path / "raw")
    whole = decoding.resize
    seen = []

    def killed(image, **options):
        seen.append(1)
        if len(seen) > 3:
            raise KeyboardInterrupt
        return whole(image, **options)

    monkeypatch.setattr(decoding, "resize", killed)
    with pytest.raises(KeyboardInterrupt):
        decoding.scan(tmp_path / "raw", names, content="abc", folder=tmp_path / "cache", size=24, fit="crop")
    assert not list((tmp_path / "cache").rglob("scan.csv"))
    monkeypatch.setattr(decoding, "resize", whole)
    table, images = decoding.scan(
        tmp_path / "raw", names, content="abc", folder=tmp_path / "cache", size=24, fit="crop"
    )
    assert len(table) == len(names) and all(image.any() for image in images)
    assert [path.name for path in (tmp_path / "cache").iterdir() if "partial" in path.name] == []


DAMAGES = {
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "flip": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 4])),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("file", ["photos.npy", "scan.csv"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_scan_is_made_again(tmp_path, capsys, file, damage):
    names = fill(tmp_path / "raw")
    arguments = {"content": "abc", "folder": tmp_path / "cache", "size": 24, "fit": "crop"}
    first = decoding.scan(tmp_path / "raw", names, **arguments)
    (kept,) = (tmp_path / "cache").iterdir()
    known = first[1].copy()
    DAMAGES[damage](kept / file)
    again = decoding.scan(tmp_path / "raw", names, **arguments)
    pd.testing.assert_frame_equal(first[0], again[0])
    assert (known == again[1]).all() and f"cache/{kept.name} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("at_once", [256, 7])
def test_scan_of_many_files_keeps_their_order(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(decoding, "AT_ONCE", at_once)
    names = [f"{number}.png" for number in range(60)]
    (tmp_path / "raw").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "raw" / name).write_bytes(saved(np.full((20, 20, 3), number * 4, np.uint8), "PNG"))
    table, images = decoding.scan(
        tmp_path / "raw", names, content="abc", folder=tmp_path / "cache", size=4, fit="crop"
    )
    assert list(table.path) == names and list(images[:, 0, 0, 0]) == [number * 4 for number in range(60)]


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    fill(tmp_path, ["1.png", "2.png"])
    (tmp_path / "2.png").write_bytes(bytes(30_000))
    monkeypatch.setattr(decoding, "LARGEST_BYTES", 20_000)
    table, images = decoding.scan(
        tmp_path, ["1.png", "2.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop"
    )
    assert list(table.problem) == ["", "the file has more than 2e-05 GB"] and not images[1].any()
    assert table.sha1[1] == hashlib.sha1(bytes(30_000)).hexdigest()


def test_a_file_that_cannot_be_opened_stops_the_scan_and_is_not_remembered(tmp_path):
    fill(tmp_path, ["1.png"])
    (tmp_path / "folder.png").mkdir()
    paths = ["1.png", "folder.png"]
    with pytest.raises(ValueError, match="expected to read folder.png, as 01_download did") as caught:
        decoding.scan(tmp_path, paths, content="abc", folder=tmp_path / "cache", size=8, fit="crop")
    assert "run this again" in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("scan.csv"))


def test_a_pipe_is_never_opened(tmp_path):
    fill(tmp_path, ["1.png"])
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="expected to read pipe.png.* Received: Not a regular file"):
        decoding.scan(
            tmp_path, ["1.png", "pipe.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop"
        )


def test_a_full_disk_is_an_error_before_the_photos_are_read(tmp_path, monkeypatch):
    fill(tmp_path, ["1.png"])
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("usage", (), {"free": 191}))
    with pytest.raises(ValueError, match="writing photos.npy: expected 192 bytes of free disk space"):
        decoding.scan(tmp_path, ["1.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop")
    monkeypatch.undo()
    decoding.scan(tmp_path, ["1.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop")


def test_another_scan_is_not_read_back(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    known = {"root": tmp_path, "paths": ["a.png", "b.png"], "content": "abc", "size": 8, "fit": "crop"}
    changes = [{"content": "abd"}, {"paths": ["b.png", "a.png"]}, {"size": 9}, {"fit": "pad"}, {}, {}]
    for change in changes:
        decoding.scan(**known | change, folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_pool_of_threads_leaves_opencv_as_it_was(tmp_path):
    before = decoding.cv2.getNumThreads()
    decoding.cv2.setNumThreads(3)
    try:
        with decoding.single_thread():
            assert decoding.cv2.getNumThreads() == 1
        (tmp_path / "folder.png").mkdir()
        with pytest.raises(ValueError, match="expected to read folder.png"):
            decoding.scan(
                tmp_path, ["folder.png"], content="abc", folder=tmp_path / "cache", size=8, fit="crop"
            )
        assert decoding.cv2.getNumThreads() == 3
    finally:
        decoding.cv2.setNumThreads(before)


def test_first_of_each_skips_unreadable_files(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(saved(scene(number), "PNG"))
    table = pd.DataFrame(
        {"path": ["bad.jpg", "0.png", "1.png", "2.png", "0.png"], "label": ["a", "a", "", "b", "c"]}
    )
    found = decoding.first_of_each(tmp_path, table, limit=2)
    assert [label for label, _ in found] == ["a", "b"]
    assert (found[0][1] == decoding.resize(scene(0), size=256, fit="crop")).all() and found[1][1].shape == (
        256,
        256,
        3,
    )


def test_released_pages_are_read_again(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), np.uint8)
    np.save(tmp_path / "photos.npy", pixels)
    mapped = np.load(tmp_path / "photos.npy", mmap_mode="r")
    for images in (mapped, mapped[1:, 2:5], pixels):
        before = images.copy()
        decoding.release(images)
        assert (images == before).all()


@pytest.mark.parametrize("path", ["link.png", "folder/1.png", "x" * 300 + ".png", "1.png/2.png"])
def test_files_behind_links_and_names_that_cannot_exist_are_missing(tmp_path, path):
    fill(tmp_path / "elsewhere", ["1.png"])
    fill(tmp_path / "raw", ["1.png"])
    (tmp_path / "raw/link.png").symlink_to(tmp_path / "elsewhere/1.png")
    (tmp_path / "raw/folder").symlink_to(tmp_path / "elsewhere")
    table, _ = decoding.scan(
        tmp_path / "raw", [path], content="abc", folder=tmp_path / "cache", size=8, fit="crop"
    )
    assert list(table.problem) == [decoding.MISSING] and list(table.sha1) == [""]
