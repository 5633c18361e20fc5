"""What callers of `RewardModel` pass, as examples: strings or conversations, one completion or several, or steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from rmlab.batch import UNLABELLED, Completion, Example, Step, Text
from rmlab.data.formats.fields import stepped
from rmlab.errors import UsageError


def check_lengths(prompts: Any, others: Any) -> None:
    """Raises `UsageError` unless both are lists of the same length."""
    if isinstance(prompts, str) or isinstance(others, str) or len(prompts) != len(others):
        raise UsageError(
            "expected a list of prompts and a list of as many completions (or lists of completions); "
            'type score(["prompt"], ["completion"])'
        )


def side_by_side(prompts: Iterable[Any], completions: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yields both side by side. Raises `UsageError` if one ends before the other."""
    nothing = object()
    for number, (prompt, completion) in enumerate(zip_longest(prompts, completions, fillvalue=nothing)):
        if prompt is nothing or completion is nothing:
            short = "prompts" if prompt is nothing else "completions"
            raise UsageError(f"the {short} end after {number}, expected as many completions as prompts")
        yield prompt, completion


def is_text(value: Any) -> bool:
    """Returns whether a value is one text: a string, or messages."""
    return isinstance(value, str) or (len(value) > 0 and isinstance(value[0], dict))


def question(prompt: Any, answers: Any) -> Example:
    """Returns a prompt with its completion, or with its list of completions."""
    given = [answers] if is_text(answers) else answers
    return Example(prompt=_text(prompt), completions=tuple(Completion(text=_answer(prompt, a)) for a in given))


def solution(prompt: Any, steps: Sequence[str]) -> Example:
    """Returns a prompt with a completion of steps, joined by line breaks as the layouts of step data are.

    Raises `UsageError` for messages, in which a step's place is not known.
    """
    if not isinstance(prompt, str):
        raise UsageError("steps are of a text prompt, this one is a list of messages; render it to text first")
    return Example(prompt=prompt, completions=(stepped(steps, [UNLABELLED] * len(steps)),))


def with_steps(completion: Completion) -> Completion:
    """Returns a completion that comes without steps with each of its lines as one; of messages, of what they say."""
    if completion.steps:
        return completion
    said = completion.text
    if not isinstance(said, str):
        said = "".join(str(message.get("content", "")) for message in said)
    ends, end = [], -1
    for line in said.split("\n"):
        end += 1 + len(line)
        ends += [end] if line.strip() else []
    return replace(completion, steps=tuple(Step(end=end) for end in ends))


def _text(value: Any) -> Text:
    return value if isinstance(value, str) else tuple(value)


def _answer(prompt: Any, answer: Any) -> Text:
    """Returns an answer in the form of its prompt: plain text to a conversation is the assistant's message."""
    if isinstance(answer, str) and not isinstance(prompt, str):
        return ({"role": "assistant", "content": answer},)
    return _text(answer)
