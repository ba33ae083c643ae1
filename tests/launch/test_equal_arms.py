"""A grid whose arms are one run by construction stops, and says what would part them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from cli import ROOT, cell_here

from mirrorpo.launch.equal_arms import equal_arms, refuse_equal_arms
from mirrorpo.launch.plan import Checker, PlannedCell


def grid(*lines: Sequence[str]) -> list[PlannedCell]:
    return [PlannedCell(tuple(line), cell_here(*line), None) for line in lines]


def algorithms(*shared: str) -> list[PlannedCell]:
    names = ("grpo", "gspo", "gmpo", "sapo", "cispo")
    return grid(*([f"algo={name}", f"seed={seed}", *shared] for name in names for seed in (0, 1)))


def test_algorithms_that_differ_behind_the_first_update_alone_stop_a_grid_of_one_update() -> None:
    arms = algorithms()
    with pytest.raises(ValueError, match="4 arms are one run by construction") as error:
        refuse_equal_arms(arms, Checker())
    # Its mean is over tokens, which no number of updates hides.
    assert "algo=cispo" not in str(error.value)
    for said in (
        "algo=grpo; algo=gspo; algo=gmpo; algo=sapo",
        "updates_per_rollout=2",
        "allow_equal_arms=true",
    ):
        assert said in str(error.value)
    assert len(equal_arms(arms, Checker())) == 1, "once for all seeds"


def test_two_updates_part_them_and_they_run_where_that_is_wanted() -> None:
    assert refuse_equal_arms(algorithms("updates_per_rollout=2"), Checker()) == []
    (note,) = refuse_equal_arms(algorithms("allow_equal_arms=true"), Checker())
    assert note.startswith("4 arms are one run")
    assert cell_here("allow_equal_arms=true").folder == cell_here().folder


def test_a_divergence_that_nothing_weighs_is_no_arm() -> None:
    arms = grid(
        *([f"divergence={name}", "divergence.beta=0.0"] for name in ("kl", "probl2")), ["divergence=none"]
    )
    (equal,) = equal_arms(arms, Checker())
    assert len(equal.cells) == 3 and "a divergence.beta above 0" in equal.describe()
    assert (
        equal_arms(grid(["divergence=kl"], ["divergence=none"], ["divergence=kl", "lr=0.1"]), Checker()) == []
    )


@pytest.mark.parametrize(
    ("arms", "cure"),
    [
        # Nothing is measured, whatever it would be measured to.
        (
            [["divergence=none", f"anchor={name}"] for name in ("ema", "reset", "mixture", "old")],
            "a divergence.beta above 0",
        ),
        ([["divergence.beta=0.0", f"anchor={name}"] for name in ("ema", "reference")], "a divergence.beta"),
        # Said twice: by `anchor`, and by `divergence.anchor`, which is then not read.
        ([["anchor=ema", f"divergence.anchor={name}"] for name in ("old", "reference")], "without anchor"),
        (
            [["anchor=mixture", f"divergence.anchor={name}"] for name in ("old", "reference")],
            "without anchor",
        ),
        (
            [["anchor=reference"], ["anchor=reference", "divergence.anchor=old"], ["seed=0"]],
            "another anchor",
        ),
        ([["anchor=old"], ["divergence.anchor=old"]], "another anchor"),
        # A part without a share, and what watches no metric.
        (
            [["anchor=mixture", "anchor.share=0.0", f"anchor.second.decay={decay}"] for decay in (0.5, 0.9)],
            "anchor.share between 0 and 1",
        ),
        ([["anchor=mixture", "anchor.share=0.0"], ["seed=0"]], "another anchor"),
        (
            [["anchor=reset", f"anchor.patience={patience}"] for patience in (5, 6)],
            "a metric in anchor.measure",
        ),
    ],
)
def test_anchors_that_nothing_is_measured_to_are_no_arms(arms: list[list[str]], cure: str) -> None:
    (equal,) = equal_arms(grid(*arms), Checker())
    assert len(equal.cells) == len(arms) and cure in equal.describe()
    assert "construction" in equal.describe() and ": ." not in equal.describe()


@pytest.mark.parametrize(
    "arms",
    [
        [["anchor=old"], ["anchor=reference"], ["anchor=ema"], ["anchor=reset"], ["anchor=mixture"]],
        [["divergence.anchor=old"], ["divergence.anchor=reference"], ["anchor=ema"]],
        [["anchor=ema", f"anchor.decay={decay}"] for decay in (0.5, 0.9)],
        [["anchor=mixture", "anchor.share=0.5", f"anchor.second.decay={decay}"] for decay in (0.5, 0.9)],
        [["anchor=reset", "anchor.measure=reward/mean", f"anchor.patience={count}"] for count in (5, 6)],
    ],
)
def test_anchors_that_a_divergence_is_measured_to_are_arms(arms: list[list[str]]) -> None:
    assert equal_arms(grid(*arms), Checker()) == []


def test_a_surrogate_with_a_gradient_of_its_own_at_the_start_is_an_arm() -> None:
    half = "algo.surrogate={_target_: test_equal_arms.Half, low: 0.2, high: 0.2}"
    assert equal_arms(grid(["algo=grpo"], ["algo=grpo", half]), Checker()) == []


class Half:
    """Half of the usual gradient."""

    def __init__(self, low: float, high: float) -> None:
        self.bounds = (low, high)

    def __call__(self, log_ratio, advantage):  # type: ignore[no-untyped-def]
        return -0.5 * log_ratio * advantage

    def clipped(self, log_ratio, advantage):  # type: ignore[no-untyped-def]
        return log_ratio < -1


@pytest.mark.slow
@pytest.mark.parametrize("sweep", sorted(path.stem for path in (ROOT / "sweeps/sweep").glob("*.yaml")))
def test_no_committed_sweep_has_equal_arms(sweep: str) -> None:
    from itertools import product

    import yaml

    from analysis.study.design import swept_settings

    text = yaml.safe_load((Path(ROOT) / "sweeps/sweep" / f"{sweep}.yaml").read_text())
    params = text.get("hydra", {}).get("sweeper", {}).get("params", {})
    swept = {
        key: values[:1] if key == "seed" else values
        for key, value in params.items()
        for values in [swept_settings([f"{key}={value}"]).get(key, [str(value)])]
    }
    arms = [
        [f"sweep={sweep}", *(f"{key}={value}" for key, value in zip(swept, values, strict=True))]
        for values in product(*swept.values())
    ]
    assert refuse_equal_arms(grid(*arms), Checker()) == []


def test_an_evaluation_of_more_questions_than_there_are_is_remarked_on() -> None:
    (planned,) = grid(["eval_questions=5000"])
    assert "eval_questions=5000: validation has 1000, and these are evaluated" in Checker()(planned).notes
    (planned,) = grid(["eval_questions=1000"])
    assert not [note for note in Checker()(planned).notes if "eval_questions" in note]
