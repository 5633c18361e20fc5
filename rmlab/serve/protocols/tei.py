"""text-embeddings-inference: `/predict` and `/rerank`.

huggingface/text-embeddings-inference, router/src/http/types.rs and server.rs. An input is a text (prompt and completion
in one), or a pair of them; a list of one or two *strings* is one input and a list of *lists* is a batch, answered by a
list or a list of lists. `raw_scores=false` is the sigmoid. Ranks come best first. `truncate` cuts the start of the
prompt, never the completion, which is what is judged.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rmlab.serve.messages import Item, Pair, Whole
from rmlab.serve.service import ERRORS, Body, Service

Texts = Annotated[list[str], Field(min_length=1, max_length=2)]  # a text, or prompt and completion


class Options(Body):
    """What both routes take."""

    raw_scores: bool = False
    truncate: bool | None = None


class Predict(Options):
    """A text, a pair [prompt, completion], or a batch of them [[text], [prompt, completion], ...]."""

    inputs: str | Texts | Annotated[list[Texts], Field(min_length=1)]

    def items(self) -> list[Item]:
        """Returns what is to be scored."""
        batch = self.inputs if self.batched else [[self.inputs] if isinstance(self.inputs, str) else self.inputs]
        return [self._item(*texts) for texts in batch]

    @property
    def batched(self) -> bool:
        """Returns whether the answer is a list of lists."""
        return not isinstance(self.inputs, str) and not isinstance(self.inputs[0], str)

    def _item(self, text: str, completion: str | None = None) -> Item:
        if completion is None:
            return Whole(text=text, keep=10**9 if self.truncate else None)
        return Pair(prompt=text, completion=completion, truncate=bool(self.truncate))


class Rerank(Options):
    """A prompt and the completions to rank. return_text: repeat them in the answer."""

    query: str
    texts: Annotated[list[str], Field(min_length=1)]
    return_text: bool = False


class Prediction(BaseModel):
    """The score of a text."""

    score: float
    label: str = "LABEL_0"


class Rank(BaseModel):
    """A text's place: its index in the request, its score."""

    index: int
    text: str | None = None
    score: float


def router(service: Service) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter(tags=["text-embeddings-inference"], responses=ERRORS)

    @routes.post("/predict")
    async def predict(body: Predict) -> list[Prediction] | list[list[Prediction]]:
        """The score of a text or pair, or of each of a batch."""
        results = await service.ask(body.items())
        scores = [r.score if body.raw_scores else service.activated(r.score) for r in results]
        predictions = [[Prediction(score=score)] for score in scores]
        return predictions if body.batched else predictions[0]

    @routes.post("/rerank", response_model_exclude_none=True)
    async def rerank(body: Rerank) -> list[Rank]:
        """The completions of a prompt, best first; equal scores in the order they came."""
        cut = bool(body.truncate)
        results = await service.ask([Pair(prompt=body.query, completion=text, truncate=cut) for text in body.texts])
        ranks = [
            Rank(
                index=index,
                text=text if body.return_text else None,
                score=result.score if body.raw_scores else service.activated(result.score),
            )
            for index, (text, result) in enumerate(zip(body.texts, results, strict=True))
        ]
        return sorted(ranks, key=lambda rank: -results[rank.index].score)

    return routes
