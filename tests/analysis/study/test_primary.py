"""Planned comparisons: their family, looks at fewer seeds than planned, and seeds that were added."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import export_of, population, unguarded

from analysis.report.accuracy_tables import accuracy
from analysis.report.plan_table import primary_table
from analysis.report.sections import findings
from analysis.stats.corrections import holm
from analysis.stats.spending import sequential_p
from analysis.study.comparison import UNDECIDED, difference
from analysis.study.endpoint import endpoint, read_endpoint
from analysis.study.looks import added_seeds
from analysis.study.plan import SIGNS, read_plan
from analysis.study.primary import PrimaryResult
from analysis.study.statement import read_statement
from analysis.study.study import Study, study
from mirrorpo.config.identity import digest

ARMS = {"kl": 0.0, "none": 4.0, "probl2": 0.0, "neural_mirror": 0.0}
NODE: dict[str, Any] = {
    "hypothesis": "no regulariser is better than KL",
    "primary": ["none > kl", "probl2 = none"],
    "seeds": {"planned": 5},
}


@pytest.fixture(scope="module")
def free() -> Study:
    """Five seeds of four arms, without a plan."""
    return study(export_of(population(np.random.default_rng(3), 5, 100, ARMS, seed_spread=1.0)))


def planned(made: Study, **changes: Any) -> Study:
    """A study whose launch recorded a plan."""
    plan = read_plan({**NODE, **changes}, "recorded at launch", recorded=True)
    named = endpoint(plan.metric or "accuracy", made.metric, made.export.names)
    return replace(made, plan=plan, planned_endpoint=named)


def plans(**changes: Any) -> list[dict[str, Any]]:
    """What an export holds of a launch that recorded a plan."""
    plan = {**NODE, **changes}
    recorded = {"plan": plan, "plan_sha256": digest({"plan": plan})}
    return [{"folder": "planted", "time": "2026-11-28T20:00:00Z", **recorded}]


def texts(made: Study) -> list[dict[str, str]]:
    table = primary_table(made)
    assert table is not None
    return [dict(zip(table.head, map(str, row), strict=True)) for row in table.rows]


def test_planned_comparisons_are_a_family_of_their_own(free: Study) -> None:
    made = planned(free)
    raw = {arm: gap.p for arm, gap in free.differences().items()}
    between = made.primary[1].difference
    assert between is not None
    first, second = holm([raw["none"], between.p])
    assert [result.difference and result.difference.adjusted for result in made.primary] == [first, second]
    rest = holm([raw["probl2"], raw["neural_mirror"]])
    shown = made.differences()
    assert [shown[arm].adjusted for arm in ("none", "probl2", "neural_mirror")] == [first, *rest]
    assert shown["none"].primary and not shown["probl2"].primary
    assert [row["predicted"] for row in texts(made)] == ["higher", "equal"]
    marks = {str(row[0]) for row in accuracy(made).rows}
    assert "none (primary)" in marks and "probl2" in marks
    page = findings(made)
    assert "Planned: eval/greedy_accuracy" in page and "predicted: higher" in page


def test_equal_means_inside_the_margin_also_where_a_difference_is_told() -> None:
    near = np.array([0.003, 0.0031, 0.0029, 0.0032, 0.0028])
    texts = ("a = b", "a > b", "a < b", "a vs b")
    for gap, outcomes in (
        (near, ["as predicted", "as predicted", "not as predicted", "a difference"]),
        (10 * near, ["not as predicted", "as predicted", "not as predicted", "a difference"]),
        (near - 0.003, ["as predicted", "not as predicted", "not as predicted", "no difference"]),
        (100 * (near - 0.003), [UNDECIDED] * 4),
    ):
        made = difference(gap, np.zeros(5), margin=0.01)
        statements = [read_statement(text, SIGNS) for text in texts]
        results = [
            PrimaryResult(comparison=statement, block="", difference=made, seeds=5, shares=[1.0])
            for statement in statements
            if statement is not None
        ]
        assert [result.outcome for result in results] == outcomes


def test_without_a_recorded_plan_all_comparisons_are_one_family(free: Study) -> None:
    assert free.plan is None and primary_table(free) is None
    assert any(line.startswith("Exploratory: no plan") for line in accuracy(free).foot)
    recorded = planned(free)
    assert recorded.plan is not None
    later = replace(recorded, plan=replace(recorded.plan, recorded=False))
    raw = [gap.p for gap in free.differences().values()]
    between = recorded.primary[1].difference
    assert between is not None
    wanted = holm([*raw, between.p])
    assert [later.primary[0].difference and later.primary[0].difference.adjusted] == [wanted[0]]
    table = primary_table(later)
    assert table is not None and table.foot[1].startswith("No launch recorded the plan")
    assert {result.difference.comparisons for result in later.primary if result.difference} == {4}


def test_fewer_seeds_than_planned_spend_less_error_and_more_are_left_out(free: Study) -> None:
    early = planned(free, seeds={"planned": 15})
    result = early.primary[0]
    assert result.difference is not None and result.shares == [1 / 3]
    raw = free.differences()["none"].p
    assert result.difference.adjusted >= sequential_p(raw, [1 / 3]) > raw
    assert result.level == pytest.approx(0.000207, abs=1e-6)
    assert texts(early)[1]["verdict"] == "undecided (5 of 15 planned seeds)"
    assert texts(early)[0]["seeds"] == "5 of 15"
    table = primary_table(early)
    assert table is not None and any(
        "An interim look, at 5 of 15 planned seeds" in line for line in table.foot
    )
    looked = planned(free, seeds={"planned": 5, "looks": [3]})
    assert looked.primary[0].shares == [0.6, 1.0] and looked.primary[0].level < 0.05
    over = planned(free, seeds=3)
    assert over.primary[0].difference is not None and over.primary[0].difference.n == 3
    # What stands in a row is of one sample: interval, p and verdict of the planned seeds.
    shown = over.differences()
    assert shown["none"].n == 3 and shown["none"].interval == over.primary[0].difference.interval
    assert shown["probl2"].n == 5
    assert accuracy(over).foot[-1].startswith("Planned were 3 seeds: difference, p and verdict of primary")
    table = primary_table(over)
    assert table is not None and any("More seeds than planned (5, 3)" in line for line in table.foot)


def test_what_was_planned_and_not_run_counts_and_is_said(free: Study) -> None:
    made = planned(free, primary=["none > kl", "js > kl"])
    assert [row["outcome"] for row in texts(made)][1] == "not run"
    assert "no run of js" in texts(made)[1]["difference, points"]
    alone = planned(free, primary=["none > kl"]).primary[0].difference
    both = made.primary[0].difference
    assert (
        alone is not None and both is not None and both.adjusted == pytest.approx(min(1, 2 * alone.adjusted))
    )


def test_a_plan_of_a_training_metric_leaves_accuracy_exploratory(free: Study) -> None:
    made = planned(free, metric="auc:reward/mean", margin=0.05)
    assert str(made.planned_endpoint) == "auc:reward/mean" and made.margin == 1.0
    assert not any(gap.primary for gap in made.differences().values())
    assert made.margin_of(read_endpoint("reward/mean")) == 0.05 and len(texts(made)) == 2
    # What was recorded before the runs is not widened after them.
    compared = replace(made, endpoint=made.planned_endpoint)
    with pytest.raises(ValueError, match=r"margin=3: the plan that was recorded at launch has 0.05"):
        compared.with_margin(3.0)
    assert compared.with_margin(0.05).margin_of(read_endpoint("reward/mean")) == 0.05
    assert made.with_margin(2.0).margin == 2.0
    export = replace(free.export, about={**free.export.about, "plans": plans(metric="reward/meen")})
    unknown = study(export)
    assert unknown.plan is None and "did you mean reward/mean" in unknown.plan_notes[0]


def test_seeds_that_were_added_later_are_seen_by_the_clock() -> None:
    scores = population(np.random.default_rng(4), 4, 30, {"kl": 0.0, "none": 0.0}, seed_spread=1.0)
    made = study(export_of(scores))
    assert added_seeds(made.design.runs) == [] and not made.plan_notes

    def at(run: Any, hours: int) -> Any:
        times = {
            name: f"2026-11-25T{10 + hours:02d}:{minute}:00Z"
            for name, minute in (("started", "00"), ("ended", "10"))
        }
        return replace(run, row={**run.row, **times})

    later = [at(run, 3 * (run.seed >= 2)) for run in made.design.runs]
    assert added_seeds(later) == [(2, 2)]
    # An arm that was added with all its seeds, and seeds that ran one after the other, are no second look.
    assert added_seeds([at(run, 3 * (run.arm == "none")) for run in made.design.runs]) == []
    assert added_seeds([at(run, 0) for run in made.design.runs]) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_that_is_looked_at_with_half_its_seeds_errs_at_the_level() -> None:
    rng, claimed = np.random.default_rng(5), 0
    node = {**NODE, "primary": ["none > kl", "probl2 > kl"], "seeds": {"planned": 6, "looks": [3]}}
    for _ in range(300):
        scores = population(rng, 6, 150, dict.fromkeys(("kl", "none", "probl2"), 0.0), seed_spread=1.5)
        verdicts: list[str] = []
        for seeds in (3, 6):
            looked = export_of({arm: right[:seeds] for arm, right in scores.items()})
            made = planned(unguarded(looked), **node)
            verdicts += [result.difference.verdict() for result in made.primary if result.difference]
        claimed += any(verdict in ("better", "worse") for verdict in verdicts)
    print(
        f"\nlooks at 3 and 6 seeds, two comparisons, no effect: {claimed / 300:.1%} of sweeps claim something"
    )
    assert claimed / 300 <= 0.05 + 0.038
