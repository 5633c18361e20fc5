"""A reward model as the reward of an RL run: one callable for TRL, for trlX and for a loop of your own.

    reward = RewardFunction("runs/.../model")
    GRPOTrainer(model, reward_funcs=reward, ...)        TRL
    trlx.train(model, reward_fn=reward, ...)            trlX
    reward(prompts, completions)                        a loop

| caller | calls with | how a text becomes tokens |
| --- | --- | --- |
| TRL | `prompts`, `completions`, `completion_ids`, columns | as TRL does for a reward model named by its folder |
| trlX | `samples`, `prompts`, `outputs`, columns | as in training |
| a loop | prompts, completions | as in training |

TRL joins prompt and completion to one text, adds no special token and reads the last token, so its reward model sees
neither the BOS nor the end marker it was trained with. `RewardFunction` gives the same numbers, so that the callable
and the folder are one reward; `as_trained=True` gives the marked completion's score instead. A model that TRL cannot
load by its folder (steps, tokens, several layers in the head, a trlX checkpoint) is always read as trained.

Left out: asynchronous rewards; the model runs in this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch

from rmlab.errors import RunError, UsageError
from rmlab.export.facts import CLASSIFIER
from rmlab.losses.bt import BradleyTerry
from rmlab.scoring.model import MAX_TOKENS, RewardModel
from rmlab.scoring.texts import check_lengths, question

Rewards = list[float | None]
COLUMN = "original_output"  # where trlX's examples keep the reference completion of a prompt


@final
class RewardFunction:
    """A callable that gives rewards; see the module docstring.

    path: what `RewardModel.load` takes, and `loading` its other arguments (device, base, dtype, ...); under torchrun
    or accelerate every process takes its own GPU. reference: text prompt -> completion whose score is subtracted.
    as_trained: TRL's completions too get the end marker of training. unscorable: the reward of a completion that has no
    score (empty, over-long); None leaves it out of its group in TRL and is an error elsewhere. chat_template_kwargs:
    those of TRL's configuration. max_tokens: computed at once.

    Attributes: `model`; `__name__`, under which TRL logs it: the last part of the path, as for the folder itself.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        reference: Mapping[str, str] | None = None,
        as_trained: bool = False,
        unscorable: float | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_tokens: int = MAX_TOKENS,
        **loading: Any,
    ) -> None:
        self.model = RewardModel.load(path, **({"device": _own_device()} | loading))
        self.__name__ = Path(path).name
        self._reference, self._unscorable, self._max_tokens = reference, unscorable, max_tokens
        self._chat = dict(chat_template_kwargs or {})
        self._as_written = not as_trained and _trl_loads(self.model)

    def __call__(
        self,
        *texts: Sequence[Any],
        samples: Sequence[str] | None = None,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] | None = None,
        outputs: Sequence[str] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> Rewards:
        """Returns one reward per completion, in order; what each caller passes is in the module docstring.

        prompts, completions: texts, or conversations and the messages that follow them. samples: prompts with their
        outputs in one text; without `prompts` they are scored whole. columns: not looked at, except trlX's
        `original_output`, whose score is subtracted, and `model_tok`, whose EOS at the end of an output is dropped.
        Raises `UsageError` for arguments that are not one of these three, `RunError` for a completion without a score
        where the caller needs a number.
        """
        if len(texts) == 1 and samples is None:
            samples = texts[0]
        elif len(texts) == 2 and prompts is None and completions is None:
            prompts, completions = texts
        elif texts:
            raise _misused(texts)
        if samples is not None:
            return _numbers(self._filled(self._of_samples(samples, prompts, outputs, **columns)))
        if prompts is None or completions is None:
            raise _misused(texts)
        check_lengths(prompts, completions)
        by_trl = completion_ids is not None
        rewards = self._filled(self._less_reference(prompts, completions, as_written=by_trl and self._as_written))
        return rewards if by_trl else _numbers(rewards)

    def _of_samples(
        self,
        samples: Sequence[str],
        prompts: Sequence[str] | None,
        outputs: Sequence[str] | None,
        model_tok: Any = None,
        original_output: Sequence[str] | None = None,
        **columns: Any,
    ) -> Rewards:
        end = getattr(model_tok, "eos_token", None) or ""
        if prompts is None:
            if self._reference is not None or original_output is not None:
                raise UsageError("a reference completion belongs to a prompt; pass prompts= too, as trlX does")
            texts = [text.removesuffix(end) for text in samples]
            return self.model.score_texts(texts, max_tokens=self._max_tokens)
        check_lengths(samples, prompts)
        if outputs is None:
            outputs = [sample.removeprefix(prompt) for sample, prompt in zip(samples, prompts, strict=True)]
        check_lengths(prompts, outputs)
        answers = [output.removesuffix(end) for output in outputs]
        if original_output is None:
            return self._less_reference(prompts, answers, as_written=False)
        check_lengths(prompts, original_output)
        own, others = (self._scores(prompts, texts, as_written=False) for texts in (answers, original_output))
        return _minus(own, others)

    def _less_reference(self, prompts: Sequence[Any], completions: Sequence[Any], *, as_written: bool) -> Rewards:
        """Returns the scores less those of the prompts' reference completions, if there are any."""
        scores = self._scores(prompts, completions, as_written=as_written)
        if self._reference is None:
            return scores
        others = [_reference_of(prompt, self._reference) for prompt in prompts]
        return _minus(scores, self._scores(prompts, others, as_written=as_written))

    def _scores(self, prompts: Sequence[Any], completions: Sequence[Any], *, as_written: bool) -> Rewards:
        if as_written:
            texts = [self._joined(p, c) for p, c in zip(prompts, completions, strict=True)]
            return self.model.score_texts(texts, as_written=True, max_tokens=self._max_tokens)
        examples = [replace(question(p, [c]), chat=self._chat) for p, c in zip(prompts, completions, strict=True)]
        results = self.model.score_examples(examples, max_tokens=self._max_tokens)
        return [None if isinstance(result, str) else result[0].score for result in results]

    def _joined(self, prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            return prompt + str(completion)
        encoder = self.model.encoder
        arguments = {**self._chat, "chat_template": encoder.template, "tokenize": False}
        return str(encoder.tokenizer.apply_chat_template([*prompt, *completion], **arguments))

    def _filled(self, scores: Iterable[float | None]) -> Rewards:
        return [self._unscorable if score is None else score for score in scores]


def _numbers(rewards: Rewards) -> Rewards:
    missing = [number for number, reward in enumerate(rewards) if reward is None]
    if missing:
        raise RunError(
            f"completion {missing[0]} (counted from 0) of {len(rewards)} has no score (it is empty or over-long); "
            "say what its reward is, as in RewardFunction(path, unscorable=-1.0)"
        )
    return rewards


def _trl_loads(model: RewardModel) -> bool:
    """Returns whether the model is one that AutoModelForSequenceClassification reads."""
    if model.facts is not None:
        return model.facts.kind == CLASSIFIER
    return isinstance(model.loss, BradleyTerry)  # what load_classifier gives; a trlX checkpoint has its own


def _own_device() -> str | None:
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def _reference_of(prompt: Any, reference: Mapping[str, str]) -> str:
    found = None
    if isinstance(prompt, str):
        found = reference.get(prompt, reference.get(prompt.strip()))
    if found is None:
        raise UsageError(
            f"reference has no completion for the prompt {str(prompt)[:80]!r}; "
            "expected a mapping that has the text of every prompt"
        )
    return found


def _minus(scores: Rewards, others: Rewards) -> Rewards:
    pairs = zip(scores, others, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def _misused(texts: Sequence[Any]) -> UsageError:
    return UsageError(
        f"RewardFunction was called with {len(texts)} lists and without the keywords of TRL or trlX; type "
        "reward(prompts, completions), reward(samples) or leave the call to the trainer"
    )
