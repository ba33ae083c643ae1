"""Arms at an equal budget: which evaluation counts, what is recorded, what is a sum, what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from planted import manifest, sampled_answers, write_evaluated

from analysis.data.export import Export, load
from analysis.report.budget_table import at_equal_budget
from analysis.study.budgets import METERS, Budget, read_budget
from analysis.study.equal_budget import at_budget
from analysis.study.study import Study, study

K, QUESTIONS = 4, 12
# What a step of each arm adds: the second costs twice as much FLOPs, and its steps are 1.5 as long.
SPENT = {
    "kl": {"budget/flops": 1e15, "budget/device_s": 2.0, "rollout/completions": 8.0, "rollout/tokens": 400.0},
    "none": {
        "budget/flops": 2e15,
        "budget/device_s": 3.0,
        "rollout/completions": 8.0,
        "rollout/tokens": 100.0,
    },
}


def write_arms(
    root: Path, spent: Mapping[str, Mapping[str, float]] = SPENT, evaluated: Sequence[int] = range(0, 9, 2)
) -> Export:
    """Two arms of eight steps whose every question gains a right sample of four by every second step."""
    for arm, amounts in spent.items():
        for seed in range(2):
            made = manifest(seed, {"divergence": arm}, **{"config.steps": 8})
            rows = {
                step: {"": sampled_answers([min(K, step // 2)] * (QUESTIONS - seed) + [0] * seed, K)}
                for step in evaluated
            }
            write_evaluated(root / arm / f"seed={seed}", made, rows, amounts)
    return load(str(root))


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(write_arms(tmp_path_factory.mktemp("outputs") / "arms"))


def steps(study: Study, budget: str) -> dict[str, set[int]]:
    reached = at_budget(study, read_budget(budget))
    return {run.arm: {reached.steps[run.name]} for run in study.design.runs}


def test_each_run_counts_with_its_last_evaluation_within_what_all_had_spent(arms: Study) -> None:
    for budget, expected in (
        ("steps", (8, 8)),
        ("completions", (8, 8)),
        # Eight steps of kl are 8e15, of which none has spent 8e15 by its fourth.
        ("flops", (8, 4)),
        ("device_s", (8, 4)),
        ("tokens_sampled", (2, 8)),
        ("flops=5e15", (4, 2)),
        ("steps=7", (6, 6)),
    ):
        assert steps(arms, budget) == {"kl": {expected[0]}, "none": {expected[1]}}, budget


def test_numbers_are_of_those_evaluations_question_by_question(arms: Study) -> None:
    reached = at_budget(arms, Budget("flops"))
    assert reached.limits == {"": 8e15} and set(reached.spent.values()) == {(8e15, 8e15), (8e15, 16e15)}
    assert set(reached.study.scores("kl").values()) == {1.0, 11 / 12}
    assert set(reached.study.scores("none").values()) == {0.5, 0.5 * 11 / 12}
    difference = reached.study.differences()["none"]
    assert difference.over == "seeds and questions" and difference.verdict() == "worse"
    # The study itself stays at its end, where both are alike.
    assert arms.differences()["none"].interval.estimate == 0.0


def test_a_table_says_what_was_spent_and_how_it_was_counted(arms: Study) -> None:
    table = at_equal_budget(arms, Budget("tokens_sampled"))
    rows = {str(row[0]): [str(cell) for cell in row] for row in table.rows}
    assert rows["kl"][1:5] == ["3200", "800", "800", "2"] and rows["none"][1:5] == ["800", "800", "800", "8"]
    assert table.head[5:7] == ["avg@4 at the end, %", "avg@4 there, %"] and rows["none"][-1] == "better"
    assert "it is the sum of rollout/tokens over steps" in " ".join(table.foot) and not table.notes
    assert "sum of" not in " ".join(at_equal_budget(arms, Budget("flops")).foot)
    uneven = at_equal_budget(arms, Budget("flops", 5.5e15))
    assert "4 of 4 runs had spent less than 90%" in uneven.notes[0] and "kl, seed 0 73%" in uneven.notes[0]


def test_a_few_tokens_more_are_within_the_budget(tmp_path: Path) -> None:
    close = {"kl": {"rollout/tokens": 100.0}, "none": {"rollout/tokens": 104.0}}
    assert steps(study(write_arms(tmp_path, close)), "tokens_sampled") == {"kl": {8}, "none": {8}}


def test_what_cannot_be_compared_is_refused_in_one_line(arms: Study, tmp_path: Path) -> None:
    ends = study(write_arms(tmp_path, evaluated=(0, 8)))
    for made, budget, error in (
        (
            arms,
            "tokens_trained",
            r"kl, seed 0\) has no budget/tokens_trained: .* are steps, completions, tok",
        ),
        (arms, "flops=9e15", r"kl, seed 0\) had spent 8e\+15 at its last evaluation; name at most that"),
        (ends, "flops", r"none, seed 0\) was not evaluated between its start and 8e\+15, .* \(eval_every\)"),
    ):
        with pytest.raises(ValueError, match=error):
            at_budget(made, read_budget(budget))
    for text, error in (
        ("joules", "the budgets are steps, completions"),
        ("flops=much", "'much' is no amount"),
        ("flops=0", "positive"),
    ):
        with pytest.raises(ValueError, match=error):
            read_budget(text)


def test_what_was_recorded_counts_before_what_can_be_summed(tmp_path: Path) -> None:
    spent = {
        arm: {"budget/tokens_trained": 10.0, "rollout/tokens": 99.0, "budget/device_s": 1.0}
        for arm in ("kl", "none")
    }
    made = study(write_arms(tmp_path, spent))
    assert at_budget(made, Budget("tokens_trained")).limits == {"": 80.0}
    # A row of timings that a kill tore, or that was edited, costs the seconds and not the run.
    timings = next(tmp_path.rglob("timings.jsonl"))
    timings.write_text(timings.read_text().replace('{"step": 3.0', '{"step" 3.0'))
    again = study(load(str(tmp_path)))
    assert len(again.design.runs) == 4
    with pytest.raises(ValueError, match=r"has no budget/device_s: .*timings\.jsonl"):
        at_budget(again, Budget("device_s"))
    assert set(METERS) >= {"steps", "completions", "tokens_trained", "tokens_sampled", "flops", "device_s"}
