"""The settings of a server, with their defaults and what they bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What is loaded and how much of it is computed at once; see `RewardModel.load`.

    batch_tokens: tokens in one forward pass. max_request_tokens: the most that all items of one request may have.
    """

    path: str
    base: str | None = None
    device: str | None = None
    max_length: int | None = None
    reference: str | None = None
    trust_remote_code: bool = False
    batch_tokens: int = 8192
    max_request_tokens: int = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the front process accepts.

    max_queue: requests waiting or being computed; further ones are answered 503. timeout: seconds until a request that
    was accepted is answered 503, and one whose body has not arrived 408. max_body: bytes of a request. max_items: texts
    in a request.
    """

    max_queue: int = 512
    timeout: float = 60.0
    max_body: int = 4 * 2**20
    max_items: int = 1024
