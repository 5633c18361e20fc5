"""Items as clients send them -> tokens: what a text is (whole or in parts, with or without special tokens).

Markers stand once, where training put them, whether a client wrote them, left them out or padded around them; only
`as_written` leaves a text as it came. What cannot be scored is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from rmlab.batch import Completion, Example
from rmlab.data.tokenize import Encoder
from rmlab.scoring.batches import Ids, Job
from rmlab.scoring.model import RewardModel
from rmlab.scoring.texts import question, solution, with_steps
from rmlab.serve.messages import Ask, Item, Pair, Refusal, Whole

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
class Reader:
    """Makes the items of requests into tokens for a model. max_request_tokens: of all items of a request."""

    def __init__(self, model: RewardModel, max_request_tokens: int) -> None:
        self._model, self._max_request_tokens = model, max_request_tokens
        encoder = model.encoder
        self._cutting = Encoder(encoder.tokenizer, max_length=encoder.max_length, overlong="truncate")

    @property
    def judges_tokens(self) -> bool:
        """Returns whether a score is made of several tokens or steps, so that the completion must be told apart."""
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
            work = self._pair(pair)
            if work != "empty" or self.judges_tokens:
                return work  # else a policy stopped at once, and the text is scored in one piece
        if self.judges_tokens and not by_token:
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
        return Pair(prompt=prompt, completion=text[len(prompt) :].removesuffix(str(tokenizer.decode(suffix))))

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
