"""trlX's loss against a transcription of the published code on padded rows, and its pads against a real model's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2Model

from rmlab.batch import Batch
from rmlab.losses.trlx import TrlxPairwise
from rmlab.model.backbone import Backbone

Values = Callable[[Tensor, Tensor], Tensor]  # padded ids and mask -> values, all [rows, columns]


def published(chosen: list[list[int]], rejected: list[list[int]], pad: int, values: Values) -> dict[str, Tensor]:
    """`GPTRewardModel.forward` of CarperAI/trlx in our words: rows padded on the right with the end marker."""
    rows = [*chosen, *rejected]
    width = max(map(len, rows)) + 2
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    # the tokenizer marks as attended what it did not pad itself: the text and its own end marker
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    reward = values(ids, mask)
    half = len(chosen)
    losses, first_ends, second_ends = [], [], []
    for c, r, c_reward, r_reward in zip(ids[:half], ids[half:], reward[:half], reward[half:], strict=True):
        c_end, r_end = (int((row == pad).nonzero()[0]) for row in (c, r))
        end, begin = max(c_end, r_end), int((c != r).nonzero()[0])
        c_part, r_part = c_reward[begin:end], r_reward[begin:end]
        first_ends.append(c_part[-1])
        second_ends.append(r_part[-1])
        losses.append(-torch.log(torch.sigmoid(c_part - r_part)).mean())
    single = [row[int((line == pad).nonzero()[0]) - 1] for line, row in zip(ids, reward, strict=True)]
    return {
        "loss": sum(losses, torch.zeros(())) / half,
        "chosen_end_scores": torch.stack(first_ends),
        "rejected_end_scores": torch.stack(second_ends),
        "inference": torch.stack(single),
    }


def random_pairs(seed: int, end: int, vocabulary: int = 40) -> list[tuple[list[int], list[int], list[int]]]:
    """Returns prompts, each with two different completions; often one is the beginning of the other."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(int(rng.integers(1, 5))):
        prompt = [20 + number, *rng.integers(8, vocabulary, rng.integers(0, 4)).tolist()]
        common = rng.integers(8, vocabulary, rng.integers(0, 4)).tolist()
        tails = [rng.integers(8, vocabulary, n).tolist() for n in rng.integers(1, 6, 2)]
        if rng.random() < 0.4:
            tails[int(rng.integers(0, 2))] = [] if common else [9]
        if tails[0] == tails[1]:
            tails[0] = [*tails[0], 39]
        pairs.append((prompt, *([*common, *tail, end] for tail in tails)))
    return pairs


def packed(facts: Any, pairs: list[tuple[list[int], list[int], list[int]]]) -> Batch:
    records = [facts.record(prompt, [first, second], order=[[0, 1]]) for prompt, first, second in pairs]
    return facts.batch(records, TrlxPairwise())


def check(facts: Any, pairs: Any, values: Values, out: Callable[[Batch], Tensor], atol: float) -> None:
    batch, loss = packed(facts, pairs), TrlxPairwise()
    expected = published([p + c for p, c, _ in pairs], [p + r for p, _, r in pairs], facts.end, values)
    out_NC = out(batch)
    result = loss(out_NC, batch)
    torch.testing.assert_close(result.total / result.weight, expected["loss"], rtol=0, atol=atol)
    first, second = loss.end_scores(out_NC, batch)
    torch.testing.assert_close(first, expected["chosen_end_scores"], rtol=0, atol=atol)
    torch.testing.assert_close(second, expected["rejected_end_scores"], rtol=0, atol=atol)
    torch.testing.assert_close(loss.judge(out_NC, batch).margin_J, first - second)
    by_side = torch.cat([loss.score(out_NC, batch)[0::2], loss.score(out_NC, batch)[1::2]])
    torch.testing.assert_close(by_side, expected["inference"], rtol=0, atol=atol)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_equals_the_published_code_on_random_batches(facts: Any, seed: int) -> None:
    """Values depend on token and position, so reading one token off shows."""
    table = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def values(ids: Tensor, mask: Tensor) -> Tensor:
        return table[ids] + torch.sin(1.7 * torch.arange(ids.shape[1], dtype=torch.float64))

    def out(batch: Batch) -> Tensor:
        at = TrlxPairwise().positions(batch)
        return (table[batch.token_T[at]] + torch.sin(1.7 * batch.position_T[at].double()))[:, None]

    check(facts, random_pairs(seed, facts.end), values, out, 1e-6)


