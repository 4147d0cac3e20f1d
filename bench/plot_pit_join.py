"""Draws how time and peak memory of the point-in-time join grow with the rows of its views.

usage: plot_pit_join.py REPORT.json PLOT.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator

RUNNERS = {
    "anabranch": ("Anabranch, own tables", "o-", "tab:blue"),
    "anabranch_same_files": ("Anabranch, the peers' files", "s-", "tab:orange"),
    "duckdb": ("DuckDB", "^--", "dimgray"),
    "polars": ("Polars", "v--", "darkgray"),
}
PANELS = [("wall_s", "files to Arrow, warm, median", "s"), ("peak_rss_mb", "peak memory", "MiB")]


def main(report, plot):
    run = json.loads(Path(report).read_text())
    config, figures = run["config"], run["figures"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for axis, (name, title, unit) in zip(axes, PANELS):
        for runner, (label, line, color) in RUNNERS.items():
            points = [(size, figures.get(f"{runner}_{name}_{size}")) for size in config["sizes"]]
            points = [point for point in points if point[1] is not None]
            if points:
                last = points[-1][0]
                if last < max(config["sizes"]):
                    label += f" (did not survive more than {last:,} rows)"
                axis.plot(*zip(*points), line, color=color, label=label)
        axis.set(title=title, xlabel=f"rows of {config['views']} views together", ylabel=unit, xscale="log", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_locator(LogLocator(subs=()))
        axis.grid(which="major", linewidth=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    spine, build = f"{config['spine_rows']:,} spine rows", f"{config['cores']} cores, {config['profile']} build"
    figure.suptitle(f"point-in-time join, {spine}, {config['features']} f32 a view, {build}")
    Path(plot).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(plot, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
