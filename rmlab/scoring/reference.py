"""What a score means: where it stands among the scores of a reference set.

A raw score is a logit without a zero or a unit of its own: a Bradley-Terry model learns differences, so 3.1 says
nothing until one knows what the model gives to other completions. A reference holds the mean, the standard deviation
and the quantiles of such a set: the validation set at training time (in `rmlab.json`), or any other scored file.

z           (score - mean) / standard deviation; 0 where the reference does not vary
percentile  how many percent of the reference lie below, half of those that are equal counted, from the quantiles
rank        the place among the completions of one prompt, 1 = the best; equal scores share the better place

Left out: the scores themselves; 101 quantiles (every percent) tell them apart as finely as a user of percentiles asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Literal, final

import numpy as np

from rmlab.errors import RunError, UsageError
from rmlab.export.facts import FILE, Facts, quantiles_of

Scale = Literal["raw", "z", "percentile", "rank"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The spread of the scores of a reference set.

    mean, std: std of the population. quantiles: ascending, at equal distances from the minimum to the maximum; empty
    where only mean and std are known. count: scores it was made of, 0 if unknown.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...] = ()
    count: int = 0

    @classmethod
    def of(cls, scores: Iterable[float]) -> Reference:
        """Returns the reference that `scores` make (8 bytes of memory a score). Raises `UsageError` for none or NaN."""
        score_S = np.fromiter(scores, dtype=np.float64)
        if not len(score_S) or not np.isfinite(score_S).all():
            what = "none" if not len(score_S) else "one that is not a finite number"
            raise UsageError(f"a reference is made of scores, found {what}; give the scores of one completion or more")
        return cls(
            mean=float(score_S.mean()),
            std=float(score_S.std()),
            quantiles=quantiles_of(score_S),
            count=len(score_S),
        )

    @classmethod
    def of_facts(cls, facts: Facts | None) -> Reference | None:
        """Returns the reference that a model folder carries, None if it has none."""
        if facts is None or facts.reward_mean is None or facts.reward_std is None:
            return None
        return cls(
            mean=facts.reward_mean,
            std=facts.reward_std,
            quantiles=tuple(facts.reward_quantiles),
            count=facts.reward_count,
        )

    @classmethod
    def read(cls, path: str | Path) -> Reference:
        """Returns the reference in a file that `write` made. Raises `UsageError` if it is none."""
        try:
            values = json.loads(Path(path).read_text())
            found = cls(**(values | {"quantiles": tuple(map(float, values["quantiles"]))}))
            if not isfinite(found.mean + found.std + sum(found.quantiles)):
                raise ValueError("a number in it is not finite")
            return found
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path} is not a reference ({error}); make one with rmlab reference --scores SCORES --output FILE"
            ) from error

    def write(self, path: str | Path) -> None:
        """Writes the reference as JSON."""
        try:
            Path(path).write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")
        except OSError as error:
            raise RunError(f"{path} could not be written ({error.strerror or error})") from error

    def z(self, score: float) -> float:
        """Returns how many standard deviations a score lies above the mean."""
        return (score - self.mean) / self.std if self.std > 0 else 0.0

    def percentile(self, score: float) -> float:
        """Returns the percentage of the reference below a score, from 0 to 100.

        Linear between quantiles, the middle of those that are equal. Raises `UsageError` without quantiles.
        """
        if not self.quantiles:
            raise UsageError(
                "this model stores the mean and the spread of its reference set but no quantiles; make a reference "
                "with rmlab reference --scores SCORES --output FILE and give that"
            )
        steps = len(self.quantiles) - 1
        below = int(np.searchsorted(self.quantiles, score, "left"))
        not_above = int(np.searchsorted(self.quantiles, score, "right"))
        if below < not_above:  # equal to one quantile or several
            place = (below + not_above - 1) / 2
        elif below in (0, steps + 1):  # outside
            place = float(min(below, steps))
        else:
            low, high = self.quantiles[below - 1], self.quantiles[below]
            place = below - 1 + (score - low) / (high - low)
        return 100 * place / max(steps, 1)


def stored(path: str | Path) -> Reference:
    """Returns the reference that a model folder or run folder of rmlab carries, without loading the model.

    Raises `UsageError` if it has none with quantiles.
    """
    folder = Path(path).expanduser()
    folder = folder if (folder / FILE).is_file() else folder / "model"
    found = Reference.of_facts(Facts.read(folder)) if (folder / FILE).is_file() else None
    if found is None or not found.quantiles:
        raise UsageError(
            f"{path} stores no quantiles of the scores of its validation set; make a reference with rmlab reference "
            "--scores SCORES --output FILE and type --reference FILE"
        )
    return found


def ranks(scores: Sequence[float]) -> list[int]:
    """Returns the place of each score among all, 1 = the highest; equal scores share the better place."""
    ordered = sorted(scores, reverse=True)
    first: dict[float, int] = {}
    for place, score in enumerate(ordered, start=1):
        first.setdefault(score, place)
    return [first[score] for score in scores]


def on_scale(scores: Sequence[float], scale: Scale, reference: Reference | None) -> Sequence[float]:
    """Returns the raw scores of one prompt's completions on a scale.

    Raises `UsageError` for an unknown scale, and for `z` and `percentile` without a reference.
    """
    if scale == "raw":
        return scores
    if scale == "rank":
        return ranks(scores)
    if scale not in ("z", "percentile"):
        raise UsageError(f"scale={scale} does not exist; type one of raw, z, percentile, rank")
    if reference is None:
        raise UsageError(
            "this model carries no reference set to compare a score with; make one with rmlab reference --scores "
            "SCORES --output FILE and load the model with reference=FILE"
        )
    return [getattr(reference, scale)(score) for score in scores]