def test_ghosts_have_the_states_of_padding(facts: Any) -> None:
    """The same with a GPT-2: rows padded and masked as trlX's tokenizer does, against the flat batch with ghosts."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    )
    model = GPT2Model(config).eval()
    v_head = torch.nn.Linear(16, 1, bias=False)

    def values(ids: Tensor, mask: Tensor) -> Tensor:
        reward: Tensor = v_head(model(ids, attention_mask=mask).last_hidden_state)[..., 0]
        return reward

    backbone = Backbone(deepcopy(model), "shared")
    with torch.no_grad():
        for seed in range(4):
            pairs = random_pairs(seed, facts.end)
            check(facts, pairs, values, lambda b: v_head(backbone(b)[TrlxPairwise().positions(b)]), 1e-5)


def test_a_worked_pair(facts: Any) -> None:
    """Prompt [1], completions a b END and a c d END: compared are offsets 1 (b, c) and 2 (END, d), then the mean."""
    batch = packed(facts, [([1], [10, 11, 7], [10, 12, 13, 7])])
    value = {10: 5.0, 11: 1.0, 12: 0.5, 13: -1.0, 7: 2.0}
    out = torch.tensor([[value[int(batch.token_T[i])]] for i in TrlxPairwise().positions(batch)])
    result = TrlxPairwise()(out, batch)
    expected = (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-3.0))) / 2
    assert float(result.total) == pytest.approx(expected, rel=1e-6)
    assert float(result.weight) == 1.0
    assert [float(x) for x in TrlxPairwise().end_scores(out, batch)] == [2.0, -1.0]
    assert TrlxPairwise().score(out, batch).tolist() == [1.0, -1.0]


def test_a_list_is_all_of_its_pairs(facts: Any) -> None:
    """Ghosts reach to the longest of the prompt; each pair stops at its own longer end."""
    bodies = [[10, 7], [11, 12, 13, 7], [14, 15, 7]]
    batch = facts.batch([facts.record([1], bodies, order=[[2, 0, 1]])], TrlxPairwise())
    out = facts.outputs(TrlxPairwise(), batch)
    whole = TrlxPairwise()(out, batch)
    parts = []
    for i, j in [(2, 0), (2, 1), (0, 1)]:
        pair = packed(facts, [([1], bodies[i], bodies[j])])
        parts.append(TrlxPairwise()(facts.outputs(TrlxPairwise(), pair), pair).total)
    torch.testing.assert_close(whole.total, sum(parts))
    assert float(whole.weight) == 3.0


def test_scoring_needs_no_ghosts_and_training_says_that_it_does(facts: Any) -> None:
    unranked = facts.batch([facts.record([1], [[10, 7], [11, 12, 13, 7]])])
    assert TrlxPairwise().positions(unranked).tolist() == [1, 3, 4, 5]
    ranked = facts.batch([facts.record([1], [[10, 7], [11, 12, 13, 14, 7]], order=[[0, 1]])])
    with pytest.raises(ValueError, match="ghost_id"):
        TrlxPairwise().positions(ranked)


def test_sides_that_never_differ_are_no_pair(facts: Any) -> None:
    """Same tokens, stored twice because their outcomes differ: no weight, no loss, no judgement."""
    batch = facts.batch([facts.record([1], [[10, 7], [10, 7]], order=[[0, 1]], outcome=[0.0, 1.0])], TrlxPairwise())
    out = facts.outputs(TrlxPairwise(), batch)
    result = TrlxPairwise()(out, batch)
    assert len(batch.end_S) == 2
    assert (float(result.total), float(result.weight)) == (0.0, 0.0)
    assert len(TrlxPairwise().judge(out, batch).margin_J) == 0
