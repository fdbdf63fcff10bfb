"""All benchmarks: prints their tables, and renews those of the README and their picture.

make bench
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import evaluation, head, loader, metrics, step
from benchmarks.common import Row, Tables, main, markdown

ROOT = Path(__file__).parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs/speed.png"
BEGIN, END = "<!-- benchmarks: begin -->\n", "<!-- benchmarks: end -->\n"


def all_tables(args: argparse.Namespace) -> Tables:
    """The tables of all benchmarks; README and picture are renewed by the way."""
    evaluated = evaluation.tables(args)  # the first, as there may be no run of the name
    results: Tables = {}
    for benchmark in (head, metrics, loader, step):
        results |= benchmark.tables(args)
    results |= evaluated
    draw(results).savefig(PICTURE)
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    section = f"{BEGIN}\n{markdown(results)}\n\n{END}"
    README.write_text(before + section + after, encoding="utf-8")
    return results


def draw(results: Tables) -> Figure:
    """Bars: how many times as fast as the first of each table the others are."""
    compared = {title: rows for title, rows in results.items() if len(rows) > 1 and is_race(rows)}
    heights = [len(rows) for rows in compared.values()]
    figure = Figure(figsize=(10, 0.32 * sum(heights) + 0.55 * len(heights)), layout="constrained")
    panes = figure.subplots(len(compared), height_ratios=heights)
    for axes, (title, rows) in zip(panes, compared.items(), strict=True):
        names = [str(row["contender"]).replace("`", "") for row in rows]
        ratios = [row["times as fast"] for row in rows]
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
    return "times as fast" in rows[0]


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        all_tables,
        id={"help": "a trained run, to compare labels with"},
        ckpt={"default": "./ckpt", "help": "folder of the runs"},
    )
