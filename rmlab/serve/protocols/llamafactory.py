"""LLaMA-Factory's reward API: `/v1/score/evaluation`.

hiyouga/LlamaFactory, src/llamafactory/api/{protocol,chat}.py: `messages` are texts, prompt and completion in one,
scored raw; `max_length` keeps so many tokens of each, here the last ones, since a reward is read at the end. The answer
repeats the request's `model`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rmlab.serve.messages import Whole, writable
from rmlab.serve.service import ERRORS, Body, Service, new_id


class Evaluation(Body):
    """Texts to score."""

    model: str
    messages: Annotated[list[str], Field(min_length=1)]
    max_length: Annotated[int, Field(ge=1)] | None = None


class Evaluated(BaseModel):
    """Their scores."""

    id: str
    object: Literal["score.evaluation"] = "score.evaluation"
    model: str
    scores: list[float]


def router(service: Service) -> APIRouter:
    """Returns the route."""
    routes = APIRouter(tags=["LLaMA-Factory"], responses=ERRORS)

    @routes.post("/v1/score/evaluation")
    async def evaluate(body: Evaluation) -> Evaluated:
        """The raw score of each text."""
        results = await service.ask([Whole(text=text, keep=body.max_length) for text in body.messages])
        scores = [result.score for result in results]
        return Evaluated(id=new_id("scoreval"), model=writable(body.model), scores=scores)

    return routes
