"""Scores do not depend on batches, order or padding; a model of somebody else is read where its own code reads it."""

from __future__ import annotations

import json
import shutil
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rmlab import Reference, RewardModel
from rmlab.batch import Example
from rmlab.errors import RunError, UsageError
from rmlab.losses.ragged import ragged
from rmlab.model.builtin import byte_tokenizer
from rmlab.scoring.batches import batch_of, plan
from rmlab.scoring.texts import with_steps
from tests.folders import COMPLETIONS, PROMPTS, SHAPE, bert_like, exported, gpt2_like, tiny_module
from tests.worlds import SIZES

PRM = {"_target_": "rmlab.losses.prm.ProcessReward", "rule": "min"}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gptj": {},
    "bert": dict(readout="first", tokenizer=bert_like()),
    "bert mean": dict(readout="mean", tokenizer=bert_like()),
    "llama prm": dict(loss=PRM, head={"_target_": "rmlab.heads.linear.LinearHead"}),
    "gpt_neox orm": dict(loss={"_target_": "rmlab.losses.orm.OutcomeReward"}),
    "gpt2 trlx": dict(
        loss={"_target_": "rmlab.losses.trlx.TrlxPairwise"}, head={"_target_": "rmlab.heads.v_head.ValueHead"}
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: exported(root / name, name.split()[0], **options) for name, options in CASES.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, RewardModel]:
    return {name: RewardModel.load(folder, device="cpu") for name, folder in folders.items()}


@pytest.mark.parametrize("name", CASES)
def test_order_batch_size_and_neighbours_never_change_a_score(name: str, models: dict[str, RewardModel]) -> None:
    """Each completion alone, against all together, in other orders, in batches of one sequence and of a few."""
    model, random = models[name], Random(0)
    alone = [[model.score([p], [c])[0] for c in answers] for p, answers in zip(PROMPTS, COMPLETIONS, strict=True)]
    flat = [score for row in alone for score in row]
    assert max(flat) - min(flat) > 0.02
    pairs = [
        (p, c, s) for p, cs, ss in zip(PROMPTS, COMPLETIONS, alone, strict=True) for c, s in zip(cs, ss, strict=True)
    ]
    for max_tokens in (1, 40, 75, 10_000):
        random.shuffle(pairs)
        found = model.score([p for p, _, _ in pairs], [c for _, c, _ in pairs], max_tokens=max_tokens)
        assert found == pytest.approx([s for _, _, s in pairs], abs=1e-5)
        rows = model.score(PROMPTS, COMPLETIONS, max_tokens=max_tokens)
        for found_row, row in zip(rows, alone, strict=True):
            assert found_row == pytest.approx(row, abs=1e-5)


def test_repeated_and_empty_prompts_and_mixed_forms(models: dict[str, RewardModel]) -> None:
    model = models["llama"]
    one, two = model.score(["", "Q"], ["a", "a"])
    assert one != pytest.approx(two, abs=1e-4)
    mixed = model.score(["Q", "", "Q", "Q"], [["a", "b", "a"], "a", "a", []])
    assert mixed[0] == pytest.approx([two, model.score(["Q"], ["b"])[0], two], abs=1e-5)
    assert mixed[1:] == [pytest.approx(one, abs=1e-5), pytest.approx(two, abs=1e-5), []]
    assert model.score([], []) == []


def test_a_stream_gives_what_a_list_gives(models: dict[str, RewardModel]) -> None:
    pairs = [(p, c) for p, answers in zip(PROMPTS, COMPLETIONS, strict=True) for c in answers]
    expected = models["llama"].score([p for p, _ in pairs], [c for _, c in pairs])
    taken = []

    def source() -> Any:
        for pair in pairs:
            taken.append(pair)
            yield pair

    stream = models["llama"].score_stream(source(), window=2)
    first = next(stream)
    assert len(taken) == 2
    assert [first, *stream] == pytest.approx(expected, abs=1e-5)


