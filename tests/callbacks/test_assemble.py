"""From judgements and a trainer to what the report shows."""

from pathlib import Path

import pytest
import torch

from rmlab.batch import Judgements
from rmlab.callbacks.assemble import in_favour, read_off, report_data, wrong_pairs
from rmlab.callbacks.history import History
from rmlab.callbacks.report import WriteReport
from rmlab.callbacks.throughput import Throughput
from rmlab.losses.orm import OutcomeReward
from rmlab.metrics.outcomes import OutcomeMetrics
from rmlab.metrics.pairs import PairMetrics
from rmlab.metrics.scores import ScoreTable
from tests.tiny_run import TinyData, tiny_module, trainer


def judged(margin: list[float], outcome: list[float], *, pairs: bool = True) -> Judgements:
    n = len(margin)
    margin_J = torch.tensor(margin, dtype=torch.float64)
    return Judgements(
        probability_J=margin_J.sigmoid(),
        outcome_J=torch.tensor(outcome, dtype=torch.float64),
        margin_J=margin_J,
        group_J=torch.arange(n),
        source_J=torch.zeros(n).long(),
        slot_J=torch.zeros(n).long(),
        second_J=torch.full((n,), 1 if pairs else -1),
    )


def test_pairs_are_oriented_by_the_model_and_labels_are_not() -> None:
    """sigmoid(log 4) = 0.8. A pair at -log 4 that the data orders first: 0.8 sure of the other side, which is wrong."""
    four = torch.tensor(4.0).log().item()
    pair = read_off(judged([-four, four, -four], [1.0, 0.7, 0.5]))
    assert pair["confidence_J"] == pytest.approx([0.8, 0.8, 0.8])
    assert pair["correct_J"] == pytest.approx([0.0, 0.7, 0.5])
    assert pair["margin_J"] == pytest.approx([-four, four])  # the data prefers nobody in the third
    label = read_off(judged([-four, four], [0.0, 0.0], pairs=False))
    assert label["confidence_J"] == pytest.approx([0.2, 0.8])
    assert label["correct_J"] == pytest.approx([0.0, 0.0])
    assert label["margin_J"] == pytest.approx([four, -four])


def test_most_wrong_first_and_turned_as_the_data_says() -> None:
    """Prompt 0 is right; 1 is a tie; 2 is wrong by 3; 3 prefers the second and is wrong by 5; 4 is undecided."""
    rows = judged([2.0, 0.0, -3.0, 5.0, -9.0], [1.0, 1.0, 0.9, 0.0, 0.5])
    pairs = wrong_pairs(rows, TinyData(steps=1))
    assert [(p.margin, p.chosen.split()[1:4:2], p.rejected.split()[3]) for p in pairs] == [
        (-5.0, ["3", "1"], "0"),
        (-3.0, ["2", "0"], "1"),
        (0.0, ["1", "0"], "1"),
    ]
    assert "prompt 3" in pairs[0].id
    assert len(wrong_pairs(judged([-1.0] * 30, [1.0] * 30), TinyData(steps=1))) == 10
    assert wrong_pairs(judged([-1.0], [1.0], pairs=False), TinyData(steps=1)) == ()


def test_a_run_and_its_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\nnote: <b>\n")
    fit, module = trainer(tmp_path, [History(), Throughput(), WriteReport()]), tiny_module()
    fit.fit(module, TinyData())
    data = report_data(fit, module, tmp_path)
    rows = module.metrics.judgements()
    assert data.pairs == 32
    assert len(data.score_S) == 64
    wrong = (in_favour(rows) <= 0).sum()
    assert len(data.wrong) == min(10, int(wrong)) > 0
    assert data.wrong[0].margin == pytest.approx(float(rows.margin_J.min()))
    page = (tmp_path / "report.html").read_text()
    assert "note: &lt;b&gt;" in page
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert tmp_path.name in page


def test_outcome_labels_have_a_page_without_pairs(tmp_path: Path) -> None:
    module = tiny_module(OutcomeReward(), [OutcomeMetrics(), ScoreTable()])
    fit = trainer(tmp_path, [History(), WriteReport()])
    fit.fit(module, TinyData())
    data = report_data(fit, module, tmp_path)
    assert (data.pairs, data.wrong, len(data.confidence_J)) == (0, (), 64)
    page = (tmp_path / "report.html").read_text()
    assert "this run was not judged on pairs" in page
    assert "AUROC" in page


@pytest.mark.parametrize("metrics", [[PairMetrics()], [PairMetrics(), ScoreTable()]])
def test_no_validation_and_no_scores_still_have_a_page(tmp_path: Path, metrics: list[object]) -> None:
    limit = 0 if len(metrics) > 1 else 1.0
    trainer(tmp_path, [WriteReport()], limit_val_batches=limit).fit(tiny_module(metrics=metrics), TinyData(steps=2))
    page = (tmp_path / "report.html").read_text()
    assert ("This run was not validated" in page) == (limit == 0)
    assert "Length and reward" not in page
