"""The report's statistics against scipy."""

import numpy as np
import pytest
from scipy import stats

from rmlab.report.statistics import correlation, wilson, within


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (50, 60), (9, 9)])
def test_wilson(k: int, n: int) -> None:
    low, high = wilson(np.array([k / n]), np.array([n]))
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_correlation() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert correlation(x, x + y) == pytest.approx(stats.pearsonr(x, x + y).statistic)
    assert np.isnan(correlation(np.ones(3), np.arange(3.0)))
    assert np.isnan(correlation(np.zeros(0), np.zeros(0)))


def test_within_takes_the_prompt_away() -> None:
    """Prompt 7: 1 and 3 around 2; prompt 2: 10 alone. Longer is better within a prompt and worse between them."""
    assert within(np.array([7, 2, 7]), np.array([1.0, 10.0, 3.0])) == pytest.approx([-1, 0, 1])
    prompt, length, score = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 11.0, 12.0]), np.array([9.0, 10.0, 1.0, 2.0])
    assert correlation(length, score) < 0
    assert correlation(within(prompt, length), within(prompt, score)) == pytest.approx(1)
