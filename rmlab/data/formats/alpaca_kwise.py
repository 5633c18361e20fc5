"""AlpacaEval annotations, K-wise: `instruction`, `outputs[K]`, `win_probability[K]`, and `generators[K]` (unread).

`win_probability[i]` is the annotator's probability that output i beats the reference `outputs[0]` (0.5 for the
reference itself). Under Bradley-Terry that is sigmoid(r_i - r_0), so the grade is its log-odds: rewards relative to the
reference, on one scale for all K. Clipped to [-4, 4] (0.018 to 0.982), as annotators say 0 and 1 without being so sure.
"""

from __future__ import annotations

from math import log

from rmlab.batch import Completion, Example
from rmlab.data.formats.fields import identity, listed, merged, number, text, texts
from rmlab.data.formats.layout import BadRow, Layout, Row

CLIP = 4.0  # nats


def grade(probability: float) -> float:
    """Returns the log-odds of a win probability, in nats, clipped to +-4."""
    if probability <= 0 or probability >= 1:
        return CLIP if probability >= 1 else -CLIP
    return max(-CLIP, min(CLIP, log(probability / (1 - probability))))


def example(row: Row, where: str) -> Example:
    """Returns all outputs of an instruction and their ranking."""
    outputs = [Completion(text=output) for output in texts(row, "outputs")]
    chances = [number({"win_probability": p}, "win_probability") for p in listed(row, "win_probability")]
    if len(outputs) != len(chances):
        raise BadRow("malformed")
    if any(chance is None or not 0 <= chance <= 1 for chance in chances):
        raise BadRow("win_probability outside [0, 1]")
    completions, order = merged(outputs, [grade(chance) for chance in chances if chance is not None])
    return Example(
        prompt=text(row, "instruction"),
        completions=completions,
        rankings=(order,),
        **identity(row, where, origin="dataset"),
    )


LAYOUT = Layout(
    name="alpaca_kwise",
    columns=("instruction", "outputs", "win_probability"),
    optional=("generators", "dataset", "id"),
    example=example,
)
