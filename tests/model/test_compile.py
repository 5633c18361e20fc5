"""`model.compile=true`: a handful of graphs, however many layers and shapes there are, and the uncompiled results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from rmlab.build import compile_layers
from rmlab.data.pack import pack
from rmlab.model.backbone import Backbone
from tests.worlds import random_records, tiny_model


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_steps_of_any_shape_share_a_handful_of_graphs(family: str) -> None:
    """Flat and row form; torch counts every graph it makes, so a second compilation of anything would show. The backend
    is the one that makes graphs and no machine code, which would take a minute and change no count."""
    compiled, plain = Backbone(tiny_model(family)), Backbone(tiny_model(family))
    compile_layers(compiled, backend="aot_eager")
    graphs = []
    for step in range(6):
        batch = pack(random_records(seed=step, count=2 + 3 * step))
        found, expected = compiled(batch), plain(batch)
        found.square().sum().backward()
        expected.square().sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert graphs[0] > 0
    assert graphs[-1] == graphs[1] <= 6
    scale = max(p.grad.norm() for p in plain.parameters())
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        # llama's plain layers are fused, which rounds differently
        assert (one.grad - other.grad).norm() <= 1e-4 * scale
