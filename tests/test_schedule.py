"""Learning rates worked by hand."""

from __future__ import annotations

import pytest
import torch

from rmlab.errors import UsageError
from rmlab.schedule import warmup_schedule


def rates(steps: int, shape: str, warmup: float) -> list[float]:
    """Returns the rate of each step of an optimizer whose peak rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_schedule(optimizer, steps, shape=shape, warmup=warmup)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("shape", "warmup", "expected"),
    [
        # 3 of 10 steps rise by a quarter of the peak each; then 7 steps fall from 1 by a seventh each.
        ("linear", 0.3, [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ("linear", 0.0, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("constant", 0.2, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        # (1 + cos(pi t)) / 2 at t = 0, 1/4, 1/2, 3/4 is 1, (2 + sqrt 2) / 4, 1/2, (2 - sqrt 2) / 4.
        ("cosine", 0.6, [1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1, 0.853553390593, 0.5, 0.146446609407]),
    ],
)
def test_rates_of_ten_steps(shape: str, warmup: float, expected: list[float]) -> None:
    assert rates(10, shape, warmup) == pytest.approx(expected, abs=1e-9)


def test_a_run_of_one_step_trains_at_the_peak() -> None:
    assert rates(1, "linear", 0.05) == [1.0]


def test_a_rate_after_the_last_step_is_zero_and_not_below() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_schedule(optimizer, 4, shape="linear", warmup=0.0)
    for _ in range(6):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0.0]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"optim\.schedule=steep does not exist; type one of linear, cosine, constant"):
        rates(2, "steep", 0.0)
    for warmup in (-0.1, 1.0):
        with pytest.raises(UsageError, match=r"optim\.warmup is .*expected a share"):
            rates(2, "linear", warmup)
