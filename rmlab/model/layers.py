"""What is inside a Hugging Face model, found by structure and not by name: its layers, its embeddings, its dropout.

The decoder (or encoder) layers are the longest `nn.ModuleList` whose items are transformers' own
`GradientCheckpointingLayer`. Embeddings are the `nn.Embedding`s outside them, with the block they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rmlab.errors import UsageError


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Returns the transformer layers. Raises `UsageError` where the model has no such list."""
    lists = [
        m
        for m in model.modules()
        if isinstance(m, nn.ModuleList) and len(m) and all(isinstance(x, GradientCheckpointingLayer) for x in m)
    ]
    if not lists:
        raise UsageError(
            f"{type(model).__name__} has no list of transformer layers, so freeze.ratio and gradient checkpointing "
            "cannot apply; type freeze.ratio=0"
        )
    return max(lists, key=len)


def embeddings_of(model: nn.Module) -> list[nn.Module]:
    """Returns the embedding modules: an embedding table, or the block around it (BERT's, with its norm)."""
    layers = layers_of(model)
    inside = set(layers.modules())
    holders = {m for m in model.modules() if any(child is layers for child in m.modules())}
    parents = {child: parent for parent in model.modules() for child in parent.children()}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m not in inside]
    return [table if parents[table] in holders else parents[table] for table in tables]


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """Which part of a backbone is not trained.

    ratio: share of the layers frozen, from the input on; as trlX counts, the number trained is floor((1 - ratio) n).
    embeddings: whether the embeddings are frozen too once ratio > 0 (trlX leaves them trained).
    """

    ratio: float = 0.0
    embeddings: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise UsageError(f"freeze.ratio is {self.ratio}, expected a number from 0 (all trained) to 1 (all frozen)")

    def frozen_layers(self, count: int) -> int:
        """Returns how many of `count` layers are frozen."""
        return count - floor((1 - self.ratio) * count + 1e-9)

    def apply(self, model: PreTrainedModel) -> None:
        """Switches `requires_grad` off; a layer behind frozen parameters only then runs without autograd."""
        if self.ratio == 0:
            return
        layers = layers_of(model)
        frozen: list[nn.Module] = list(layers[: self.frozen_layers(len(layers))])
        if self.embeddings:
            frozen += embeddings_of(model)
        if self.ratio == 1 and self.embeddings:
            frozen = [model]
        for module in frozen:
            module.requires_grad_(False)


def set_dropout(config: PretrainedConfig, p: float) -> None:
    """Sets every dropout probability a configuration names, and LayerDrop to zero.

    Off is the default: in a reward model the two sides of a pair must not differ by chance.
    """
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0 if "layerdrop" in name else p)
