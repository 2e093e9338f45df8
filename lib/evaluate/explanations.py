"""Explain predictions by Grad-CAM: choose photos, plot them, and measure the energy inside masks."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.clean import photoset
from lib.core import files, metrics, schema, steps
from lib.evaluate import heatmaps
from lib.figures import photo_grids
from lib.networks import backend, cards
from lib.networks.backend import keras
from lib.photos import class_names, decoding

# Maximum number of photos that are compared with their masks, enough for two digits of a mean.
MOST_MASKED = 256
MEASURES = ["path", "energy_inside", "energy_uniform", "energy_centre", "hit"]
# Number of photos in a row of the grid, each beside its overlay.
PAIRS_IN_ROW = 3


def choose(
    photos: photoset.Photos, predictions: pd.DataFrame, *, settings: schema.Params, names: dict[str, str]
) -> pd.DataFrame:
    """Choose the photos to explain, from the test split or, if there is none, from val.

    Args:
        photos: the run's photos.
        predictions: `predictions.csv`.
        settings: `gradcam.examples` is the number of photos of each kind, `seed` the seed of the random draw.
        names: the names of the classes, the result of `class_names.of_card`.

    Returns:
        Correctly classified photos, drawn at random, then misclassified photos, the most confident first.
        Columns: `path`, `label` and `predicted` (names), `confidence`, `correct`, `row` (in the manifest) and
        `target` (the index of the predicted class).
    """
    rows = predictions[predictions.split.eq(_split(photos))].copy()
    rows["correct"] = rows.label.eq(rows.predicted)
    rows["row"] = rows.path.map({path: row for row, path in enumerate(photos.table.path)})
    rows["target"] = rows.predicted.map({name: index for index, name in enumerate(photos.classes)})
    count = settings.gradcam.examples
    correct, misclassified = rows[rows.correct], rows[~rows.correct]
    drawn = correct.sample(min(count, len(correct)), random_state=settings.seed)
    most_confident = misclassified.sort_values("confidence", ascending=False).head(count)
    return class_names.rename(pd.concat([drawn, most_confident], ignore_index=True), names)


def _split(photos: photoset.Photos) -> str:
    return "test" if len(photos.rows("test")) else "val"


def _titles(rows: pd.DataFrame) -> list[str]:
    """Return the title of each overlay: the prediction, its confidence and, if it is wrong, the label."""
    return [
        f"{row.predicted} {row.confidence:.2f}" + ("" if row.correct else f"\nlabel: {row.label}")
        for row in rows.itertuples()
    ]


def example(photos: photoset.Photos, rows: pd.DataFrame, *, maps: np.ndarray) -> Figure | None:
    """Plot the first photo, its heatmap and their overlay; return `None` if there are no photos.

    Args:
        photos: the run's photos.
        rows: the result of `choose`.
        maps: the heatmaps, `float32` of shape `(len(rows), size, size)`.
    """
    if rows.empty:
        return None
    image = photos.images[rows.row.iloc[0]]
    images = [image, photo_grids.colour_heatmap(maps[0]), photo_grids.overlay(image, maps[0])]
    titles = [Path(rows.path.iloc[0]).name, "Grad-CAM heatmap", _titles(rows)[0]]
    return photo_grids.photo_grid(images, titles, columns=3)


def grid(photos: photoset.Photos, rows: pd.DataFrame, *, maps: np.ndarray) -> Figure | None:
    """Plot photos beside their overlays, misclassified photos last; return `None` if there are no photos.

    Args:
        photos: the run's photos.
        rows: the result of `choose`.
        maps: the heatmaps, `float32` of shape `(len(rows), size, size)`.
    """
    images: list[np.ndarray | None] = []
    titles = []
    for row, path, title, heatmap in zip(rows.row, rows.path, _titles(rows), maps, strict=True):
        image = photos.images[row]
        images += [image, photo_grids.overlay(image, heatmap)]
        titles += [Path(path).name, title]
    # Fill the row, so that the first misclassified photo starts a new row.
    correct = int(rows.correct.sum())
    end, empty = 2 * correct, 2 * (-correct % PAIRS_IN_ROW)
    images[end:end], titles[end:end] = [None] * empty, [""] * empty
    return photo_grids.photo_grid(images, titles, columns=2 * PAIRS_IN_ROW)


def energy_inside_masks(network: keras.Model, photos: photoset.Photos, run: steps.Run) -> pd.DataFrame:
    """Compute the Grad-CAM energy inside the masks, for the true class of each photo.

    Args:
        network: the trained model.
        photos: the run's photos.
        run: the run; `gradcam.masks` of its settings is the path of the masks.

    Returns:
        One row per photo with a mask: `path`; `energy_inside`, the fraction of the heatmap's energy inside
        the mask (NaN if the heatmap is all 0); `energy_uniform` and `energy_centre`, the same fraction of a
        uniform heatmap and of a centred Gaussian; `hit`, whether the maximum of the heatmap is inside the
        mask. Empty if there are no masks.

    Raises:
        FileNotFoundError, ValueError: as `heatmaps.masks`.
    """
    settings = run.settings
    if settings.gradcam.masks is None:
        return pd.DataFrame(columns=MEASURES)
    folder = run.find(settings.gradcam.masks)
    size = photos.images.shape[1]
    stems = {row: Path(photos.table.path.iloc[row]).stem for row in photos.rows(_split(photos))}
    masks = heatmaps.masks(folder, list(stems.values()), size=size, fit=settings.model.fit, limit=MOST_MASKED)
    rows = [row for row, stem in stems.items() if stem in masks][:MOST_MASKED]
    targets = pd.Categorical(photos.table.label.iloc[rows], photos.classes).codes.astype(np.int64)
    maps = heatmaps.compute(network, photos.images[rows], targets=targets)
    gaussian = heatmaps.centred_gaussian(size)
    measured = []
    for row, heatmap in zip(rows, maps, strict=True):
        mask = masks[stems[row]]
        inside, centre = (heatmaps.energy_inside(values, mask) for values in (heatmap, gaussian))
        hit = bool(mask[np.unravel_index(heatmap.argmax(), heatmap.shape)])
        measured.append((photos.table.path.iloc[row], inside, float(mask.mean()), centre, hit))
    return pd.DataFrame(measured, columns=MEASURES)


def summary(measured: pd.DataFrame) -> dict:
    """Summarise the result of `energy_inside_masks`, for `gradcam.json`.

    Returns:
        `photos`, the number of photos with a mask; `all_zero`, the number of heatmaps that are all 0, whose
        energy counts as outside; the means of `energy_inside`, `energy_uniform` and `energy_centre`;
        `pointing_game`, the fraction of photos with the maximum inside the mask (Zhang et al., 2016,
        https://arxiv.org/abs/1608.00507); `better_than_centre`, the fraction of photos in which the heatmap
        has more energy inside the mask than the centred Gaussian, and its 95 % `interval` (Wilson). If there
        are no masks, only `photos`.
    """
    if measured.empty:
        return {"photos": 0}
    energies = measured[["energy_inside", "energy_uniform", "energy_centre"]].fillna(0.0)
    better = int((energies.energy_inside > energies.energy_centre).sum())
    return {
        "photos": len(measured),
        "all_zero": int(measured.energy_inside.isna().sum()),
        **energies.mean().round(4).to_dict(),
        "pointing_game": round(float(measured.hit.mean()), 4),
        "better_than_centre": round(better / len(measured), 4),
        "interval": [round(value, 4) for value in metrics.interval(better, len(measured))],
    }


def own_photo(
    network: keras.Model, card: cards.ModelCard, *, photos: photoset.Photos, run: steps.Run
) -> Figure | None:
    """Plot a photo beside its overlays for the three most probable classes.

    Args:
        network: the trained model.
        card: `model.json`.
        photos: the run's photos.
        run: the run, with `gradcam.photo`, the path of the photo; if it is `None`, the first kept photo of
            the manifest is explained.

    Raises:
        FileNotFoundError, ValueError: if the photo does not exist or cannot be read.
    """
    image, name = _own_image(card, photos, photo=run.settings.gradcam.photo, run=run)
    probabilities = metrics.apply_temperature(backend.outputs(network, image[None]), card["temperature"])[0]
    best = np.argsort(-probabilities)[:3]
    maps = heatmaps.compute(network, np.repeat(image[None], len(best), axis=0), targets=best)
    images = [image, *(photo_grids.overlay(image, heatmap) for heatmap in maps)]
    names = list(class_names.of_card(card).values())
    titles = [name, *(f"{names[target]} {probabilities[target]:.2f}" for target in best)]
    return photo_grids.photo_grid(images, titles, columns=4)


def _own_image(
    card: cards.ModelCard, photos: photoset.Photos, *, photo: str | None, run: steps.Run
) -> tuple[np.ndarray, str]:
    """Return the network's input for a photo, `uint8` `(size, size, 3)`, and the file name."""
    if photo is None:
        row = int(np.flatnonzero(photos.table.status.eq("kept"))[0])
        return photos.images[row], Path(photos.table.path.iloc[row]).name
    path = run.find(photo)
    if not path.is_file():
        raise FileNotFoundError(f"`gradcam.photo`: {photo} does not exist. Expected: the path of a photo")
    try:
        pixels, _ = decoding.decode(
            files.read_bytes(path), side=card["resize"], bit_depth=card.get("bit_depth")
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"`gradcam.photo`: {path.name} cannot be read: {error}") from None
    return decoding.prepare(pixels, card), path.name
