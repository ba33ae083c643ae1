"""A cell's loss as an equation: which symbols stand in it, and that every part states its own."""

import re
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rows import CONF, names, settings_of

from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.trust_region import NO_TRUST_REGION
from mirrorpo.core.protocols import Placement
from mirrorpo.divergence.placement import token_credit
from mirrorpo.train import equation
from mirrorpo.train.build import Components, build_penalty
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

PARTS = ("aggregate", "surrogate", "ratio", "advantage", "update_advantage", "token_normalisation")


def node(group: str, name: str) -> Any:
    """A group's file on top of those that it begins with, with the run-level setting that rows refer to."""
    file = OmegaConf.load(CONF / group / f"{name}.yaml")
    defaults = file.pop("defaults", [])
    bases = [base for base in defaults if isinstance(base, str) and base != "_self_"]
    extended = OmegaConf.merge(*(node(group, base) for base in bases), file)
    for entry in (entry for entry in defaults if not isinstance(entry, str)):
        ((place, choice),) = entry.items()
        # Choices for the row itself; those of the run are overridden.
        if place.startswith("/"):
            chosen, _, below = place[1:].partition("@")
            OmegaConf.update(extended, below, node(chosen, choice))
    return OmegaConf.create({"max_new_tokens": 128, group: extended})[group]


def components(algo: str = "grpo", divergence: str = "kl_k3", **changes: Any) -> Components:
    """As much of a run's parts as an equation reads."""
    penalty = build_penalty(settings_of(divergence, **changes))
    return Mock(
        weighting=Unscored(weighting=Uniform()),
        spec=Components,
        algo=instantiate(node("algo", algo), _convert_="all"),
        penalty=penalty,
        importance_correction=None,
        trust_region=NO_TRUST_REGION,
        entropy=NO_ENTROPY_CONTROL,
    )


def with_entropy(of: Components, name: str, **settings: Any) -> Components:
    """With an entropy control."""
    of.entropy = instantiate(OmegaConf.merge(node("entropy", name), settings))  # type: ignore[misc]
    return of


def in_the_loss(of: Components) -> Components:
    """With weights that multiply the penalty too."""
    of.penalty = replace(of.penalty, scope="loss")  # type: ignore[misc]
    return of


def test_symbols_stand_where_the_loss_has_them() -> None:
    one, two = "w_t l(log r_t, A_i)", "l(log r_t, A_t)"
    assert equation.loss(components()) == f"L = aggregate[ {one} + 0.04 D_t ]"
    assert equation.loss(in_the_loss(components())) == "L = aggregate[ w_t (l(log r_t, A_i) + 0.04 D_t) ]"
    assert equation.loss(components(beta=0.0)) == f"L = aggregate[ {one} ]"
    assert equation.loss(components(placement="reward")) == f"L = aggregate[ {two} ]"
    assert equation.loss(components(placement="loss_to_go")) == f"L = aggregate[ {two} + 0.04 D_t ]"
    assert equation.signed_credit(components()) == []
    to_go = in_the_loss(components(placement="reward_to_go"))
    assert equation.signed_credit(to_go) == ["A_t = w_t (A_i - 0.04 k_t)", "k_t = sum over s >= t of D_s"]
    whitened = components("reinforce_pp_kl_in_reward", placement="reward_to_go")
    assert equation.signed_credit(whitened)[0] == "A_t = (w_t (A_i - m) - 0.04 k_t) / s"


def test_an_entropy_control_stands_where_the_loss_has_it() -> None:
    one = "w_t l(log r_t, A_i)"
    exact = with_entropy(components(), "bonus")
    assert equation.loss(exact) == f"L = aggregate[ {one} + 0.04 D_t - c H_t ]"
    assert equation.loss(in_the_loss(exact)) == ("L = aggregate[ w_t (l(log r_t, A_i) + 0.04 D_t - c H_t) ]")
    assert equation.equation_of(exact.entropy)[0].endswith("c = 0.001")
    sampled = with_entropy(components(beta=0.0), "adaptive", estimator="sampled")
    assert equation.loss(sampled) == "L = aggregate[ l(log r_t, A_t) ]"
    assert equation.signed_credit(sampled) == ["A_t = w_t A_i - c log pi_old(y_t)"]
    assert equation.equation_of(sampled.entropy) == [
        "c' = c + 0.005   if H <= 0.2,   else c - 0.005;   cut to [0, 1]"
    ]
    clip = with_entropy(components(beta=0.0), "covariance")
    assert equation.loss(clip) == "L = aggregate[ w_t h_t l(log r_t, A_i) ]"
    penalised = with_entropy(components(beta=0.0), "covariance", method="kl")
    assert equation.loss(penalised) == f"L = aggregate[ {one} + h_t ]"
    assert [term.symbol for term in equation.terms(penalised) if term.group == "entropy"] == ["h_t"]


@pytest.mark.parametrize("placement", list(equation.TAKEN))
def test_what_a_placement_takes_is_what_it_says(placement: Placement) -> None:
    drops, mask = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.ones(1, 4, dtype=torch.bool)
    stated = equation.TAKEN[placement]
    assert stated.startswith("k_t = ")
    if stated == "k_t = D_t":
        taken = drops
    else:
        compare = re.fullmatch(r"k_t = sum over s (>=?) t of D_s", stated)
        assert compare is not None
        first = 0 if compare[1] == ">=" else 1
        taken = torch.tensor([[float(drops[0, t + first :].sum()) for t in range(4)]])
    assert token_credit(drops, mask, placement).equal(taken)


def test_every_part_states_an_equation() -> None:
    silent = []
    for name in names("algo"):
        row = instantiate(node("algo", name), _convert_="all")
        assert isinstance(row, Algorithm)
        parts = [(part, getattr(row, part)) for part in PARTS]
        silent += [f"algo={name}: {part}" for part, made in parts if made and not equation.equation_of(made)]
    for name in names("divergence"):
        settings = settings_of(name)
        if settings.get("_target_", "").endswith(("NoDivergence",)) or "path" in str(settings):
            continue
        penalty = build_penalty(settings)
        if not equation.equation_of(penalty.divergence):
            silent.append(f"divergence={name}")
    assert silent == []


def test_numbers_take_the_place_of_names() -> None:
    row = instantiate(node("algo", "dapo"), _convert_="all")
    assert equation.equation_of(row.surrogate)[0] == (
        "loss_t = -min( r_t A_t,  clip(r_t, 1 - 0.2, 1 + 0.28) A_t )"
    )
    penalty = build_penalty(settings_of("probl2_exact"))
    term = equation.Term(symbol="D_t", group="divergence", part=penalty.divergence)
    assert term.lines()[-1] == "    potential: f(p) = 1 p^2"


def test_a_part_without_a_docstring_is_named() -> None:
    class Mine:
        pass

    assert equation.equation_of(Mine()) == []
    assert equation.described(Mine()) == "Mine"
    assert equation.described(test_a_part_without_a_docstring_is_named) == (
        "test_a_part_without_a_docstring_is_named"
    )
