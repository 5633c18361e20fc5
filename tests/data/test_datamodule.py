"""From a source to optimizer steps: what the loss cannot use is set aside, prompts stay whole, and a loader resumes."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmlab.batch import Completion, Example, StepOfBatches
from rmlab.data.datamodule import PreferenceDataModule, ahead, from_files, from_world
from rmlab.data.source import SetAside
from rmlab.errors import UsageError
from rmlab.losses.margin import Margin
from rmlab.losses.orm import OutcomeReward
from rmlab.model.builtin import byte_tokenizer
from tests.data.sources_for_tests import Memory, data_module, pair

ROWS = [pair(f"prompt {i}", good=f"good {i}", row=i) for i in range(30)]


def first_ids(steps: Any) -> list[list[str]]:
    """Returns the ids of the prompts of each step."""
    return [sorted(chain(*(batch.ids for batch in step.batches))) for step in steps]


# --- what is used


def test_what_the_loss_cannot_use_is_set_aside_and_counted(tmp_path: Path) -> None:
    def check(example: Example) -> str | None:
        return "an odd row" if int(example.id.split(":")[1]) % 2 else None

    rows = [*ROWS, SetAside(reason="malformed", where="train.jsonl:99")]
    data = data_module(Memory(train=rows), tmp_path, check=check)
    accounts = data.accounts()
    assert sum(a.used for a in accounts.values()) == 15
    assert sum(a.read for a in accounts.values()) == 31
    assert sum(a.set_aside.get("an odd row", 0) for a in accounts.values()) == 15
    assert accounts["train"].set_aside["malformed"] == 1
    for split, account in accounts.items():
        assert len(data.splits[split]) == account.used


def test_the_check_sees_every_fact_that_was_judged(tmp_path: Path) -> None:
    """All but the texts: what `Loss.check` asks about, as the source gave it."""
    seen: list[Example] = []
    data = from_world(
        prompts=6,
        val_prompts=2,
        completions=3,
        length=2,
        noise=0.3,
        neutral=0.15,
        temperature=0.25,
        world_seed=1,
        tokenizer=byte_tokenizer(),
        check=lambda example: seen.append(example),
        share_prompts=True,
        seed=1,
        cache_dir=tmp_path,
    )
    data.setup()
    expected = [*data.source.read("train"), *data.source.read("val")]
    assert [e.id for e in seen] == [e.id for e in expected if isinstance(e, Example)]
    for found, wanted in zip(seen, expected, strict=True):
        assert isinstance(wanted, Example)
        assert [c.outcome for c in found.completions] == [c.outcome for c in wanted.completions]
        assert [len(c.steps) for c in found.completions] == [len(c.steps) for c in wanted.completions]
        assert [[s.label for s in c.steps] for c in found.completions] == [
            [s.label for s in c.steps] for c in wanted.completions
        ]
        assert [r.order for r in found.rankings] == [r.order for r in wanted.rankings]
        for one, other in zip(found.rankings, wanted.rankings, strict=True):
            assert one.grades == pytest.approx(other.grades, rel=1e-6)


def test_missing_facts_reach_the_check_as_missing(tmp_path: Path) -> None:
    seen: list[Example] = []
    data_module(Memory(train=ROWS), tmp_path, check=lambda example: seen.append(example))
    assert all(isnan(c.outcome) and c.steps == () and c.attributes == () for e in seen for c in e.completions)
    assert all(r.grades == () for e in seen for r in e.rankings)


@pytest.mark.parametrize(("loss", "column"), [(OutcomeReward(), "outcome|label"), (Margin(), "grade")])
def test_data_that_a_loss_cannot_use_at_all_is_an_error(loss: Any, column: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=rf"no usable row in the train data: read \d+, \d+ x .*{column}.*train\.jsonl:"
    ):
        data_module(Memory(train=ROWS), tmp_path, check=loss.check)
    with pytest.raises(UsageError, match=rf"^train\.jsonl:\d+: .*{column}.*; type data\.on_bad_row=skip"):
        data_module(Memory(train=ROWS), tmp_path, check=loss.check, on_bad_row="error")


def test_no_rows_and_no_validation_rows_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no usable row in the train data: read 0, no rows; see data\.path"):
        data_module(Memory(train=[], val=ROWS), tmp_path)
    with pytest.raises(UsageError, match=r"no usable row in the val data: .*data\.val=FILE .*data\.val_fraction"):
        data_module(Memory(train=ROWS), tmp_path, val_fraction=1e-6)
    with pytest.raises(UsageError, match=r"no usable row in the train data: read 2, 2 x empty \(first .*\.jsonl:3\)"):
        data_module(Memory(train=[pair("a", good="", row=3), pair("b", bad="", row=4)], val=ROWS), tmp_path)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options, message in [
        ({"on_bad_row": "stop"}, r"data\.on_bad_row=stop does not exist; type skip or error"),
        ({"prompts_per_step": 0}, r"data\.prompts_per_step is 0, expected 1 or more"),
        ({"workers": -1}, r"data\.workers is -1, expected 0 or more, or null"),
        ({"workers": "all"}, r"data\.workers is all, expected 0 or more, or null"),
        ({"val_prompts_per_step": 0}, r"data\.val_prompts_per_step is 0, expected 1 or more"),
        ({"val_fraction": 0.0}, r"data\.val_fraction is 0\.0, expected a number between 0 and 1"),
        ({"max_tokens": 10}, r"the prompt of train\.jsonl:\d+ has \d+ tokens .*type data\.max_tokens=\d+ or a smaller"),
    ]:
        with pytest.raises(UsageError, match=message):
            data_module(Memory(train=ROWS), tmp_path, **options)


def test_the_token_limit_that_is_named_is_enough(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        data_module(Memory(train=ROWS), tmp_path, max_tokens=10)
    named = int(str(caught.value).split("data.max_tokens=")[2].split()[0])
    data = data_module(Memory(train=ROWS), tmp_path, max_tokens=named)
    assert max(b.tokens for step in data.train_dataloader() for b in step.batches) <= named


# --- steps


letters = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.sampled_from("uvw")), min_size=8)


@settings(deadline=None, max_examples=30)
@given(
    rows=letters,
    share=st.booleans(),
    ghosts=st.booleans(),
    per_step=st.integers(1, 4),
    budget=st.sampled_from([40, 90, 100_000]),
)
def test_a_prompt_stays_whole_whatever_the_duplicates(
    rows: list[tuple[str, str, str]],
    share: bool,
    ghosts: bool,
    per_step: int,
    budget: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every row once an epoch; all rows of a prompt in one micro-batch; sizes never below what is packed."""
    items = [pair(p, good=g * (1 + i % 4), bad=b, row=i) for i, (p, g, b) in enumerate(rows)]
    source = Memory(train=items, val=[pair("unlike the others")])
    cache = tmp_path_factory.mktemp("cache")
    data = data_module(source, cache, share_prompts=share, ghosts=ghosts, prompts_per_step=per_step)
    prompts = data.splits["train"]
    data.max_tokens = max(budget, int(prompts.tokens.max()))
    batches = [batch for step in data.train_dataloader() for batch in step.batches]
    assert sorted(Counter(int(p) for batch in batches for p in batch.prompt_G).items()) == [
        (p, 1) for p in range(len({p for p, _, _ in rows}))
    ]
    for batch in batches:
        assert batch.tokens <= int(prompts.tokens[batch.prompt_G.tolist()].sum()) <= data.max_tokens
        for group, prompt in enumerate(batch.prompt_G.tolist()):
            own = [items[i] for i in prompts.rows_of(prompt)]
            assert len({item.prompt for item in own}) == 1
            distinct = {c.text for item in own for c in item.completions}
            assert int((batch.group_S == group).sum()) == len(distinct)
    judged = sum(batch.order_RK.shape[0] for batch in batches)
    assert judged == len(rows)


