"""A model that is loaded trains like one that is drawn: recomputing and dropping out where it was asked to."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2Model

from rmlab.callbacks.memory import saved_bytes
from rmlab.model.builtin import byte_tokenizer
from rmlab.model.load import load_model


def test_a_loaded_model_recomputes_and_drops_out(tmp_path: Path) -> None:
    """`from_pretrained` gives a model in evaluation mode, where gradient checkpointing and dropout do nothing."""
    GPT2Model(GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=300)).save_pretrained(tmp_path)
    token = torch.arange(48)[None]

    def kept(**options: bool) -> int:
        model = load_model(str(tmp_path), shape={}, random=False, tokenizer=byte_tokenizer(), **options)
        return saved_bytes(lambda: model(token).last_hidden_state)

    assert kept(gradient_checkpointing=True) < 0.5 * kept()
    dropping = load_model(str(tmp_path), shape={}, random=False, tokenizer=byte_tokenizer(), dropout=0.5)
    assert not torch.equal(dropping(token).last_hidden_state, dropping(token).last_hidden_state)
