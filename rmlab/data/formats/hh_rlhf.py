"""HH-RLHF: `chosen` and `rejected` are whole dialogues, "\\n\\nHuman: ...\\n\\nAssistant: ...", and share their start.

The prompt is not stated. It is the common prefix up to and including the last shared "\\n\\nAssistant:", so that what
differs, and nothing before it, is the completion (Bai et al. 2022, anthropics/hh-rlhf). The dialogue stays text, as
published. The layout has the columns of `trl`, which applies the same rule to such dialogues; named, it insists on it.
"""

from __future__ import annotations

from rmlab.batch import Example
from rmlab.data.formats.fields import shared, text
from rmlab.data.formats.layout import BadRow, Layout, Row
from rmlab.data.formats.pairs import OPTIONAL, pair

TURN = "\n\nAssistant:"


def shared_turns(chosen: str, rejected: str) -> int:
    """Returns the length of the shared prompt in characters, 0 if the dialogues share no assistant's turn."""
    at = chosen.rfind(TURN, 0, shared(chosen, rejected))
    return 0 if at < 0 else at + len(TURN)


def example(row: Row, where: str) -> Example:
    """Returns a pair of completions of the shared dialogue."""
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if chosen == rejected:
        raise BadRow("chosen equals rejected")
    length = shared_turns(chosen, rejected)
    if not length:
        raise BadRow("malformed")
    return pair(chosen[:length], chosen[length:], rejected[length:], row, where)


LAYOUT = Layout(name="hh_rlhf", columns=("chosen", "rejected"), optional=OPTIONAL, example=example, detected=False)
