"""The few statistics the plots need: an interval for a share, and how much of a reward is length.

Axes: N rows.
"""

from __future__ import annotations

from math import nan

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % score interval of a share of `count` (Wilson 1927), which never leaves [0, 1]."""
    spread = Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return centre - half, centre + half


def correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    """Returns Pearson's r, or nan where one side does not vary."""
    x, y = x_N - x_N.mean() if len(x_N) else x_N, y_N - y_N.mean() if len(y_N) else y_N
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale > 0 else nan


def within(group_N: np.ndarray, value_N: np.ndarray) -> np.ndarray:
    """Returns each value minus the mean of its group: what is left when groups are not compared with each other."""
    _, index = np.unique(group_N, return_inverse=True)
    return value_N - (np.bincount(index, weights=value_N) / np.bincount(index))[index]
