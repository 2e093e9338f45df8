"""Every strange file that people keep among their photos: kept and right, or excluded with its reason.

All of them are in the same source, which is read once: an issue of a file must not affect another.
"""

import io
import itertools
import os
import re
import struct
import unicodedata
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from shared import Drawing, encoded, scene

from lib.clean import manifest, photoset
from lib.core import tables
from lib.core.schema import Augment, Params
from lib.photos import decoding, formats, labels, listing
from lib.train import dataset

SIZE = 48
WIDTH, HEIGHT = 60, 44  # of most photos here: small enough to be decoded at their full size
LOSSY = re.compile("JPEG|GIF|WebP|WEBP|AVIF|HEIF|YCbCr")
formats.register_heif()
SETTINGS = Params.model_validate(
    {
        "name": "mine",
        "source": {"kind": "sample", "name": "mine"},
        "model": {"image_size": SIZE, "fit": "stretch"},
        "clean": {"embeddings": False},
    }
)


def saved(image, codec, **options):
    buffer = io.BytesIO()
    image.save(buffer, codec, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, colour, *more, size=None):
    """Write a PNG by hand, `uint8` or `uint16` of shape `(height, width, channels)`, as Pillow cannot."""
    width, height = size or values.shape[1::-1]
    rows = values.astype(">u2") if values.dtype == np.uint16 else values
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


# How a camera stores an upright picture under each orientation of the EXIF standard.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def stored(pixels, orientation, codec, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # For bytes, the HEIC encoder writes a rotation of its own, as iPhones do, beside the tag.
    tags = exif.tobytes() if codec == "HEIF" else exif
    return encoded(np.ascontiguousarray(STORED[orientation](pixels)), codec, exif=tags, **options)


