"""The weights of a trained module under the names of a transformers class.

The class is built on the meta device for its names alone. It fits if every one of its parameters comes from the module:
the backbone (adapters merged), the pooler, and one linear layer that takes the head. Nothing is left to chance, so an
architecture whose class has layers of its own in between is not exported under it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from rmlab.heads.linear import LinearHead
from rmlab.heads.v_head import ValueHead

State = dict[str, Tensor]


class NotRepresentable(Exception):
    """The module is not one of the transformers class; the text, a clause, says why."""


def merged_state(model: nn.Module) -> State:
    """Returns the model's state with its adapters merged; the model itself is not changed."""
    tuned = {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(f"{prefix}.") for prefix in tuned)
    }
    for prefix, layer in tuned.items():
        merged = copy.deepcopy(layer)  # one layer at a time: merging and unmerging in place would not be exact
        merged.merge(safe_merge=True)
        state |= {f"{prefix}.{name}": tensor for name, tensor in merged.get_base_layer().state_dict().items()}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def linear_of(head: nn.Module) -> nn.Linear:
    """Returns the one linear layer that a head is. Raises `NotRepresentable`."""
    if isinstance(head, LinearHead):
        return head.linear
    if isinstance(head, ValueHead):
        return head.v_head
    if isinstance(head, nn.Linear):
        return head
    raise NotRepresentable(f"its head ({type(head).__name__}) is more than one linear layer")


def fill(
    auto: Any, config: PretrainedConfig, backbone: nn.Module, pooler: nn.Module | None, head: nn.Module
) -> tuple[PreTrainedModel, State]:
    """Returns an `auto` class of `config` on the meta device and the state that it gets.

    Raises `NotRepresentable` if some parameter of the class would not come from the module, or none of it takes the
    head's bias.
    """
    linear = linear_of(head)
    with torch.device("meta"):
        target: PreTrainedModel = auto.from_config(config)
    wanted = target.state_dict()
    state = {f"{target.base_model_prefix}.{name}": tensor for name, tensor in merged_state(backbone).items()}
    for name, tensor in ({} if pooler is None else pooler.state_dict()).items():
        places = [place for place in wanted if place not in state and place.endswith(f".{name}")]
        if len(places) != 1:
            raise NotRepresentable(f"{type(target).__name__} has no place for its pooler")
        state[places[0]] = tensor.detach().contiguous()
    state |= _output(target, [name for name in wanted if name not in state], linear)
    fit_embeddings(target, state)
    shapes = [{name: tensor.shape for name, tensor in named.items()} for named in (wanted, state)]
    wrong = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
    if wrong:
        raise NotRepresentable(f"{type(target).__name__} has other parameters than it was trained with ({wrong[0]})")
    return target, state


def _output(target: PreTrainedModel, missing: list[str], linear: nn.Linear) -> State:
    """Returns the head's weights under the names of the layer of `target` that nothing else fills."""
    owners = {name.rpartition(".")[0] for name in missing}
    owner = target.get_submodule(owners.pop()) if len(owners) == 1 else None
    if not isinstance(owner, nn.Linear):
        raise NotRepresentable(
            f"{type(target).__name__} has layers of its own before its output ({', '.join(missing) or 'none is left'})"
        )
    name = missing[0].rpartition(".")[0]
    bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
    if owner.bias is None and bool(bias.ne(0).any()):
        raise NotRepresentable(
            f"its head has a bias and the output of {type(target).__name__} has none; train with head.bias=false"
        )
    state = {f"{name}.weight": linear.weight.detach().contiguous()}
    return state if owner.bias is None else state | {f"{name}.bias": bias.contiguous()}


def fit_embeddings(target: PreTrainedModel, state: State) -> None:
    """Appends a row for a pad token that the tokenizer did not have; the mean of the others, and nobody sees it."""
    table: Any = target.get_input_embeddings()
    name = next(name for name, module in target.named_modules() if module is table) + ".weight"
    rows = table.weight.shape[0] - state[name].shape[0]
    if rows > 0:
        state[name] = torch.cat([state[name], state[name].mean(0, keepdim=True).expand(rows, -1)])