def test_generators_in_and_an_iterator_out(models: dict[str, RewardModel]) -> None:
    """Endless generators are read a window at a time, and mistakes name the row they are in, counted over windows."""
    model = models["llama"]
    stream = model.score((f"Q{i}" for i in count()), ([f"a{i}", "b"] for i in count()))
    first = list(islice(stream, 5))
    expected = model.score([f"Q{i}" for i in range(5)], [[f"a{i}", "b"] for i in range(5)])
    for found, row in zip(first, expected, strict=True):
        assert found == pytest.approx(row, abs=1e-5)
    with pytest.raises(UsageError, match=r"prompt 4 .* empty"):
        list(model.score_stream(zip("QQQQQ", ["a", "a", "a", "a", " "], strict=True), window=2))
    with pytest.raises(UsageError, match=r"the prompts end after 1, expected as many"):
        list(model.score(iter(["Q"]), iter(["a", "b"])))


def test_scales(models: dict[str, RewardModel], folders: dict[str, Path], tmp_path: Path) -> None:
    """`tests.folders` gives mean 0.5 and deviation 2, and no quantiles; a reference of one's own has them."""
    model = models["llama"]
    raw = model.score(PROMPTS[:1], COMPLETIONS[:1])[0]
    assert model.score(PROMPTS[:1], COMPLETIONS[:1], scale="z")[0] == pytest.approx([(x - 0.5) / 2 for x in raw])
    places = [1 + sum(other > x for other in raw) for x in raw]
    assert model.score(PROMPTS[:1], COMPLETIONS[:1], scale="rank")[0] == places
    with pytest.raises(UsageError, match="no quantiles"):
        model.score(["Q"], ["a"], scale="percentile")
    with pytest.raises(UsageError, match="scale=nothing does not exist; type one of raw, z, percentile, rank"):
        model.score(["Q"], ["a"], scale="nothing")  # type: ignore[call-overload]
    Reference.of(raw).write(tmp_path / "reference.json")
    own = RewardModel.load(folders["llama"], device="cpu", reference=tmp_path / "reference.json")
    found = own.score(PROMPTS[:1], COMPLETIONS[:1], scale="percentile")[0]
    assert found == pytest.approx([100 * (3 - place) / 2 for place in places], abs=1e-3)


def test_the_end_marker_counts_once_whether_or_not_it_is_written(models: dict[str, RewardModel]) -> None:
    with_marker, without = models["llama"].score(["Q", "Q"], ["yes<eos>", "yes"])
    assert with_marker == pytest.approx(without, abs=1e-6)


def test_conversations(models: dict[str, RewardModel]) -> None:
    """Plain text to a conversation is the assistant's message; the template is HH-RLHF's where there is none."""
    model = models["llama"]
    prompt = [{"role": "user", "content": "Hi"}]
    text, messages = model.score([prompt, prompt], ["Hello", [{"role": "assistant", "content": "Hello"}]])
    assert text == messages
    assert model.score([prompt], [["Hello", [{"role": "assistant", "content": "Bye"}]]])[0][0] == pytest.approx(text)
    rendered = model.score(["\n\nHuman: Hi\n\nAssistant: "], ["Hello"])[0]
    assert text == pytest.approx(rendered, abs=1e-6)


def test_what_cannot_be_scored_is_named(models: dict[str, RewardModel]) -> None:
    model = models["llama"]
    with pytest.raises(UsageError, match=r"prompt 1 .* empty"):
        model.score(["Q", "Q"], ["a", " "])
    with pytest.raises(UsageError, match=r"prompt 0 .* over-long: more than 128 tokens, raise max_length"):
        model.score(["Q" * 200], ["a"])
    with pytest.raises(UsageError, match=r"as many completions"):
        model.score(["Q", "Q"], ["a"])
    with pytest.raises(UsageError, match=r"as many completions"):
        model.score("Q", "a")
    with pytest.raises(UsageError, match=r"prompt 0 .* cannot be made into tokens"):
        model.score(["\ud800"], ["a"])
    bad: Any = [{"role": "user"}]
    with pytest.raises(UsageError, match=r"prompt 0 .* cannot be scored: refused by the chat template"):
        model.score([bad], ["a"])


