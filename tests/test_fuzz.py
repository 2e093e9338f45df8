"""Thousands of damaged files: each ends as a photo, a table, a folder or a clear error."""

import contextlib
import io
import signal
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shared import Drawing, scene

from lib.core import files, params
from lib.core.schema import Sample
from lib.download import archives
from lib.networks import checkpoints
from lib.photos import decoding, labels, listing

EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "Camera"
PHOTOS = {
    "JPEG": [
        {"quality": 90, "exif": EXIF},
        {"quality": 30, "progressive": True},
        {"quality": 80, "optimize": True},
    ],
    "PNG": [{"exif": EXIF}, {"compress_level": 0, "transparency": b"\0\x80"}, {"icc_profile": bytes(50)}],
    "WEBP": [{"quality": 80, "exif": EXIF}, {"lossless": True}, {"save_all": True}],
    "GIF": [{}, {"save_all": True}],
    "TIFF": [
        {"exif": EXIF},
        {"compression": "tiff_lzw"},
        {"compression": "jpeg"},
        {"compression": "tiff_deflate"},
    ],
    "BMP": [{}],
    "AVIF": [{"speed": 10, "exif": EXIF}],
}
SHARES = {"JPEG": 40, "PNG": 40, "WEBP": 40, "zip": 40, "csv": 40} | dict.fromkeys(
    ("GIF", "TIFF", "BMP", "AVIF", "tar", "yaml", "pth"), 10
)
SLOW = 10  # times as many files in `make test-slow`
SECONDS = 20  # of computing for one file; it needs milliseconds
EXTREMES = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x80",
    b"\n",
    b'"',
    b"\xed\xa0\x80",
)


def photo(kind, random):
    options = PHOTOS[kind][random.integers(len(PHOTOS[kind]))]
    pixels = scene(int(random.integers(2**31)), *(int(side) for side in random.integers(8, 40, 2)))
    image = Image.fromarray(pixels)
    if "transparency" in options:
        image = image.quantize(8)
    elif random.random() < 0.2 and kind != "AVIF":
        image = image.convert("L")
    if options.get("save_all"):
        options = {**options, "append_images": [Image.fromarray(255 - pixels)], "duration": 50}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def original(kind, random):
    """Make a good file of a kind, never the same."""
    if kind in PHOTOS:
        return photo(kind, random)
    names = [f"{folder}/{number}.jpg" for folder in ("cat", "dög") for number in range(3)]
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", int(random.choice([0, 8, 12, 14]))) as archive:
            for name in names:
                archive.writestr(name, random.bytes(40) * 3)
    elif kind == "tar":
        mode, tar_format = random.choice(["w", "w:gz", "w:bz2", "w:xz"]), int(random.integers(1, 3))
        with tarfile.open(fileobj=buffer, mode=str(mode), format=tar_format) as archive:
            for name in names:
                entry = tarfile.TarInfo("very/" * int(random.choice([0, 60])) + name)
                entry.size = 120
                archive.addfile(entry, io.BytesIO(random.bytes(120)))
    elif kind == "csv":
        separator = str(random.choice([",", ";", "\t"]))
        lines = [
            ("id", "filename", "label"),
            *((str(n), f"{n}.jpg", ("cat", "Bär")[n % 2]) for n in range(4)),
        ]
        text = str(random.choice(["\n", "\r\n", "\r"])).join(
            f'"{separator.join(line)}"'[1:-1] for line in lines
        )
        buffer.write(text.encode(str(random.choice(["utf-8", "utf-8-sig", "latin-1", "utf-16"]))))
    elif kind == "yaml":
        buffer.write(
            (params.ROOT / "params" / str(random.choice(["butterfly.yaml", "template.yaml"]))).read_bytes()
        )
    else:
        buffer.write((REFERENCE / str(random.choice(["tiny_zip.pth", "tiny_legacy.pth"]))).read_bytes())
    return buffer.getvalue()


REFERENCE = Path(__file__).parent / "reference"


def mutated(data, random, other):
    """Damage a file in one to four places: bits, bytes, extreme values, cuts, pieces of other files."""
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 4])):
        start, end = sorted(int(place) for place in random.integers(0, len(data) + 1, 2))
        end = min(end, start + int(random.choice([1, 4, 30, 10**6])))
        way = random.choice(7, p=[0.3, 0.15, 0.07, 0.1, 0.1, 0.08, 0.2])
        if way == 0 and data:
            data[min(start, len(data) - 1)] ^= 1 << int(random.integers(8))
        elif way == 1:
            data[start : start + 4] = EXTREMES[random.integers(len(EXTREMES))]
        elif way == 2:
            del data[start:]
        elif way == 3:
            del data[start:end]
        elif way == 4:
            data[start:start] = data[start:end]
        elif way == 5:
            data[start:end] = other[start:end]
        else:
            data[start : start + 2] = random.bytes(2)
    return bytes(data)