def test_sizes_are_exact_without_duplicates(tmp_path: Path) -> None:
    rows = [Example(prompt="p", completions=tuple(Completion(text=t) for t in "abc"), id="train.jsonl:1"), ROWS[0]]
    for share in (True, False):
        data = data_module(Memory(train=rows, val=[ROWS[1]]), tmp_path, share_prompts=share)
        prompts = data.splits["train"]
        for prompt in range(2):
            (batch,) = prompts[[(prompt,)]].batches
            assert batch.tokens == prompts.tokens[prompt]
            seen = (batch.until_T - torch.arange(batch.tokens)).sum()  # a token is seen from its own place on
            whole = ((batch.position_T[batch.end_S] + 1) ** 2).sum()
            assert prompts.pairs[prompt] == (seen if share else whole)


@pytest.mark.parametrize("share", [True, False])
def test_ghosts_count(share: bool, tmp_path: Path) -> None:
    """Two rows of one prompt, completions of 1 to 7 letters that share no opening: all as long as the longest."""
    rows = [pair("p", good="a", bad="bcd", row=0), pair("p", good="efghijk", bad="l", row=1), pair("q", row=2)]
    data = data_module(Memory(train=rows, val=[ROWS[1]]), tmp_path, share_prompts=share, ghosts=True)
    prompts = data.splits["train"]
    batch = prompts.batch([0])
    assert prompts.tokens[0] == batch.tokens
    longest = int((batch.position_T.max() + 1) - batch.position_T[batch.start_S[0]])
    before = int(batch.position_T[batch.start_S[0]])
    triangle = before * (before + 1) // 2
    inside = 4 * (before * longest + longest * (longest + 1) // 2) + triangle
    assert prompts.pairs[0] == (inside if share else 4 * (before + longest) ** 2)


def test_steps_are_shuffled_by_seed_and_epoch_and_validation_is_not(tmp_path: Path) -> None:
    orders = []
    for seed in (1, 1, 2):
        data = data_module(Memory(train=ROWS, val=[pair(f"v{i}", row=i) for i in range(9)]), tmp_path, seed=seed)
        orders.append(first_ids(data.train_dataloader()))
        val = [i for step in data.val_dataloader() for batch in step.batches for i in batch.prompt_G.tolist()]
        assert val == list(range(9))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(chain(*orders[0])) == sorted(chain(*orders[2])) == sorted(row.id for row in ROWS)
    assert [len(step) for step in orders[0]] == [4] * 7 + [2]
    loader = data.train_dataloader()
    assert data.steps_per_epoch == len(loader) == 8
    loader.sampler.set_epoch(1)
    assert first_ids(loader) != orders[2]


def test_sources_have_one_number_in_both_splits(tmp_path: Path) -> None:
    train = [pair(f"t{i}", row=i, source="web" if i % 2 else "books") for i in range(6)]
    data = data_module(Memory(train=train, val=[pair("v", source="forum"), pair("w", source="web")]), tmp_path)
    assert data.sources == ["books", "forum", "web"]
    numbers = {
        name: batch.source_G[k].item()
        for step in data.train_dataloader()
        for batch in step.batches
        for k, name in enumerate(batch.ids)
    }
    assert numbers == {row.id: data.sources.index(row.source) for row in train}
    (step,) = data.val_dataloader()
    assert step.batches[0].source_G.tolist() == [1, 2]


def test_texts_of_a_validation_prompt_in_slot_order(tmp_path: Path) -> None:
    """Rows of a prompt are merged: the third row's answers are the first row's second and a new one."""
    val = [pair("first", "A", "B"), pair("second: é\n", "C", "D"), pair("first", "B", "E")]
    data = data_module(Memory(train=ROWS, val=val), tmp_path)
    prompt, answers = data.texts(0)
    assert prompt == "first"
    assert [a.removesuffix("<eos>") for a in answers] == ["A", "B", "E"]
    assert data.texts(1)[0] == "second: é\n"
    (step,) = data.val_dataloader()
    batch = step.batches[0]
    own = (batch.group_S == 0).nonzero()[:, 0].tolist()
    for s in own:
        ids = batch.token_T[int(batch.start_S[s]) : int(batch.end_S[s]) + 1]
        assert byte_tokenizer().decode(ids) == answers[int(batch.slot_S[s])]


# --- going on in the middle


def test_steps_are_prepared_ahead_where_a_gpu_would_wait() -> None:
    assert ahead(None, "cpu") == {"num_workers": 0, "persistent_workers": False, "pin_memory": False}
    assert ahead(None, "cuda") == {"num_workers": 2, "persistent_workers": True, "pin_memory": True}
    assert ahead(0, "cuda") == {"num_workers": 0, "persistent_workers": False, "pin_memory": True}
    assert ahead(3, "cpu") == {"num_workers": 3, "persistent_workers": True, "pin_memory": False}


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 3, 8])
def test_a_loader_goes_on_where_another_stopped(taken: int, workers: int, tmp_path: Path) -> None:
    """A worker prepares steps ahead; what counts is what was handed out. After the last step the next epoch follows."""
    data = data_module(Memory(train=ROWS, val=[pair("v")]), tmp_path, workers=workers)
    whole = data.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        whole.sampler.set_epoch(epoch)
        epochs.append(first_ids(whole))
    first = data.train_dataloader()
    steps = iter(first)
    assert first_ids(islice(steps, taken)) == epochs[0][:taken]
    state = first.state_dict() if taken else data.train_dataloader().state_dict()
    assert state == {"epoch": 0, "step": taken}
    second = data.train_dataloader()
    second.load_state_dict(state)
    assert first_ids(second) == (epochs[0][taken:] if taken < 8 else epochs[1])
    second.sampler.set_epoch(1)
    assert first_ids(second) == epochs[1]  # only the first pass was shortened


def test_files_and_worlds_make_the_same_kind_of_module(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f'{{"prompt": "p{i}", "chosen": "a", "rejected": "b"}}\n' for i in range(20)) + "broken\n")
    data = from_files(
        str(file),
        tokenizer=byte_tokenizer(),
        check=lambda example: None,
        share_prompts=True,
        seed=1,
        cache_dir=tmp_path,
        val_fraction=0.3,
    )
    assert isinstance(data, PreferenceDataModule)
    data.setup()
    assert data.accounts()["train"].first == {"malformed": "pairs.jsonl:21"}
    assert isinstance(next(iter(data.train_dataloader())), StepOfBatches)