def test_memory_that_runs_out_says_what_to_type(
    models: dict[str, RewardModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RewardModel, "_run", full)
    with pytest.raises(RunError, match=r"max_tokens=64 .* type --batch-tokens 32"):
        models["llama"].score(["Q"], ["a"], max_tokens=64)


def test_max_length_can_be_raised(folders: dict[str, Path]) -> None:
    score = RewardModel.load(folders["llama"], device="cpu", max_length=400).score(["Q" * 200], ["a"])[0]
    assert score == score


def test_text_is_handled_as_in_training(
    folders: dict[str, Path], models: dict[str, RewardModel], tmp_path: Path
) -> None:
    """A model trained with overlong=truncate reads the end of a long prompt: 128 tokens less 3 of the completion."""
    shutil.copytree(folders["llama"], tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "rmlab.json").read_text())
    (tmp_path / "model" / "rmlab.json").write_text(json.dumps(facts | {"overlong": "truncate"}))
    prompt = "".join(Random(0).choices("abc", k=300))
    found = RewardModel.load(tmp_path, device="cpu").score([prompt], ["no"])[0]
    assert found == pytest.approx(models["llama"].score([prompt[-125:]], ["no"])[0], abs=1e-5)


def test_a_completion_without_steps_has_its_lines_as_steps(models: dict[str, RewardModel]) -> None:
    model = models["llama prm"]
    lines = model.score(["Turn"], ["2 to 4\n\n4 to 5"])[0]
    example = Example(prompt="Turn", completions=(with_steps(_completion("2 to 4\n\n4 to 5")),))
    assert [s.end for s in example.completions[0].steps] == [6, 14]
    assert lines == pytest.approx(model.score_examples([example])[0][0].score)  # type: ignore[union-attr]
    given, same = model.score_steps(["Turn", "Turn"], [["2 to 4", "4 to 5"], ["2 to 4", "4 to 6"]])
    assert len(given.steps) == 2
    assert given.score == pytest.approx(min(given.steps))
    assert given.steps[0] == pytest.approx(same.steps[0], abs=1e-6)
    assert given.steps[1] != pytest.approx(same.steps[1], abs=1e-6)


def _completion(text: str) -> Any:
    from rmlab.batch import Completion

    return Completion(text=text)


def test_a_model_of_whole_completions_refuses_steps(models: dict[str, RewardModel]) -> None:
    with pytest.raises(UsageError, match=r"judges no steps; train with loss=prm or loss=orm"):
        models["llama"].score_steps(["Q"], [["a", "b"]])


def test_per_token_models_give_the_value_at_each_steps_end(models: dict[str, RewardModel]) -> None:
    """trlX's score is the value at the last token, which is where the last step ends."""
    found = models["gpt2 trlx"].score_steps(["Q"], [["one", "two"]])[0]
    assert found.steps[-1] == pytest.approx(found.score, abs=1e-6)
    assert found.steps[0] == pytest.approx(models["gpt2 trlx"].score(["Q"], ["one"])[0], abs=1e-5)


def test_no_gradient_and_fp32(models: dict[str, RewardModel]) -> None:
    model = models["llama"]
    assert {p.dtype for p in model._backbone.parameters()} == {torch.float32}
    assert torch.is_grad_enabled()
    model.score(["Q"], ["a"])
    assert all(p.grad is None for p in model._backbone.parameters())


IDS = st.lists(st.integers(3, 9), min_size=1, max_size=6).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(IDS, IDS, st.just(())), min_size=1, max_size=12), st.booleans(), st.integers(1, 40))
def test_a_plan_holds_every_job_once_and_respects_the_limit(jobs: list[Any], share: bool, max_tokens: int) -> None:
    """The limit counts padding: rows times the longest of them; only a single sequence may exceed it."""
    groups = list(plan(jobs, share=share, max_tokens=max_tokens))
    assert sorted(job for group in groups for job in group) == sorted(set(jobs))
    for group in groups:
        order, batch = batch_of(group, share)
        at, offset = ragged(batch.length_S)
        packed = batch.token_T[batch.at(at, offset)].split(batch.length_S.tolist())
        assert [ids.tolist() for ids in packed] == [list(completion) for _, completion, _ in order]
        if len(group) > 1:
            assert batch.tokens <= max_tokens
            longest = max(len(p) + len(c) for p, c, _ in group)
            assert share or len(group) * longest <= max_tokens


# --- models of others -------------------------------------------------------------------------------------------------


