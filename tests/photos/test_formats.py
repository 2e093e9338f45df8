"""Formats of images by their first bytes, and headers that are refused before pixels are decoded."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from lib.photos import formats


def encoded(codec, size=(40, 30), **options):
    buffer = io.BytesIO()
    assert codec != "HEIF" or formats.register_heif()
    Image.new("RGB", size, (200, 90, 30)).save(buffer, codec, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", formats.READ)
def test_a_format_that_is_read_is_recognized_and_its_header_has_no_problem(name):
    data = encoded(formats.READ[name])
    assert formats.signature(data[: formats.HEAD]) == name
    assert formats.header(data) is None and formats.header(data[: formats.HEAD]) is None


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
        (b"\xff\x4f\xff\x51", "jp2"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
        (b"8BPS\0\1", "psd"),
        (b"\0\0\1\0\1\0", "ico"),
        (bytes(128) + b"DICM", "dicom"),
        (b"II\x2a\0\x10\0\0\0CR\2\0", "raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "svg"),
        (b"%!PS-Adobe-3.0", "eps"),
        (b"%PDF-1.7", "pdf"),
    ],
)
def test_an_image_in_another_format_is_named(start, name):
    assert formats.signature(start) == name
    assert formats.header(start + bytes(600))


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        (b"mif1\0\0\0\0mif1heic", "heic"),
        (b"msf1\0\0\0\0msf1hevc", "heic"),
        (b"mif1\0\0\0\0avifmif1", "avif"),
        (b"isom\0\0\2\0isommp41", None),
    ],
)
def test_brands_behind_a_general_one_decide(brands, name):
    data = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"heic"
    assert formats.signature(data) == name


@pytest.mark.parametrize(
    "data", [b"", b"BMW builds cars, not bitmaps", b"PK\3\4", b"GIF", bytes(600), b"RIFF"]
)
def test_other_files_are_not_images(data):
    assert formats.signature(data) is None and formats.header(data)


def test_a_file_is_refused_with_the_reason():
    assert formats.header(b"") == "the file is empty"
    assert formats.header(b"\n <HTML>") == "not a photo: the file contains text such as HTML"
    assert formats.header(b"words").startswith("not a photo in a supported format (JPEG, PNG")
    assert formats.header(b"8BPS").endswith("Received: psd. Save it as JPEG or PNG")


def test_the_size_in_the_header_is_limited():
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 40_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + b"\0\0\0\0IDAT"
    assert formats.header(data) == "2147483647 x 40000 pixels are more than 200 million"


def with_scans(count):
    """Repeat the last scan of a progressive JPEG."""
    data = encoded("JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def test_the_scans_of_a_jpeg_are_limited():
    assert formats.header(with_scans(50)) is None
    assert "scans, more than 100" in formats.header(with_scans(3000))


def test_bytes_behind_a_jpeg_and_in_its_segments_are_not_scans():
    many = b"\xff\xda\0\x08" * 200
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(many)) + many
    data = encoded("JPEG")
    assert formats.header(data[:2] + thumbnail + data[2:] + many) is None


def test_a_cut_header_is_no_endless_loop():
    data = with_scans(3000)
    for end in (*range(60), len(data) - 1, len(data) - 3):
        formats.header(data[:end])


def test_heic_without_its_package_is_a_reason(monkeypatch):
    data = encoded("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "needs the package pillow-heif" in formats.header(data)


def test_the_import_loads_neither_opencv_nor_scikit_learn():
    heavy = {"cv2", "sklearn", "keras", "tensorflow", "pandas", "pillow_heif"}
    code = f"import sys; from lib.photos import formats; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_random_bytes_behind_a_known_start_never_raise():
    rng = np.random.default_rng(0)
    for name, codec in formats.READ.items():
        head = encoded(codec)[:40]
        for _ in range(20):
            assert formats.signature(head) == name
            formats.header(head + rng.bytes(300))
