"""The same inputs for everybody: a tokenizer, models with one init, and the same pairs as text and as token ids.

    python prepare.py FOLDER SCALE     (run.py calls it once, in a process of its own)

Real pairs come from RMLAB_BENCH_DATA (default ../shared/data beside the project). Token ids for TRL are those that
rmlab's own data module makes of the texts, end marker included, so both trainers see the same tokens.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RMLAB_BENCH_DATA", ROOT.parent / "shared" / "data"))
MAX_LENGTH = 1024
SHAPES = {  # Qwen3 0.6B's proportions at two sizes, and itself for a GPU
    "tiny": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1),
    "small": dict(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2),
    "large": dict(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4),
    "0.6b": dict(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128),
}


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a gzipped JSON-lines file."""
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def make_tokenizer(texts: list[str]) -> Any:
    """Returns an 8k byte-level BPE tokenizer trained on the texts."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=8192, special_tokens=["<pad>", "<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_model(folder: Path, size: str, tokenizer: Any) -> None:
    """Writes a Qwen3-shaped classification model with random weights and its tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    shape = dict(head_dim=64) | SHAPES[size]
    config = Qwen3Config(
        vocab_size=8192,
        intermediate_size=3 * shape["hidden_size"],
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        num_labels=1,
        tie_word_embeddings=False,
        **shape,
    )
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(folder: Path, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> None:
    """Writes rows as rmlab's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", val)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def encoded(folder: Path, layout: str, model: Path) -> list[dict[str, Any]]:
    """Returns the encoded records that rmlab's data module makes of a folder of rows."""
    from transformers import AutoTokenizer

    from rmlab.data.datamodule import from_files

    data = from_files(
        str(folder),
        format=layout,
        tokenizer=AutoTokenizer.from_pretrained(model),
        check=lambda example: None,
        share_prompts=True,
        seed=0,
        max_length=MAX_LENGTH,
        max_tokens=10**6,
        cache_dir=folder.parent / "cache",
    )
    data.setup()
    split = data.splits["train"]
    return [split.records[int(row)] for prompt in range(len(split)) for row in split.rows_of(prompt)]


def pairs_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every ordered pair of every record as TRL's columns."""
    found = []
    for record in records:
        whole = [record["prompt_ids"] + ids for ids in record["completion_ids"]]
        for order, grades in zip(record["order"], record["grades"], strict=True):
            for i in range(len(order)):
                for j in range(i + 1, len(order)):
                    if not grades or grades[i] != grades[j]:
                        found.append({"chosen_ids": whole[order[i]], "rejected_ids": whole[order[j]]})
    return found


def short(rows: list[dict[str, Any]], tokenizer: Any, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the rows whose texts fit, so that neither trainer drops any."""

    def longest(row: dict[str, Any]) -> int:
        texts = [row[keys[0]], row[keys[1]]] if len(keys) == 2 else [row["instruction"] + out for out in row["outputs"]]
        return max(len(ids) for ids in tokenizer(texts)["input_ids"])

    return [row for row in rows if longest(row) < MAX_LENGTH - 8]


def main(folder: Path, scale: dict[str, Any]) -> None:
    """Writes everything the workers read, and `first.json`: eight pairs for the comparison of losses."""
    hh = DATA / "hh_rlhf" / "harmless-base"
    pairs, val = rows_in(hh / "train.jsonl.gz"), rows_in(hh / "test.jsonl.gz")[:8]
    tokenizer = make_tokenizer([row[key] for row in pairs for key in ("chosen", "rejected")])
    for size in scale["sizes"]:
        make_model(folder / size, size, tokenizer)
    model = folder / scale["sizes"][0]
    pairs = short(pairs, tokenizer, ("chosen", "rejected"))
    write(folder / "pairs", pairs[: scale["pairs"]], val)
    write(folder / "sweep", pairs[: scale["sweep_pairs"]], val)
    write(folder / "first", pairs[:8], val)
    for name in ("pairs", "first"):
        records = encoded(folder / name, "hh_rlhf", model)
        (folder / f"{name}.json").write_text(json.dumps(pairs_of(records)))
    kwise = rows_in(DATA / "alpaca_kwise" / "train.jsonl.gz")
    kwise = [row for row in short(kwise, tokenizer, ("instruction",)) if len(set(row["win_probability"])) == 9]
    chosen = kwise[: 8 * scale["lists"]]
    write(folder / "lists", chosen, chosen[:1])
    records = encoded(folder / "lists", "alpaca_kwise", model)
    (folder / "list_pairs.json").write_text(json.dumps(pairs_of(records)))
    singles = [record["prompt_ids"] + ids for record in records for ids in record["completion_ids"]]
    (folder / "list_singles.json").write_text(json.dumps(singles))
    texts(folder, pairs[: scale["texts"] // 2])


def texts(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes prompts with two completions each, to be scored."""
    from rmlab.data.formats.hh_rlhf import shared_turns

    found = []
    for row in rows:
        at = shared_turns(row["chosen"], row["rejected"])
        found.append([row["chosen"][:at], [row["chosen"][at:], row["rejected"][at:]]])
    (folder / "texts.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
