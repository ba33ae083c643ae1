import re
from dataclasses import replace

import pytest
import torch
from cli import cell_here

from mirrorpo.config.paths import sweeps
from mirrorpo.divergence.bregman import CorrectedBregman, ExactBregman, SampledBregman
from mirrorpo.divergence.flow import Ending, pull
from mirrorpo.divergence.neural_mirror import NeuralMirror, RandomParameters
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.potentials import NegativeEntropy, Square
from mirrorpo.tools.fixed_points import (
    MapTable,
    World,
    at_betas,
    from_table,
    main,
    prediction,
    predictions,
    strength,
    table,
    world_of,
)
from mirrorpo.train.build import build_components

WORLD = World(
    start=torch.tensor([[0.6, 0.1, 0.3]], dtype=torch.float64),
    proxy=torch.tensor([[1.0, 1.5, 0.0]], dtype=torch.float64),
    gold=torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
    names=[["right", "exploit", "other"]],
)
KL = ExactBregman(potential=NegativeEntropy(), direction="reverse")
PROBL2 = ExactBregman(potential=Square(factor=1.0), direction="reverse")


@pytest.mark.slow
def test_a_strength_is_that_at_which_the_gold_that_is_trained_on_ends_at_the_target() -> None:
    # 0.6 e^(1 / beta) / (0.6 e^(1 / beta) + 0.4) = 0.8
    beta = strength(WORLD, KL, 0.8)
    assert beta == pytest.approx(1 / torch.tensor(0.8 / 0.2 / 1.5).log().item(), rel=1e-4)
    probl2 = strength(WORLD, PROBL2, 0.8)
    assert probl2 is not None
    control = replace(WORLD, proxy=WORLD.gold)
    rows = predictions(control, {"kl": KL, "probl2": PROBL2}, {"kl": beta, "probl2": probl2}, 1.0)
    for name, row in rows.items():
        assert row is not None and row.gold == row.proxy == pytest.approx(0.8, abs=1e-4), name
    assert strength(WORLD, KL, 0.5) is None


def test_predictions_are_means_over_questions_in_the_terms_of_the_metrics() -> None:
    rows = predictions(WORLD, {"none": NoDivergence(), "kl": KL}, {"none": 0.0, "kl": None}, 7 / 8)
    row = rows["none"]
    assert rows["kl"] is None and row is not None
    assert (round(row.gold, 3), round(row.proxy, 3), round(row.distinct, 3)) == (0, 1.5, 1)
    assert round(row.shares["exploit"], 3) == 1 and row.at_rest
    # All of it is the exploit, so eight samples hold nothing of the one right answer.
    assert row.passed == row.coverage == pytest.approx(0, abs=1e-3)
    lines = table(WORLD, rows).splitlines()
    assert lines[2].startswith("| none | 0 | 0.000 | 1.500 |")
    assert lines[-1] == "no beta ends at that gold reward: kl"
    scaled = predictions(WORLD, {"kl": KL}, {"kl": 0.8}, 7 / 8)["kl"]
    assert scaled is not None and scaled.beta == pytest.approx(0.7)


def test_a_neural_map_is_read_from_a_table_with_the_same_pull() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.9999, 5e-5, 5e-5]], dtype=torch.float64).log()
    q = WORLD.start.log().expand(2, 3)
    for signed in (False, True):
        numbers = RandomParameters(seed=42, scale=0.01, signed=signed)
        for form in (SampledBregman, CorrectedBregman):
            divergence = form(potential=NeuralMirror(parameters=numbers))
            table_form = from_table(divergence)
            assert isinstance(table_form, form) and isinstance(table_form.potential, MapTable)
            assert table_form.potential.convex is not signed
            torch.testing.assert_close(pull(table_form, p, q), pull(divergence, p, q), rtol=1e-7, atol=1e-12)
    assert from_table(KL) is KL


def test_another_reward_pays_the_same_decisions_and_the_model_is_read_once() -> None:
    settings = ["model=exploit", "algo=dr_grpo", "divergence=none", "eval_questions=0", "threads=1"]
    rare, common = (
        build_components(cell_here(*settings, f"reward={name}").config)
        for name in ("exploit_rare", "exploit_common")
    )
    world = world_of(rare)
    again = world.paid(common)
    assert again.start is world.start and torch.equal(again.gold, world.gold)
    assert world.proxy.max() == 1.5 and again.proxy.max() == 2.0
    assert torch.equal(again.paid(rare).proxy, world.proxy)


