"""A folder that transformers loads, written again: in another dtype, or with a pad token it lacks.

Weights go from file to file, or from the model of transformers that was loaded; nothing is computed, so there is
nothing to check but that they are all there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rmlab.data.tokenize import Encoder
from rmlab.export.appearing import appearing
from rmlab.export.facts import BACKBONE, CLASSIFIER, FILE, TAGGER
from rmlab.export.padding import give_pad
from rmlab.export.quiet import quietly
from rmlab.export.weights import NotRepresentable

AUTO: dict[str, Any] = {
    CLASSIFIER: AutoModelForSequenceClassification,
    TAGGER: AutoModelForTokenClassification,
    BACKBONE: AutoModel,
}
WEIGHTS = ("model*.safetensors*", "pytorch_model*", "*.bin", "*.pt")


def write_again(
    path: str, kind: str, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, folder: Path, *, dtype: torch.dtype
) -> None:
    """Writes the model at `path` (folder or hub name), of `kind`, to `folder` in `dtype`.

    What else a folder of rmlab holds goes with it. Raises `NotRepresentable` if the tokenizer has no token for the pad
    id that the model is read by, or if transformers finds no weights for some layer of its class.
    """
    with appearing(folder) as temporary, quietly():
        model, info = AUTO[kind].from_pretrained(path, dtype=dtype, output_loading_info=True)
        missing = [] if kind == BACKBONE else sorted(info["missing_keys"])  # no read-out needs a backbone's own pooler
        if missing:
            raise NotRepresentable(f"{type(model).__name__} finds no weights for its {missing[0]} there")
        _save(model, kind, tokenizer, encoder, temporary)
        _copy_rest(Path(path), temporary)


def write_whole(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    folder: Path,
    *,
    dtype: torch.dtype,
) -> None:
    """Writes a classification model of transformers that is in memory, in `dtype`. Raises as `write_again` does."""
    with appearing(folder) as temporary, quietly():
        _save(model.to(dtype), CLASSIFIER, tokenizer, encoder, temporary)  # type: ignore[arg-type]


def _save(
    model: PreTrainedModel, kind: str, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, folder: Path
) -> None:
    if kind == CLASSIFIER:
        _agree(model, tokenizer, encoder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _agree(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> None:
    """Makes tokenizer and configuration name one pad token: the class pools by the configuration's."""
    text = model.config.get_text_config()
    tokenizer.padding_side = "right"  # learned absolute positions are wrong behind left padding
    if text.pad_token_id is None:
        give_pad(tokenizer, model.config, set(encoder.suffix))
        table: Any = model.get_input_embeddings()
        if table.weight.shape[0] < text.vocab_size:
            model.resize_token_embeddings(text.vocab_size, mean_resizing=False)
    elif tokenizer.pad_token_id != text.pad_token_id:
        token = tokenizer.convert_ids_to_tokens(text.pad_token_id)
        if token is None:
            raise NotRepresentable(
                f"its config.json has pad_token_id {text.pad_token_id}, which its tokenizer does not know, so that "
                "padded rows would be read at a pad token"
            )
        tokenizer.pad_token = token


def _copy_rest(source: Path, folder: Path) -> None:
    if not (source / FILE).is_file():  # somebody else's folder may hold anything
        return
    weights = {file for pattern in WEIGHTS for file in source.glob(pattern)}
    for file in sorted(set(source.iterdir()) - weights):
        if file.is_file() and not (folder / file.name).exists():
            shutil.copy2(file, folder)
