"""The frozen trunk of a model: its states alone, and a forward pass that starts behind it.

Both are the model's own forward pass. Masks, rotary tables and whatever else an architecture prepares are made as
always; only layers are stood in for, for the length of a call. For the trunk alone the layers behind it hand on what
they get; for a pass that starts behind it the frozen ones give the stored states. So nothing here knows an
architecture, and outside such a call the model is as it was: its weights, checkpoints and exports have no trace of it.

Left out: skipping the embedding table. It is a look-up, and what depends on its output (a dtype, a device, DeBERTa's
convolution beside the first layer) stays right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from rmlab.model.layers import layers_of


@final
class _StandIn(nn.Module):
    """Stands where a layer stood and gives `given`, or the state it receives if that is None."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._stood_for = (layer,)  # in a tuple, so that it is no child
        self.given: Tensor | None = None
        self.outputs: int | None = None  # length of the tuple that layers give, None if they give the state itself

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # what the model's loop asks its layers for, like the kind of their attention
            return getattr(self._stood_for[0], name)

    def forward(self, *args: Any, **options: Any) -> Any:
        state = self.given
        if state is None:
            state = args[0] if args else options["hidden_states"]
        return state if self.outputs is None else (state,) + (None,) * (self.outputs - 1)


@final
class Trunk:
    """The first `count` layers of `model` and what comes before them. It is no module: the layers are the model's."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.count, self._layers = count, layers_of(model)
        self._stand_ins = [_StandIn(layer) for layer in self._layers]
        self._dtype = torch.float32

    @contextmanager
    def alone(self) -> Iterator[list[Tensor]]:
        """Makes a forward pass end at the boundary. Gives a list that it will put the state there into."""
        found: list[Tensor] = []

        def keep(layer: nn.Module, args: Any, output: Any) -> None:
            state = output if isinstance(output, Tensor) else output[0]
            for one in self._stand_ins:
                one.outputs = None if isinstance(output, Tensor) else len(output)
            self._dtype = state.dtype
            found.append(state)

        handle = self._layers[self.count - 1].register_forward_hook(keep)
        try:
            # a compiled graph would go on without the hook
            with torch.compiler.set_stance("force_eager"), self._replaced(range(self.count, len(self._layers))):
                yield found
        finally:
            handle.remove()

    @contextmanager
    def given(self, state: Tensor) -> Iterator[None]:
        """Makes a forward pass begin at the boundary with `state`, in the layout and from a pass `alone` before."""
        places = range(self.count)
        try:
            for i in places:
                self._stand_ins[i].given = state.to(self._dtype)
            with self._replaced(places):
                yield
        finally:
            for i in places:
                self._stand_ins[i].given = None

    @contextmanager
    def _replaced(self, places: range) -> Iterator[None]:
        layers = {i: self._layers[i] for i in places}
        try:
            for i in places:
                self._layers[i] = self._stand_ins[i]
            yield
        finally:
            for i, layer in layers.items():
                self._layers[i] = layer
