"""Generate small data sets in which photos depend on each other: specimens, arrows and a film."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw


def ground(random: np.random.Generator, side: int) -> np.ndarray:
    """Draw a smooth random ground, `uint8` of shape `(side, side, 3)`."""
    coarse = random.integers(40, 216, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def save(path: Path, pixels: np.ndarray) -> None:
    """Save a photo, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def patients(folder: Path, *, of_class: int = 6, views: int = 8) -> None:
    """Save several views of each specimen of two classes, named after the specimen."""
    for number, label in enumerate(("ill", "well")):
        for specimen in range(of_class):
            scene = ground(np.random.default_rng([number, specimen]), 150)
            for view in range(views):
                random = np.random.default_rng([number, specimen, view])
                x, y = random.integers(0, 60, 2)
                part = scene[y : y + 90, x : x + 90] * random.uniform(0.6, 1.2)
                noisy = part + random.normal(0, 10, part.shape)
                save(folder / label / f"{label}_patient{specimen:02}_{view}.png", noisy)


def arrows(folder: Path, *, of_class: int = 40) -> None:
    """Save arrows to the left and to the right, at random places on random grounds."""
    for direction, label in ((-1, "turn left"), (1, "turn right")):
        for number in range(of_class):
            random = np.random.default_rng([direction + 1, number])
            image = Image.fromarray(ground(random, 96))
            draw = ImageDraw.Draw(image)
            x, y = (int(value) for value in random.integers(28, 68, 2))
            head = [(x + 24 * direction, y), (x - 6 * direction, y - 20), (x - 6 * direction, y + 20)]
            draw.polygon(head, fill=(8, 8, 8))
            left, right = sorted((x, x - 24 * direction))
            draw.rectangle([left, y - 7, right, y + 7], fill=(8, 8, 8))
            save(folder / label / f"{number}.png", np.asarray(image))


def film(folder: Path, *, frames: int = 240, others: int = 30) -> None:
    """Save the frames of a film and other photos of a class, and photos of a second class."""
    scene = ground(np.random.default_rng(1), 64)
    for number in range(frames):
        noise = np.random.default_rng([2, number]).normal(0, 2, scene.shape)
        save(folder / "sky" / f"frame_{number:03}.png", scene + noise)
    for number in range(others):
        save(folder / "sky" / f"{number}.png", ground(np.random.default_rng([3, number]), 64))
        save(folder / "sea" / f"{number}.png", ground(np.random.default_rng([4, number]), 64))
