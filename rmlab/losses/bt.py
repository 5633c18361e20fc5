"""Bradley-Terry: the reward difference of a pair is the log-odds that the first is preferred.

Bradley & Terry 1952; as a reward-model loss, InstructGPT (Ouyang et al. 2022, eq. 1 for one pair). A ranking longer
than two counts as all of its pairs, each with the ranking's weight; `all_pairs` makes a prompt count once instead.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from rmlab.batch import Batch, Example, Judgements, Sum
from rmlab.errors import UsageError
from rmlab.losses.base import Loss
from rmlab.losses.pairs import judge_pairs, pairs_of


@final
class BradleyTerry(Loss):
    """-[q log s(d) + (1 - q) log s(-d)], d = r_first - r_second, s the sigmoid, in softplus form.

    q is the probability the data states for the pair, moved towards 1/2 by `label_smoothing`.
    Raises `UsageError` if `label_smoothing` is outside [0, 0.5).
    """

    out_dim = 1
    reads = "ends"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 0.5:
            raise UsageError(f"loss.label_smoothing is {label_smoothing}, expected a number in [0, 0.5)")
        self.label_smoothing = label_smoothing

    def check(self, example: Example) -> str | None:
        usable = any(len(ranking.order) > 1 for ranking in example.rankings)
        return None if usable else "no ranking of two or more completions (columns chosen and rejected)"

    def positions(self, batch: Batch) -> Tensor:
        return batch.end_S

    def weight(self, batch: Batch) -> Tensor:
        return batch.weight_R[pairs_of(batch).ranking_P].sum()

    def forward(self, out_NC: Tensor, batch: Batch) -> Sum:
        pairs, reward = pairs_of(batch), out_NC[:, 0].float()
        difference = reward[pairs.first_P] - reward[pairs.second_P]
        q = batch.probability_R[pairs.ranking_P]
        q = q * (1 - 2 * self.label_smoothing) + self.label_smoothing
        term = q * F.softplus(-difference) + (1 - q) * F.softplus(difference)
        return Sum(total=(batch.weight_R[pairs.ranking_P] * term).sum(), weight=self.weight(batch))

    def judge(self, out_NC: Tensor, batch: Batch) -> Judgements:
        return judge_pairs(out_NC[:, 0], batch)

    def score(self, out_NC: Tensor, batch: Batch) -> Tensor:
        return out_NC[:, 0].float()
