"""Whether an exported folder gives the module's scores: it is loaded by transformers and asked.

Sequences of different lengths made of random tokens and the end marker, padded as transformers pads. Random ids rather
than text, so that this is about weights and reading alone; how text becomes ids is the tokenizer's, saved with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence, Set
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.data.unjudged import unjudged
from rmlab.errors import RunError
from rmlab.export.trained import Exportable

TOLERANCE = 1e-4  # rounding of a deep model in fp32, relative to the score; another read-out differs by far more
LENGTHS = ((3, 2), (5, 9), (2, 4), (9, 1))  # tokens of the prompt and of the completion before its end marker


def probes(tokenizer: PreTrainedTokenizerBase, ends: Set[int]) -> list[Batch]:
    """Returns sequences of ordinary tokens, one a batch, that end with one of `ends`, as far as there are any."""
    random, special = Random(0), set(tokenizer.all_special_ids)
    ordinary = [i for i in range(len(tokenizer)) if i not in special]
    batches = []
    for prompt, completion in LENGTHS:
        ids = [random.choice(ordinary) for _ in range(prompt + completion)]
        end = random.choice(sorted(ends) or ordinary)
        steps = [completion // 2, completion]
        record = unjudged(ids[:prompt], [[*ids[prompt:], end]], [steps])
        batches.append(pack([record], share=True))
    return batches


@torch.no_grad()
def compare(module: Exportable, exported: Any, batches: Sequence[Batch], *, pad_id: int, sides: Sequence[str]) -> None:
    """Compares the outputs where the loss reads, or the scores if `exported` gives one row's.

    Raises `RunError` if they differ under padding on one of `sides`.
    """
    batches = [batch.to(exported.device) for batch in batches]
    positions = [module.loss.positions(batch) for batch in batches]
    outputs = [module(batch) for batch in batches]
    scores = [module.loss.score(out, batch)[:, None] for out, batch in zip(outputs, batches, strict=True)]
    scale = max(1.0, *(float(out.abs().max()) for out in outputs))
    for side in sides:
        logits = _logits(exported, [batch.token_T for batch in batches], pad_id, side)
        pooled = logits.ndim == 2
        found = [row[None] if pooled else row[at] for row, at in zip(logits, positions, strict=True)]
        expected = scores if pooled else outputs
        worst = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
        if not worst <= TOLERANCE * scale:
            raise RunError(
                f"{type(exported).__name__} loaded from the exported folder differs by {worst:.2g} from the model that "
                f"was trained (padding: {side}), so the folder was not kept; the model itself is whole"
            )


def _logits(model: Any, sequences: Sequence[Tensor], pad_id: int, side: str) -> Tensor:
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad_id, device=model.device)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), longest)
        ids[row, place], mask[row, place] = sequence, 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left" and "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)  # learned positions do not follow the mask
    logits: Tensor = model(**inputs).logits
    return logits
