"""Small random inputs that several tests share: encoded records and tiny models of every architecture family."""

from __future__ import annotations

from math import nan
from random import Random
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

VOCABULARY = 97
SIZES: dict[str, dict[str, Any]] = {
    "qwen3": dict(num_key_value_heads=2, head_dim=8, intermediate_size=48),
    "llama": dict(num_key_value_heads=2, intermediate_size=48),
    "gpt2": dict(),
    "gpt_neox": dict(intermediate_size=48),
    "gptj": dict(rotary_dim=4),
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
    "mistral": dict(num_key_value_heads=2, intermediate_size=48, sliding_window=5),
    "gemma2": dict(num_key_value_heads=2, head_dim=8, intermediate_size=48, sliding_window=5),
    "bert": dict(intermediate_size=48),
    "modernbert": dict(intermediate_size=48, local_attention=8, layer_types=["full_attention", "sliding_attention"]),
    "deberta-v2": dict(intermediate_size=48, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], window_size=4, intermediate_size=48),
    "bloom": dict(),
    "roberta": dict(intermediate_size=48),
}


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Returns a random 2-layer model of width 32 with weights large enough for attention to matter."""
    torch.manual_seed(seed)
    special = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = AutoConfig.for_model(
        family,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        **special,
        **SIZES[family],
    )
    model = AutoModel.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def random_record(random: Random, k: int, *, steps: bool = True, prompt: list[int] | None = None) -> dict[str, Any]:
    """Returns an encoded record of `k` completions with every fact a loss can ask for."""

    def ids(low: int, high: int) -> list[int]:
        return [random.randrange(3, VOCABULARY) for _ in range(random.randrange(low, high))]

    opening = ids(0, 4)  # what all of them begin with
    completions = [opening + ids(3, 11) for _ in range(k)]
    order = random.sample(range(k), k)
    ends = [sorted(random.sample(range(len(c)), 2)) if steps else [] for c in completions]
    prompt_ids = ids(2, 12) if prompt is None else prompt
    return dict(
        prompt_ids=prompt_ids,
        completion_ids=completions,
        outcome=[float(random.random() < 0.5) for _ in completions],
        answer=[random.choice(["", "4", "5"]) for _ in completions],
        gold=[nan] * k,
        step_end=ends,
        step_label=[[random.choice([-1, 0, 1]) for _ in e] for e in ends],
        attributes=[[random.random()] for _ in completions],
        order=[order],
        grades=[sorted((random.uniform(-2, 2) for _ in range(k)), reverse=True)],
        probability=[1.0],
        weight=[1.0],
        source="test",
        id=f"test:{random.randrange(10**6)}",
        prompt_hash=hash(tuple(prompt_ids)),
    )


def random_records(seed: int, count: int = 4, k: int | None = None) -> list[dict[str, Any]]:
    """Returns records of two to four completions each."""
    random = Random(seed)
    return [random_record(random, k or random.randrange(2, 5)) for _ in range(count)]


def alone(record: dict[str, Any], i: int) -> dict[str, Any]:
    """Returns a record with only the i-th completion, unranked."""
    one = {
        name: [record[name][i]]
        for name in ("completion_ids", "outcome", "answer", "gold", "step_end", "step_label", "attributes")
    }
    return record | one | dict(order=[], grades=[], probability=[], weight=[])
