"""Tiny random reward models, as modules and as exported folders, and the tokenizers they need."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

from rmlab.data.tokenize import Encoder
from rmlab.export import Facts, export
from rmlab.export.facts import build_head, build_loss
from rmlab.metrics.collection import Metrics
from rmlab.model.backbone import Backbone
from rmlab.model.builtin import byte_tokenizer
from rmlab.model.load import load_model, make_pooler, take_pooler
from rmlab.model.readout import make_readout
from rmlab.module import RewardModule
from tests.worlds import SIZES

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
PROMPTS = ["What is 2 + 2?", "Say héllo!", "Q"]
COMPLETIONS = [[" 4", " It is five.", " I do not know, ask somebody else."], [" Héllo", " no"], [" a longer answer"]]


def gpt2_like() -> PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer as GPT-2's: <|endoftext|> is EOS, BOS, unknown and pad, and is not appended."""
    end = "<|endoftext|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "Ġa", end])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end, pad_token=end, padding_side="left"
    )


def bert_like() -> PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer with BERT's frame: [CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def cross_encoder_tokenizer() -> BertTokenizer:
    """Returns BERT's tokenizer of letters, whose second text has token type 1."""
    pieces = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ":"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate([*special, *pieces])})


def tiny_module(
    family: str = "llama",
    *,
    tokenizer: Any = None,
    readout: str = "last",
    loss: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    lora: bool = False,
    seed: int = 0,
) -> tuple[RewardModule, Encoder, Facts]:
    """Returns a random module whose scores differ visibly, its encoder, and the facts a run would know."""
    tokenizer = tokenizer or byte_tokenizer()
    model = load_model(None, shape={"model_type": family} | SHAPE | SIZES[family], random=True, tokenizer=tokenizer)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.2)
    pooler = make_pooler(model) if readout == "first" else None
    take_pooler(model)
    loss = loss or {"_target_": "rmlab.losses.bt.BradleyTerry", "label_smoothing": 0.0}
    head = head or {"_target_": "rmlab.heads.linear.LinearHead", "bias": False}
    objective, backbone = build_loss(loss), Backbone(model)
    if lora:
        adapt(model)
    module = RewardModule(
        backbone=backbone,
        readout=make_readout(readout, backbone.causal, pooler, objective.reads),  # type: ignore[arg-type]
        head=build_head(head, in_features=32, out_features=objective.out_dim),
        loss=objective,
        metrics=Metrics([], headline="accuracy"),
        optimizer=lambda groups: torch.optim.SGD(groups),
        schedule=lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
    )
    for parameter in module.head.parameters():
        torch.nn.init.normal_(parameter, std=float(parameter.ndim > 1))
    encoder = Encoder(tokenizer, max_length=128, overlong="drop")
    facts = Facts(
        loss=loss,
        head=head,
        readout=readout,
        seed=7,
        data_fingerprint="abc",
        metrics={"accuracy": 0.75, "accuracy_low": 0.7, "accuracy_high": 0.8, "reward_mean": 0.5, "reward_std": 2.0},
    )
    return module.eval(), encoder, facts


def adapt(model: Any) -> None:
    """Adds adapters to every linear map, as `lora=default` does, with weights that change the output."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def exported(folder: Path, family: str = "llama", **options: Any) -> Path:
    """Returns an exported folder; see `tiny_module`."""
    module, encoder, facts = tiny_module(family, **options)
    export(module, encoder, facts, folder)
    return folder
