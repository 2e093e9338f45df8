"""Figures of 03_train."""

from pathlib import Path

import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure

from lib.figures import style


def training_curves(history: pd.DataFrame, path: Path | None = None) -> Image:
    """Draw loss and accuracy by epoch, a line where a stage begins and a dot at the best epoch.

    Args:
        history: what `training.Training.history` holds.
        path: where to write the picture too.
    """
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    starts = history[history.stage.ne(history.stage.shift())]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(history.epoch, history[name], color=style.COLOURS["train"], label="train")
        axes.plot(history.epoch, history[f"val_{name}"], color=style.COLOURS["val"], label="val")
        best = history[f"val_{name}"].idxmin() if name == "loss" else history[f"val_{name}"].idxmax()
        axes.plot(history.epoch[best], history[f"val_{name}"][best], "o", color=style.COLOURS["val"])
        for epoch, stage in zip(starts.epoch, starts.stage, strict=True):
            axes.axvline(epoch - 0.5, color=style.MUTED, linestyle=":", linewidth=1)
            axes.text(
                epoch - 0.4, 1.01, stage, color=style.MUTED, fontsize=8, transform=axes.get_xaxis_transform()
            )
        axes.set(xlabel="epoch", ylabel=name)
    axes.legend(loc="lower right")
    return style.picture(figure, path)
