"""Exactness is the feature: however sequences are packed, scores and gradients are those of each sequence run alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.heads.linear import LinearHead
from rmlab.model.backbone import Backbone, packings_of
from tests.worlds import SIZES, alone, random_records, tiny_model

CASES = [(family, packing) for family in SIZES for packing in packings_of(tiny_model(family))]
LOSSES = sorted(p.stem for p in Path("conf/loss").glob("*.yaml"))


def make_loss(name: str):
    cfg = OmegaConf.load(f"conf/loss/{name}.yaml")
    cfg.pop("defaults", None)
    return instantiate(cfg)


def tokens_of(batch: Batch, s: int) -> torch.Tensor:
    """Returns the flat indices of a completion's tokens, first those of the opening that it may share."""
    opening = int(batch.position_T[batch.own_S[s]] - batch.position_T[batch.start_S[s]])
    shared = torch.arange(int(batch.start_S[s]), int(batch.start_S[s]) + opening)
    return torch.cat([shared, torch.arange(int(batch.own_S[s]), int(batch.end_S[s]) + 1)])


@pytest.mark.parametrize(("family", "packing"), CASES)
def test_states_equal_those_of_each_sequence_alone(family: str, packing: str) -> None:
    """Every completion token's state, against the plain transformers model on prompt + completion, batch of one."""
    records = random_records(seed=1)
    plain, backbone = tiny_model(family), Backbone(tiny_model(family), packing)
    batch = pack(records, share=backbone.shares_prompts)
    with torch.no_grad():
        hidden = backbone(batch)
        s = 0
        for record in records:
            for ids in record["completion_ids"]:
                whole = torch.tensor([record["prompt_ids"] + ids])
                expected = plain(input_ids=whole).last_hidden_state[0, len(record["prompt_ids"]) :]
                found = hidden[tokens_of(batch, s)]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
                s += 1
    assert s == batch.end_S.numel()


def gradients(family: str, packing: str, loss_name: str, separate: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(3)
    loss = make_loss(loss_name)
    head = LinearHead(32, loss.out_dim)
    backbone = Backbone(tiny_model(family), packing)
    records = random_records(seed=2, k=2)
    share = backbone.shares_prompts and not separate
    batch = pack(records, share=share, ghost_id=0 if loss.ghosts else None)
    positions = loss.positions(batch)
    if separate:  # the states of the same tokens, each completion in a batch of its own
        rows = []
        for s in range(batch.end_S.numel()):
            record = alone(records[int(batch.group_S[s])], int(batch.slot_S[s]))
            one = pack([record], share=False)
            states = backbone(one)
            rows.append((int(batch.start_S[s]), states[one.start_S[0] : one.end_S[0] + 1]))
        hidden = torch.zeros(batch.tokens, 32)
        index = torch.cat([torch.arange(len(x)) + start for start, x in rows])
        hidden = hidden.index_copy(0, index, torch.cat([x for _, x in rows]))
    else:
        hidden = backbone(batch, positions)
    out = head(hidden[positions])
    result = loss(out, batch)
    (result.total / result.weight).backward()
    grads = [p.grad for p in backbone.parameters() if p.grad is not None] + [p.grad for p in head.parameters()]
    return loss.score(out, batch).detach(), grads


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "trlx"])
@pytest.mark.parametrize(("family", "packing"), CASES)
def test_gradients_equal_those_of_separate_sequences(family: str, packing: str, loss: str) -> None:
    """Every loss, every packing: scores to 1e-5, gradients to 1e-4 of their norm."""
    score, grads = gradients(family, packing, loss, separate=False)
    expected_score, expected = gradients(family, packing, loss, separate=True)
    torch.testing.assert_close(score, expected_score, atol=1e-5, rtol=1e-5)
    assert len(grads) == len(expected)
    assert len(grads) > 10
    scale = torch.stack([e.norm() for e in expected]).max()
    for found, wanted in zip(grads, expected, strict=True):
        assert (found - wanted).norm() <= 1e-4 * scale


@pytest.mark.parametrize(("family", "packing"), CASES)
def test_no_prompt_at_all_still_reaches_every_parameter(family: str, packing: str) -> None:
    """A rank may be handed nothing; its backward pass must meet the others' with a gradient of zero everywhere."""
    empty = [Backbone(tiny_model(family), packing), Backbone(tiny_model(family), packing)]
    batch = pack([], share=empty[0].shares_prompts)
    whole = pack(random_records(seed=1), share=empty[0].shares_prompts)
    states = [backbone(b) for backbone, b in zip(empty, (batch, whole), strict=True)]
    assert states[0].shape == (0, 32)
    for state in states:
        state.sum().backward()
    reached = [{n for n, p in backbone.named_parameters() if p.grad is not None} for backbone in empty]
    assert reached[0] == reached[1]
    assert not any(p.grad.any() for p in empty[0].parameters() if p.grad is not None)


def test_a_packing_that_is_not_exact_is_refused() -> None:
    from rmlab.errors import UsageError

    with pytest.raises(UsageError, match=r"model\.packing=shared is not exact for BertModel.*model\.packing=flat"):
        Backbone(tiny_model("bert"), "shared")


def test_architectures_that_cannot_honour_the_rule_fall_back_to_padding() -> None:
    """ALiBi (Bloom), a window counted in places (GPT-Neo), positions from pad ids (RoBERTa)."""
    for family in ("bloom", "gpt_neo", "roberta"):
        assert packings_of(tiny_model(family)) == ["padded"]
