"""`ReportData` -> one HTML page that needs nothing else: no scripts, no network, plots inside, light and dark.

Texts come from data and models, so the template escapes everything, and the page's own policy forbids scripts and
requests even if something slipped through. Left out: interactivity, which would need scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rmlab.report import plots
from rmlab.report.data import ReportData
from rmlab.report.numbers import numbers
from rmlab.report.statistics import correlation, within
from rmlab.report.svg import inline

# title, unit on the axis, the curves shown together (at most three are)
PANELS = (
    ("Loss", "loss", ("train/loss", "val/nll")),
    ("Held-out quality", "share", ("val/accuracy", "train/accuracy", "val/top1", "val/auroc", "val/macro_f1")),
    ("Calibration", "error", ("val/ece", "val/brier")),
    ("Throughput", "tokens/s", ("train/tokens_per_second",)),
)
ENVIRONMENT = Environment(
    loader=PackageLoader("rmlab.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn figure with its heading and what to see in it."""

    title: str
    svg: Markup
    caption: str


def _plot(figure: Figure, name: str, title: str, caption: str) -> Plot:
    return Plot(title=title, svg=inline(figure, name, f"{title}. {caption}"), caption=caption)


def _curves(data: ReportData) -> list[Plot]:
    panels = []
    for number, (title, label, names) in enumerate(PANELS):
        shown = {name: data.curves[name] for name in names if data.curves.get(name)}
        if shown:
            last = ", ".join(f"{name} ends at {_short(shown[name][-1][1])}" for name in list(shown)[: len(plots.MARKS)])
            panels.append(_plot(plots.curve_figure(shown, label), f"curve{number}", title, f"{last}."))
    return panels


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _calibration(data: ReportData) -> Plot | None:
    if not len(data.confidence_J):
        return None
    oriented = "the probability of the side it prefers" if data.pairs else "the probability of the positive class"
    caption = (
        f"What the model states is {oriented}. Points below the dashed line: surer than it should be. Bars are 95 % "
        f"intervals (Wilson) of {len(data.confidence_J):,} judgements taken as independent."
    )
    figure = plots.reliability_figure(data.confidence_J, data.correct_J)
    return _plot(figure, "reliability", "Reliability diagram", caption)


def _margins(data: ReportData) -> Plot | None:
    if not len(data.margin_J):
        return None
    wrong, count = int((data.margin_J <= 0).sum()), len(data.margin_J)
    caption = f"{wrong:,} of {count:,} ({wrong / count:.1%}) are at or below zero: wrong, ties included."
    return _plot(plots.margin_figure(data.margin_J), "margin", "Margins", caption)


def _length(data: ReportData) -> Plot | None:
    if not len(data.score_S):
        return None
    whole = correlation(data.length_S, data.score_S)
    inside = correlation(within(data.prompt_S, data.length_S), within(data.prompt_S, data.score_S))
    drawn = f", {plots.DRAWN:,} of them drawn" if len(data.score_S) > plots.DRAWN else ""
    caption = (
        f"Correlation {_or_dash(whole)} over {len(data.score_S):,} completions{drawn}; {_or_dash(inside)} among "
        "completions of the same prompt. Far from zero, the reward follows length."
    )
    return _plot(plots.length_figure(data.length_S, data.score_S), "length", "Length and reward", caption)


def _or_dash(value: float) -> str:
    return f"{value:+.2f}" if isfinite(value) else "undefined"


def headline(metrics: Mapping[str, float | None]) -> str:
    """Returns how much of the best reachable value was reached, as a sentence, or "" where that is not known."""
    reached, best = metrics.get("val/headline"), metrics.get("val/headline_best")
    if reached is None or best is None or best <= 0:
        return ""
    return f"This run reached {reached / best:.1%} of the best that any model can reach on this data ({best:.4f})."


def _no_wrong(data: ReportData) -> str:
    if data.pairs:
        return f"None: all {data.pairs:,} held-out pairs are ordered as the data says."
    return "None to show: this run was not judged on pairs."


def render(data: ReportData) -> str:
    """Returns the page."""
    shown = numbers(data.metrics)
    context: dict[str, Any] = {
        "data": data,
        "quality": [n for n in shown if n.key.startswith("val/")],
        "training": [n for n in shown if not n.key.startswith("val/")],
        "headline": headline(data.metrics),
        "curves": _curves(data),
        "held_out": [plot for plot in (_calibration(data), _margins(data), _length(data)) if plot],
        "no_wrong": _no_wrong(data),
    }
    return ENVIRONMENT.get_template("page.html").render(context)
