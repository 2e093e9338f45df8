"""Convert the colours of photos to sRGB by their embedded ICC profile.

The rendering intent is relative colorimetric with black point compensation: colours within sRGB keep their
appearance, others take the nearest colour. Photos without a profile are in sRGB.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# Modes in Pillow of the images that a profile applies to, by the colour space of the profile.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
GREY = ("1", "L", "LA", "I", "I;16")
# Maximum size in bytes of a profile. That of a printing press has about 1 MB.
LARGEST_PROFILE = 8_000_000
# A profile that changes no colour by more levels is sRGB, of which there are many variants.
LEVELS = 2


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    """Convert an image to sRGB.

    Args:
        image: 8-bit image of any mode; transparency is ignored.
        profile: the embedded ICC profile.

    Returns:
        The image, of mode RGB; and the reason that the profile was ignored, else empty.
    """
    try:
        mode, transform = _transform(profile)
        if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in GREY):
            raise ValueError(f"a profile of {mode} in an image of {image.mode}")
    # Pillow raises several errors if a profile is damaged.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return image.convert("RGB"), f"its colour profile was ignored: {reason}"
    if transform is None:
        return image.convert("RGB"), ""
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    assert converted is not None
    return converted, ""


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode that a profile applies to and its transform; None instead of it if it is sRGB."""
    if len(profile) > LARGEST_PROFILE:
        raise ValueError(f"it has {len(profile):,} bytes, more than {LARGEST_PROFILE:,}")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if space not in MODES:
        raise ValueError(f"its colour space is {space}")
    transform = ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        MODES[space],
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return MODES[space], None if _is_identity(transform, MODES[space]) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform leaves the colours of a regular grid unchanged, up to rounding."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = levels[:, None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1)
    colours = Image.fromarray(grid.reshape(-1, 18, 3) if mode == "RGB" else grid)
    converted = ImageCms.applyTransform(colours, transform)
    assert converted is not None
    difference = np.asarray(converted).astype(int) - np.asarray(colours.convert("RGB"))
    return bool(np.abs(difference).max() <= LEVELS)
