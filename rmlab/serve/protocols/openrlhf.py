"""OpenRLHF's remote reward model: what its trainers post to `--remote_rm_url`.

OpenRLHF/OpenRLHF, openrlhf/cli/serve_rm.py and utils/remote_rm_utils.py: the body holds whole texts that carry their
special tokens, and in later versions the prompts and labels beside them; `rewards` drive the advantages, `scores` the
dynamic filtering (its own server gives both the same numbers), and each list in `extra_logs` becomes a curve. A text
is scored behind its prompt where the prompt is given and stands at its start: as in training, and computed once for all
its samples. `labels` are the answers of the data set, which a reward model does not see.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rmlab.serve.link import Refused
from rmlab.serve.messages import Refusal, Result, Whole
from rmlab.serve.service import ERRORS, Body, Service


class GetReward(Body):
    """query: prompt and completion in one text, special tokens included."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = Field(default=None, description="Not looked at: a reward model does not see them.")


class Rewards(BaseModel):
    """The raw score of each text, twice, and what else is known of it."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def router(service: Service) -> APIRouter:
    """Returns the route."""
    routes = APIRouter(tags=["OpenRLHF"], responses=ERRORS)

    @routes.post("/get_reward")
    async def get_reward(body: GetReward) -> Rewards:
        """The rewards of texts that hold prompt, completion and special tokens."""
        prompts: list[str] | list[None] = body.prompts or [None] * len(body.query)
        if len(prompts) != len(body.query):
            reason = f"prompts has {len(prompts)} texts, expected {len(body.query)}: one for each text of query"
            raise Refused(Refusal(422, reason))
        results = await service.ask([Whole(text=q, prompt=p) for q, p in zip(body.query, prompts, strict=True)])
        rewards = [result.score for result in results]
        return Rewards(rewards=rewards, scores=rewards, extra_logs=_logs(results))

    return routes


def _logs(results: tuple[Result, ...]) -> dict[str, list[float]]:
    """Returns the normalised scores, if the model has a reference set."""
    z = [result.z for result in results if result.z is not None]
    percentile = [result.percentile for result in results if result.percentile is not None]
    return {name: values for name, values in (("z", z), ("percentile", percentile)) if values}
