"""OpenAI's grade-school-math example solutions: `question` and four models' `{is_correct, solution}`.

Cobbe et al. 2021. The outcome stands on each completion, and every correct solution is ranked above every wrong one,
so the same rows train an outcome model and Bradley-Terry. A question whose solutions are all right or all wrong has
outcomes only. A solution's last line "A: 16" is its final answer, which a majority votes on. Left out: `ground_truth`,
which no model wrote.
"""

from __future__ import annotations

from rmlab.batch import Completion, Example, Ranking
from rmlab.data.formats.fields import column, identity, outcome_label, record, text
from rmlab.data.formats.layout import Layout, Row

MARKER = "A:"  # what a final answer follows
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def example(row: Row, where: str) -> Example:
    """Returns the four solutions in the order of `MODELS`."""
    completions = tuple(_completion(record(column(row, model))) for model in MODELS)
    pairs = (
        Ranking(order=(right, wrong))
        for right, better in enumerate(completions)
        for wrong, worse in enumerate(completions)
        if better.outcome > worse.outcome and better.text != worse.text
    )
    return Example(prompt=text(row, "question"), completions=completions, rankings=tuple(pairs), **identity(row, where))


def _completion(solution: Row) -> Completion:
    written = text(solution, "solution")
    return Completion(
        text=written, outcome=outcome_label(column(solution, "is_correct")), answer=final_answer(str(written))
    )


def final_answer(solution: str) -> str:
    """Returns what the last line gives as the answer, without thousands separators; "" where it gives none."""
    last = solution.strip().splitlines()[-1] if solution.strip() else ""
    return last.removeprefix(MARKER).strip().replace(",", "") if last.startswith(MARKER) else ""


LAYOUT = Layout(
    name="gsm8k_solutions",
    columns=("question", *MODELS),
    optional=("ground_truth", "source", "id"),
    example=example,
)
