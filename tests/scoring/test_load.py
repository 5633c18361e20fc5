"""Reward models of other tools, written by their own libraries, are read where their own code reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from rmlab import RewardModel
from rmlab.errors import UsageError
from rmlab.model.builtin import byte_tokenizer
from rmlab.serve.engine import Engine
from rmlab.serve.messages import Ask, Whole
from tests.folders import COMPLETIONS, PROMPTS, adapt, bert_like, cross_encoder_tokenizer, gpt2_like, tiny_module
from tests.test_scoring import classifier

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = [{"role": "user", "content": "What is 2 + 2?"}]


def chat_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with Qwen's chat template, whose conversations end in a line break after EOS."""
    tokenizer = gpt2_like()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def ids_of(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[int]:
    return [*tokenizer(prompt)["input_ids"], *tokenizer(answer)["input_ids"], tokenizer.eos_token_id]


def found_and_expected(folder: Path, score: Any, ids: Any, **options: Any) -> tuple[list[float], list[float]]:
    model = RewardModel.load(folder, device="cpu", **options)
    pairs = [(p, c) for p, answers in zip(PROMPTS, COMPLETIONS, strict=True) for c in answers]
    with torch.no_grad():
        expected = [float(score(torch.tensor([ids(p, c)]))) for p, c in pairs]
    return model.score([p for p, _ in pairs], [c for _, c in pairs]), expected


def reshaped(folder: Path, head: str, **config: Any) -> None:
    """Makes of a classification folder what OpenRLHF saves: the head under another name, no labels."""
    state = load_file(folder / "model.safetensors")
    state[f"{head}.weight"] = state.pop("score.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    kept = {k: v for k, v in values.items() if k not in ("id2label", "label2id", "num_labels")}
    (folder / "config.json").write_text(json.dumps(kept | {"architectures": ["RewardModel"]} | config))


OPENRLHF: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama, prefix": ("llama", "score", {"value_head_prefix": "score", "normalize_reward": False}),
    "gpt2, another prefix": ("gpt2", "regression_head", {"value_head_prefix": "regression_head"}),
    "llama, no prefix": ("llama", "value_head", {"normalize_reward": True, "mean": 2.0, "std": 4.0}),
    "llama, no mark at all": ("llama", "value_head", {}),
    "llama, score without labels": ("llama", "score", {}),
}


@pytest.mark.parametrize("name", OPENRLHF)
def test_openrlhf_is_read_at_the_last_token_whatever_the_pad_token_is(name: str, tmp_path: Path) -> None:
    """Its forward: values = head(hidden), at the last index that the attention mask has; here pad = EOS."""
    family, head, config = OPENRLHF[name]
    tokenizer = gpt2_like()
    model: Any = classifier(tmp_path, family, tokenizer)
    reshaped(tmp_path, head, **config)
    found, expected = found_and_expected(
        tmp_path,
        lambda x: model.score(model.base_model(input_ids=x).last_hidden_state)[0, -1, 0],
        lambda p, c: ids_of(tokenizer, p, c),
    )
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) - min(found) > 0.02
    loaded = RewardModel.load(tmp_path, device="cpu")
    if "mean" in config:
        assert loaded.score(PROMPTS[:1], ["a"], scale="z")[0] == pytest.approx(
            (loaded.score(PROMPTS[:1], ["a"])[0] - 2.0) / 4.0
        )
    else:
        with pytest.raises(UsageError, match="no reference set"):
            loaded.score(PROMPTS[:1], ["a"], scale="z")


def test_an_openrlhf_folder_without_its_head_is_refused(tmp_path: Path) -> None:
    classifier(tmp_path, "llama", byte_tokenizer())
    reshaped(tmp_path, "value_head", value_head_prefix="reward_head")
    with pytest.raises(UsageError, match=r"no trained weights for score\.weight"):
        RewardModel.load(tmp_path)
    reshaped_config = json.loads((tmp_path / "config.json").read_text()) | {"value_head_prefix": ".*"}
    (tmp_path / "config.json").write_text(json.dumps(reshaped_config))
    with pytest.raises(UsageError, match=r"value_head_prefix is '\.\*' in its config\.json"):
        RewardModel.load(tmp_path)


