"""What is drawn: numbers read back from the figures."""

import numpy as np
import pytest

from rmlab.report import plots
from rmlab.report.statistics import wilson


def test_reliability_shows_the_bins() -> None:
    """Two bins of width 1/15: [8/15, 9/15) holds .54 and .58 (1 of 2 true), the last .95 three times (true)."""
    figure = plots.reliability_figure(np.array([0.54, 0.58, 0.95, 0.95, 0.95]), np.array([1.0, 0, 1, 1, 1]))
    top, bottom = figure.axes
    line = next(line for line in top.lines if line.get_marker() == "o")
    assert line.get_xydata() == pytest.approx(np.array([[0.56, 0.5], [0.95, 1.0]]))
    assert [bar.get_height() for bar in bottom.patches] == [2, 3]
    assert [bar.get_x() for bar in bottom.patches] == pytest.approx([8 / 15, 14 / 15])
    (segments,) = [c.get_segments() for c in top.collections]
    low, high = wilson(np.array([0.5, 1.0]), np.array([2, 3]))
    assert [s[0][1] for s in segments] == pytest.approx(low)
    assert [s[1][1] for s in segments] == pytest.approx(high)
    assert top.get_xlim()[0] > 0.4  # sides a model prefers have at least one half
    assert plots.reliability_figure(np.array([0.2, 0.9]), np.array([0.0, 1.0])).axes[0].get_xlim()[0] < 0


@pytest.mark.parametrize(
    "margin",
    [np.random.default_rng(0).normal(0.5, 2, 999), np.array([-1.0, 0, 0, 2]), np.ones(5), -np.ones(5), np.zeros(3)],
)
def test_margins_are_all_there_on_their_side_of_zero(margin: np.ndarray) -> None:
    (axes,) = plots.margin_figure(margin).axes
    left = sum(bar.get_height() for bar in axes.patches if bar.get_x() < -1e-12)
    right = sum(bar.get_height() for bar in axes.patches if bar.get_x() >= -1e-12)
    assert (left, right) == ((margin <= 0).sum(), (margin > 0).sum())


def test_an_outlier_does_not_flatten_the_histogram() -> None:
    margin = np.append(np.random.default_rng(0).normal(size=999), 1e6)
    (axes,) = plots.margin_figure(margin).axes
    assert max(bar.get_x() for bar in axes.patches) < 10
    assert sum(bar.get_height() for bar in axes.patches) == 1000


def test_a_scatter_stays_light_and_the_tenths_use_everything() -> None:
    """Reward = length over 10,000 completions: the tenths' means lie on the diagonal."""
    length = np.arange(10_000.0)
    (axes,) = plots.length_figure(length, length).axes
    points, means = axes.lines
    assert len(points.get_xydata()) == plots.DRAWN
    assert means.get_xydata() == pytest.approx(np.repeat(np.arange(10)[:, None] * 1000 + 499.5, 2, axis=1))


def test_running_mean() -> None:
    """Of 2: 1, (1+3)/2, (3+5)/2, (5+9)/2."""
    assert plots.smoothed(np.array([1.0, 3, 5, 9]), 2) == pytest.approx([1, 2, 4, 7])


def test_curves_differ_in_colour_and_mark() -> None:
    (axes,) = plots.curve_figure({"a": [(1, 1.0), (2, 2.0)], "b": [(1, 3.0)]}, "loss").axes
    assert [line.get_marker() for line in axes.lines] == ["o", "s"]
    assert axes.lines[0].get_xydata() == pytest.approx(np.array([[1, 1], [2, 2]]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    (long,) = plots.curve_figure({"a": [(i, float(i)) for i in range(60)]}, "loss").axes
    assert len(long.lines) == 2  # the noise and its running mean


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours by WCAG 2.1, "relative luminance"."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_from_paper() -> None:
    """WCAG: 4.5 for text, 3 for marks."""
    assert min(contrast(colour, "#ffffff") for colour in (plots.INK, plots.MUTED)) >= 4.5
    assert min(contrast(colour, "#ffffff") for colour in (plots.BLUE, plots.ORANGE, plots.GREEN)) >= 3
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