def test_arms_are_told_as_they_are_found_and_the_tables_keep_their_digits(capsys) -> None:
    threads = torch.get_num_threads()
    names = "divergence=kl_exact,probl2_exact,none"
    main(["model=exploit", "algo=dr_grpo", names, "reward=exploit_rare,exploit_none", "threads=1"])
    torch.set_num_threads(threads)
    out, told = capsys.readouterr()
    # docs/exploit.md and sweeps/sweep/exploit_divergence.yaml.
    for row in (
        "| kl_exact | 0.50421 | 0.734 |",
        "| probl2_exact | 1.7842 | 0.708 |",
        "| none | 0 | 0.000 |",
    ):
        assert row in out
    assert told.splitlines()[0] == "kl_exact: beta 0.50421, gold 0.734"
    assert told.splitlines()[1] == "probl2_exact: beta 1.7842, gold 0.708"


def test_coverage_is_the_expected_share_of_right_answers_in_eight_samples() -> None:
    world = replace(WORLD, gold=torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64))
    row = prediction(world, Ending(policy=world.start, residual=0.0), 0.0)
    assert row.coverage == pytest.approx(((1 - 0.4**8) + (1 - 0.9**8)) / 2)
    assert row.distinct_right == pytest.approx(2 * row.coverage) and row.passed == pytest.approx(1 - 0.3**8)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model=exploit", "algo=grpo"], "algo.advantage=GroupStandardised"),
        (
            ["model=exploit", "algo=dr_grpo", "divergence=kl_exact", "divergence.anchor=old"],
            "anchor=reference",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_a_line(arguments, reason) -> None:
    with pytest.raises(SystemExit, match=reason) as end:
        main(arguments)
    assert str(end.value).startswith("error: ") and "\n" not in str(end.value)


def test_each_of_several_betas_is_an_arm() -> None:
    arms = {"kl": KL, "none": NoDivergence()}
    assert at_betas(arms, []) == {"kl": (KL, None), "none": (arms["none"], None)}
    assert at_betas({"kl": KL}, ["1"]) == {"kl": (KL, 1.0)}
    several = at_betas(arms, ["0.1", "1"])
    assert list(several) == ["kl beta=0.1", "kl beta=1", "none"] and several["kl beta=1"] == (KL, 1.0)
    with pytest.raises(ValueError, match=r"divergence\.beta=0\.1,x: give a number"):
        at_betas(arms, ["0.1", "x"])


def test_the_command_has_a_row_for_each_beta(capsys: pytest.CaptureFixture[str]) -> None:
    main(["model=exploit", "algo=dr_grpo", "divergence=kl_exact", "divergence.beta=0.5,1"])
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if "kl_exact" in line]
    assert sorted(rows) == [["| kl_exact beta=0.5", "0.5"], ["| kl_exact beta=1", "1"]]


@pytest.mark.slow
def test_the_sweeps_prediction_is_the_tools(capsys) -> None:
    main(["model=exploit", "algo=dr_grpo", "divergence=kl_exact,kl,probl2_exact", "reward=exploit_common"])
    text = (sweeps() / "sweep" / "exploit_divergence.yaml").read_text()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "| 0." in line]
    assert len(rows) == 3
    for name, beta, gold, *_ in rows:
        along = re.search(rf"divergence={name}: {{divergence.beta: ([\d.]+)}}", text)
        predicted = re.search(rf"^#   {name}(?: \(k3\))? +[\d.]+ +[\d.]+ +([\d.]+)", text, re.MULTILINE)
        assert along and predicted
        assert float(along[1]) == pytest.approx(float(beta), rel=1e-3)
        assert float(predicted[1]) == pytest.approx(float(gold), abs=2e-3)


@pytest.mark.slow
def test_what_the_sweep_of_many_right_answers_predicts_is_the_tools(capsys) -> None:
    main(["model=exploit", "algo=dr_grpo", "divergence=kl_exact,kl,probl2_exact", "reward=exploit_many"])
    text = (sweeps() / "sweep" / "exploit_diversity.yaml").read_text()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert len(rows) == 3
    for row in rows:
        name = row["divergence"]
        along = re.search(rf"divergence={name}: {{divergence.beta: ([\d.]+)}}", text)
        predicted = re.search(rf"^#   {name}(?: \(k3\))? +[\d.]+ +([\d.]+) +([\d.]+)", text, re.MULTILINE)
        assert along and float(along[1]) == pytest.approx(float(row["beta"]), rel=1e-3), name
        assert predicted and float(predicted[1]) == pytest.approx(float(row["coverage@8"]), abs=2e-3), name
        assert float(predicted[2]) == pytest.approx(float(row["right of these"]), abs=2e-2), name
