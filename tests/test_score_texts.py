"""Texts that are prompt and completion in one piece score what the two apart score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rmlab import RewardModel
from rmlab.errors import UsageError
from rmlab.scoring.prefixes import KEPT, shared_prefixes
from tests.folders import COMPLETIONS, PROMPTS, bert_like, exported, gpt2_like

FLAT = [(p, c) for p, answers in zip(PROMPTS, COMPLETIONS, strict=True) for c in answers]
TRLX: dict[str, Any] = dict(
    loss={"_target_": "rmlab.losses.trlx.TrlxPairwise"}, head={"_target_": "rmlab.heads.v_head.ValueHead"}
)
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "bert": dict(readout="first", tokenizer=bert_like()),
    "gpt2 trlx": TRLX,
    "gptj": dict(tokenizer=gpt2_like()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_whole_text_is_begun_and_ended_as_in_training(name: str, tmp_path: Path) -> None:
    model = RewardModel.load(exported(tmp_path / "model", name.split()[0], **CASES[name]), device="cpu")
    expected = model.score([p for p, _ in FLAT], [c for _, c in FLAT])
    assert max(expected) - min(expected) > 0.02
    found = model.score_texts([p + c for p, c in FLAT])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "gptj", "bert"])
def test_as_written_is_what_transformers_reads_without_special_tokens(name: str, tmp_path: Path) -> None:
    """Each text alone through the folder's own class and tokenizer, the text cut at every length."""
    folder = exported(tmp_path / "model", name, **CASES[name])
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = PROMPTS[1] + COMPLETIONS[1][0]
    texts = [text[:end] for end in range(1, len(text))] + ["a<|endoftext|>", "a<eos>", "b"]
    with torch.no_grad():
        expected = [
            classifier(**tokenizer([t], return_tensors="pt", add_special_tokens=False)).logits.item() for t in texts
        ]
    found = RewardModel.load(folder, device="cpu").score_texts([*texts, ""], as_written=True)
    assert found[:-1] == pytest.approx(expected, abs=1e-5)
    assert found[-1] is None


def test_a_score_made_of_many_tokens_needs_to_know_where_the_completion_begins(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", loss={"_target_": "rmlab.losses.orm.OutcomeReward", "rule": "mean"})
    with pytest.raises(UsageError, match=r"\(mean\) is made of several tokens"):
        RewardModel.load(folder, device="cpu").score_texts(["ab"])


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), max_size=12))
def test_prefixes_put_together_again_are_the_sequences(sequences: list[tuple[int, ...]]) -> None:
    jobs = dict(shared_prefixes(sequences, share=True))
    assert set(jobs) == set(sequences)
    for ids, (prefix, rest, _) in jobs.items():
        assert prefix + rest == ids
        assert len(rest) >= min(KEPT, len(ids))


def test_generations_of_one_prompt_share_it() -> None:
    prompt = (5, 6, 7, 8)
    jobs = dict(shared_prefixes([(*prompt, 1, 9, 0), (*prompt, 2, 0), (4, 4, 4)], share=True))
    assert [jobs[ids][0] for ids in ((*prompt, 1, 9, 0), (*prompt, 2, 0), (4, 4, 4))] == [prompt, prompt, (4,)]
