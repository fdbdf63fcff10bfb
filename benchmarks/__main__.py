"""All benchmarks: prints their tables, and renews those of docs/speed.md and its picture.

make bench
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import evaluation, head, loader, metrics, step
from benchmarks.common import Row, Tables, main, renew
from common.files import write_atomically

ROOT = Path(__file__).parent.parent
DOCUMENT, PICTURE = ROOT / "docs/speed.md", ROOT / "docs/speed.png"


def all_tables(args: argparse.Namespace) -> Tables:
    """The tables of all benchmarks; document and picture are renewed with them."""
    results: Tables = {}
    for benchmark in (head, metrics, loader, step, evaluation):
        results |= benchmark.tables(args)
    figure = draw(results)
    write_atomically(PICTURE, lambda file: figure.savefig(file, format="png"))
    renew(DOCUMENT, results)
    return results


def draw(results: Tables) -> Figure:
    """A bar chart for each comparison: how many times as fast as the first contender each is."""
    compared = {title: rows for title, rows in results.items() if len(rows) > 1 and is_race(rows)}
    heights = [len(rows) for rows in compared.values()]
    figure = Figure(figsize=(10, 0.32 * sum(heights) + 0.55 * len(heights)), layout="constrained")
    panes = figure.subplots(len(compared), height_ratios=heights)
    for axes, (title, rows) in zip(panes, compared.items(), strict=True):
        names = [str(row["contender"]).replace("`", "") for row in rows]
        ratios = [float(row["times as fast"]) for row in rows]
        colours = [
            "tab:blue" if ".py" in name or "upsample_" in name else "silver" for name in names
        ]
        bars = axes.barh(names, ratios, color=colours)
        axes.bar_label(bars, [f"{ratio:.2f} ×" for ratio in ratios], padding=3)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        axes.set_xlim(0, 1.15 * max(ratios))
        axes.invert_yaxis()
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
    return figure


def is_race(rows: list[Row]) -> bool:
    """Whether a table compares the speed of contenders."""
    return "times as fast" in rows[0]


if __name__ == "__main__":
    main(__doc__.splitlines()[0], all_tables)
