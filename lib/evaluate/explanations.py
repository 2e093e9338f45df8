"""Explanations of predictions: which photos, their pictures, and their numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.clean import photoset
from lib.core import metrics, params, schema, steps
from lib.evaluate import heatmaps
from lib.figures import photo_grids
from lib.networks import cards
from lib.networks.backend import keras
from lib.photos import class_names, decoding

# Photos whose heat is measured against masks: enough for two digits of a mean.
MOST_MASKED = 256
MEASURES = ["path", "inside", "even", "centre", "hit"]


def choose(
    photos: photoset.Photos,
    predictions: pd.DataFrame,
    *,
    settings: schema.Params,
    names: dict[str, str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Choose the photos to explain, from the test split or, if there is none, from val.

    Args:
        photos: the run's photos.
        predictions: `predictions.csv`.
        settings: `gradcam.examples` says how many of each group; `seed` draws the right ones.
        names: the names of the classes, the result of `class_names.of_card`; `None`: their labels.

    Returns:
        `right`, drawn at random, and `wrong`, the most confident first: each with the columns `path`,
        `label` and `predicted` (names), `confidence`, `row` (in the manifest) and `target` (the index of
        the predicted class).
    """
    rows = predictions[predictions.split.eq(_split(photos))].copy()
    rows["row"] = rows.path.map({path: row for row, path in enumerate(photos.table.path)})
    rows["target"] = rows.predicted.map({name: index for index, name in enumerate(photos.classes)})
    right = rows[rows.label.eq(rows.predicted)]
    wrong = rows[rows.label.ne(rows.predicted)].sort_values("confidence", ascending=False)
    count = settings.gradcam.examples
    chosen = {
        "right": right.sample(min(count, len(right)), random_state=settings.seed),
        "wrong": wrong.head(count),
    }
    return {group: class_names.rename(part, names or {}) for group, part in chosen.items()}


def _split(photos: photoset.Photos) -> str:
    return "test" if len(photos.rows("test")) else "val"


def _titles(rows: pd.DataFrame) -> list[str]:
    """Return a title per photo: the prediction, its confidence and, if that is wrong, the label."""
    columns = zip(rows.label, rows.predicted, rows.confidence, strict=True)
    return [
        f"{predicted} {confidence:.2f}" + ("" if label == predicted else f"\nlabel: {label}")
        for label, predicted, confidence in columns
    ]


def single(photos: photoset.Photos, rows: pd.DataFrame, *, heats: np.ndarray) -> Figure | None:
    """Draw one photo, its heatmap, and both; `None` if there is no photo.

    Args:
        photos: the run's photos.
        rows: at most one row of the result of `choose`.
        heats: its heat, `float32` of shape `(len(rows), size, size)`.
    """
    if rows.empty:
        return None
    image, heat = photos.images[rows.row.iloc[0]], heats[0]
    titles = [Path(rows.path.iloc[0]).name, "heat", *_titles(rows)]
    images = [image, photo_grids.heat_colours(heat), photo_grids.overlay(image, heat)]
    return photo_grids.photo_grid(images, titles, columns=3)


def grid(photos: photoset.Photos, rows: pd.DataFrame, *, heats: np.ndarray) -> Figure | None:
    """Draw photos beside the same photos with their heatmaps; `None` if there are none.

    Args:
        photos: the run's photos.
        rows: a group of the result of `choose`.
        heats: their heat, `float32` of shape `(len(rows), size, size)`.
    """
    images, titles = [], []
    for row, path, title, heat in zip(rows.row, rows.path, _titles(rows), heats, strict=True):
        image = photos.images[row]
        images += [image, photo_grids.overlay(image, heat)]
        titles += [Path(path).name, title]
    return photo_grids.photo_grid(images, titles, columns=6)