def test_a_chat_model_is_read_where_its_template_ends(tmp_path: Path) -> None:
    """Skywork's way: the whole conversation through the template, tokenised, read at its last token: here the line
    break that the template writes after EOS. Plain text still ends with EOS."""
    tokenizer = chat_tokenizer()
    model: Any = classifier(tmp_path, "qwen3", tokenizer)
    reward = RewardModel.load(tmp_path, device="cpu")
    answers = ["4", "It is five."]
    expected = []
    with torch.no_grad():
        for answer in answers:
            text = tokenizer.apply_chat_template([*PROMPT, {"role": "assistant", "content": answer}], tokenize=False)
            expected.append(model(**tokenizer(text, return_tensors="pt")).logits.item())
        plain = model(torch.tensor([ids_of(tokenizer, "Q", "a")])).logits.item()
    assert reward.score([PROMPT], [answers])[0] == pytest.approx(expected, abs=1e-5)
    assert reward.score(["Q"], ["a"])[0] == pytest.approx(plain, abs=1e-5)


def test_openassistants_deberta_reads_question_and_answer(tmp_path: Path) -> None:
    """Its card: tokenizer(question, answer), that is [CLS] question [SEP] answer [SEP]."""
    tokenizer = bert_like()
    model: Any = classifier(tmp_path, "deberta-v2", tokenizer)
    found, expected = found_and_expected(
        tmp_path, lambda x: model(input_ids=x).logits, lambda p, c: tokenizer(p, c)["input_ids"]
    )
    assert found == pytest.approx(expected, abs=1e-5)
    assert ids_differ(tokenizer)


def ids_differ(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer("a", "b")["input_ids"] != tokenizer("ab")["input_ids"])


def test_a_cross_encoder_gets_token_types(tmp_path: Path) -> None:
    """BERT's second text has token type 1; a conversation is one text of type 0."""
    tokenizer = cross_encoder_tokenizer()
    model: Any = classifier(tmp_path, "bert", tokenizer)
    reward = RewardModel.load(tmp_path, device="cpu")
    with torch.no_grad():
        inputs = tokenizer("Q", "answer", return_tensors="pt")
        expected = model(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"]).logits.item()
        text = "\n\nHuman: Q\n\nAssistant: answer"
        one = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).logits.item()
    assert sorted(set(inputs["token_type_ids"][0].tolist())) == [0, 1]
    found = reward.score(["Q", [{"role": "user", "content": "Q"}]], ["answer", "answer"])
    assert found == pytest.approx([expected, one], abs=1e-5)
    whole = [f"q [SEP] {letter}" for letter in "abc"]  # in one piece: type 0, whatever the others begin with
    with torch.no_grad():
        alone = [model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).logits.item() for text in whole]
    assert reward.score_texts(whole) == pytest.approx(alone, abs=1e-5)
    engine = Engine(reward, max_tokens=100, max_request_tokens=100)
    works: Any = engine.encode(Ask(0, 0.0, tuple(Whole(text=text) for text in whole)))
    results: Any = engine.scores([works])[0]
    assert [result.score for result in results] == pytest.approx(alone, abs=1e-5)


