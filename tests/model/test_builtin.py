"""The built-in tokenizer: any text there and back, one <eos> at the end, the same after saving."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rmlab.data.synthetic import World
from rmlab.model.builtin import EOS, PAD, WORDS, byte_tokenizer

# No special token's text inside: it is that token there, as in every tokenizer.
TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: EOS not in text and PAD not in text)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(text=TEXT)
def test_any_text_comes_back_and_ends_in_one_eos(text: str) -> None:
    ids = tokenizer()(text)["input_ids"]
    assert tokenizer().decode(ids[:-1]) == text
    assert ids[-1] == tokenizer().eos_token_id
    assert ids.count(tokenizer().eos_token_id) == 1
    assert tokenizer()(text, add_special_tokens=False)["input_ids"] == ids[:-1]


@given(text=TEXT.filter(bool))
def test_an_eos_that_the_text_has_already_is_not_doubled(text: str) -> None:
    assert tokenizer()(text + EOS)["input_ids"] == tokenizer()(text)["input_ids"]


def test_text_outside_the_worlds_words_is_bytes() -> None:
    """é is the bytes C3 A9; no text can meet an unknown token."""
    assert len(tokenizer()("é", add_special_tokens=False)["input_ids"]) == 2
    ids = tokenizer()("xyz Q#", add_special_tokens=False)["input_ids"]
    assert tokenizer().convert_ids_to_tokens(ids) == ["x", "y", "z", "Ġ", "Q", "#"]


@pytest.mark.parametrize("word", WORDS)
def test_each_word_of_the_world_is_one_token(word: str) -> None:
    assert len(tokenizer()(word, add_special_tokens=False)["input_ids"]) == 1


def test_a_line_of_the_world_is_two_tokens_and_a_redundant_one_is_one() -> None:
    completions = (c for i in range(50) for c in World(50, 1).example("train", i).completions)
    for completion in completions:
        lines = [2 - (step.label == 0) for step in completion.steps]
        assert len(tokenizer()(str(completion.text))["input_ids"]) == sum(lines) + 1


@given(text=TEXT)
def test_a_saved_tokenizer_is_the_same(reloaded: PreTrainedTokenizerBase, text: str) -> None:
    for written in (text, text + EOS, text + PAD + text):
        assert reloaded(written)["input_ids"] == tokenizer()(written)["input_ids"]
    assert reloaded.decode(reloaded(text)["input_ids"], skip_special_tokens=True) == text


def test_pad_is_not_eos_and_pads_on_the_right(reloaded: PreTrainedTokenizerBase) -> None:
    for made in (tokenizer(), reloaded):
        assert (made.pad_token, made.eos_token) == (PAD, EOS)
        assert made.pad_token_id != made.eos_token_id
        rows = made(["a", "abc"], padding=True)["input_ids"]
        assert rows[0] == [*made("a")["input_ids"], made.pad_token_id, made.pad_token_id]