def inside_masks(
    network: keras.Model, photos: photoset.Photos, *, settings: schema.Params, run: steps.Run
) -> pd.DataFrame:
    """Measure how much of the heat for the true class lies on the object.

    Args:
        network: the trained model.
        photos: the run's photos.
        settings: `gradcam.masks` says where the masks are, if there are any.
        run: the run; relative paths of masks start at its data folder.

    Returns:
        One row per photo that has a mask: `path`; `inside`, the share of heat on the object; `even`,
        the share if the heat were spread evenly; `centre`, the share of a centred Gaussian; `hit`,
        whether the hottest place is on the object. Empty if there are no masks.

    Raises:
        FileNotFoundError, ValueError: as `heatmaps.masks`.
    """
    if settings.gradcam.masks is None:
        return pd.DataFrame(columns=MEASURES)
    folder = run.find(settings.gradcam.masks)
    size, stems = photos.images.shape[1], {row: _stem(photos, row) for row in photos.rows(_split(photos))}
    masks = heatmaps.masks(folder, list(stems.values()), size=size, fit=settings.model.fit)
    rows = [row for row, stem in stems.items() if stem in masks][:MOST_MASKED]
    targets = pd.Categorical(photos.table.label.iloc[rows], photos.classes).codes.astype(np.int64)
    heats = heatmaps.compute(network, photos.images[rows], targets=targets)
    centre = heatmaps.centre_prior(size)
    measured = []
    for row, heat in zip(rows, heats, strict=True):
        mask = masks[stems[row]]
        inside, even = heatmaps.share_inside(heat, mask), float(mask.mean())
        hit = bool(mask[np.unravel_index(heat.argmax(), heat.shape)])
        path = photos.table.path.iloc[row]
        measured.append((path, inside, even, heatmaps.share_inside(centre, mask), hit))
    return pd.DataFrame(measured, columns=MEASURES)


def _stem(photos: photoset.Photos, row: int) -> str:
    return Path(photos.table.path.iloc[row]).stem


def summary(shares: pd.DataFrame) -> dict:
    """Summarise the result of `inside_masks`.

    Returns:
        `photos` with a mask; `without_heat`, how many of them have no heat at all, which counts as none on
        the object; the means of `inside`, `even` and `centre`; `hit`, the share of photos whose hottest place
        is on the object; `better_than_centre`, the share of photos in which the heat beats the centred
        Gaussian, and its 95 % `interval`. Only `photos` if there are no masks.
    """
    if shares.empty:
        return {"photos": 0}
    measured = shares.fillna({"inside": 0.0})
    better = int((measured.inside > measured.centre).sum())
    means = {name: round(float(measured[name].mean()), 4) for name in ("inside", "even", "centre", "hit")}
    interval = [round(value, 4) for value in metrics.interval(better, len(measured))]
    return {
        "photos": len(measured),
        "without_heat": int(shares.inside.isna().sum()),
        **means,
        "better_than_centre": round(better / len(measured), 4),
        "interval": interval,
    }


def own_photo(
    network: keras.Model, card: cards.ModelCard, *, photos: photoset.Photos, settings: schema.Params
) -> Figure | None:
    """Explain a photo of one's own, or the manifest's first kept one.

    Args:
        network: the trained model.
        card: `model.json`.
        photos: the run's photos.
        settings: `gradcam.photo` is the path of the photo.

    Returns:
        The photo beside its heatmaps for the three most probable classes.

    Raises:
        FileNotFoundError, ValueError: there is no such photo, or it cannot be read.
    """
    image, name = _own_image(card, photos, photo=settings.gradcam.photo)
    probabilities = metrics.apply_temperature(
        network(image[None].astype(np.float32), training=False).numpy(), card["temperature"]
    )[0]
    best = np.argsort(-probabilities)[:3]
    heats = heatmaps.compute(network, np.repeat(image[None], len(best), axis=0), targets=best)
    images = [image, *(photo_grids.overlay(image, heat) for heat in heats)]
    names = list(class_names.of_card(card).values())
    titles = [name, *(f"{names[target]} {probabilities[target]:.2f}" for target in best)]
    return photo_grids.photo_grid(images, titles, columns=4)


def _own_image(
    card: cards.ModelCard, photos: photoset.Photos, *, photo: str | None
) -> tuple[np.ndarray, str]:
    """Return a photo as the network takes it, `uint8` `(size, size, 3)`, and its name."""
    if photo is None:
        row = int(np.flatnonzero(photos.table.status.eq("kept"))[0])
        return photos.images[row], Path(photos.table.path.iloc[row]).name
    path = params.find_file(photo)
    if not path.is_file():
        raise FileNotFoundError(f"`gradcam.photo`: there is no file {photo}. Expected: the path of a photo")
    try:
        pixels, _ = decoding.decode(path.read_bytes(), side=card["resize"])
    except ValueError as error:
        raise ValueError(f"`gradcam.photo`: {path.name} cannot be read: {error}") from None
    return decoding.prepare(pixels, card), path.name
