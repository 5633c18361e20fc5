"""TRL's preference layout: `chosen`, `rejected`, and `prompt` or a prompt that both sides share.

Text or chat messages; in chat form `tools` (a list, or JSON text) and a row's own `chat_template_kwargs` go to the chat
template. Without `prompt` it is what both sides begin with: whole messages of a conversation, the turns of an HH-RLHF
dialogue, or else the common text (a space at its end stays with the completions, as TRL has it). Conversations that
repeat the prompt (Skywork, UltraFeedback binarized) are cut after it. Optional columns: see `pairs.py`.
"""

from __future__ import annotations

from typing import Any

from rmlab.batch import Example, Message, Text
from rmlab.data.formats.fields import parsed, shared, text_or_messages
from rmlab.data.formats.hh_rlhf import shared_turns
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.pairs import OPTIONAL, pair

Split = tuple[Text, Text, Text]


def example(row: Row, where: str) -> Example:
    """Returns the pair of a row."""
    chosen, rejected = text_or_messages(row, "chosen"), text_or_messages(row, "rejected")
    if chosen == rejected:
        raise BadRow("chosen equals rejected")
    prompt = None if row.get("prompt") is None else text_or_messages(row, "prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        split = _split_text(prompt, chosen, rejected)
    elif isinstance(chosen, tuple) and isinstance(rejected, tuple):
        split = _split_messages(prompt, chosen, rejected)
    else:
        raise BadRow("malformed")
    return pair(*split, row, where, chat=chat(row, split[0]))


def chat(row: Row, prompt: Text) -> dict[str, Any]:
    """Returns the arguments for the chat template: the row's `chat_template_kwargs`, and `tools` if it has any."""
    arguments = row.get("chat_template_kwargs")
    arguments = {} if arguments is None else parsed(arguments)
    tools = row.get("tools")
    tools = [] if tools is None else parsed(tools)
    if not isinstance(arguments, dict) or not isinstance(tools, list):
        raise BadRow("malformed")
    found = arguments | ({"tools": tools} if tools else {})
    if found and isinstance(prompt, str):
        raise BadRow("tools or chat_template_kwargs without messages")
    return found


def answer(value: str) -> tuple[Message, ...]:
    """Returns plain text as the assistant's message."""
    return ({"role": "assistant", "content": value},)


def _split_text(prompt: Text | None, chosen: str, rejected: str) -> Split:
    if isinstance(prompt, tuple):
        return prompt, answer(chosen), answer(rejected)
    if prompt is not None:
        return prompt, chosen, rejected
    length = shared_turns(chosen, rejected)
    if not length:
        length = shared(chosen, rejected)
        length -= chosen[:length].endswith(" ")
    if not chosen[:length].strip():
        raise BadRow("no shared prompt")
    return chosen[:length], chosen[length:], rejected[length:]


def _split_messages(prompt: Text | None, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Split:
    if isinstance(prompt, tuple):
        repeated = chosen[: len(prompt)] == rejected[: len(prompt)] == prompt
        return (prompt, chosen[len(prompt) :], rejected[len(prompt) :]) if repeated else (prompt, chosen, rejected)
    length = shared(chosen, rejected)
    if length:
        return chosen[:length], chosen[length:], rejected[length:]
    if prompt is None:
        raise BadRow("no shared prompt")
    return ({"role": "user", "content": prompt},), chosen, rejected


LAYOUT = Layout(
    name="trl",
    columns=("chosen", "rejected"),
    optional=("prompt", "tools", "chat_template_kwargs", *OPTIONAL),
    example=example,
)