def classifier(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> PreTrainedModel:
    """Saves a random classification model as another tool would, and returns it."""
    tokens = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")
    }
    sizes = SHAPE | SIZES.get(family, dict(intermediate_size=48)) | tokens | dict(vocab_size=len(tokenizer))
    config = AutoConfig.for_model(family, **sizes, **(dict(num_labels=1) | options))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.2)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_foreign_decoder_is_read_where_transformers_reads_it(family: str, pad_is_end: bool, tmp_path: Path) -> None:
    """Trained with pad = EOS (TRL's fallback), the class reads before the EOS: so does rmlab."""
    tokenizer = gpt2_like() if pad_is_end else byte_tokenizer()
    model = classifier(tmp_path, family, tokenizer)
    found = RewardModel.load(tmp_path, device="cpu").score(PROMPTS, [answers[0] for answers in COMPLETIONS])
    ids = [tokenizer(p + answers[0])["input_ids"] for p, answers in zip(PROMPTS, COMPLETIONS, strict=True)]
    ids = [[*x, tokenizer.eos_token_id] if pad_is_end else x for x in ids]
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([x])).logits.item() for x in ids]
        at_end = [model.score(model.base_model(torch.tensor([x])).last_hidden_state)[0, -1, 0].item() for x in ids]
    assert found == pytest.approx(expected, abs=1e-5)
    assert (found == pytest.approx(at_end, abs=1e-4)) is not pad_is_end


@pytest.mark.parametrize("family", ["distilbert", "modernbert", "electra", "roberta", "deberta-v2"])
def test_any_encoder_is_run_as_its_class_runs_it(family: str, tmp_path: Path) -> None:
    sizes = dict(classifier_pooling="mean") if family == "modernbert" else {}
    sizes |= dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48) if family == "distilbert" else {}
    tokenizer = bert_like()
    model = classifier(tmp_path, family, tokenizer, **sizes)
    reward = RewardModel.load(tmp_path, device="cpu")
    with torch.no_grad():
        for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True):
            expected = []
            for answer in answers:
                inputs = tokenizer(prompt, answer, return_tensors="pt")
                expected.append(model(input_ids=inputs["input_ids"]).logits.item())
            assert reward.score([prompt], [answers])[0] == pytest.approx(expected, abs=1e-5)


