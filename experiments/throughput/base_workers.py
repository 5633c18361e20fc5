"""What rmlab is compared with, each in a process of its own: TRL's trainer, a plain padded loop, a pipeline.

python base_workers.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from machine import peak_mb, synchronized

WARM = 2  # steps before the clock starts
Job = dict[str, Any]


def freeze(model: Any, ratio: float) -> None:
    """Freezes the embeddings and the first layers, as many as rmlab's freeze.ratio does."""
    layers = model.model.layers
    count = len(layers) - int((1 - ratio) * len(layers) + 1e-9)
    for module in (model.model.embed_tokens, *layers[:count]) if ratio else ():
        module.requires_grad_(False)


def run_trl(job: Job, folder: Path) -> dict[str, Any]:
    """Trains with TRL's RewardTrainer: eight pairs a step, gradient checkpointing off, otherwise its defaults."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(folder / job["size"], num_labels=1)
    freeze(model, job["frozen"])
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when each step is done."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(synchronized())

    rows = Dataset.from_list(json.loads((folder / f"{job['data']}.json").read_text()))
    options: dict[str, Any] = {}
    if job.get("grouped"):
        # It looks for the column of lengths after the trainer has dropped what the model does not take.
        options = dict(train_sampling_strategy="group_by_length", remove_unused_columns=False)
        rows = rows.map(lambda row: {"length": max(len(row["chosen_ids"]), len(row["rejected_ids"]))})
    config = RewardConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=8,
        gradient_checkpointing=False,
        bf16=job["precision"] == "bf16",
        use_cpu=job["device"] == "cpu",
        max_steps=job["steps"],
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=job["seed"],
        **options,
    )
    trainer = RewardTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder / job["size"]),
        callbacks=[Clock()],
    )
    if job.get("measure") == "first_loss":
        import torch

        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        with torch.no_grad():
            return {"loss": float(trainer.compute_loss(model.train(), inputs))}
    trainer.train()
    warm = job.get("warm", WARM)
    pairs = 8 * (len(ends) - warm) / job.get("pairs_per_list", 1)
    return {"rate": pairs / (ends[-1] - ends[warm - 1]), "peak_mb": peak_mb(job["device"])}


def run_plain(job: Job, folder: Path) -> dict[str, Any]:
    """Each completion once: batches of 16 padded rows in random order, forward, backward, AdamW."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder / job["size"], num_labels=1).to(job["device"])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rows = json.loads((folder / f"{job['data']}.json").read_text())
    random.Random(job["seed"]).shuffle(rows)
    ends = []
    for step in range(job["steps"]):
        batch = [torch.tensor(rows[(16 * step + i) % len(rows)]) for i in range(16)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(job["device"])
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in batch])[:, None]
        reward = model(input_ids=ids, attention_mask=mask.long().to(job["device"]), use_cache=False).logits[:, 0]
        reward.square().mean().backward()  # any loss on the rewards costs the same
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(synchronized())
    lists = 16 * (len(ends) - job["warm"]) / job["completions_per_list"]
    return {"rate": lists / (ends[-1] - ends[job["warm"] - 1]), "peak_mb": peak_mb(job["device"])}


def run_pipeline(job: Job, folder: Path) -> dict[str, Any]:
    """Scores prompt and completion as one text with transformers' text-classification pipeline."""
    import torch
    from transformers import pipeline

    texts = [p + c for p, cs in json.loads((folder / f"{job['data']}.json").read_text()) for c in cs]
    model = str(folder / job["size"])
    classify = pipeline("text-classification", model=model, batch_size=16, device=job["device"], dtype=torch.float32)
    options = dict(function_to_apply="none", truncation=True, max_length=1024)
    classify(texts[:16], **options)
    begin = time.perf_counter()
    classify(texts, **options)
    return {"rate": len(texts) / (synchronized() - begin), "peak_mb": peak_mb(job["device"])}


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    work = {"trl": run_trl, "plain": run_plain, "pipeline": run_pipeline}[job["worker"]]
    Path(sys.argv[2]).write_text(json.dumps(work(job, Path(job["folder"]))))
