"""The numbers of a JSON file as the README's table and plot.

python experiments/throughput/report.py OUT.json     (writes README.md's table and throughput.png beside this file)
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- table: written by report.py -->\n", "<!-- end of table -->\n"
MEMORY = {"full_fp32": 0.3, "full_bf16": 0.4}  # goals of peak memory, ours over TRL's
MFU = {"full_fp32_large": 0.7}


def spread(values: list[float]) -> str:
    """Returns the median and the range."""
    middle = f"{statistics.median(values):,.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.2f} to {max(values):,.2f})"


def verdict(reached: float, goal: float | None, *, below: bool = False) -> str:
    """Returns what was reached beside its goal."""
    if goal is None:
        return f"{reached:.2f} |"
    met = reached <= goal if below else reached >= goal
    return f"{'**' if met else ''}{reached:.2f}{'**' if met else ''} | {'<=' if below else '>='} {goal:g}"


def lines(report: dict[str, Any]) -> list[str]:
    """Returns the table's lines."""
    out = [
        "| setting | unit | compared with | rmlab | ratio | goal | peak MB, compared with / rmlab | MFU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["settings"].values():
        peak, mfu = row["peak_mb"], row["mfu"]
        cells = [
            row["label"],
            row["unit"],
            spread(row["trl"]),
            spread(row["rmlab"]),
            verdict(row["ratio"], row["goal"]),
        ]
        cells += [f"{peak['trl']:,.0f} / {peak['rmlab']:,.0f}", f"{mfu:.0%}" if mfu else ""]
        out.append(f"| {' | '.join(cells)} |")
    out += ["", "| also | reached | goal |", "| --- | --- | --- |"]
    for name, goal in MEMORY.items():
        if name in report["settings"]:
            peak = report["settings"][name]["peak_mb"]
            what = f"peak memory, {report['settings'][name]['label']}, against TRL"
            out.append(f"| {what} | {verdict(peak['rmlab'] / peak['trl'], goal, below=True)} |")
    for name, goal in MFU.items():
        if name in report["settings"]:
            row = report["settings"][name]
            out.append(f"| MFU, {row['label']} | {verdict(row['mfu'], goal)} |")
    if "many_pairs" in report["settings"]:
        peak = report["settings"]["many_pairs"]["peak_mb"]
        out.append(f"| RSS growth with many pairs, MB | {verdict(peak['rmlab'] - peak['trl'], 200, below=True)} |")
    losses = report["first_loss"]
    out.append(f"| first step's loss, difference | {verdict(abs(losses['trl'] - losses['rmlab']), 1e-4, below=True)} |")
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return [
        *out,
        "",
        f"Measured on: {facts}. Median (range) of the runs; ratio: median of the alternating pairs of runs.",
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """Draws the ratios with their goals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in report["settings"].values() if row["goal"] is not None][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1))
    places = range(len(rows))
    axes.barh(places, [row["ratio"] for row in rows], color="#4c72b0")
    axes.plot([row["goal"] for row in rows], places, "k|", markersize=14, markeredgewidth=2, label="goal")
    axes.set_yticks(places, [row["label"] for row in rows], fontsize=8)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("rmlab over what it is compared with")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(path: Path) -> None:
    """Writes the table into README.md and the plot beside it."""
    report = json.loads(path.read_text())
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + "\n".join(lines(report)) + "\n" + END + rest.split(END)[1])
    plot(report, HERE / "throughput.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
