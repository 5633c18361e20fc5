"""ShareGPT pairs as LLaMA-Factory trains on them: `conversations`, `chosen`, `rejected`, each turn `{from, value}`.

`from` is system, human, gpt, observation (what a tool returned) or function_call (JSON: `name` and `arguments`, or a
list of such), which becomes an assistant's message with tool calls. A `system` column stands before the conversation;
`tools` is a list or JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmlab.batch import Example, Message
from rmlab.data.formats.fields import checked, clean, column, listed, parsed, record, text
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.pairs import OPTIONAL, pair
from rmlab.data.formats.trl import chat

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
ROLES |= {"observation": "tool", "tool": "tool"}
CALL = "function_call"


def example(row: Row, where: str) -> Example:
    """Returns the pair of a row, as chat messages."""
    turns = tuple(_message(turn) for turn in listed(row, "conversations"))
    if row.get("system"):
        turns = ({"role": "system", "content": text(row, "system")}, *turns)
    return pair(turns, _side(row, "chosen"), _side(row, "rejected"), row, where, chat=chat(row, turns))


def _side(row: Row, name: str) -> tuple[Message, ...]:
    message = _message(column(row, name))
    if message["role"] != "assistant":
        raise BadRow("malformed")
    return (message,)


def _message(turn: Any) -> Message:
    turn = record(turn)
    speaker, value = checked(column(turn, "from")), checked(column(turn, "value"))
    if speaker == CALL:
        return {"role": "assistant", "content": "", "tool_calls": _calls(value)}
    if speaker not in ROLES:
        raise BadRow("malformed")
    return {"role": ROLES[speaker], "content": value}


def _calls(value: str) -> list[dict[str, Any]]:
    calls = parsed(value)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise BadRow("malformed")
    functions = [{"name": call["name"], "arguments": clean(call.get("arguments", {}))} for call in calls]
    return [{"type": "function", "function": function} for function in functions]


LAYOUT = Layout(
    name="sharegpt",
    columns=("conversations", "chosen", "rejected"),
    optional=("system", "tools", "chat_template_kwargs", *OPTIONAL),
    example=example,
)
