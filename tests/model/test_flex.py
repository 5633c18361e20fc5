"""FlexAttention computes the same rule as the buckets do; its backward pass needs a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmlab.data.pack import pack
from rmlab.errors import UsageError
from rmlab.model.backbone import Backbone, on_interface
from rmlab.model.flex import FlexPlan
from tests.model.test_attention import Tree, bare_batch, lay_out, trees
from tests.worlds import SIZES, random_records, tiny_model

FAMILIES = [family for family in SIZES if on_interface(tiny_model(family))]


@given(st.lists(trees(3), min_size=1, max_size=4), st.sampled_from([None, 1, 2, 3]))
def test_the_rule_is_the_tree(forest: list[Tree], window: int | None) -> None:
    position, until, sees = lay_out(forest)
    rule = FlexPlan.of(bare_batch(position, until), causal=True)._rule(window)
    index, none = torch.arange(len(until)), torch.zeros((), dtype=torch.long)
    matrix = rule(none, none, index[:, None], index[None, :])
    near = [{k for k in s if window is None or position[q] - position[k] < window} for q, s in enumerate(sees)]
    assert [set(row.nonzero()[:, 0].tolist()) for row in matrix] == near


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_those_of_the_buckets(family: str) -> None:
    """Grouped heads, sliding windows, soft-capping; ghosts too, where no window leaves them seeing nothing."""
    flex, buckets = Backbone(tiny_model(family), attention="flex"), Backbone(tiny_model(family))
    ghost_id = None if getattr(buckets.model.config, "sliding_window", None) else 0
    batch = pack(random_records(seed=4), share=buckets.shares_prompts, ghost_id=ghost_id)
    with torch.no_grad():
        torch.testing.assert_close(flex(batch), buckets(batch), atol=1e-5, rtol=1e-5)


def test_models_that_cannot_use_it_are_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.attention=flex .*GPTJModel.*model\.attention=buckets"):
        Backbone(tiny_model("gptj"), attention="flex")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs a CUDA GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_the_buckets(family: str) -> None:
    found = []
    for attention in ("flex", "buckets"):
        backbone = Backbone(tiny_model(family), attention=attention).cuda()
        batch = pack(random_records(seed=4), share=backbone.shares_prompts).to("cuda")
        backbone(batch).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() <= 1e-4 * found[1].norm()
