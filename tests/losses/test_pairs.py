"""What makes a ranking unusable, said before the first step."""

from __future__ import annotations

import pytest

from rmlab.batch import Completion, Example, Ranking
from rmlab.losses.base import Loss
from rmlab.losses.bt import BradleyTerry
from rmlab.losses.margin import Margin
from rmlab.losses.plackett_luce import PlackettLuce
from rmlab.losses.trlx import TrlxPairwise

COMPLETIONS = tuple(Completion(text=t) for t in "abc")


def ranked(*rankings: Ranking) -> Example:
    return Example(prompt="p", completions=COMPLETIONS, rankings=rankings)


@pytest.mark.parametrize("loss", [BradleyTerry(), PlackettLuce(), TrlxPairwise()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    ("ranking", "reason"),
    [
        (Ranking(order=(0, 1)), None),
        (Ranking(order=(0, 1), grades=(2.0, 1.0)), None),
        (Ranking(order=(0, 1), probability=0.7), None),
        (Ranking(order=(0, 1, 2), grades=(1.0, 1.0, 0.0)), None),
        (Ranking(order=(0,)), "no ranking of two or more completions (columns chosen and rejected)"),
        (Ranking(order=(0, 1), grades=(1.0, 1.0)), "all completions have the same grade"),
        (Ranking(order=(0, 1), probability=1.2), "probability is 1.2, expected a number from 0 to 1"),
        (Ranking(order=(0, 1), probability=float("nan")), "probability is nan"),
        (Ranking(order=(0, 1, 2), probability=0.7), "probability is 0.7 for a ranking of 3 completions"),
        (Ranking(order=(0, 1), weight=-1.0), "weight is -1.0, expected a number from 0"),
    ],
)
def test_rankings(loss: Loss, ranking: Ranking, reason: str | None) -> None:
    found = loss.check(ranked(ranking))
    assert found is None if reason is None else found is not None and reason in found


def test_one_usable_ranking_is_enough_but_a_wrong_number_is_not_overlooked() -> None:
    good, single, wrong = Ranking(order=(0, 1)), Ranking(order=(2,)), Ranking(order=(1, 2), weight=float("nan"))
    assert BradleyTerry().check(ranked(single, good)) is None
    assert "weight is nan" in (BradleyTerry().check(ranked(good, wrong)) or "")


@pytest.mark.parametrize("grades", [(), (float("nan"), 1.0), (float("nan"), float("nan"))])
def test_a_margin_needs_two_grades(grades: tuple[float, ...]) -> None:
    assert "column margin" in (Margin().check(ranked(Ranking(order=(0, 1), grades=grades))) or "")
    assert Margin().check(ranked(Ranking(order=(0, 1)), Ranking(order=(0, 1), grades=(1.0, 0.0)))) is None
