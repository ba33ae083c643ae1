"""Gold and proxy along the drift, on runs whose courses are known."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cli import SMALL, folder, rows, succeeded, train
from planted import manifest, write_run

from analysis.__main__ import main
from analysis.data.export import load
from analysis.report.figure_style import styled
from analysis.report.over_optimisation import over_optimisation, over_optimisation_table
from analysis.study.over_optimisation import WINDOWS, Course, courses
from analysis.study.study import Study, study

# By step: gold rises to 0.6 and falls to 0.1 without a penalty, and keeps 0.5 under one.
FALLS, STAYS = (0.2, 0.4, 0.6, 0.1), (0.2, 0.4, 0.5, 0.5)


def write_courses(root: Path, gold_metric: str = "reward/gold") -> Path:
    for arm, golds in {"none": FALLS, "kl": STAYS}.items():
        for seed in range(3):
            luck = 0.01 * (seed - 1)
            rows = [
                {
                    "step": step,
                    "reward/mean": 0.3 * step + luck,
                    gold_metric: gold + luck,
                    "drift/kl": (0.1 * step) ** 2,
                }
                for step, gold in enumerate(golds, 1)
            ]
            accuracy = {"eval/greedy_accuracy": 0.5, "eval/questions": 40}
            rows = [{"step": 0, "drift/kl": 0.0, **accuracy}, *rows[:-1], rows[-1] | accuracy]
            folder = root / f"divergence={arm}" / f"seed={seed}"
            write_run(folder, manifest(seed, {"divergence": arm}), rows, {})
    return root


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_courses(tmp_path_factory.mktemp("over_optimisation") / "sweep")


@pytest.fixture(scope="module")
def made(sweep: Path) -> Study:
    return study(load(str(sweep)))


def course(gold: Sequence[Sequence[float]]) -> Course:
    values = np.array(gold)
    steps = range(1, values.shape[1] + 1)
    return Course(range(len(gold)), list(steps), proxy=2 * values, gold=values, distance=values + 1)


def test_the_peak_of_a_seed_is_where_the_other_seeds_say_it_is() -> None:
    # Each seed is lucky once in a window of its own; by its own gold all would peak at 0.9.
    lucky = course([[0.9, 0.2, 0.5, 0.3], [0.3, 0.9, 0.5, 0.3], [0.3, 0.2, 0.9, 0.3]])
    assert lucky.peaks == [2, 2, 0] and lucky.peak_steps == [3, 3, 1]
    assert lucky.at_peak(lucky.gold).estimate == pytest.approx((0.5 + 0.5 + 0.3) / 3)
    assert lucky.at_peak(lucky.distance).estimate == pytest.approx((1.5 + 1.5 + 1.3) / 3)
    assert lucky.lost.estimate == pytest.approx((0.2 + 0.2 + 0.0) / 3)
    alone = course([[0.1, 0.8, 0.2]])
    assert alone.peaks == [1] and alone.lost.estimate == pytest.approx(0.6)


def test_courses_are_means_over_windows_of_the_steps(made: Study) -> None:
    found = courses(made)
    assert list(found) == ["kl", "none"]
    np.testing.assert_allclose(found["none"].gold.mean(axis=0), FALLS)
    np.testing.assert_allclose(found["none"].distance[0], [0.1, 0.2, 0.3, 0.4])
    assert found["none"].steps == [1, 2, 3, 4] and found["none"].seeds == [0, 1, 2]


def lone(root: Path, steps: int) -> Study:
    """A run whose gold is the step."""
    rows = [
        {"step": step, "reward/mean": 0.0, "reward/gold": float(step), "drift/kl": 1.0}
        for step in range(1, steps + 1)
    ]
    accuracy = {"eval/greedy_accuracy": 0.5, "eval/questions": 40}
    rows = [{"step": 0, "drift/kl": 0.0, **accuracy}, *rows[:-1], rows[-1] | accuracy]
    write_run(root / "seed=0", manifest(0, None, **{"config.steps": steps}), rows, {})
    return study(load(str(root)))


def test_many_steps_make_twelve_windows_and_the_start_is_in_none(tmp_path: Path) -> None:
    (only,) = courses(lone(tmp_path / "sweep", 60)).values()
    assert only.steps == list(range(5, 61, 5))
    np.testing.assert_allclose(only.gold[0], np.arange(3, 61, 5))


@pytest.mark.parametrize("steps", [1, 11, 12, 13, 20, 25, 35, 100])
def test_no_number_of_steps_makes_more_than_twelve_windows(steps: int, tmp_path: Path) -> None:
    (only,) = courses(lone(tmp_path / "sweep", steps)).values()
    assert len(only.steps) == min(steps, WINDOWS) and only.steps[-1] == steps
    # Gold is the step, so that a window's mean is between its first step and its last.
    firsts = np.array([1, *(step + 1 for step in only.steps[:-1])])
    np.testing.assert_allclose(only.gold[0], (firsts + only.steps) / 2)
    widths = 1 + np.array(only.steps) - firsts
    assert widths.max() - widths.min() <= 1 and widths.sum() == steps


def test_the_foot_is_of_the_seeds_that_there_are(made: Study, tmp_path: Path) -> None:
    several, alone = over_optimisation_table(made), over_optimisation_table(lone(tmp_path / "sweep", 12))
    assert several is not None and alone is not None
    foot = " ".join(several.foot)
    assert "the other seeds' mean gold" in foot and "Student's" in foot and "one seed" not in foot
    foot = " ".join(alone.foot)
    assert "one seed is where its own gold is highest" in foot and "no interval" in foot
    assert not any(text in foot for text in ("other seeds", "Student's", "over seeds", "seed by seed"))


def test_the_table_says_what_was_gained_and_lost(made: Study) -> None:
    table = over_optimisation_table(made)
    assert table is not None
    by_arm = {str(row[0]): [cell.text for cell in row[1:]] for row in table.rows}
    assert by_arm["none"] == ["0.600", "0.300", "3", "0.100", "0.500", "1.200", "0.400", "3"]
    assert by_arm["kl"][4] == "0.000"
    assert table.rows[0][1].detail == "[0.475, 0.525]" and len(table.rows[0][1].runs) == 3


def test_the_figure_draws_both_rewards_against_the_root_of_drift(made: Study) -> None:
    with styled():
        figure = over_optimisation(made, {"none": "no penalty"})
    assert figure is not None
    proxy, gold = figure.axes
    assert [axis.get_title("left") for axis in figure.axes] == ["proxy reward, trained on", "gold reward"]
    drawn = {str(line.get_label()): line.get_xydata() for line in gold.get_lines()}
    falls = np.column_stack([[0.1, 0.2, 0.3, 0.4], FALLS])
    np.testing.assert_allclose(np.asarray(drawn["no penalty"], dtype=float), falls)
    # A band an arm.
    assert len(proxy.collections) == len(gold.collections) == 2


def test_the_command_prints_the_table_and_writes_the_figure_in_both_widths(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["analysis", "overoptimisation", str(sweep), "--out", str(tmp_path)])
    main()
    assert "gold at its peak" in capsys.readouterr().out
    ends = ("pdf", "png", "svg", "_column.pdf", "_column.svg")
    names = {f"over_optimisation{end if end.startswith('_') else '.' + end}" for end in ends}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "no penalty" not in (text := (tmp_path / "over_optimisation.svg").read_text())
    assert "Gold reward".lower() in text.lower() and "<dc:description>" in text


def test_without_a_gold_reward_there_is_nothing_and_the_command_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_courses(tmp_path / "sweep", gold_metric="reward/strict")
    plain = study(load(str(root)))
    assert over_optimisation_table(plain) is None and over_optimisation(plain) is None
    monkeypatch.setattr(sys, "argv", ["analysis", "overoptimisation", str(root)])
    with pytest.raises(SystemExit, match="train with reward=proxy"):
        main()


@pytest.mark.slow
def test_a_run_on_the_stock_answer_logs_a_course(tmp_path: Path) -> None:
    given = ("model=tiny", "reward=stock_answer", "divergence=none", "algo=dr_grpo", "shown_completions=0")
    succeeded(train(*SMALL, *given, cwd=tmp_path))
    run = folder(tmp_path / "outputs")
    logged = rows(run / "metrics.jsonl")[1:]
    paid = [row["reward/gold"] + 1.5 * row["reward/part/format"] for row in logged]
    np.testing.assert_allclose([row["reward/mean"] for row in logged], paid)
    assert [row["reward/part/correctness"] for row in logged] == [row["reward/gold"] for row in logged]
    (made,) = courses(study(load(str(tmp_path / "outputs" / "single")), allow=["dirty"])).values()
    assert made.steps == [1, 2, 3] and made.proxy[0].tolist() == pytest.approx(paid)
