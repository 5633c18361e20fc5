"""An exported folder gives the trained module's scores: in transformers where its class reads there, and in rmlab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from rmlab import RewardModel
from rmlab.batch import Completion, Example, Step
from rmlab.data.pack import pack
from rmlab.data.tokenize import Encoder
from rmlab.errors import RunError, UsageError
from rmlab.export import Facts, export
from rmlab.export.facts import build_head, build_loss
from rmlab.module import RewardModule
from tests.folders import COMPLETIONS, PROMPTS, bert_like, exported, gpt2_like, tiny_module

DECODERS = ["llama", "qwen3", "gpt2", "gpt_neox", "gptj", "opt", "mistral"]
ENCODERS = ["bert", "deberta-v2", "roberta"]
FLAT = [(p, c) for p, answers in zip(PROMPTS, COMPLETIONS, strict=True) for c in answers]
RUNNERS = ("rmlab.json", "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@torch.no_grad()
def module_scores(module: RewardModule, encoder: Encoder) -> list[float]:
    """The trained module's own scores, each sequence in a batch of one."""
    scores = []
    for prompt, completion in FLAT:
        ends = [Step(end=2), Step(end=len(completion))]
        ends = ends[-1:] if len(completion) < 3 else ends
        record = encoder.encode(Example(prompt=prompt, completions=(Completion(text=completion, steps=tuple(ends)),)))
        assert not isinstance(record, str)
        batch = pack([record], share=False)
        scores += module.loss.score(module(batch), batch).tolist()
    return scores


