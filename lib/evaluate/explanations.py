"""Which photos a report explains, and how: the cells of 05_gradcam, one call each."""

from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image

from lib.clean import photoset
from lib.core import metrics, params, schema, steps
from lib.evaluate import heatmaps
from lib.figures import photo_grids
from lib.networks.cards import ModelCard
from lib.photos import class_names, decoding

MOST_MASKED = 256  # photos whose heat is measured against masks: enough for two digits of a mean


def choose(
    photos: photoset.Photos,
    predictions: pd.DataFrame,
    settings: schema.Params,
    *,
    names: dict[str, str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Choose the photos to explain, from the test split or, where there is none, from val.

    Args:
        photos: the run's photos.
        predictions: `predictions.csv`.
        settings: `gradcam.examples` says how many of each group; `seed` draws the right ones.
        names: what to call the classes, as `class_names.of_card` gives it; none: by their labels.

    Returns:
        `right`, drawn at random, and `wrong`, the surest first: each with the columns `path`,
        `label` and `predicted` (names), `confidence`, `row` (in the manifest) and `target` (the class
        that was named, an index).
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


def _split(photos):
    return "test" if len(photos.rows("test")) else "val"


def _title(row) -> str:
    return f"{row.predicted} {row.confidence:.2f}" + (
        "" if row.label == row.predicted else f"\nlabel: {row.label}"
    )


def single(photos: photoset.Photos, rows: pd.DataFrame, heats: np.ndarray, folder: Path) -> Image | str:
    """Show one photo, its heat, and both; write `single.png`.

    Args:
        photos: the run's photos.
        rows: at most one row of what `choose` gives.
        heats: its heat, `float32` of shape `(1, size, size)`.
        folder: where the picture goes.
    """
    if rows.empty:
        return "no photo was named rightly"
    image, heat = photos.images[rows.row.iloc[0]], heats[0]
    titles = [Path(rows.path.iloc[0]).name, "heat", _title(rows.iloc[0])]
    black = np.zeros_like(image)
    return photo_grids.photo_grid(
        [image, photo_grids.overlay(black, heat, strength=1), photo_grids.overlay(image, heat)],
        titles,
        columns=3,
        path=folder / "single.png",
    )


def grid(
    photos: photoset.Photos, rows: pd.DataFrame, heats: np.ndarray, folder: Path, name: str
) -> Image | str:
    """Show photos beside the same photos with their heat; write `<name>.png`.

    Args:
        photos: the run's photos.
        rows: what `choose` gives for a group.
        heats: their heat, `float32` of shape `(len(rows), size, size)`.
        folder: where the picture goes.
        name: name of the picture.
    """
    if rows.empty:
        return "there is none"
    images, titles = [], []
    for row, heat in zip(rows.itertuples(), heats, strict=True):
        image = photos.images[row.row]
        images += [image, photo_grids.overlay(image, heat)]
        titles += [Path(row.path).name, _title(row)]
    return photo_grids.photo_grid(images, titles, columns=6, path=folder / f"{name}.png")


def inside_masks(network, photos: photoset.Photos, settings: schema.Params, run: steps.Run) -> pd.DataFrame:
    """Measure how much of the heat for the true class lies on the object.

    Args:
        network: the trained model.
        photos: the run's photos.
        settings: `gradcam.masks` says where the masks are, if there are any.
        run: the run; relative paths of masks start at its data folder.

    Returns:
        One row per photo that has a mask: `path`; `inside`, the share of heat on the object; `even`,
        the share if the heat were spread evenly; `centre`, the share of a blob in the middle; `hit`,
        whether the hottest place is on the object. Empty where there are no masks.
    """
    columns = ["path", "inside", "even", "centre", "hit"]
    if settings.gradcam.masks is None:
        return pd.DataFrame(columns=columns)
    place = run.data / settings.gradcam.masks
    place = place if place.exists() else params.find_file(settings.gradcam.masks)
    rows = photos.rows(_split(photos))
    size = photos.images.shape[1]
    stems = [Path(photos.table.path.iloc[row]).stem for row in rows]
    masks = heatmaps.masks(place, stems, size=size, fit=settings.model.fit)
    chosen = [(row, masks[stem]) for row, stem in zip(rows, stems, strict=True) if stem in masks][
        :MOST_MASKED
    ]
    targets = pd.Categorical(
        photos.table.label.iloc[[row for row, _ in chosen]], photos.classes
    ).codes.astype(np.int64)
    heats = heatmaps.compute(network, photos.images[[row for row, _ in chosen]], targets)
    centre = heatmaps.centre_prior(size)
    return pd.DataFrame(
        [
            (
                photos.table.path.iloc[row],
                heatmaps.share_inside(heat, mask),
                float(mask.mean()),
                heatmaps.share_inside(centre, mask),
                bool(mask[np.unravel_index(heat.argmax(), heat.shape)]),
            )
            for (row, mask), heat in zip(chosen, heats, strict=True)
        ],
        columns=columns,
    )


def summary(shares: pd.DataFrame) -> dict:
    """Sum up what `inside_masks` measured.

    Returns:
        `photos` with a mask; the means of `inside`, `even` and `centre`; `hit`, the share of photos whose
        hottest place is on the object; `better_than_centre`, the share of photos in which the heat beats the
        blob in the middle, and its 95 % interval. Only `photos` where there are no masks.
    """
    measured = shares.dropna()
    if measured.empty:
        return {"photos": 0}
    better = int((measured.inside > measured.centre).sum())
    means = {name: round(float(measured[name].mean()), 4) for name in ("inside", "even", "centre", "hit")}
    interval = [round(value, 4) for value in metrics.interval(better, len(measured))]
    return {
        "photos": len(measured),
        **means,
        "better_than_centre": round(better / len(measured), 4),
        "interval": interval,
    }


def own_photo(network, card: ModelCard, photos: photoset.Photos, settings: schema.Params) -> Image:
    """Explain a photo of one's own, or the manifest's first kept one.

    Args:
        network: the trained model.
        card: `model.json`.
        photos: the run's photos.
        settings: `gradcam.photo` is the path of the photo.

    Returns:
        The photo beside its heat for the three most probable classes.

    Raises:
        FileNotFoundError, ValueError: there is no such photo, or it cannot be read.
    """
    image, name = _own_image(card, photos, settings.gradcam.photo)
    probabilities = metrics.apply_temperature(
        network(image[None].astype(np.float32), training=False).numpy(), card["temperature"]
    )[0]
    best = np.argsort(-probabilities)[:3]
    heats = heatmaps.compute(network, np.repeat(image[None], len(best), axis=0), best)
    images = [image, *(photo_grids.overlay(image, heat) for heat in heats)]
    names = list(class_names.of_card(card).values())
    return photo_grids.photo_grid(
        images, [name, *(f"{names[target]} {probabilities[target]:.2f}" for target in best)], columns=4
    )


def _own_image(card, photos, given):
    if given is None:
        row = int(np.flatnonzero(photos.table.status.eq("kept"))[0])
        return photos.images[row], Path(photos.table.path.iloc[row]).name
    path = params.find_file(given)
    if not path.is_file():
        raise FileNotFoundError(f"`gradcam.photo`: there is no file {given}. Expected: the path of a photo")
    try:
        pixels, _ = decoding.decode(path.read_bytes(), side=card["resize"])
    except ValueError as error:
        raise ValueError(f"`gradcam.photo`: {path.name} cannot be read: {error}") from None
    return decoding.prepare(pixels, card), path.name
