"""Curves of a training: losses with the learning rates, and scores with the best one marked."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

MOST_MARKED = 40  # epochs; with more, they have no dots on the curves


def history_figures(history: Sequence[dict[str, float]]) -> dict[str, Figure]:
    """The curves of a run's history, a row an epoch, by the names of their files.

    A curve bridges the epochs without a value, such as those without a validation.
    """
    losses = {"train_loss": "training", "val_loss": "validation"}
    rates = {"lr_encoder": "encoder", "lr_decoder": "decoder"}
    scores = {
        "train_accuracy": "training accuracy",
        "pixel_accuracy": "validation accuracy",
        "mean_iou": "validation mIoU",
    }
    with matplotlib.rc_context({"font.size": 13, "axes.grid": True, "grid.alpha": 0.3}):
        # Older runs have not written down their rates.
        heights = [3, 1] if any("lr_encoder" in row for row in history) else [1]
        loss, axes = new_figure(history, heights)
        draw_curves(axes[0], history, losses, "loss")
        known = [row[column] for row in history for column in losses if column in row]
        if 0 < 10 * min(known) < max(known):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].yaxis.set_major_formatter("{x:g}")
            axes[0].yaxis.set_minor_formatter(NullFormatter())
        if len(axes) > 1:
            draw_curves(axes[1], history, rates, "learning rate")
        accuracy, axes = new_figure(history, [1])
        draw_curves(axes[0], history, scores, "pixel accuracy, mean IoU")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        mark_best(axes[0], history)
    return {"loss.png": loss, "accuracy.png": accuracy}


def new_figure(
    history: Sequence[dict[str, float]], heights: Sequence[int]
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with axes below one another that share the epochs."""
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    axes = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    return figure, list(axes)


def draw_curves(
    axes: Axes, history: Sequence[dict[str, float]], columns: dict[str, str], title: str
) -> None:
    """Draw columns of a history over its epochs.

    Where two curves are the same, the later one is dashed, so that both are seen.
    """
    drawn = []
    for column, name in columns.items():
        rows = [row for row in history if column in row]
        values = [row[column] for row in rows]
        style = "--" if values and values in drawn else "-"
        marker = "o" if len(rows) <= MOST_MARKED else None
        axes.plot([row["epoch"] for row in rows], values, style, marker=marker, ms=4, label=name)
        drawn.append(values)
    axes.set_ylabel(title)
    axes.margins(y=0.12)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(columns),
        frameon=False,
        columnspacing=1.2,
        handlelength=1.5,
        borderaxespad=0.2,
    )


def mark_best(axes: Axes, history: Sequence[dict[str, float]]) -> None:
    """Mark the first epoch with the highest mean IoU, and write that beside it."""
    scored = [row for row in history if "mean_iou" in row]
    if not scored:
        return
    best = max(scored, key=lambda row: row["mean_iou"])
    x, y = best["epoch"], best["mean_iou"]
    axes.plot(x, y, "*", ms=16, color="black", zorder=3)
    late = x > (history[0]["epoch"] + history[-1]["epoch"]) / 2
    axes.annotate(
        f"best: {y:.1%} in epoch {x}",
        (x, y),
        (0, 11),
        textcoords="offset points",
        ha="right" if late else "left",
        va="bottom",
        bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8},
    )