@pytest.fixture(scope="module")
def trl_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One step of TRL's RewardTrainer on a tiny language model, in full and with LoRA, saved by TRL."""
    import trl
    from datasets import Dataset

    root = tmp_path_factory.mktemp("trl")
    rows = [{"prompt": f"Q{i}", "chosen": "yes", "rejected": "no" * (i + 1)} for i in range(4)]
    classifier(root / "base", "llama", byte_tokenizer())
    for name, lora in (("full", None), ("lora", LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear"))):
        config = trl.RewardConfig(
            output_dir=str(root / name),
            max_steps=1,
            per_device_train_batch_size=4,
            learning_rate=0.05,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
            gradient_checkpointing=False,
        )
        trainer = trl.RewardTrainer(
            model=str(root / "base"), args=config, train_dataset=Dataset.from_list(rows), peft_config=lora
        )
        trainer.train()
        trainer.save_model()
    return {name: root / name for name in ("full", "lora")}


@pytest.mark.parametrize("name", ["full", "lora"])
def test_trl_output_scores_as_transformers_scores_it(name: str, trl_folders: dict[str, Path]) -> None:
    folder = trl_folders[name]
    auto: Any = AutoPeftModelForSequenceClassification if name == "lora" else AutoModelForSequenceClassification
    options = {"num_labels": 1} if name == "lora" else {}
    model = auto.from_pretrained(folder, dtype=torch.float32, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found, expected = found_and_expected(
        folder, lambda x: model(input_ids=x).logits, lambda p, c: tokenizer(p + c)["input_ids"]
    )
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) - min(found) > 0.02


@pytest.mark.parametrize("pad", ["its own", "none"])
def test_an_adapter_folder_is_scored_on_its_base(pad: str, tmp_path: Path) -> None:
    """A base that is a language model, adapters and head saved by peft; without a pad id it is the tokenizer's, EOS."""
    tokenizer = byte_tokenizer() if pad == "its own" else gpt2_like()
    model: Any = classifier(tmp_path / "base", "llama", tokenizer)
    values = json.loads((tmp_path / "base" / "config.json").read_text())
    if pad == "none":
        values["pad_token_id"] = None
    (tmp_path / "base" / "config.json").write_text(json.dumps(values))
    state = load_file(tmp_path / "base" / "model.safetensors")
    bare = {name: tensor for name, tensor in state.items() if name != "score.weight"}
    save_file(bare, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "down_proj"]))
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    found, expected = found_and_expected(
        tmp_path / "adapter",
        lambda x: adapted(input_ids=x).logits,
        lambda p, c: tokenizer(p + c)["input_ids"] + ([tokenizer.eos_token_id] if pad == "none" else []),
        base=tmp_path / "base",
    )
    assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UsageError, match=r"does not say which model its adapters are for; type --base PATH"):
        RewardModel.load(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    headless = {name: tensor for name, tensor in saved.items() if "score" not in name}
    save_file(headless, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r"no trained weights for score\.weight"):
        RewardModel.load(tmp_path / "adapter", base=tmp_path / "base")


def test_rmlabs_own_adapters_score_as_the_module_did(tmp_path: Path) -> None:
    """`rmlab export --adapter`: the same scores as the folder in which the adapters are merged."""
    from peft import LoraConfig as Lora

    from rmlab.export import export
    from rmlab.export.adapter import export_adapter

    module, encoder, facts = tiny_module("llama")
    module.backbone.model.save_pretrained(tmp_path / "base")  # type: ignore[union-attr, operator]
    adapt(module.backbone.model)  # type: ignore[union-attr]
    export(module, encoder, facts, tmp_path / "merged")
    lora = Lora(r=2, lora_alpha=4, target_modules="all-linear")
    export_adapter(module, encoder, tmp_path / "adapter", base=str(tmp_path / "base"), lora=lora, dtype=torch.float32)
    merged, adapter = (RewardModel.load(tmp_path / name, device="cpu") for name in ("merged", "adapter"))
    expected = merged.score(PROMPTS, COMPLETIONS)
    for row, other in zip(adapter.score(PROMPTS, COMPLETIONS), expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_an_adapter_that_is_a_pickle_of_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    classifier(tmp_path / "base", "llama", byte_tokenizer())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2)).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.score.weight": Bomb()}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"adapter"):
        RewardModel.load(tmp_path / "adapter", base=tmp_path / "base")
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(tmp_path / "adapter")