@torch.no_grad()
def transformers_scores(folder: Path, side: str = "right", marker: str = "") -> list[float]:
    """What a user of transformers gets, all sequences in one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side=side)
    inputs = tokenizer([p + c + marker for p, c in FLAT], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    return model(**inputs).logits[:, 0].tolist()


def rmlab_scores(folder: Path) -> list[float]:
    return [s for row in RewardModel.load(folder, device="cpu").score(PROMPTS, COMPLETIONS) for s in row]


def close(found: list[float], expected: list[float]) -> bool:
    """To 1e-5 of the largest score: fp32 adds up in another order where adapters are merged."""
    tolerance = 1e-5 * max(1.0, *map(abs, expected))
    return max(expected) - min(expected) > 0.03 and found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_gives_its_scores_in_transformers_and_in_rmlab(family: str, tmp_path: Path) -> None:
    module, encoder, facts = tiny_module(family)
    expected = module_scores(module, encoder)
    export(module, encoder, facts, tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted([*RUNNERS, "chat_template.jinja"])
    assert close(transformers_scores(tmp_path / "model"), expected)
    assert close(rmlab_scores(tmp_path / "model"), expected)
    if family not in ("gpt2", "opt"):  # learned absolute positions: transformers itself needs right padding
        assert close(transformers_scores(tmp_path / "model", side="left"), expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_read_at_cls_gives_its_scores(family: str, bias: bool, tmp_path: Path) -> None:
    head = {"_target_": "rmlab.heads.linear.LinearHead", "bias": bias}
    module, encoder, facts = tiny_module(family, readout="first", tokenizer=bert_like(), head=head)
    if bias:
        torch.nn.init.constant_(module.head.linear.bias, 3.0)  # type: ignore[union-attr, arg-type]
    expected = module_scores(module, encoder)
    export(module, encoder, facts, tmp_path / "model")
    assert Facts.read(tmp_path / "model").kind == "sequence-classification"
    assert close(transformers_scores(tmp_path / "model"), expected)
    assert close(rmlab_scores(tmp_path / "model"), expected)


def test_pad_that_is_also_the_end_marker_is_replaced(tmp_path: Path) -> None:
    """With GPT-2's pad = EOS transformers reads before the EOS; the exported folder has a pad of its own."""
    module, encoder, facts = tiny_module("gpt2", tokenizer=gpt2_like())
    expected = module_scores(module, encoder)
    export(module, encoder, facts, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == ("<|pad|>", "<|endoftext|>", "right")
    assert (config["pad_token_id"], config["vocab_size"]) == (len(gpt2_like()), len(gpt2_like()) + 1)
    assert close(transformers_scores(tmp_path / "model", marker="<|endoftext|>"), expected)
    assert close(rmlab_scores(tmp_path / "model"), expected)
    config["pad_token_id"] = tokenizer.eos_token_id  # the trap itself: the test would not see a fix that does nothing
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert transformers_scores(tmp_path / "model", marker="<|endoftext|>") != pytest.approx(expected, abs=1e-2)


def test_a_folder_that_no_class_reads_has_the_tokenizer_of_its_embeddings(tmp_path: Path) -> None:
    """A pad token of its own would be an id beyond them: no class pools there."""
    folder = exported(tmp_path / "model", "gpt2", tokenizer=gpt2_like(), head={"_target_": "rmlab.heads.mlp.MLPHead"})
    assert len(AutoTokenizer.from_pretrained(folder)) == AutoModel.from_pretrained(folder).config.vocab_size


def test_an_unknown_token_serves_as_pad_before_a_new_one_is_made(tmp_path: Path) -> None:
    tokenizer = gpt2_like()
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    folder = exported(tmp_path / "model", "gpt_neox", tokenizer=tokenizer)
    saved = AutoTokenizer.from_pretrained(folder)
    assert (saved.pad_token, len(saved)) == ("<unk>", len(tokenizer))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_merged(family: str, tmp_path: Path) -> None:
    """Linear layers and GPT-2's transposed Conv1D; the module itself still has its adapters afterwards."""
    module, encoder, facts = tiny_module(family, lora=True)
    plain = module_scores(tiny_module(family)[0], encoder)
    expected = module_scores(module, encoder)
    assert expected != pytest.approx(plain, abs=1e-2)
    export(module, encoder, facts, tmp_path / "model")
    assert close(transformers_scores(tmp_path / "model"), expected)
    assert close(rmlab_scores(tmp_path / "model"), expected)
    assert module_scores(module, encoder) == expected


ELSEWHERE: list[tuple[str, dict[str, Any], str]] = [
    ("bert", dict(readout="mean", tokenizer=bert_like()), "reads [CLS], this model (Mean) does not"),
    ("bert", dict(readout="first", head={"_target_": "rmlab.heads.mlp.MLPHead"}), "MLPHead"),
    ("llama", dict(head={"_target_": "rmlab.heads.mlp.MLPHead", "hidden_features": 5}), "MLPHead"),
    ("llama", dict(loss={"_target_": "rmlab.losses.regression.Regression", "attributes": 2}), "2 outputs"),
    (
        "gptj",
        dict(loss={"_target_": "rmlab.losses.orm.OutcomeReward", "rule": "mean"}),
        "no token-classification class",
    ),
    (
        "llama",
        dict(loss={"_target_": "rmlab.losses.trlx.TrlxPairwise"}, head={"_target_": "rmlab.heads.mlp.MLPHead"}),
        "",
    ),
    ("deberta-v2", dict(readout="mean"), "Mean"),
    ("llama", dict(lora=True, head={"_target_": "rmlab.heads.mlp.MLPHead"}), "MLPHead"),
]


@pytest.mark.parametrize(("family", "options", "reason"), ELSEWHERE)
def test_what_no_class_reads_still_loads_in_rmlab_and_says_why(
    family: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    module, encoder, facts = tiny_module(family, **options)
    expected = module_scores(module, encoder)
    export(module, encoder, facts, tmp_path / "model")
    assert Facts.read(tmp_path / "model").kind == "backbone"
    assert close(rmlab_scores(tmp_path / "model"), expected)
    AutoModel.from_pretrained(tmp_path / "model")
    assert reason in (tmp_path / "model" / "README.md").read_text()
    assert not [p for p in (tmp_path / "model").iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_a_bias_that_the_class_cannot_hold_is_not_dropped(tmp_path: Path) -> None:
    """A decoder's `score` has no bias; the model then stays rmlab's, with its bias, and the card says what to type."""
    module, encoder, facts = tiny_module(head={"_target_": "rmlab.heads.linear.LinearHead", "bias": True})
    torch.nn.init.constant_(module.head.linear.bias, 3.0)  # type: ignore[union-attr, arg-type]
    expected = module_scores(module, encoder)
    export(module, encoder, facts, tmp_path / "model")
    assert close(rmlab_scores(tmp_path / "model"), expected)
    assert "train with head.bias=false" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("family", "loss"),
    [
        ("llama", {"_target_": "rmlab.losses.prm.ProcessReward", "rule": "min"}),
        ("gpt_neox", {"_target_": "rmlab.losses.orm.OutcomeReward", "rule": "mean"}),
        ("bert", {"_target_": "rmlab.losses.prm.ProcessReward", "classes": 2, "neutral": "correct"}),
    ],
)
def test_outputs_per_token_are_a_token_classification_folder(family: str, loss: dict[str, Any], tmp_path: Path) -> None:
    """Its logits at every token of every completion, against the module's head there."""
    tokenizer = bert_like() if family == "bert" else None
    head = {"_target_": "rmlab.heads.linear.LinearHead"}
    module, encoder, facts = tiny_module(family, loss=loss, head=head, tokenizer=tokenizer)
    export(module, encoder, facts, tmp_path / "model")
    assert Facts.read(tmp_path / "model").kind == "token-classification"
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "model").eval()
    for prompt, completion in FLAT:
        record = encoder.encode(Example(prompt=prompt, completions=(Completion(text=completion),)))
        assert not isinstance(record, str)
        batch = pack([record], share=False)
        with torch.no_grad():
            expected = module.head(module.backbone(batch))
            found = model(input_ids=batch.token_T[None]).logits[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_steps_and_tokens_score_the_same_from_the_folder(tmp_path: Path) -> None:
    for name, loss in {"prm": "prm.ProcessReward", "orm": "orm.OutcomeReward"}.items():
        module, encoder, facts = tiny_module(loss={"_target_": f"rmlab.losses.{loss}"}, head=None)
        export(module, encoder, facts, tmp_path / name)
        steps = ["2 to 4", "4 to 5"]
        found = RewardModel.load(tmp_path / name, device="cpu").score_steps(["Turn"], [steps])[0]
        given = Completion(text="\n".join(steps), steps=(Step(end=6), Step(end=13)))
        record = encoder.encode(Example(prompt="Turn", completions=(given,)))
        assert not isinstance(record, str)
        batch = pack([record], share=False)
        with torch.no_grad():
            out = module(batch)
        places = {"prm": [0, 1], "orm": record["step_end"][0]}[name]
        assert found.steps == pytest.approx(module.loss.local(out, batch)[places].tolist(), abs=1e-6)
        assert found.score == pytest.approx(module.loss.score(out, batch).item(), abs=1e-6)


def test_rmlab_json_says_what_the_model_is(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    found = json.loads((folder / "rmlab.json").read_text())
    expected = dict(
        format=1,
        loss={"_target_": "rmlab.losses.bt.BradleyTerry", "label_smoothing": 0.0},
        readout="last",
        rule="scalar",
        max_length=128,
        seed=7,
        data_fingerprint="abc",
        reward_mean=0.5,
        reward_std=2.0,
        end_marker="<eos>",
        tokenizer_ends=True,
        kind="sequence-classification",
    )
    assert {key: found[key] for key in expected} == expected
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    card = (folder / "README.md").read_text()
    assert "| accuracy | 0.75 | 0.7 to 0.8 |" in card
    assert "A raw score is not absolute" in card


def test_the_card_tells_a_user_of_a_bare_tokenizer_to_append_the_marker(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", "gpt2", tokenizer=gpt2_like())
    assert "[prompt + completion + '<|endoftext|>']" in (folder / "README.md").read_text()


HOSTILE = [
    "os.system",
    "rmlab.data.store.os.system",
    "rmlab.losses.bt.os.system",
    "rmlab.losses.base.Loss",
    "rmlab.losses.bt.EndRewardLoss",
    "rmlab.losses.bt.Batch",
    "rmlab.losses.nothing.Here",
    "rmlab.heads.linear.LinearHead",
    None,
]


@pytest.mark.parametrize("target", HOSTILE)
def test_a_folder_cannot_name_anything_but_a_loss_of_rmlab(target: str | None, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    facts = json.loads((folder / "rmlab.json").read_text())
    facts["loss"] = {"_target_": target, "command": "touch /tmp/x"}
    (folder / "rmlab.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"rmlab\.json"):
        RewardModel.load(folder)


@pytest.mark.parametrize(
    "options", [{"label_smoothing": {"_target_": "os.getcwd"}}, {"_args_": [0.1]}, {"unknown": 1}, {"_target_": ["os"]}]
)
def test_options_of_a_loss_are_plain_values_it_knows(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"rmlab\.json"):
        build_loss({"_target_": "rmlab.losses.bt.BradleyTerry"} | options)


def test_a_head_is_not_a_loss() -> None:
    with pytest.raises(UsageError, match=r"expected a class of rmlab\.heads"):
        build_head({"_target_": "rmlab.losses.bt.BradleyTerry"}, in_features=4, out_features=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "loss": {}}'])
def test_an_unreadable_rmlab_json_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "rmlab.json").write_text(text)
    with pytest.raises(UsageError, match=r"rmlab\.json is not a file that this version of rmlab can read"):
        RewardModel.load(tmp_path)


def test_a_folder_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good folder stays, and nothing half-written is left."""
    folder = exported(tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    module, encoder, facts = tiny_module(seed=1)
    monkeypatch.setattr("rmlab.export.folder.merged_state", lambda model: {})
    monkeypatch.setattr(
        "rmlab.export.weights.merged_state", lambda model: {k: v * 1.1 for k, v in model.state_dict().items()}
    )
    with pytest.raises(RunError, match=r"differs by .* from the model that was trained"):
        export(module, encoder, facts, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_export_replaces_an_earlier_folder_and_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module, encoder, facts = tiny_module()
    module.train()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_text("old")
    export(module, encoder, facts, tmp_path / "model")
    assert module.training
    assert not (tmp_path / "model" / "pytorch_model.bin").exists()
    assert module.backbone.model.config._attn_implementation == "rmlab_flat"  # type: ignore[union-attr]
