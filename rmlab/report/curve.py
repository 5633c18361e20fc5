"""What best-of-N buys: expected reward against the divergence from the policy, a point for each N."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from rmlab.report.plots import BLUE, MUTED, STYLE


def best_of_n_figure(n: Sequence[int], kl: Sequence[float], reward: Sequence[float]) -> Figure:
    """Returns the curve of expected reward over KL (nats), each point marked with its N."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(kl, reward, color=BLUE, marker="o", linewidth=1.6)
        for size, x, y in zip(n, kl, reward, strict=True):
            axes.annotate(str(size), (x, y), xytext=(0, 6), textcoords="offset points", ha="center", color=MUTED)
        axes.margins(y=0.15)
        axes.set(xlabel="KL from the policy: log N - (N-1)/N (nats)", ylabel="expected reward of the best of N")
    return figure
