"""One reward for TRL, trlX and a loop: a GRPO run sees the same numbers from the callable and from the folder."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerBase

from rmlab import RewardModel
from rmlab.errors import RunError, UsageError
from rmlab.model.builtin import byte_tokenizer
from rmlab.rewards import RewardFunction
from tests.folders import COMPLETIONS, PROMPTS, bert_like, exported, gpt2_like

FLAT = [(p, c) for p, answers in zip(PROMPTS, COMPLETIONS, strict=True) for c in answers]
TEXTS, ANSWERS = [p for p, _ in FLAT], [c for _, c in FLAT]
CHAT = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token + '\n' }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
PRM = dict(loss={"_target_": "rmlab.losses.prm.ProcessReward"}, head={"_target_": "rmlab.heads.linear.LinearHead"})
ORM = dict(loss={"_target_": "rmlab.losses.orm.OutcomeReward", "rule": "mean"}, head=PRM["head"])


def policy(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A random model for which the end marker is about a twelfth as probable as all others together."""
    torch.manual_seed(0)
    sizes = dict(n_embd=16, n_layer=1, n_head=2, n_positions=128, vocab_size=len(tokenizer))
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = AutoModelForCausalLM.from_config(GPT2Config(**sizes, **ids))
    with torch.no_grad():  # logits are <wte, norm>, and the norm's bias points to the end marker
        model.transformer.ln_f.bias[0] = 4.0
        model.transformer.wte.weight[tokenizer.eos_token_id, 0] = math.log(len(tokenizer) / 12) / 4
    return model


