"""Draws how the figures of the scenario `versioning` grow with the number of keys.

usage: plot_versioning.py REPORT.json… PLOT.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = [
    ("branches created per second", "1/s", ["branch_create_per_s"], 10_000),
    ("branch created, 99th percentile", "ms", ["branch_create_p99_ms"], 10),
    ("commit of one key, median", "ms", ["commit_1_key_p50_ms", "sqlite_commit_1_key_p50_ms"], 10),
    ("bytes written by a commit of one key", "KB", ["commit_1_key_bytes_written"], 200),
    ("commits per second, one branch, many writers", "1/s", ["commits_per_s_one_branch"], 2_000),
    ("merges into one branch at once", "1/s", ["contended_merges_per_s"], 200),
    ("commit of 500,000 keys", "s", ["commit_500k_clustered_s", "commit_500k_random_s", "sqlite_commit_500k_random_s"], 15),
    ("diff of 1,000 keys", "ms", ["diff_1k_warm_ms", "diff_1k_cold_ms"], 20),
    ("point reads per second", "1/s", ["point_read_per_s", "sqlite_point_read_per_s"], 50_000),
    ("keys scanned per second", "1/s", ["scan_keys_per_s", "sqlite_scan_keys_per_s"], None),
    ("bytes per key", "bytes", ["bytes_per_key", "sqlite_bytes_per_key"], None),
]


def main(reports, plot):
    runs = sorted((json.loads(Path(report).read_text()) for report in reports), key=lambda run: run["config"]["keys"])
    sizes = [run["config"]["keys"] for run in runs]
    figure, axes = plt.subplots(3, 4, figsize=(18, 11), layout="constrained")
    for axis, (title, unit, names, target) in zip(axes.flat, PANELS):
        for name in names:
            scale = 1e-3 if unit == "KB" else 1
            values = [run["figures"].get(name, float("nan")) * scale for run in runs]
            peer = name.startswith("sqlite_")
            axis.plot(sizes, values, marker="o", linestyle="--" if peer else "-", color="gray" if peer else None, label=label(name))
        if target:
            axis.axhline(target, color="tab:red", linewidth=1, linestyle=":", label="to reach")
        axis.set(title=title, xlabel="keys", ylabel=unit, xscale="log", ylim=(0, None))
        axis.legend(fontsize="small")
    for axis in axes.flat[len(PANELS):]:
        axis.axis("off")
    figure.suptitle(f"versioning, {runs[0]['config']['cores']} cores, {runs[0]['config']['profile']} build")
    Path(plot).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(plot, metadata={"Date": None})


def label(name):
    owner = "SQLite" if name.startswith("sqlite_") else "Anabranch"
    kind = next((f", {word}" for word in ("clustered", "random", "warm", "cold") if word in name), "")
    return owner + kind


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:-1], sys.argv[-1])
