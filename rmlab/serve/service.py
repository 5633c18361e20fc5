"""What the protocols share: asking the model, what can go wrong, messages, and the numbers beside a score."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Annotated, Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from rmlab.serve.link import Link, Refused
from rmlab.serve.messages import Item, Message, Refusal, Result, Scale
from rmlab.serve.options import Limits


class Body(BaseModel):
    """A request. A field that is not known is refused: it might be meant to change the answer."""

    model_config = ConfigDict(extra="forbid")


class Part(BaseModel):
    """A piece of a message's content; only text is judged."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message as chat templates take it; further fields (`tool_calls`, `name`) are the template's."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[Part] | None = None

    def plain(self) -> Message:
        """Returns the message with its content as one text."""
        said = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return {**(self.model_extra or {}), "role": self.role, "content": said}


Conversation = Annotated[list[ChatMessage], Field(min_length=1)]


def plain(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Returns a conversation as the model's process takes it."""
    return tuple(message.plain() for message in messages)


class Usage(BaseModel):
    """Tokens that were scored; there is nothing to complete."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None

    @classmethod
    def of(cls, results: Sequence[Result]) -> Usage:
        """Returns the sum over the results."""
        tokens = sum(result.tokens for result in results)
        return cls(prompt_tokens=tokens, total_tokens=tokens)


class Error(BaseModel):
    """Every answer that is none: one sentence."""

    detail: str


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The body is not JSON."},
    401: {"model": Error, "description": "The server wants a key."},
    408: {"model": Error, "description": "The body took too long to arrive."},
    413: {"model": Error, "description": "The body, the number of texts, or their tokens are over a limit."},
    422: {"model": Error, "description": "The body is not of the expected form, or a text cannot be scored."},
    503: {"model": Error, "description": "Loading, overloaded, too late, or the model failed; see Retry-After."},
}


@final
@dataclass(frozen=True, slots=True)
class Service:
    """A served model. name: what it is called in answers."""

    name: str
    link: Link
    limits: Limits

    async def ask(self, items: Sequence[Item], *, by_token: bool = False) -> tuple[Result, ...]:
        """Returns a result per item. Raises `Refused`."""
        most = self.limits.max_items
        if len(items) > most:
            raise Refused(
                Refusal(413, f"the request has {len(items)} texts, at most {most} are taken; send it in parts")
            )
        return await self.link.ask(tuple(items), by_token=by_token) if items else ()

    @property
    def scale(self) -> Scale:
        """Returns what the model's scores are; log-odds while none is loaded (no score is given then)."""
        return "log-odds" if self.link.hello is None else self.link.hello.scale

    @property
    def judges_tokens(self) -> bool:
        """Returns whether the model says something at every token."""
        return self.link.hello is not None and self.link.hello.judges_tokens

    def activated(self, score: float) -> float:
        """Returns a score between 0 and 1: what other servers call the score after the activation."""
        scale = self.scale
        return sigmoid(score) if scale == "log-odds" else exp(score) if scale == "log-probability" else score


def new_id(kind: str) -> str:
    """Returns an id nobody has, beginning with the kind of answer."""
    return f"{kind}-{uuid.uuid4().hex}"


def sigmoid(x: float) -> float:
    """Returns 1 / (1 + e^-x) without overflow."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def log_odds(p: float) -> float:
    """Returns log(p / (1 - p)), finite even where an fp32 probability has rounded to 0 or 1."""
    p = min(max(p, 2.0**-126), 1 - 2.0**-25)
    return log(p / (1 - p))