def test_a_class_without_a_pad_token_is_run_one_sequence_at_a_time(tmp_path: Path) -> None:
    tokenizer = gpt2_like()
    tokenizer.pad_token = None
    model = classifier(tmp_path, "gpt2", tokenizer)
    assert model.config.pad_token_id is None
    expected = []
    with torch.no_grad():
        for answer in COMPLETIONS[0]:
            ids = [*tokenizer(PROMPTS[0] + answer)["input_ids"], tokenizer.eos_token_id]
            expected.append(model(input_ids=torch.tensor([ids])).logits.item())
    found = RewardModel.load(tmp_path, device="cpu").score(PROMPTS[:1], COMPLETIONS[:1])[0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_models_that_are_no_reward_models_are_refused(tmp_path: Path) -> None:
    classifier(tmp_path / "two", "gpt2", byte_tokenizer(), num_labels=2)
    with pytest.raises(UsageError, match=r"has 2 labels .* expected 1"):
        RewardModel.load(tmp_path / "two")
    model = classifier(tmp_path / "bare", "gpt2", byte_tokenizer())
    model.base_model.save_pretrained(tmp_path / "bare")
    with pytest.raises(UsageError, match=r"no trained weights for score\.weight, so its scores would be random"):
        RewardModel.load(tmp_path / "bare")


@torch.no_grad()
def published_trlx_score(trunk: Any, v_head: torch.Tensor, ids: list[int], pad: int) -> float:
    """`GPTRewardModel.forward` at inference: rewards = v_head(hidden); the value before the first pad (= EOS) after the
    prompt, or the last one (CarperAI/trlx, examples/summarize_rlhf/reward_model/reward_model.py)."""
    padded = torch.tensor([ids + [pad] * 3])
    rewards = (trunk(padded, attention_mask=(padded != pad).long()).last_hidden_state @ v_head.T)[0, :, 0]
    c_inds = (padded[0] == pad).nonzero()
    c_ind = int(c_inds[0]) if len(c_inds) else padded.shape[1]
    return float(rewards[c_ind - 1])


@pytest.mark.parametrize("form", ["folder", "safetensors", "file with base"])
def test_a_trlx_checkpoint_loads_and_scores(form: str, tmp_path: Path) -> None:
    tokenizer = gpt2_like()
    sizes = (
        SHAPE | SIZES["gptj"] | dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    )
    config = AutoConfig.for_model("gptj", **sizes)
    torch.manual_seed(0)
    trunk = AutoModel.from_config(config).eval()
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.2)
    v_head = torch.randn(1, 32)
    state = {f"transformer.{name}": tensor.contiguous() for name, tensor in trunk.state_dict().items()}
    state |= {"v_head.weight": v_head, "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)}
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint"
    checkpoint.mkdir()
    for folder in (base,) if form == "file with base" else (base, checkpoint):
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if form == "safetensors":
        save_file(state, checkpoint / "model.safetensors")
    else:
        torch.save(state, checkpoint / "pytorch_model.bin")
    if form == "file with base":
        with pytest.raises(UsageError, match=r"trlX checkpoint without config\.json; .* --base"):
            RewardModel.load(checkpoint)
        model = RewardModel.load(checkpoint / "pytorch_model.bin", base=base, device="cpu")
    else:
        model = RewardModel.load(checkpoint, device="cpu")
    for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = [tokenizer(prompt)["input_ids"] + tokenizer(answer)["input_ids"] for answer in answers]
        expected = [published_trlx_score(trunk, v_head, x, tokenizer.eos_token_id) for x in ids]
        assert model.score([prompt], [answers])[0] == pytest.approx(expected, abs=1e-5)


def test_a_trlx_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gptj", **SHAPE, **SIZES["gptj"], vocab_size=60)
    trunk = AutoModel.from_config(config)
    state = {f"transformer.{k}": v for k, v in trunk.state_dict().items() if "h.1" not in k}
    torch.save(state | {"v_head.weight": torch.zeros(1, 32)}, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"does not fit the model at .*h\.1"):
        RewardModel.load(tmp_path)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"v_head.weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"pytorch_model\.bin"):
        RewardModel.load(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_run_folder_stands_for_its_model(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llama"], tmp_path / "model")
    assert RewardModel.load(tmp_path, device="cpu").facts == RewardModel.load(folders["llama"], device="cpu").facts


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("no/such/folder", [], r"no/such/folder does not exist; type the path of a run's folder model/"),
        ("empty", ["notes.txt"], r"holds no model: neither rmlab\.json nor config\.json .* --model RUN/model"),
        ("run", ["config.yaml"], r"the run has not finished; .* ckpt_path=last hydra\.run\.dir="),
        ("broken", ["config.json"], r"no reward model could be loaded from there"),
        ("file", [], r"v_head"),
    ],
)
def test_a_path_without_a_model_says_what_is_missing(name: str, files: list[str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    for file in files:
        folder.mkdir(exist_ok=True)
        (folder / file).write_text("{}")
    if name == "file":
        folder.write_text("")
    with pytest.raises(UsageError, match=message):
        RewardModel.load(folder)


def test_a_hub_name_that_cannot_be_had_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"nobody/nothing-here: no reward model could be loaded"):
        RewardModel.load("nobody/nothing-here")


def test_facts_follow_the_model(folders: dict[str, Path]) -> None:
    model = RewardModel.load(folders["llama prm"], device="cpu")
    assert model.facts is not None
    assert (model.facts.rule, model.facts.reward_std) == ("min", 2.0)
    assert json.loads((folders["llama prm"] / "rmlab.json").read_text())["loss"] == PRM


def test_the_module_in_memory_and_the_folder_agree(tmp_path: Path) -> None:
    """bf16 on request: other weights, nearly the same scores, and the head still in fp32."""
    folder = exported(tmp_path / "model")
    exact, rough = (RewardModel.load(folder, device="cpu", dtype=d) for d in (torch.float32, torch.bfloat16))
    assert next(rough._head.parameters()).dtype == torch.float32
    a, b = exact.score(PROMPTS[:1], COMPLETIONS[:1])[0], rough.score(PROMPTS[:1], COMPLETIONS[:1])[0]
    assert a == pytest.approx(b, abs=0.2)
    assert a != pytest.approx(b, abs=1e-6)
    assert tiny_module()[0].loss.rule == exact.loss.rule
