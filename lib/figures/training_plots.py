"""Figures of 03_train."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style

LABELS = {"top_3": "top-3 accuracy"}


def training_curves(history: pd.DataFrame) -> Figure:
    """Plot loss, accuracy and, if available, top-3 accuracy by epoch.

    A dotted line marks the start of each stage, and a dot the best epoch.

    Args:
        history: `training.Training.history`.
    """
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    starts = history[history.stage.ne(history.stage.shift())]
    # Top-3 accuracy is missing if there are few classes, or in a training of an earlier version.
    measured = history.dropna(axis="columns", how="all")
    names = [name for name in ("loss", "accuracy", "top_3") if name in measured]
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        train, val = history[name].to_numpy(), history[f"val_{name}"].to_numpy()
        axes.plot(history.epoch, train, color=style.COLOURS["train"], label="train")
        axes.plot(history.epoch, val, color=style.COLOURS["val"], label="val")
        # The loss on val may be NaN.
        best = np.nanargmin(val) if name == "loss" else np.nanargmax(val)
        axes.plot(history.epoch.iloc[best], val[best], "o", color=style.COLOURS["val"])
        for epoch, stage in zip(starts.epoch, starts.stage, strict=True):
            axes.axvline(epoch - 0.5, color=style.MUTED, linestyle=":", linewidth=1)
            above = axes.get_xaxis_transform()
            axes.text(epoch - 0.4, 1.01, stage, color=style.MUTED, fontsize=8, transform=above)
        axes.set(xlabel="epoch", ylabel=LABELS.get(name, name))
    axes.legend(loc="lower right")
    return figure
