"""Colour profiles: applied, ignored if they are damaged, and without cost if they are sRGB."""

import io
import struct

import numpy as np
import profiles
import pytest
from PIL import Image, ImageCms
from shared import scene

from lib.photos import colours, decoding, formats


def picture():
    """Draw pale colours, which are within sRGB in each space."""
    return (40 + 0.4 * scene(1)).astype(np.uint8)


def saved(pixels, codec, **options):
    assert codec != "HEIF" or formats.register_heif()
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, codec, **options)
    return buffer.getvalue()


SPACES = {
    "Display P3": profiles.DISPLAY_P3,
    "Adobe RGB": profiles.ADOBE_RGB,
    "ProPhoto": profiles.PROPHOTO,
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("codec", ["PNG", "JPEG", "TIFF", "WEBP", "HEIF", "AVIF"])
def test_a_colour_profile_is_applied(space, codec):
    pixels = picture()
    stored = profiles.from_srgb(pixels, SPACES[space])
    assert np.abs(stored.astype(int) - pixels).mean() > 2
    profile = profiles.rgb_profile(SPACES[space])
    options = {} if codec in ("PNG", "TIFF") else {"quality": 97}
    photo = decoding.read(saved(stored, codec, icc_profile=profile, **options))
    assert np.abs(photo.pixels.astype(int) - pixels).mean() < 2.5 and photo.note == ""


def test_a_grey_profile_is_applied():
    grey = picture()[..., 0]
    data = saved(grey, "PNG", icc_profile=profiles.grey_profile(1.0))
    values = grey / 255
    srgb = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055) * 255
    photo = decoding.read(data)
    assert np.abs(photo.pixels - srgb[..., None]).max() < 2 and photo.note == ""


def test_transparency_and_a_profile_go_together():
    pixels = picture()
    stored = profiles.from_srgb(pixels, profiles.DISPLAY_P3)
    image = Image.fromarray(stored)
    image.putalpha(Image.fromarray(np.repeat([[0, 255]], [60], axis=0).repeat(40, axis=1).astype(np.uint8)))
    profile = profiles.rgb_profile(profiles.DISPLAY_P3)
    result = decoding.read(saved(image, "PNG", icc_profile=profile)).pixels
    assert (result[:, :40] == 255).all()
    assert np.abs(result[:, 40:].astype(int) - pixels[:, 40:]).mean() < 2


def test_a_profile_of_srgb_changes_nothing():
    pixels = picture()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (decoding.read(saved(pixels, "PNG", icc_profile=profile)).pixels == pixels).all()


def lookup_table():
    """Return the profile of a press that prints each ink as the complement of its colour: 16 corners."""
    corners = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    lightness = (255 * (1 - corners[:, :3].mean(axis=1)) * (1 - corners[:, 3])).round()
    table = np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=1).astype(np.uint8)
    identity = np.arange(256, dtype=np.uint8).tobytes()
    matrix = struct.pack(">9i", *(65536 * int(row == column) for row in range(3) for column in range(3)))
    content = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * identity + table.tobytes() + 3 * identity
    )
    return profiles.profile(b"CMYK", {b"A2B0": content, b"A2B1": content}, connection=b"Lab ", kind=b"prtr")


def test_a_profile_of_inks_is_applied():
    inks = np.zeros((40, 40, 4), np.uint8)
    inks[:, 20:, 3] = 255
    inks[20:, :20, :3] = 255
    image = Image.fromarray(inks, "CMYK")
    photo = decoding.read(saved(image, "TIFF", icc_profile=lookup_table()))
    assert photo.note == "" and photo.pixels[5, 5].min() > 250 and photo.pixels[5, 35].max() < 5
    # without the profile, all inks but black are a pure black too
    assert photo.pixels[35, 5].max() < 5


def test_a_profile_is_read_once_and_applied_by_all_threads():
    colours._transform.cache_clear()
    data = saved(picture(), "PNG", icc_profile=profiles.rgb_profile(profiles.ADOBE_RGB))
    assert (decoding.read(data).pixels == decoding.read(data).pixels).all()
    assert colours._transform.cache_info().hits == 1
