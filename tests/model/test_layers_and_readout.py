"""Freezing by structure, and read-outs against plain loops."""

from __future__ import annotations

import pytest
import torch

from rmlab.data.pack import pack
from rmlab.errors import UsageError
from rmlab.model.layers import Freeze, before, layers_of, set_dropout
from rmlab.model.readout import Last, Mean, make_readout
from tests.worlds import SIZES, random_records, tiny_model


@pytest.mark.parametrize("family", SIZES)
def test_layers_and_embeddings_are_found_in_every_family(family: str) -> None:
    model = tiny_model(family)
    assert len(layers_of(model)) == 2
    found = {id(p) for p in before(model, layers_of(model)[0])}
    assert id(model.get_input_embeddings().weight) in found
    assert not any(id(p) in found for p in layers_of(model).parameters())


@pytest.mark.parametrize(
    ("ratio", "count", "frozen"), [(0.7, 28, 20), (0.5, 3, 2), (0.0, 6, 0), (1.0, 6, 6), (0.7, 10, 7)]
)
def test_frozen_layers_are_counted_as_trlx_counts(ratio: float, count: int, frozen: int) -> None:
    """trlX trains int(0.3 n) layers: 8 of GPT-J's 28, so 20 are frozen."""
    assert Freeze(ratio=ratio).frozen_layers(count) == frozen


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("embeddings", [True, False])
def test_half_frozen(family: str, embeddings: bool) -> None:
    model = tiny_model(family)
    Freeze(ratio=0.5, embeddings=embeddings).apply(model)
    first, second = layers_of(model)
    assert not any(p.requires_grad for p in first.parameters())
    assert all(p.requires_grad for p in second.parameters())
    assert model.get_input_embeddings().weight.requires_grad is not embeddings


def test_all_frozen() -> None:
    model = tiny_model("llama")
    Freeze(ratio=1).apply(model)
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(UsageError, match=r"freeze.ratio is 1.5, expected a number from 0"):
        Freeze(ratio=1.5)


@pytest.mark.parametrize("family", SIZES)
def test_dropout_is_off_by_configuration(family: str) -> None:
    """With dropout set to 0 a model in training mode gives the same states twice; with 0.5 it does not."""
    from transformers import AutoModel

    states = {}
    for p in (0.0, 0.5):
        config = tiny_model(family).config
        set_dropout(config, p)
        torch.manual_seed(0)
        model = AutoModel.from_config(config).train()
        ids = torch.arange(3, 12)[None]
        states[p] = [model(input_ids=ids).last_hidden_state for _ in range(2)]
    torch.testing.assert_close(*states[0.0])
    has_dropout = any("drop" in name and isinstance(v, float) and v for name, v in config.to_dict().items())
    assert torch.equal(*states[0.5]) is not has_dropout


def test_mean_and_last_against_a_loop() -> None:
    records = random_records(seed=5)
    batch = pack(records, share=False)
    hidden = torch.randn(batch.tokens, 6)
    expected = [hidden[end - int(batch.position_T[end]) : end + 1].mean(0) for end in batch.end_S.tolist()]
    torch.testing.assert_close(Mean()(hidden, batch.end_S, batch), torch.stack(expected))
    torch.testing.assert_close(Last()(hidden, batch.end_S, batch), hidden[batch.end_S])


def test_readouts_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.readout=mean needs a bidirectional encoder"):
        make_readout("mean", causal=True, pooler=None, reads="ends")
    with pytest.raises(UsageError, match=r"this loss reads every one of its steps; type model\.readout=last"):
        make_readout("first", causal=False, pooler=None, reads="steps")
    with pytest.raises(UsageError, match=r"model\.readout=max does not exist; type one of last, first, mean"):
        make_readout("max", causal=False, pooler=None, reads="ends")  # type: ignore[arg-type]