def in_cmyk(pixels, transform=0):
    """Write a JPEG in four inks; the marker of Adobe says which, and that they are stored inverted."""
    data = bytearray(saved(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = transform
    return bytes(data)


def as_opencv_sees_it(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def frames(pixels, codec):
    """Write an animation whose first frame is the picture."""
    first, *others = (Image.fromarray(value) for value in (pixels, 255 - pixels, pixels // 2))
    return saved(first, codec, save_all=True, append_images=others, duration=100)


def on_white(pixels, alpha):
    share = alpha / 255
    return (pixels * share + 255 * (1 - share)).round().astype(np.uint8)


def kept_files():
    """Return, for each kind, the name of a file, its content, and the photo that it shows, upright in RGB."""
    seeds = itertools.count(100)

    def draw():
        return (77 + 0.4 * scene(next(seeds), WIDTH, HEIGHT)).astype(
            np.uint8
        )  # pale: JPEG halves the colours' detail

    files = {}
    for orientation in STORED:
        for codec in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
            pixels = draw()
            options = {"quality": 95} if codec in ("JPEG", "WEBP", "AVIF", "HEIF") else {}
            content = stored(pixels, orientation, codec, **options)
            files[f"EXIF orientation {orientation}, {codec}"] = f"{orientation}.{codec}", content, pixels
    alpha = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH, 1).round().astype(np.uint8)

    pixels = draw()
    files["CMYK JPEG"] = "cmyk.jpg", in_cmyk(pixels), pixels
    files["YCCK JPEG"] = "ycck.jpg", in_cmyk(draw(), 2), None
    files["CMYK TIFF"] = "cmyk.tif", saved(Image.fromarray(pixels := draw()).convert("CMYK"), "TIFF"), pixels
    files["YCbCr TIFF"] = (
        "ycbcr.tif",
        saved(Image.fromarray(pixels := draw()).convert("YCbCr"), "TIFF"),
        pixels,
    )

    grey = draw()[..., :1]
    files["grey"] = "grey.png", encoded(grey[..., 0]), grey.repeat(3, axis=2)
    wide = draw()[..., :1].astype(np.uint16) * 257
    files["16-bit grey PNG"] = "grey16.png", png(wide, 0), (wide // 257).astype(np.uint8).repeat(3, axis=2)
    wide = draw()[..., :1].astype(np.uint16) * 257
    files["16-bit grey TIFF"] = (
        "grey16.tif",
        encoded(wide[..., 0], "TIFF"),
        (wide // 257).astype(np.uint8).repeat(3, axis=2),
    )
    pixels = draw()
    files["16-bit RGB PNG"] = "rgb16.png", png(pixels.astype(np.uint16) * 257, 2), pixels
    pixels = draw()
    bgr = np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint16) * 257
    files["16-bit RGB TIFF"] = "rgb16.tiff", cv2.imencode(".tiff", bgr)[1].tobytes(), pixels
    pixels = draw()
    both = np.dstack([pixels, alpha]).astype(np.uint16) * 257
    files["16-bit RGB with alpha"] = "rgba16.png", png(both, 6), on_white(pixels, alpha)

    files["black and white"] = "ink.png", saved(Image.fromarray(draw()).convert("1", dither=0), "PNG"), None
    for codec, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        pixels = draw()
        content = encoded(np.dstack([pixels, alpha]), codec, **options)
        files[f"alpha, {codec}"] = f"alpha.{codec}", content, on_white(pixels, alpha)
    grey = draw()[..., :1]
    content = saved(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG")
    files["grey with alpha"] = "la.png", content, on_white(grey, alpha).repeat(3, axis=2)
    pixels = draw()
    pixels[:20, :20] = 255, 0, 255
    white = pixels.copy()
    white[(pixels == (255, 0, 255)).all(axis=2)] = 255
    key = chunk(b"tRNS", struct.pack(">HHH", 255, 0, 255))
    files["a colour that stands for nothing"] = "key.png", png(pixels, 2, key), white

    image = Image.fromarray(draw()).quantize(16)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    files["palette"] = "palette.png", saved(image, "PNG"), colours
    image = Image.fromarray(draw()).quantize(16)
    index = np.asarray(image)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[index]
    colours[index == index[0, 0]] = 255
    files["palette with a transparent colour"] = (
        "clear.png",
        saved(image, "PNG", transparency=int(index[0, 0])),
        colours,
    )
    files["GIF with a transparent colour"] = (
        "clear.gif",
        saved(image, "GIF", transparency=int(index[0, 0])),
        colours,
    )

    for codec in ("GIF", "WEBP", "PNG", "AVIF"):
        pixels = draw()
        files[f"animated {codec}"] = f"film.{codec}", frames(pixels, codec), pixels
    pixels = draw()
    files["TIFF of several pages"] = "pages.tif", frames(pixels, "TIFF"), pixels
    files["JPEG of several pictures"] = "pictures.jpg", frames(pixels := draw(), "MPO"), pixels

    for name, codec, options in (
        ("progressive JPEG", "JPEG", {"progressive": True, "quality": 95}),
        ("WebP", "WEBP", {"quality": 95}),
        ("TIFF", "TIFF", {}),
        ("compressed TIFF", "TIFF", {"compression": "tiff_lzw"}),
        ("BMP", "BMP", {}),
        ("AVIF", "AVIF", {"quality": 95}),
    ):
        files[name] = f"{name}.{codec}", encoded(pixels := draw(), codec, **options), pixels
    for codec, suffix in (
        ("HEIF", "bmp"),
        ("JPEG", "HEIC"),
        ("PNG", "jpg"),
        ("JPEG", "png"),
        ("WEBP", "gif"),
        ("AVIF", "JPEG"),
        ("BMP", "tiff"),
    ):
        content = encoded(pixels := draw(), codec, **({} if codec in ("PNG", "BMP") else {"quality": 95}))
        files[f"{codec} called .{suffix}"] = f"other.{suffix}", content, pixels

    for name in (
        "a b.jpg",
        " two  spaces .jpg",
        'it\'s "it".jpg',
        "a, b; c.jpg",
        "new\nline.jpg",
        "carriage\rreturn.jpg",
        "tab\t.jpg",
        "蝶.jpg",
        "פרפר.jpg",
        "👩‍👩‍👧.jpg",
        unicodedata.normalize("NFC", "papillon é.jpg"),
        unicodedata.normalize("NFD", "papillon é.jpg"),
        "=1+1.jpg",
        "-rf.jpg",
        "#1%s{}$HOME.jpg",
        "a:b?c*|<>.jpg",
        "back\\slash.jpg",
        "CON.jpg",
        "NA.jpg",
        "same.jpg",
        "same.JPG",
        "SAME.jpg",
        "x" * 246 + ".jpg",
        "deep/er/and/deeper.jpg",
    ):
        files[f"the name {name[:40]!r}"] = name, encoded(pixels := draw()), pixels
    for name, shape in (("20,000 pixels wide", (20_000, 40)), ("20,000 pixels high", (40, 20_000))):
        pixels = scene(next(seeds), *shape)
        files[name] = f"{name}.png", encoded(pixels, compress_level=1), pixels
    files["as small as may be"] = "16.png", encoded(pixels := scene(next(seeds), 16, 16)), pixels
    return files


def excluded_files():
    """Return, for each kind, the name of a file, its content, and its status and words of its reason."""
    photo = scene(50, WIDTH, HEIGHT)
    large = scene(51, 800, 600)  # decoded at a smaller size
    whole = {
        "JPEG": encoded(large, "JPEG", quality=90),
        "progressive JPEG": encoded(large, "JPEG", quality=90, progressive=True),
        "PNG": encoded(photo),
        "GIF": encoded(photo, "GIF"),
        "WEBP": encoded(photo, "WEBP"),
        "BMP": encoded(photo, "BMP"),
        "TIFF": encoded(photo, "TIFF"),
        "AVIF": encoded(photo, "AVIF"),
        "HEIF": encoded(photo, "HEIF"),
    }
    files = {
        f"{codec} cut at {tenth}/10": (f"{codec}{tenth}.jpg", data[: len(data) * tenth // 10], "corrupt", "")
        for codec, data in whole.items()
        for tenth in range(1, 10)
    }
    unknown = "not a photo in a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF"
    text = "not a photo: the file contains text such as HTML"
    float_tiff = encoded(np.ones((20, 20), np.float32), "TIFF")
    wide_tiff = encoded(np.arange(400, dtype=np.int32).reshape(20, 20) * 10**6, "TIFF")
    line = encoded(np.zeros((1, 20_000, 3), np.uint8))
    content = {
        "empty": (b"", "the file is empty"),
        "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", text),
        "HTML after a blank line": (b"\n  <html>sign in</html>", text),
        "JSON": (b'{"error": "not listed"}', text),
        "SVG": (b'<?xml version="1.0"?><svg/>', text),
        "zeros": (bytes(500), unknown),
        "words": (b"plain words", unknown),
        "the start of a JPEG": (b"\xff\xd8\xff\xe0", ""),
        "PDF": (b"%PDF-1.4\n", unknown),
        "zip": (b"PK\x03\x04" + bytes(40), unknown),
        "EPS, which is a program": (saved(Image.fromarray(photo), "EPS"), unknown),
        "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "damaged: "),
        "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(400), unknown),
        "bomb": (png(photo, 2, size=(20_000, 20_000)), "20000 x 20000 pixels are more than 200 million"),
        "floating point": (float_tiff, "floating-point pixels have no agreed range"),
        "32 bits": (wide_tiff, "negative or 32-bit pixels have no agreed range"),
    }  # fmt: skip
    files |= {kind: (f"{kind}.jpg", data, "corrupt", reason) for kind, (data, reason) in content.items()}
    files["HEIC by its name"] = "IMG_1.HEIC", content["HEIC"][0] + b"\0", "corrupt", "damaged: "
    files["a line of pixels"] = "line.png", line, "small", "the shorter side is 1 px"
    return files


KEPT, EXCLUDED = kept_files(), excluded_files()


def put_others(raw):
    """Write files other than photos beside the photos; return the number of each kind."""
    for path in ("cat/._1.jpg", "cat/.hidden.jpg", ".trash/1.jpg", "__MACOSX/cat/1.jpg"):
        raw.photo(path, 1)
    for path in ("cat/notes.txt", "readme.TXT", "cat/Thumbs.db", "cat/IMG_0001"):
        raw.put(path)
    raw.photo("../elsewhere/1.jpg", 2)
    (raw.folder / "cat/link.jpg").symlink_to("../../elsewhere/1.jpg")
    (raw.folder / "cat/broken.jpg").symlink_to("nowhere")
    (raw.folder / "cat/round").symlink_to("..")
    (raw.folder / "linked").symlink_to("../elsewhere")
    (raw.folder / "empty/nothing").mkdir(parents=True)
    os.mkfifo(raw.folder / "cat/pipe.jpg")  # to open it would wait for ever
    kinds = {"link": 4, ".txt": 2, "hidden": 2, "hidden folder": 2}
    return kinds | {".db": 1, "no suffix": 1, "device": 1, "empty folder": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source of all the files, and the result of 02_clean."""
    raw = Drawing(tmp_path_factory.mktemp("strange") / "source/raw")
    for number in range(4):
        raw.photo(f"cat/{number}.png", number)
        raw.photo(f"dog/{number}.png", 10 + number)  # the same name in two classes
    raw.photo("alone/1.png", 20)
    for name, content, _ in KEPT.values():
        raw.put(f"dog/{name}", content)
    for name, content, *_ in EXCLUDED.values():
        raw.put(f"cat/{name}", content)
    others = put_others(raw)
    cleaned = manifest.build(raw.folder.parent, SETTINGS, content="strange")
    tables.write(cleaned.table, raw.folder.parent / "manifest.csv")
    table = manifest.read(raw.folder.parent / "manifest.csv")
    return SimpleNamespace(
        raw=raw.folder,
        table=table,
        images=cleaned.images,
        others=others,
        row=dict(zip(table.path, table.index, strict=True)),
    )


@pytest.mark.parametrize("kind", KEPT)
def test_kept_and_right(source, kind):
    name, content, pixels = KEPT[kind]
    row = source.row[f"dog/{name}"]
    expected = as_opencv_sees_it(content) if pixels is None else pixels
    assert source.table.loc[row, ["status", "reason"]].tolist() == ["kept", ""]
    assert source.table.loc[row, ["width", "height"]].tolist() == [*expected.shape[1::-1]]
    gap = np.abs(source.images[row].astype(int) - decoding.resize(expected, size=SIZE, fit="stretch"))
    assert gap.mean() < (4 if LOSSY.search(kind) else 0.6) and gap.max() < 40


@pytest.mark.parametrize("kind", EXCLUDED)
def test_excluded_with_its_reason(source, kind):
    name, _, status, words = EXCLUDED[kind]
    row = source.table.loc[source.row[f"cat/{name}"]]
    assert row.status == status and row.reason.startswith(words) and row.reason.strip()
    assert row.split == "" and row.cluster == -1 and len(row.sha1) == 40
    if status == "corrupt":
        assert (row.width, row.height, row.phash) == (0, 0, "") and not source.images[row.name].any()


def test_the_counts_add_up(source):
    summary = manifest.summary(source.table)
    assert len(source.table) == 9 + len(KEPT) + len(EXCLUDED)
    assert sum(summary["status"].values()) == summary["photos"] == len(source.table)
    assert summary["status"]["kept"] == 9 + len(KEPT)
    listed = labels.find(listing.Folder(source.raw), SETTINGS.source)
    assert labels.others(listing.Folder(source.raw), listed) == source.others
    files = sum(path.is_symlink() or not path.is_dir() for path in source.raw.rglob("*"))
    # Each of the hidden folders contains a file.
    assert len(listed) + sum(source.others.values()) - source.others["empty folder"] == files


def test_classes_of_one_photo_and_of_none(source):
    assert source.table[source.table.label.eq("alone")].split.tolist() == ["train"]
    assert set(source.table.label) == {"cat", "dog", "alone"}


def test_the_same_name_in_two_classes(source):
    rows = [source.row[f"{label}/1.png"] for label in ("cat", "dog", "alone")]
    assert source.table.label[rows].tolist() == ["cat", "dog", "alone"]
    assert (source.images[rows[0]] != source.images[rows[1]]).any()


def test_training_can_read_the_kept_photos(source):
    run = photoset.Photos(source.table, source.images, SIZE, ["alone", "cat", "dog"])
    rows = run.rows("train")
    batches = dataset.training(
        source.images,
        rows,
        targets=run.targets("train"),
        size=SIZE,
        class_weights=[1, 1, 1],
        settings=Augment(),
        batch_size=16,
        seed=0,
    )
    seen = 0
    for images, targets, weights in (batches[number] for number in range(-(-len(rows) // 16))):
        assert np.isfinite(images).all() and images.shape[1:] == (SIZE, SIZE, 3)
        assert (targets.sum(axis=1) == 1).all() and (weights == 1).all()
        seen += len(images)
    assert seen == len(rows)
    for split in ("val", "test"):
        batches = list(dataset.evaluation(source.images, run.rows(split), batch_size=16))
        assert sum(map(len, batches)) == len(run.rows(split)) > 0
    assert sum(len(run.rows(split)) for split in ("train", "val", "test")) == len(KEPT) + 9


def test_nothing_was_written_into_the_source(source):
    assert not list(source.raw.parent.rglob("*partial*"))
    names = {path.name for path in source.raw.parent.glob("[!.]*")}
    assert {name for name in names if not name.startswith("division-")} == {
        "cache",
        "elsewhere",
        "manifest.csv",
        "raw",
    }
