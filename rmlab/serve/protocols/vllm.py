"""vLLM's pooling routes, which verl's reward loop uses: `/classify`, `/pooling`, `/score`.

vllm-project/vllm, entrypoints/pooling/{classify,pooling,scoring}/protocol.py. As there: `use_activation` defaults to
true and is the sigmoid for one output (a raw reward needs `false`); `add_special_tokens` defaults to true for text; the
answer's id, object, created, model, data and usage have its names and types. verl before vLLM 0.11.2 says `activation`.

A model that judges tokens or steps (orm, prm) answers with a number for every token: in `/pooling` a list of outputs a
token, in `/classify` one probability a token, the last of which is what verl takes. Messages are scored as a
conversation whose last message is judged. Left out: token ids as input, images, binary encodings, dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import exp
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AliasChoices, BaseModel, Field, model_validator

from rmlab.serve.link import Refused
from rmlab.serve.messages import Item, Pair, Refusal, Result, Whole
from rmlab.serve.service import (
    ERRORS,
    Body,
    Conversation,
    Service,
    Usage,
    log_odds,
    new_id,
    plain,
    sigmoid,
)

Activation = Annotated[bool, Field(validation_alias=AliasChoices("use_activation", "activation"))]
Texts = str | list[str]


class Common(Body):
    """What all routes take. The first three change nothing here, as with a vLLM server without priorities."""

    model: str | None = None
    user: str | None = None
    priority: Literal[0] = 0
    request_id: str | None = None
    use_activation: Activation = True


class Pool(Common):
    """Text, several, or one conversation. truncate_prompt_tokens: keep the last so many tokens, -1 for what fits."""

    input: Texts | None = None
    messages: Conversation | None = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    encoding_format: Literal["float"] = "float"

    @model_validator(mode="after")
    def _one_of_both(self) -> Pool:
        if (self.input is None) == (self.messages is None):
            raise ValueError("expected either input or messages")
        if self.messages is not None and self.truncate_prompt_tokens is not None:
            raise ValueError("truncate_prompt_tokens is of input; a conversation is not cut")
        return self

    def items(self) -> list[Item]:
        """Returns what is to be scored."""
        if self.messages is not None:
            said = plain(self.messages)
            return [Pair(prompt=said[:-1], completion=said[-1:])]
        texts = [self.input] if isinstance(self.input, str) else self.input or []
        keep = 10**9 if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        return [Whole(text=text, as_written=not self.add_special_tokens, keep=keep) for text in texts]


class Score(Common):
    """Queries (prompts) and documents (completions), one query for all documents or one for each."""

    queries: Texts = Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))
    documents: Texts = Field(validation_alias=AliasChoices("documents", "text_2", "data_2", "items"))

    def pairs(self) -> list[Item]:
        """Returns each document with its query. Raises `Refused` if the numbers do not fit."""
        queries = [self.queries] if isinstance(self.queries, str) else self.queries
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        if len(queries) not in (1, len(documents)):
            reason = f"{len(queries)} queries and {len(documents)} documents; expected one query, or one a document"
            raise Refused(Refusal(422, reason))
        queries = queries * len(documents) if len(queries) == 1 else queries
        return [Pair(prompt=q, completion=d) for q, d in zip(queries, documents, strict=True)]


class Class(BaseModel):
    """One text as /classify answers it."""

    index: int
    label: str | None = "LABEL_0"
    probs: list[float]
    num_classes: int = 1


class Pooled(BaseModel):
    """One text as /pooling answers it."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] | list[list[float]]


class Scored(BaseModel):
    """One pair as /score answers it."""

    index: int
    object: Literal["score"] = "score"
    score: float


class Answer(BaseModel):
    """What all answers have."""

    id: str
    object: Literal["list"] = "list"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    usage: Usage


class Classes(Answer):
    """The answer of /classify."""

    data: list[Class]


class Poolings(Answer):
    """The answer of /pooling."""

    data: list[Pooled]


class Scores(Answer):
    """The answer of /score."""

    data: list[Scored]


def router(service: Service) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter(tags=["vLLM"], responses=ERRORS)

    def score(result: Result, activate: bool) -> float:
        return service.activated(result.score) if activate else result.score

    @routes.post("/classify")
    async def classify(body: Pool) -> Classes:
        """One number a text, or one a token where the model judges tokens or steps."""
        by_token = service.judges_tokens
        results = await service.ask(body.items(), by_token=by_token)
        activate = body.use_activation
        probs = [_each_token(r, activate) if by_token else [score(r, activate)] for r in results]
        data = [Class(index=i, probs=p) for i, p in enumerate(probs)]
        return Classes(id=new_id("classify"), model=service.name, data=data, usage=Usage.of(results))

    @routes.post("/pooling")
    async def pooling(body: Pool) -> Poolings:
        """The outputs of each text, or of each of its tokens where the model judges tokens or steps."""
        by_token = service.judges_tokens
        results = await service.ask(body.items(), by_token=by_token)
        activate = body.use_activation
        data = [
            Pooled(index=i, data=_outputs(r, activate) if by_token else [score(r, activate)])
            for i, r in enumerate(results)
        ]
        return Poolings(id=new_id("pool"), model=service.name, data=data, usage=Usage.of(results))

    @routes.post("/score")
    async def scores(body: Score) -> Scores:
        """The score of each document (completion) as an answer to its query (prompt)."""
        results = await service.ask(body.pairs())
        data = [Scored(index=i, score=score(r, body.use_activation)) for i, r in enumerate(results)]
        return Scores(id=new_id("score"), model=service.name, data=data, usage=Usage.of(results))

    return routes


def _each_token(result: Result, activate: bool) -> list[float]:
    if activate:
        return list(result.local)
    single = len(result.outputs[0]) == 1
    return [out[0] if single else log_odds(p) for out, p in zip(result.outputs, result.local, strict=True)]


def _outputs(result: Result, activate: bool) -> list[list[float]]:
    return [_softmax(out) if activate else list(out) for out in result.outputs]


def _softmax(out: Sequence[float]) -> list[float]:
    if len(out) == 1:
        return [sigmoid(out[0])]
    highest = max(out)
    powers = [exp(x - highest) for x in out]
    return [power / sum(powers) for power in powers]
