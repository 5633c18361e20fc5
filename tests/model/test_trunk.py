"""The frozen trunk: what it keeps, and that a pass that starts behind it is the same pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.model.backbone import Backbone, packings_of
from rmlab.model.builtin import byte_tokenizer
from rmlab.model.layers import Freeze, before, layers_of
from rmlab.model.load import load_model
from tests.worlds import SIZES, VOCABULARY, random_records, tiny_model

CASES = [(family, packing) for family in SIZES for packing in packings_of(tiny_model(family))]
RATIO = {1: 0.5, 2: 0.9}  # of two layers: the first, or both with a norm behind them that is trained


def frozen(model: PreTrainedModel, packing: str, count: int, **options: Any) -> tuple[Backbone, Batch]:
    Freeze(ratio=RATIO[count], **options).apply(model)
    backbone = Backbone(model, packing, count)  # type: ignore[arg-type]
    return backbone, pack(random_records(seed=1), share=backbone.shares_prompts)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("family", "packing"), CASES)
def test_a_pass_that_starts_behind_the_trunk_is_the_same_pass(family: str, packing: str, count: int) -> None:
    """States and gradients bit for bit, and the frozen layers are not run."""
    backbone, batch = frozen(tiny_model(family), packing, count)
    names, layers = list(backbone.state_dict()), list(layers_of(backbone.model))
    stored = replace(batch, trunk_TD=backbone.trunk(batch).clone())
    run: list[int] = []
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda module, args, output, i=i: run.append(i))
    found: list[tuple[torch.Tensor, ...]] = []
    for one in (batch, stored):
        run.clear()
        hidden = backbone(one)
        assert run == ([0, 1] if one is batch else [0, 1][count:])
        trained = [p for p in backbone.parameters() if p.requires_grad]
        assert hidden.requires_grad or (family in ("bert", "roberta", "deberta-v2") and count == 2)  # no norm behind
        ask = torch.autograd.grad if hidden.requires_grad else lambda *_, **__: ()
        gradients = ask(hidden.square().sum(), trained, allow_unused=True)
        found.append((hidden.detach(), *(g for g in gradients if g is not None)))
    assert all(map(torch.equal, found[0], found[1]))
    assert list(backbone.state_dict()) == names
    assert list(layers_of(backbone.model)) == layers


@pytest.mark.parametrize(("family", "packing"), CASES)
def test_the_trunk_gives_the_hidden_states_that_transformers_gives(family: str, packing: str) -> None:
    """Each sequence alone, `output_hidden_states` behind the first layer of two."""
    plain = tiny_model(family)
    backbone, batch = frozen(tiny_model(family), packing, 1)
    state_TD, s = backbone.trunk(batch), 0
    for record in random_records(seed=1):
        for ids in record["completion_ids"]:
            whole = torch.tensor([record["prompt_ids"] + ids])
            with torch.no_grad():
                expected = plain(input_ids=whole, output_hidden_states=True).hidden_states[1][0]
            length = torch.arange(len(ids))
            place = batch.at(torch.full_like(length, s), length)
            torch.testing.assert_close(state_TD[place], expected[len(record["prompt_ids"]) :], atol=1e-5, rtol=1e-5)
            s += 1


def kept_for_backward(backbone: Backbone, batch: Batch) -> list[int]:
    """Returns how many tensors autograd has kept when each layer has run."""
    kept = 0
    counts: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 1
        return tensor

    handles = [x.register_forward_hook(lambda *_: counts.append(kept)) for x in layers_of(backbone.model)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(batch)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", SIZES)
def test_nothing_is_kept_for_a_backward_pass_below_the_boundary(family: str, checkpointing: bool) -> None:
    shape = tiny_model(family).config.to_dict()
    model = load_model(None, shape=shape, random=True, tokenizer=byte_tokenizer(), gradient_checkpointing=checkpointing)
    backbone, batch = frozen(model, "auto", 1)
    first, second = kept_for_backward(backbone, batch)
    assert first == 0
    assert second > 0 or checkpointing  # kept by the checkpoint itself, not as a tensor of autograd's
    assert [layer.gradient_checkpointing for layer in layers_of(model)] == [False, checkpointing]


def test_trained_embeddings_need_what_the_frozen_layers_keep() -> None:
    """The count above is one that can be something else than zero."""
    backbone, batch = frozen(tiny_model("llama"), "auto", 1, embeddings=False)
    assert kept_for_backward(backbone, batch)[0] > 0
    assert backbone.trunk(batch).requires_grad


def test_adapters_behind_the_boundary_leave_the_trunk_as_it_was() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    backbone, batch = frozen(tiny_model("llama"), "auto", 1)
    expected = backbone.trunk(batch)
    inject_adapter_in_model(LoraConfig(target_modules=["layers.1.self_attn.q_proj"], r=2), backbone.model)
    assert torch.equal(backbone.trunk(batch), expected)
    stored = replace(batch, trunk_TD=expected)
    assert torch.equal(backbone(stored), backbone(batch))
    assert kept_for_backward(backbone, batch)[0] == 0


def odd_model(family: str, **options: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(
        family, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY, **options
    )
    return AutoModel.from_config(config).eval()


ODD = {
    "opt": dict(ffn_dim=48, word_embed_proj_dim=16),
    "bloom": dict(),
    "deberta-v2": dict(
        intermediate_size=48, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm",
        pos_att_type=["p2c", "c2p"], position_biased_input=False, conv_kernel_size=3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("opt", {"decoder.embed_tokens.weight", "decoder.embed_positions.weight", "decoder.project_in.weight"}),
        ("bloom", {f"word_embeddings{x}" for x in (".weight", "_layernorm.weight", "_layernorm.bias")}),
        (
            "deberta-v2",
            {f"embeddings.{x}" for x in ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")}
            | {f"encoder.{x}" for x in ("rel_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")},
        ),
    ],
)
def test_all_that_comes_before_a_layer_is_found(family: str, expected: set[str]) -> None:
    """By hand: OPT's projection, Bloom's norm, and DeBERTa's norm of relative positions are no embeddings."""
    model = odd_model(family, **ODD[family])
    found = before(model, layers_of(model)[0])
    assert {name for name, p in model.named_parameters() if any(p is q for q in found)} == expected


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("family", ODD)
def test_odd_models_start_behind_their_trunks(family: str, count: int) -> None:
    """A width that differs inside OPT, and a convolution beside DeBERTa's first layer."""
    backbone, batch = frozen(odd_model(family, **ODD[family]), "padded", count)
    state_TD = backbone.trunk(batch)
    assert not state_TD.requires_grad
    assert torch.equal(backbone(replace(batch, trunk_TD=state_TD)), backbone(batch))


def test_a_backbone_without_frozen_layers_has_no_trunk() -> None:
    backbone = Backbone(tiny_model("llama"))
    with pytest.raises(ValueError, match="the backbone has no frozen layers"):
        backbone.trunk(pack(random_records(seed=1)))