def grpo(reward: Any, prompts: list[Any], folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any, Any]:
    """Three steps of GRPO. Returns every reward that TRL saw, every completion, and what it logged."""
    from trl import GRPOConfig, GRPOTrainer

    rewards: list[float] = []
    completions: list[Any] = []
    ended: list[bool] = []

    class Recording(GRPOTrainer):
        def _calculate_rewards(self, inputs: Any, prompts: Any, answers: Any, ids: Any) -> Any:
            found = super()._calculate_rewards(inputs, prompts, answers, ids)
            rewards.extend(found[:, 0].tolist())
            completions.extend(answers)
            ended.extend(own[-1] == tokenizer.eos_token_id for own in ids)
            return found

    options = GRPOConfig(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=6,
        num_generations=3,
        max_completion_length=8,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=3,
    )
    rows = Dataset.from_list([{"prompt": p, "original_output": "x", "answer": i} for i, p in enumerate(prompts)])
    trainer = Recording(
        model=policy(tokenizer), reward_funcs=reward, args=options, train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    assert 0 < sum(ended) < len(ended)  # some were cut off at max_completion_length
    return rewards, completions, [row["rewards/model/mean"] for row in trainer.state.log_history if "reward" in row]


CASES: dict[str, dict[str, Any]] = {
    "llama plain": {},
    "llama conversational": {},
    "gpt2 plain": dict(tokenizer=gpt2_like()),  # no BOS, no end marker of its own, pad = EOS
    "bert plain": dict(readout="first", tokenizer=bert_like()),
}


@pytest.mark.parametrize("name", CASES)
def test_grpo_sees_the_same_rewards_from_the_callable_and_from_the_folder(name: str, tmp_path: Path) -> None:
    options = CASES[name]
    tokenizer = byte_tokenizer()
    prompts: list[Any] = ["What is 2 + 2?", "Say héllo!", "Q"]
    if "conversational" in name:
        tokenizer.chat_template = CHAT
        options = options | dict(tokenizer=tokenizer)
        prompts = [[{"role": "user", "content": text}] for text in prompts]
    folder = exported(tmp_path / "model", name.split()[0], **options)
    reward = RewardFunction(folder, device="cpu")
    by_callable = grpo(reward, prompts, tmp_path / "a", tokenizer)
    by_folder = grpo(str(folder), prompts, tmp_path / "b", tokenizer)
    assert len(by_callable[0]) == 18
    assert max(by_callable[0]) - min(by_callable[0]) > 0.1
    assert by_callable[0] == pytest.approx(by_folder[0], abs=1e-4)
    assert by_callable[1] == by_folder[1]  # the same rewards moved the policy in the same way
    assert by_callable[2] == pytest.approx(by_folder[2], abs=1e-4)
    assert len(by_callable[2]) == 3
    # The markers of training are another number: the test would not see a callable that always adds them.
    texts = prompts[:1] * 2
    answers: list[Any] = [" 4", " five"]
    if "conversational" in name:
        answers = [[{"role": "assistant", "content": text}] for text in answers]
    trained = RewardFunction(folder, device="cpu", as_trained=True)
    as_trained = trained(prompts=texts, completions=answers, completion_ids=[[1], [1]])
    assert as_trained == pytest.approx(RewardModel.load(folder, device="cpu").score(texts, answers), abs=1e-6)
    assert as_trained != pytest.approx(reward(prompts=texts, completions=answers, completion_ids=[[1], [1]]), abs=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("rewards") / "model")


@pytest.fixture(scope="module")
def scores(folder: Path) -> list[float]:
    return RewardModel.load(folder, device="cpu").score(TEXTS, ANSWERS)


@pytest.fixture(scope="module")
def reward(folder: Path) -> RewardFunction:
    return RewardFunction(folder, device="cpu")


def test_a_loop_gets_the_scores_of_the_model(reward: RewardFunction, scores: list[float]) -> None:
    assert reward(TEXTS, ANSWERS) == pytest.approx(scores, abs=1e-6)
    assert reward(prompts=TEXTS, completions=ANSWERS, temperature=0.7) == pytest.approx(scores, abs=1e-6)
    chat = [[{"role": "user", "content": "Hi"}]]
    assert reward(chat, [[{"role": "assistant", "content": "Yo"}]]) == reward(chat, ["Yo"])


def test_trlx_gets_the_scores_of_the_model(reward: RewardFunction, scores: list[float]) -> None:
    """As trlX calls it: keywords, the policy's tokenizer, and its EOS after the outputs that ended."""
    tok = gpt2_like()
    ended = [c + tok.eos_token if i % 2 else c for i, c in enumerate(ANSWERS)]
    samples = [p + c for p, c in zip(TEXTS, ended, strict=True)]
    for given in (
        dict(samples=samples, prompts=TEXTS, outputs=ended, model_tok=tok, score=[0] * 6),
        dict(samples=samples, prompts=TEXTS, model_tok=tok),
        dict(samples=samples, model_tok=tok),
    ):
        assert reward(**given) == pytest.approx(scores, abs=1e-5)
    assert reward([p + c for p, c in FLAT]) == pytest.approx(scores, abs=1e-5)


def test_trlx_gets_the_difference_to_a_reference(folder: Path, reward: RewardFunction, scores: list[float]) -> None:
    """Worked out with the model itself: score(prompt, output) - score(prompt, reference)."""
    references = [f" reference {i}" for i in range(6)]
    model = RewardModel.load(folder, device="cpu")
    expected = [a - b for a, b in zip(scores, model.score(TEXTS, references), strict=True)]
    samples = [p + c for p, c in FLAT]
    found = reward(samples, prompts=TEXTS, outputs=ANSWERS, original_output=references)
    assert found == pytest.approx(expected, abs=1e-5)
    table = {prompt: f" of {prompt}" for prompt in PROMPTS}
    mapped = RewardFunction(folder, device="cpu", reference=table)
    others = model.score(TEXTS, [table[p] for p in TEXTS])
    expected = [a - b for a, b in zip(scores, others, strict=True)]
    assert mapped(samples=samples, prompts=TEXTS, outputs=ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert mapped(TEXTS, ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert mapped([f" {TEXTS[0]}\n"], ANSWERS[:1]) != mapped(TEXTS[:1], ANSWERS[:1])  # found by its bare text
    with pytest.raises(UsageError, match=r"reference has no completion for the prompt 'new'"):
        mapped(["new"], ["a"])
    with pytest.raises(UsageError, match=r"pass prompts= too"):
        mapped(samples)


@pytest.mark.parametrize("options", [PRM, ORM], ids=["prm", "orm"])
def test_steps_and_tokens_are_rewards_by_their_rule(options: dict[str, Any], tmp_path: Path) -> None:
    """TRL could not load these folders, so the callable reads them as trained whoever calls."""
    folder = exported(tmp_path / "model", **options)
    answers = ["2 to 4\n4 to 5", "6"]
    expected = RewardModel.load(folder, device="cpu").score(["Turn", "Turn"], answers)
    reward = RewardFunction(folder, device="cpu")
    assert reward(["Turn", "Turn"], answers) == pytest.approx(expected)
    assert reward(prompts=["Turn", "Turn"], completions=answers, completion_ids=[[1], [2]]) == pytest.approx(expected)
    with pytest.raises(UsageError, match=r"made of several tokens"):
        reward(["Turn2 to 4"])


def test_what_has_no_score_is_left_out_by_trl_and_named_elsewhere(folder: Path, reward: RewardFunction) -> None:
    given = dict(prompts=["Q", "", "Q"], completions=["a", "", "Q" * 200], completion_ids=[[1], [], [2]])
    found = reward(**given)
    assert (found[0] is None, found[1], found[2] is None) == (False, None, False)  # TRL has no longest text
    trained = RewardFunction(folder, device="cpu", as_trained=True)
    assert [x is None for x in trained(**given)] == [False, True, True]
    with pytest.raises(RunError, match=r"completion 1 \(counted from 0\) of 2 has no score .* unscorable=-1\.0"):
        reward(["Q", "Q"], ["a", " "])
    numbered = RewardFunction(folder, device="cpu", unscorable=-9.0, reference={"Q": "b"})
    assert numbered(["Q", "Q"], ["a", " "])[1] == -9.0


def test_calls_of_nobody_are_refused(reward: RewardFunction) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((["a"], ["b"], ["c"]), {}),
        ((["a"], ["b"]), dict(prompts=["a"])),
        ((), dict(prompts=["a"])),
    ]
    for texts, given in calls:
        with pytest.raises(UsageError, match=r"type reward\(prompts, completions\)"):
            reward(*texts, **given)
    with pytest.raises(UsageError, match=r"as many completions"):
        reward(["a", "b"], ["c"])


def test_it_has_a_name_and_can_be_sent_to_another_process(reward: RewardFunction, scores: list[float]) -> None:
    assert reward.__name__ == "model"
    assert pickle.loads(pickle.dumps(reward))(TEXTS, ANSWERS) == pytest.approx(scores, abs=1e-6)
