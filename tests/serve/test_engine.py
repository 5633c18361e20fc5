"""What a client's text is: scored as the same text in parts, whichever special tokens it holds already."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from rmlab import RewardModel
from rmlab.serve.engine import Engine
from rmlab.serve.messages import Ask, Item, Pair, Refusal, Result, Whole
from tests.folders import bert_like, exported, gpt2_like
from tests.serve.models_for_tests import folder_of

PROMPT, COMPLETION = "What is 2 + 2?\n\n", "It is 4.\nOr is it?"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    root = tmp_path_factory.mktemp("models")
    folders = {name: folder_of(root, name) for name in ("bt", "prm", "orm")}
    folders["gpt2"] = exported(root / "gpt2", "gpt2", tokenizer=gpt2_like())
    folders["bert"] = exported(root / "bert", "bert", readout="first", tokenizer=bert_like())
    return {
        name: Engine(RewardModel.load(folder, device="cpu"), max_tokens=512, max_request_tokens=400)
        for name, folder in folders.items()
    }


def results(engine: Engine, *items: Item, by_token: bool = False) -> tuple[Result, ...] | Refusal:
    works = engine.encode(Ask(0, 0.0, items, by_token))
    if isinstance(works, Refusal):
        return works
    return engine.outputs(works) if by_token else engine.scores([works])[0]


def score(engine: Engine, item: Item) -> float:
    found = results(engine, item)
    assert not isinstance(found, Refusal), found
    return found[0].score


def offline(engine: Engine, prompt: Any = PROMPT, completion: Any = COMPLETION) -> float:
    return engine._model.score([prompt], [completion])[0]


def same(value: float) -> Any:
    return pytest.approx(value, abs=1e-5, rel=2e-6)


@pytest.mark.parametrize("name", ["bt", "gpt2", "bert"])
def test_markers_stand_once_whatever_the_text_holds(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    tokenizer = engine._model.encoder.tokenizer
    end = tokenizer.eos_token or tokenizer.sep_token
    front = tokenizer.cls_token or ""
    text = PROMPT + COMPLETION
    texts = [text, text + end, front + text + end, tokenizer.pad_token * 3 + text + end + tokenizer.pad_token * 2]
    expected = offline(engine)
    for given_text in texts[: 3 if name == "bert" else 4]:
        assert score(engine, Whole(text=given_text)) == same(expected), given_text
        assert score(engine, Whole(text=given_text, prompt=PROMPT)) == same(expected), given_text


def test_as_written_adds_nothing_and_loses_nothing(engines: dict[str, Engine]) -> None:
    """With its end marker a text scores as in training; without, the last token of the text itself is read."""
    engine, text = engines["bt"], PROMPT + COMPLETION
    assert score(engine, Whole(text=text + "<eos>", as_written=True)) == same(offline(engine))
    bare = score(engine, Whole(text=text, as_written=True))
    assert abs(bare - offline(engine)) > 1e-3
    ids = engine._model.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    out_TC, _ = engine._model.outputs([tuple(ids)], max_tokens=512)[0]
    assert bare == same(float(out_TC[-1, 0]))


@pytest.mark.parametrize("name", ["prm", "orm"])
def test_a_prompt_that_is_named_is_cut_off(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    for text in (PROMPT + COMPLETION, PROMPT + COMPLETION + "<eos>", f"<pad>{PROMPT}{COMPLETION}<eos><pad>"):
        assert score(engine, Whole(text=text, prompt=PROMPT)) == same(offline(engine))
    refused = results(engine, Whole(text=PROMPT + COMPLETION))
    assert isinstance(refused, Refusal)
    assert refused.status == 422
    assert "send prompt and completion apart" in refused.reason


@pytest.mark.parametrize(("name", "outputs"), [("prm", 3), ("orm", 1)])
def test_outputs_of_every_token(name: str, outputs: int, engines: dict[str, Engine]) -> None:
    """Against transformers: the backbone over the ids alone, the head over its states."""
    engine, items = engines[name], [Whole(text="Q one two"), Whole(text="R"), Whole(text="Q one two")]
    found = results(engine, *items, by_token=True)
    assert not isinstance(found, Refusal)
    model: Any = engine._model
    config = deepcopy(model._backbone.model.config)
    backbone = AutoModel.from_config(config, attn_implementation="eager").eval()
    backbone.load_state_dict(model._backbone.model.state_dict())
    for item, result in zip(items, found, strict=True):
        ids = torch.tensor([model.encoder.tokenizer(item.text)["input_ids"]])
        with torch.no_grad():
            expected = model._head(backbone(input_ids=ids, use_cache=False).last_hidden_state[0])
        assert torch.allclose(torch.tensor(result.outputs), expected, atol=1e-4)
        good = expected.softmax(1)[:, 2] if outputs == 3 else expected[:, 0].sigmoid()
        assert torch.allclose(torch.tensor(result.local), good, atol=1e-5)
        assert (result.tokens, len(result.outputs[0])) == (ids.shape[1], outputs)


def test_lines_are_the_steps_of_text_and_messages(engines: dict[str, Engine]) -> None:
    engine = engines["prm"]
    question = ({"role": "user", "content": "2 + 2?"},)
    texts = ["2 + 2 = 5", "  So 5."]
    plain, given_steps, said = (
        results(engine, item)[0]  # type: ignore[index]
        for item in (
            Pair(prompt="Q", completion="\n".join(texts)),
            Pair(prompt="Q", steps=tuple(texts)),
            Pair(prompt=question, completion=({"role": "assistant", "content": "\n\n".join(texts)},)),
        )
    )
    assert [text for text, _ in plain.steps] == [text for text, _ in given_steps.steps] == texts
    assert plain.steps == given_steps.steps
    assert [text for text, _ in said.steps] == texts
    assert said.score == same(min(p for _, p in said.steps))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Whole(text="x" * 500), r"item 0 .* over-long: it has 501 tokens, at most 128"),
        (Pair(prompt="x" * 500, completion="y"), r"item 0 .* over-long: more than 128 tokens"),
        (Pair(prompt="x", completion=" "), r"item 0 .* empty"),
        (Pair(prompt="x", completion="\ud800"), r"item 0 .* cannot be made into tokens"),
    ],
)
def test_what_cannot_be_scored_is_named(item: Item, message: str, engines: dict[str, Engine]) -> None:
    refused = results(engines["bt"], item)
    assert isinstance(refused, Refusal)
    assert refused.status == 422
    assert re.search(message, refused.reason), refused.reason


def test_a_request_has_a_limit_of_tokens(engines: dict[str, Engine]) -> None:
    refused = results(engines["bt"], *[Whole(text="x" * 99)] * 5)
    assert refused == Refusal(413, "the request has 500 tokens, at most 400 are taken; send it in parts")


def test_truncation_keeps_the_end(engines: dict[str, Engine]) -> None:
    engine, long = engines["bt"], "x" * 300 + "the end"
    assert score(engine, Whole(text=long, keep=50)) == same(score(engine, Whole(text=long[-49:])))  # and the marker
    assert score(engine, Whole(text=long, keep=10**9)) == same(score(engine, Whole(text=long[-127:])))
    assert score(engine, Pair(prompt=long, completion=" yes", truncate=True)) == same(
        offline(engine, long[-(128 - 5) :], " yes")
    )
    assert score(engines["bert"], Whole(text=long, keep=10**9)) == same(offline(engines["bert"], long[-126:-3], "end"))


words = st.text(st.sampled_from("ab \n"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=25)
@given(st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_no_mix_changes_a_score(engines: dict[str, Engine], asked: list[list[tuple[str, str]]], random: Any) -> None:
    """Requests of pairs and of whole texts, in one batch in any order, against each pair alone."""
    engine = engines["bt"]
    items: list[list[Item]] = [
        [Pair(prompt=p, completion=c) if random.random() < 0.5 else Whole(text=p + c, prompt=p) for p, c in pairs]
        for pairs in asked
    ]
    works = [engine.encode(Ask(0, 0.0, tuple(some))) for some in items]
    found = engine.scores(works)  # type: ignore[arg-type]
    for pairs, some in zip(asked, found, strict=True):
        assert [r.score for r in some] == [same(offline(engine, p, c)) for p, c in pairs]  # type: ignore[union-attr]
