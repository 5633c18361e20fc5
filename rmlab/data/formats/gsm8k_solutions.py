"""OpenAI's grade-school-math example solutions: `question` and four models' `{is_correct, solution}`.

Cobbe et al. 2021. The outcome stands on each completion, and every correct solution is ranked above every wrong one,
so the same rows train an outcome model and Bradley-Terry. A question whose solutions are all right or all wrong has
outcomes only. Left out: `ground_truth`, which no model wrote.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example, Ranking
from rmlab.data.formats.fields import column, identity, outcome_label, record, text
from rmlab.data.formats.layout import Layout, Row

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def example(row: Row, where: str) -> Example:
    """Returns the four solutions in the order of `MODELS`."""
    solutions = [record(column(row, model)) for model in MODELS]
    completions = tuple(
        Completion(text=text(solution, "solution"), outcome=outcome_label(column(solution, "is_correct")))
        for solution in solutions
    )
    pairs = (
        Ranking(order=(right, wrong))
        for right, better in enumerate(completions)
        for wrong, worse in enumerate(completions)
        if better.outcome > worse.outcome and better.text != worse.text
    )
    return Example(prompt=text(row, "question"), completions=completions, rankings=tuple(pairs), **identity(row, where))


LAYOUT = Layout(
    name="gsm8k_solutions",
    columns=("question", *MODELS),
    optional=("ground_truth", "source", "id"),
    example=example,
)
