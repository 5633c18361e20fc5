"""The model's side of the server: items -> jobs -> results.

Everything that costs is `RewardModel`'s: prompts shared by items of whatever requests are computed once. What is done
here is to find out what a client's text is (whole or in parts, with or without special tokens), to refuse in one
sentence what cannot be scored, and to see to it that nothing that is not a number leaves as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import final

from rmlab.batch import Completion, Example
from rmlab.data.tokenize import Encoder
from rmlab.scoring.batches import Ids, Job
from rmlab.scoring.model import RewardModel, Scored
from rmlab.scoring.prefixes import shared_prefixes
from rmlab.scoring.texts import question, solution, with_steps
from rmlab.serve.messages import Ask, Hello, Item, Pair, Refusal, Result, Scale, Whole

NOT_A_NUMBER = "the model gives something that is not a number (weights that overflow?); nothing is answered for it"
TELL_APART = (
    "this model judges the tokens or steps of a completion, so it must know where the completion begins; send prompt "
    "and completion apart (POST /v1/rewards, prompts in /get_reward, pairs in /predict), or ask POST /pooling"
)


@dataclass(frozen=True, slots=True)
class Work:
    """One item made into tokens: a job, or (`whole`) a text in one piece. steps: the texts of its steps."""

    job: Job
    whole: bool
    steps: tuple[str, ...] = ()

    @property
    def ids(self) -> Ids:
        """Returns all tokens of the sequence."""
        return self.job[0] + self.job[1]


@final
class Engine:
    """Scores items with a model. max_tokens: computed at once. max_request_tokens: of all items of a request."""

    def __init__(self, model: RewardModel, *, max_tokens: int, max_request_tokens: int) -> None:
        self._model, self.max_tokens, self._max_request_tokens = model, max_tokens, max_request_tokens
        encoder = model.encoder
        self._cutting = Encoder(encoder.tokenizer, max_length=encoder.max_length, overlong="truncate")

    def hello(self) -> Hello:
        """Returns what the front process wants to know of the model."""
        reads = self._model.loss.reads
        return Hello(
            max_length=self._model.encoder.max_length,
            scale=scale_of(reads, self._model.loss.rule),
            judges_tokens=self._judges_tokens,
            judges_steps=reads != "ends",
            device=str(self._model.device),
        )

    @property
    def _judges_tokens(self) -> bool:
        return self._model.loss.reads != "ends" and self._model.loss.rule != "scalar"

    def encode(self, ask: Ask) -> list[Work] | Refusal:
        """Returns a request's items as tokens, or why it is refused as a whole."""
        works: list[Work] = []
        for number, item in enumerate(ask.items):
            try:
                work = self._work(item, ask.by_token)
            except Exception as error:  # a chat template is somebody's code, and the text is anybody's
                work = f"it cannot be made into tokens ({type(error).__name__}: {error})"
            if isinstance(work, str):
                return Refusal(422, f"item {number} (counted from 0) cannot be scored: {work}")
            works.append(work)
        tokens = sum(len(work.ids) for work in works)
        if tokens > self._max_request_tokens:
            limit = self._max_request_tokens
            return Refusal(413, f"the request has {tokens} tokens, at most {limit} are taken; send it in parts")
        return works

    def _work(self, item: Item, by_token: bool) -> Work | str:
        if isinstance(item, Pair):
            return self._pair(item)
        if item.prompt is not None and (pair := self._parted(item)) is not None:
            return self._pair(pair)
        if self._judges_tokens and not by_token:
            return TELL_APART
        longest = self._model.encoder.max_length
        ids = tuple(self._whole_ids(item))
        if item.keep is not None:
            ids = self._cut(ids, min(item.keep, longest))
        if not ids:
            return "empty"
        if len(ids) > longest:
            return f"over-long: it has {len(ids)} tokens, at most {longest} are taken"
        return Work(((), ids, ()), whole=True)

    def _pair(self, item: Pair) -> Work | str:
        example = self._example(item)
        steps = tuple(text for text, _ in _step_texts(example.completions[0]))
        encoder = self._cutting if item.truncate else None
        jobs = self._model.jobs_of(example, encoder=encoder)
        return jobs if isinstance(jobs, str) else Work(jobs[0], whole=False, steps=steps)

    def _example(self, item: Pair) -> Example:
        if item.steps:
            return solution(item.prompt, item.steps)
        example = question(item.prompt, item.completion)
        reads = self._model.loss.reads
        if reads == "ends" or (reads == "tokens" and not isinstance(example.completions[0].text, str)):
            return example  # a template may move the lines of a message, and this score does not need them
        return replace(example, completions=tuple(map(with_steps, example.completions)))

    def _parted(self, item: Whole) -> Pair | None:
        """Returns the text cut behind its prompt and before its end marker, None if it does not begin with it."""
        tokenizer, suffix = self._model.encoder.tokenizer, self._model.encoder.suffix
        text, prompt = (_unpadded(text, tokenizer.pad_token) for text in (item.text, item.prompt or ""))
        if not text.startswith(prompt):
            return None
        return Pair(prompt=prompt, completion=text[len(prompt) :].removesuffix(tokenizer.decode(suffix)))

    def _whole_ids(self, item: Whole) -> Sequence[int]:
        """Returns the ids of a text in one piece; a marker that it holds already is not written twice."""
        encoder = self._model.encoder
        suffix, size = encoder.suffix, len(encoder.suffix)
        if not item.as_written:
            ids = encoder.whole(_unpadded(item.text, encoder.tokenizer.pad_token))
            while ids[-2 * size :] == suffix * 2:
                ids = ids[:-size]
            return self._model.read_part(ids)
        ids = list(encoder.tokenizer(item.text, add_special_tokens=False)["input_ids"])
        marker = encoder.tokenizer.eos_token
        # Some tokenizers take a marker off the end of a text because they would write it themselves.
        ended = bool(marker) and item.text.rstrip().endswith(marker) and ids[-size:] != suffix
        return self._model.read_part(ids + suffix if ended else ids)

    def _cut(self, ids: Ids, keep: int) -> Ids:
        """Returns the last `keep` tokens, behind the prefix that the model saw before every text."""
        prefix = tuple(self._model.encoder.prefix)
        if len(ids) <= keep:
            return ids
        if prefix and ids[: len(prefix)] == prefix and keep > len(prefix):
            return prefix + ids[len(ids) - keep + len(prefix) :]
        return ids[len(ids) - keep :]

    def cost(self, works: Iterable[Work], seen: set[Ids]) -> int:
        """Returns how many tokens these add to a batch; prompts in `seen` are there already, and new ones are added."""
        total = 0
        for work in works:
            prompt, completion, _ = work.job
            shared = self._model.shares_prompts and prompt in seen
            total += len(completion) + (0 if shared else len(prompt))
            seen.add(prompt)
        return total

    def scores(self, asked: Sequence[Sequence[Work]]) -> list[tuple[Result, ...] | Refusal]:
        """Returns the results of each request; the requests are computed together."""
        jobs: dict[Work, Job] = {work: work.job for works in asked for work in works if not work.whole}
        texts = dict(shared_prefixes(work.ids for works in asked for work in works if work.whole))
        jobs |= {work: texts[work.ids] for works in asked for work in works if work.whole}
        found = self._model.score_jobs(jobs.values(), max_tokens=self.max_tokens)
        return [self._results([(work, found[jobs[work]]) for work in works]) for works in asked]

    def _results(self, scored: Sequence[tuple[Work, Scored]]) -> tuple[Result, ...] | Refusal:
        if not all(isfinite(number) for _, one in scored for number in (one.score, *one.steps)):
            return Refusal(503, NOT_A_NUMBER)
        return tuple(self._result(work, one) for work, one in scored)

    def _result(self, work: Work, one: Scored) -> Result:
        reference = self._model.reference
        return Result(
            tokens=len(work.ids),
            score=one.score,
            z=None if reference is None else reference.z(one.score),
            percentile=reference.percentile(one.score) if reference and reference.quantiles else None,
            steps=tuple(zip(work.steps, one.steps, strict=False)),
        )

    def outputs(self, works: Sequence[Work]) -> tuple[Result, ...] | Refusal:
        """Returns what the model says at every token of a request's texts."""
        found = self._model.outputs([work.ids for work in works], max_tokens=self.max_tokens)
        if not all(bool(out_TC.isfinite().all()) for out_TC, _ in found):
            return Refusal(503, NOT_A_NUMBER)
        return tuple(
            Result(tokens=len(local_T), outputs=tuple(map(tuple, out_TC.tolist())), local=tuple(local_T.tolist()))
            for out_TC, local_T in found
        )


def scale_of(reads: str, rule: str) -> Scale:
    """Returns what a score of a loss is; see `Scale`."""
    if reads == "ends" or rule == "scalar":
        return "log-odds"
    return "log-probability" if rule == "product" else "probability"


def _step_texts(completion: Completion) -> list[tuple[str, int]]:
    """Returns the text of each step of a completion, and where it ends."""
    text = completion.text if isinstance(completion.text, str) else "".join(m["content"] for m in completion.text)
    begins = [0, *(step.end for step in completion.steps)]
    return [(text[a : step.end].strip("\n"), step.end) for a, step in zip(begins, completion.steps, strict=False)]


def _unpadded(text: str, pad: str | None) -> str:
    """Returns a text without the pad tokens that a batch of generations had on either side."""
    if pad:
        while text.startswith(pad):
            text = text.removeprefix(pad)
        while text.endswith(pad):  # where it is the end marker too, that is written again
            text = text.removesuffix(pad)
    return text