def with_good_checksums(data):
    """Correct the checksums of a PNG's chunks, behind which a decoder otherwise never looks."""
    data, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


def make(kind, number):
    """Return the damaged file of a kind with a number."""
    random = np.random.default_rng([number, *kind.encode()])
    data = mutated(original(kind, random), random, original(kind, random))
    return with_good_checksums(data) if kind == "PNG" and random.random() < 0.7 else data


# What each kind is fed to


def read_photo(data, folder):
    (folder / "1.jpg").write_bytes(data)
    table, images = decoding.scan(
        folder, ["1.jpg"], content="abc", folder=folder / "cache", size=16, fit="crop"
    )
    assert images.shape == (1, 16, 16, 3) and images.dtype == np.uint8 and len(table.sha1[0]) == 40
    kept = table.problem[0] == ""
    assert (table.width[0] > 0) == (table.height[0] > 0) == (len(table.phash[0]) == 16) == kept
    pixels, size = decoding.decode(data)
    assert (
        pixels.dtype == np.uint8
        and pixels.shape == (*size[::-1], 3)
        and size == (table.width[0], table.height[0])
    )
    for fit in ("stretch", "pad"):
        assert decoding.resize(pixels, size=16, fit=fit).shape == (16, 16, 3)


def unpack(data, folder):
    (folder / "photos.zip").write_bytes(data)
    try:
        names = archives.extract(folder / "photos.zip", folder / "raw")
    except ValueError as error:
        assert str(error).startswith("photos.zip: expected ") and sorted(folder.iterdir()) == [
            folder / "photos.zip"
        ]
        raise
    files = {
        path.relative_to(folder / "raw").as_posix() for path in (folder / "raw").rglob("*") if path.is_file()
    }
    assert set(names) == files and len(names) == len(files)
    assert not any(path.is_symlink() for path in (folder / "raw").rglob("*"))


def read_table(data, folder):
    raw = Drawing(folder)
    for number in range(4):
        raw.put(f"photos/{number}.jpg")
    raw.put("labels.csv", data)
    table = {"file": "labels.csv", "photos": "photos", "label": "label"}
    listed = labels.find(listing.Folder(folder), Sample(kind="sample", tables={"t": table}))
    assert list(listed.columns) == labels.COLUMNS
    existing = listed.path.isin([f"photos/{number}.jpg" for number in range(4)])
    assert existing.sum() == 4 and listed.problem[~existing].str.contains("no such file").all()


def read_parameters(data, folder):
    (folder / "mine.yaml").write_bytes(data)
    params.load("mine")


def read_weights(data, folder):
    (folder / "mine.pth").write_bytes(data)
    assert all(isinstance(value, np.ndarray) for value in checkpoints.load(folder / "mine.pth").values())


READERS = dict.fromkeys(PHOTOS, read_photo) | {
    "zip": unpack,
    "tar": unpack,
    "csv": read_table,
    "yaml": read_parameters,
    "pth": read_weights,
}


@contextlib.contextmanager
def a_limit():
    """Interrupt a call that takes too much processor time of this process."""

    def stop(*_):
        raise TimeoutError(f"no end after {SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def feed(kind, number, tmp_path, monkeypatch):
    """Feed one damaged file to its reader; return whether it was taken."""
    folder = tmp_path / "watched" / f"{number}"
    folder.mkdir(parents=True)
    monkeypatch.setattr(params, "FOLDER", folder)
    data = make(kind, number)
    try:
        with a_limit():
            READERS[kind](data, folder)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        own = type(error) in (ValueError, FileNotFoundError, files.NoSpace)  # not a UnicodeDecodeError
        assert own and len(message) > 10 and str(tmp_path) not in message, (
            f"make({kind!r}, {number}): {error!r}"
        )
        return False
    except Exception as error:
        raise AssertionError(f"make({kind!r}, {number}): {error!r}") from error
    return True


def feed_all(kind, count, tmp_path, monkeypatch):
    taken = sum(feed(kind, number, tmp_path, monkeypatch) for number in range(count))
    assert [path.name for path in tmp_path.iterdir()] == ["watched"]
    assert len(list((tmp_path / "watched").glob("[!.]*"))) == count
    assert taken < count


pytestmark = [
    pytest.mark.filterwarnings(f"ignore::UserWarning:PIL.{name}ImagePlugin")
    for name in ("Tiff", "Gif", "Webp")
]


@pytest.mark.parametrize("kind", SHARES)
def test_damaged_files(tmp_path, monkeypatch, kind):
    feed_all(kind, SHARES[kind], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARES)
def test_more_damaged_files(tmp_path, monkeypatch, kind):
    feed_all(kind, SLOW * SHARES[kind], tmp_path, monkeypatch)
