"""The table of what each divergence's value and gradient are, and the page that holds it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import oracles
import pytest
import torch

from mirrorpo.divergence.bregman import CorrectedBregman, ExactBregman, SampledBregman
from mirrorpo.divergence.kl import K1, K2, K3
from mirrorpo.divergence.potentials import ItakuraSaito, NegativeEntropy, Square
from mirrorpo.tools import estimator_table as estimators
from mirrorpo.tools.estimator_table import (
    MARKERS,
    PROBABILITIES,
    SHOWN,
    convex,
    expectation,
    formula,
    page,
    row,
)
from mirrorpo.tools.marked_page import written

BEGIN, END = MARKERS
ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "algorithms.md"


@cache
def table() -> str:
    return page(CONF)


def cells(divergence: Any) -> list[str]:
    """Value and gradient on-policy, value and gradient off-policy."""
    return row("x", divergence)[3:7]


def exact(potential: Any, direction: Any = "reverse") -> ExactBregman:
    return ExactBregman(potential=potential, direction=direction)


# ---------------------------------------------------------------- the page


def test_the_page_holds_exactly_what_the_command_makes():
    text = PAGE.read_text()
    assert text == written(text, table(), MARKERS), (
        "run: python -m mirrorpo.tools.estimator_table --write docs/algorithms.md"
    )


def test_every_divergence_of_the_config_is_a_row_with_all_columns():
    rows = [line for line in table().splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == sorted(
        path.stem for path in (CONF / "divergence").glob("*.yaml")
    )
    assert {line.count(" | ") for line in rows} == {len(estimators.COLUMNS) - 1}


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter | {BEGIN[:8]}\n"
    once = written(text, "new", MARKERS)
    assert once == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter | {BEGIN[:8]}\n"
    assert written(once, "new", MARKERS) == once


@pytest.mark.parametrize(
    "text", ["none", BEGIN, END, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"]
)
def test_a_page_without_one_pair_of_markers_is_refused(text):
    with pytest.raises(ValueError, match="once each and in this order"):
        written(text, "new", MARKERS)


def test_the_command_prints_the_table_or_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimators, "page", lambda conf: f"table of {conf.name}")
    estimators.main([])
    assert capsys.readouterr().out == "table of conf\n"
    file = tmp_path / "page.md"
    file.write_text(f"{BEGIN}{END}")
    estimators.main(["--conf", "other", "--write", str(file)])
    assert file.read_text() == f"{BEGIN}\n\ntable of other\n\n{END}"
    assert capsys.readouterr().out == ""


def test_the_command_says_what_it_lacks_and_leaves_the_page(tmp_path, monkeypatch):
    file = tmp_path / "page.md"
    file.write_text("no markers")
    with pytest.raises(SystemExit, match=r"error: --conf .*: no train\.yaml there"):
        estimators.main(["--conf", str(tmp_path), "--write", str(file)])
    monkeypatch.setattr(estimators, "page", lambda conf: "table")
    with pytest.raises(SystemExit, match="error: the page needs the two lines"):
        estimators.main(["--write", str(file)])
    assert file.read_text() == "no markers"


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("on_policy", [True, False])
def test_an_expectation_is_the_sum_over_tokens_by_the_probability_each_is_drawn_with(on_policy):
    drawn = PROBABILITIES["p" if on_policy else "old"]
    logits = SHOWN.log_p.clone().requires_grad_()
    naive = sum(
        weight * oracles.k3(log_p, log_q)
        for weight, log_p, log_q in zip(drawn, logits.log_softmax(-1), SHOWN.log_q, strict=True)
    )
    ours = expectation(K3(), SHOWN.on_policy() if on_policy else SHOWN)
    torch.testing.assert_close(ours.value, naive.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.gradient, torch.autograd.grad(naive, logits)[0], rtol=1e-12, atol=1e-15)


def test_the_estimators_of_kl_are_known_by_their_values_and_gradients():
    assert cells(K1())[:2] == ["KL(p, q)", "0"]
    assert cells(K2())[1] == "KL(p, q)"
    assert cells(K3())[:2] == ["KL(p, q)", "KL(q, p)"]
    assert cells(exact(NegativeEntropy())) == ["KL(p, q)"] * 4
    assert cells(exact(NegativeEntropy(), "forward")) == ["KL(q, p)"] * 4
    assert cells(CorrectedBregman(potential=NegativeEntropy())) == ["KL(p, q)"] * 4


def test_off_policy_the_sampled_forms_are_none_of_the_known():
    for divergence in (K2(), K3(), SampledBregman(potential=Square(factor=1.0))):
        value, gradient = cells(divergence)[2:]
        assert value.startswith("biased, ")
        assert gradient.startswith("cos ")
    assert cells(K1())[3] == "-KL(old, p)"


def test_a_factor_is_told():
    assert cells(exact(Square(factor=0.5)))[0] == "0.5 sum (p - q)^2"
    assert cells(SampledBregman(potential=ItakuraSaito()))[1] == "0.5 sum (p - q)^2 / q"


def test_a_biased_value_and_a_gradient_of_none_are_compared_with_the_potentials_divergence():
    p, q = PROBABILITIES["p"], PROBABILITIES["q"]
    ratio = sum(a * (a - b) ** 2 for a, b in zip(p, q, strict=True)) / sum(
        (a - b) ** 2 for a, b in zip(p, q, strict=True)
    )
    value, gradient = cells(SampledBregman(potential=Square(factor=1.0)))[:2]
    assert value == f"biased, {ratio:.2f} of sum (p - q)^2"

    def through_softmax(outer: list[float]) -> torch.Tensor:
        mean = sum(a * slope for a, slope in zip(p, outer, strict=True))
        return torch.tensor(
            [a * (slope - mean) for a, slope in zip(p, outer, strict=True)], dtype=torch.float64
        )

    ours = through_softmax([2 * a * (a - b) for a, b in zip(p, q, strict=True)])
    its = through_softmax([2 * (a - b) for a, b in zip(p, q, strict=True)])
    cosine = torch.nn.functional.cosine_similarity(ours, its, dim=0)
    assert (
        gradient == f"cos {float(cosine):.2f} to sum (p - q)^2, {float(ours.norm() / its.norm()):.2f} as long"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fourth:
    """A potential without a name in the list.

        f(p) = p^4

    Value: convex.
    """

    convex: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    log_floor: ClassVar[float] = -690.0
    fingerprint: ClassVar[str | None] = None

    def f(self, p: torch.Tensor) -> torch.Tensor:
        return p**4

    def df(self, p: torch.Tensor) -> torch.Tensor:
        return 4 * p**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Wave:
    """f(p) = sin(9 p), convex nowhere near one."""

    convex: ClassVar[bool] = False
    convex: ClassVar[bool] = False
    log_floor: ClassVar[float] = -690.0
    fingerprint: ClassVar[str | None] = None

    def f(self, p: torch.Tensor) -> torch.Tensor:
        return (9 * p).sin()

    def df(self, p: torch.Tensor) -> torch.Tensor:
        return 9 * (9 * p).cos()


@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredKL:
    """KL(p, q)^2: at any one state a multiple of KL(p, q), in value and in gradient."""

    reads: ClassVar[str] = "vocabulary"

    def __call__(self, policy: torch.Tensor, anchor: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return (policy.exp() * (policy - anchor)).sum(dim=-1).square()


def test_a_new_potential_goes_by_its_own_name():
    assert cells(exact(Fourth())) == ["Fourth(p, q)"] * 4
    assert cells(exact(Fourth(), "forward")) == ["Fourth(q, p)"] * 4
    assert cells(SampledBregman(potential=Fourth()))[0].endswith(" of Fourth(p, q)")


def test_what_agrees_at_one_state_only_gets_no_name():
    value, gradient, *_ = cells(SquaredKL())
    assert value.startswith("biased, ")
    assert gradient.startswith("cos 1.00 to KL(p, q), ")


def test_a_potential_that_is_not_convex_is_said_to_be_none_and_breaks_nothing():
    assert convex(Fourth()) and not convex(Wave())
    for divergence in (
        exact(Wave()),
        exact(Wave(), "forward"),
        SampledBregman(potential=Wave()),
        CorrectedBregman(potential=Wave()),
    ):
        assert row("x", divergence)[2].endswith("**not convex**, so no divergence")
    assert "convex" not in formula(exact(Fourth()))


def test_a_term_below_zero_is_seen():
    assert row("x", K1())[-1] == "yes"
    assert row("x", K2())[-1] == "no"
    assert row("x", exact(NegativeEntropy()))[-1] == "no"


def test_a_formula_is_the_docstrings_with_its_potentials_and_their_settings():
    assert formula(K3()) == "`k3 = exp(x) - 1 - x, x = log q(y_t) - log p(y_t)`"
    assert (
        formula(SampledBregman(potential=Square(factor=0.5)))
        == "`d_t = f(p) - f(q) - f'(q)(p - q)`; `f(p) = factor p^2`; `potential.factor=0.5`"
    )
    assert (
        formula(exact(Fourth(), "forward"))
        == "`D_t = sum_v f(p_v) - f(q_v) - f'(q_v)(p_v - q_v)`; `f(p) = p^4`; `direction=forward`"
    )
