"""`RewardModel`: load a reward model from anywhere, score completions and steps.

    model = RewardModel.load("runs/.../model")
    model.score(["What is 2 + 2?"], ["4"])                 -> [3.1]
    model.score(["What is 2 + 2?"], [["4", "5"]])          -> [[3.1, -2.0]]
    model.score_steps(["What is 2 + 2?"], [["2 + 2 = 5", "So 5."]])

Text becomes tokens exactly as in training. A score does not depend on what it is computed with, in which order, or in
batches of which size. Left out: normalisation; `model.facts` has the mean and spread of the validation set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rmlab.batch import Batch, Example
from rmlab.data.tokenize import Encoder
from rmlab.errors import RunError, UsageError
from rmlab.scoring.batches import Job, batch_of, plan
from rmlab.scoring.load import load
from rmlab.scoring.parts import Loaded
from rmlab.scoring.texts import check_lengths, is_text, question, solution, with_steps

MAX_TOKENS = 16384  # tokens computed at once unless the caller says otherwise


@dataclass(frozen=True, slots=True)
class Scored:
    """One completion: its score and, where the model judges steps or tokens, a number for each of its steps.

    A step's number is the probability that it is right (`orm`: that the solution is, seen from the step's end; `trlx`:
    the value there).
    """

    score: float
    steps: tuple[float, ...] = ()


Result = tuple[Scored, ...] | str  # an example's completions scored, or why it cannot be


@final
class RewardModel:
    """A reward model that scores. Make one with `load`.

    Attributes: `facts`, what `rmlab.json` says of the model, None for a model that rmlab did not train; `loss`, which
    says what is read and how it becomes a score; `device`.
    """

    def __init__(self, loaded: Loaded, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.loss, self.facts = loaded.loss, loaded.facts
        parts = (loaded.backbone, loaded.readout, loaded.head, loaded.loss)
        for part in parts:
            part.to(self.device).eval()
        self._backbone, self._readout, self._head = loaded.backbone, loaded.readout, loaded.head
        self._share, self._unread_id = loaded.shares_prompts, loaded.unread_id
        self._encoder = Encoder(loaded.tokenizer, max_length=loaded.max_length, overlong=loaded.overlong)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
        base: str | Path | None = None,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RewardModel:
        """Returns the model at `path`.

        path: a model folder or run folder of rmlab, a folder or hub name of any `AutoModelForSequenceClassification`
        with one label, or a trlX `GPTRewardModel` checkpoint (folder or file; `base` then has the configuration and the
        tokenizer if it does not). device: default a GPU if there is one. max_length: longest prompt with completion in
        tokens, default that of training or, for other models, what the architecture takes. dtype: of the backbone; the
        head runs in fp32. Raises `UsageError` if there is no such model.
        """
        chosen = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded = load(
            str(path), base=None if base is None else str(base), trust_remote_code=trust_remote_code, dtype=dtype
        )
        return cls(loaded if max_length is None else replace(loaded, max_length=max_length), chosen)

    def score(self, prompts: Any, completions: Any, *, max_tokens: int = MAX_TOKENS) -> list[Any]:
        """Returns a score per prompt, in order: a float, or a list of them where a list of completions was given.

        prompts: a list of texts or of conversations (lists of messages). completions: as many, each a text, a list of
        messages, or a list of either. max_tokens: computed at once, a limit of memory that changes no score.
        Raises `UsageError` naming the first prompt that cannot be scored.
        """
        check_lengths(prompts, completions)
        examples = [question(prompt, answers) for prompt, answers in zip(prompts, completions, strict=True)]
        scored = _all(self.score_examples(examples, max_tokens=max_tokens))
        return [
            row[0].score if is_text(answers) else [one.score for one in row]
            for row, answers in zip(scored, completions, strict=True)
        ]

    def score_stream(self, pairs: Iterable[tuple[Any, Any]], *, window: int = 1024) -> Iterator[Any]:
        """Yields what `score` returns for (prompt, completion or completions), reading `window` of them at a time."""
        source = iter(pairs)
        while rows := list(islice(source, window)):
            yield from self.score([prompt for prompt, _ in rows], [answer for _, answer in rows])

    def score_steps(
        self, prompts: Sequence[Any], steps: Sequence[Sequence[str]], *, max_tokens: int = MAX_TOKENS
    ) -> list[Scored]:
        """Returns, for each prompt and its list of steps, the score and a number per step; see `Scored`.

        Raises `UsageError` if the model judges whole completions only.
        """
        check_lengths(prompts, steps)
        examples = [solution(prompt, given) for prompt, given in zip(prompts, steps, strict=True)]
        if reason := self.cannot_judge_steps():
            raise UsageError(reason)
        return [row[0] for row in _all(self.score_examples(examples, max_tokens=max_tokens))]

    def cannot_judge_steps(self) -> str | None:
        """Returns why there are no numbers per step, or None if there are."""
        if self.loss.reads != "ends":
            return None
        return "this model reads whole completions and judges no steps; train with loss=prm or loss=orm, or use score"

    def score_examples(self, examples: Sequence[Example], *, max_tokens: int = MAX_TOKENS) -> list[Result]:
        """Returns, for each example, its completions scored, or why it cannot be scored. Rankings are not looked at."""
        jobs = [self._jobs(example) for example in examples]
        distinct = (job for some in jobs if not isinstance(some, str) for job in some)
        results: dict[Job, Scored] = {}
        try:
            for group in plan(distinct, share=self._share, max_tokens=max_tokens):
                results |= self._run(group)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.device} has no memory for max_tokens={max_tokens} at once; "
                f"type --batch-tokens {max_tokens // 2} or less"
            ) from error
        return [some if isinstance(some, str) else _finite([results[job] for job in some]) for some in jobs]

    def _jobs(self, example: Example) -> list[Job] | str:
        if not example.completions:
            return []
        if self.loss.reads == "steps":
            example = replace(example, completions=tuple(map(with_steps, example.completions)))
        try:
            record = self._encoder.encode(example)
        except (TypeError, ValueError) as error:  # half a surrogate pair
            return f"it cannot be made into tokens: {error}"
        if isinstance(record, str):
            longest = self._encoder.max_length
            hint = f": more than {longest} tokens, raise max_length (--max-length)"
            return record + hint if record == "over-long" else record
        prompt = tuple(record["prompt_ids"])
        return [
            (prompt, self._read(ids), tuple(ends))
            for ids, ends in zip(record["completion_ids"], record["step_end"], strict=True)
        ]

    def _read(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Returns a completion without the ids at its end that transformers' class takes for padding."""
        end = len(ids)
        while end > 1 and ids[end - 1] == self._unread_id:
            end -= 1
        return tuple(ids[:end])

    @torch.no_grad()
    def _run(self, group: Sequence[Job]) -> dict[Job, Scored]:
        jobs, batch = batch_of(group, self._share)
        batch = batch.to(self.device)
        position_N = self.loss.positions(batch)
        state_ND = self._readout(self._backbone(batch), position_N, batch)
        out_NC = self._head(state_ND.float())
        scores = self.loss.score(out_NC, batch).tolist()
        steps = self._steps(out_NC, position_N, batch)
        return {job: Scored(score, tuple(own)) for job, score, own in zip(jobs, scores, steps, strict=True)}

    def _steps(self, out_NC: Tensor, position_N: Tensor, batch: Batch) -> list[list[float]]:
        """Returns the numbers of each completion's steps, [S] lists."""
        found: list[list[float]] = [[] for _ in range(batch.end_S.numel())]
        if self.loss.reads == "ends" or not batch.end_M.numel():
            return found
        place = {position: n for n, position in enumerate(position_N.tolist())}
        local_N = self.loss.local(out_NC, batch).tolist()
        for end, completion in zip(batch.end_M.tolist(), batch.segment_M.tolist(), strict=True):
            found[completion].append(local_N[place[end]])
        return found


def _usable(name: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device {name} cannot be used here ({reason}); type cpu or cuda") from error


def _finite(scored: list[Scored]) -> Result:
    if all(isfinite(one.score) for one in scored):
        return tuple(scored)
    return "the score is not a number (a completion without a step to read, or weights that overflow)"


def _all(results: list[Result]) -> list[tuple[Scored, ...]]:
    for number, result in enumerate(results):
        if isinstance(result, str):
            raise UsageError(f"prompt {number} (counted from 0) cannot be scored: {result}")
    return [result for result in results if not isinstance(result, str)]
