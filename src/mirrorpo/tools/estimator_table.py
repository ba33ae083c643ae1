"""`python -m mirrorpo.tools.estimator_table`: what the value and the gradient of each divergence of conf/
are, measured.

A divergence is read at one state with five tokens, in float64, and averaged over the token that is
drawn, by enumeration: from the policy p itself (on-policy) or from another, old policy (off-policy).
What comes out is compared with a list of functionals whose name is known; no name is typed in by hand.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from mirrorpo.config.paths import command, conf
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.protocols import Divergence
from mirrorpo.divergence.f_divergence import Renyi
from mirrorpo.divergence.generators import Alpha, HasGenerator
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.potentials import HasPotential, Potential
from mirrorpo.divergence.top import TopBregman, TopFDivergence
from mirrorpo.tools.marked_page import publish
from mirrorpo.train.build import build_penalty
from mirrorpo.train.equation import docstring_equation

# Tokens that are summed by what sums the likeliest.
TOP_K = 2

Functional = Callable[[Tensor, Tensor, Tensor], Tensor]

MARKERS = ("<!-- estimators: made by python -m mirrorpo.tools.estimator_table -->", "<!-- /estimators -->")
COLUMNS = (
    "divergence", "reads", "formula", "on-policy: expected value", "on-policy: expected gradient",
    "off-policy: expected value", "off-policy: expected gradient", "can be negative",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FiveTokenState:
    """Log-probabilities of a state's tokens under the policy, the anchor, and the old policy that tokens are
    drawn from.
    """

    log_p: Tensor
    log_q: Tensor
    log_old: Tensor

    def on_policy(self) -> "FiveTokenState":
        """The same state, with tokens drawn from the policy."""
        return FiveTokenState(log_p=self.log_p, log_q=self.log_q, log_old=self.log_p)


def state(logits: Tensor) -> FiveTokenState:
    """A state from the logits of the three policies, [3, tokens]."""
    log_p, log_q, log_old = logits.log_softmax(-1)
    return FiveTokenState(log_p=log_p, log_q=log_q, log_old=log_old)


def drawn_state(seed: int) -> FiveTokenState:
    """A random state of five tokens."""
    return state(torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


PROBABILITIES = {
    "p": (0.41, 0.26, 0.18, 0.1, 0.05),
    "q": (0.23, 0.37, 0.11, 0.12, 0.17),
    "old": (0.36, 0.22, 0.17, 0.14, 0.11),
}
SHOWN = state(torch.tensor(list(PROBABILITIES.values()), dtype=torch.float64).log())
# Two functionals that agree here by chance do not agree at the others too.
STATES = (SHOWN, *(drawn_state(seed) for seed in range(4)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueAndGradient:
    """A number and its gradient with respect to the policy's logits."""

    value: Tensor
    gradient: Tensor


def value_and_gradient(function: Callable[[Tensor], Tensor], log_p: Tensor) -> ValueAndGradient:
    """Value and gradient of a function of the policy's log-probabilities."""
    logits = log_p.detach().clone().requires_grad_()
    value = function(logits.log_softmax(-1))
    gradient = torch.autograd.grad(value, logits)[0] if value.requires_grad else torch.zeros_like(logits)
    return ValueAndGradient(value=value.detach(), gradient=gradient)


def expectation(divergence: Divergence, at: FiveTokenState) -> ValueAndGradient:
    """A divergence averaged over a token drawn from the old policy, and the average of its pathwise gradient.

        sum_v old_v D_v,   sum_v old_v grad D_v

    where D_v is what the divergence says when token v was drawn; one that reads the vocabulary says the
    same at each.
    """

    def average(log_p: Tensor) -> Tensor:
        value = divergence(log_p, at.log_q, at.log_old)
        return value if divergence.reads == "vocabulary" else (at.log_old.exp() * value).sum()

    return value_and_gradient(average, at.log_p)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def _bregman(potential: Potential, log_p: Tensor, log_q: Tensor) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    return (potential.f(p) - potential.f(q) - potential.df(q) * (p - q)).sum()


KNOWN: Mapping[str, Functional] = {
    "KL(p, q)": lambda p, q, old: _kl(p, q),
    "KL(q, p)": lambda p, q, old: _kl(q, p),
    "sum (p - q)^2": lambda p, q, old: (p.exp() - q.exp()).square().sum(),
    "sum (p - q)^2 / q": lambda p, q, old: ((p.exp() - q.exp()).square() / q.exp()).sum(),
    "KL(old, p)": lambda p, q, old: _kl(old, p),
    "JS(p, q)": lambda p, q, old: (_kl(p, _middle(p, q)) + _kl(q, _middle(p, q))) / 2,
    "sum (sqrt p - sqrt q)^2 / 2": lambda p, q, old: ((p / 2).exp() - (q / 2).exp()).square().sum() / 2,
    "sum |p - q| / 2": lambda p, q, old: (p.exp() - q.exp()).abs().sum() / 2,
}


def _middle(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.logaddexp(log_p, log_q) - math.log(2)


def _renyi(alpha: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    return (alpha * log_p + (1 - alpha) * log_q).logsumexp(-1) / (alpha - 1)


def _alpha(alpha: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    overlap = (alpha * log_p + (1 - alpha) * log_q).exp().sum()
    return (overlap - 1) / (alpha * (alpha - 1))


def of_order(divergence: Divergence) -> Mapping[str, Functional]:
    """The functionals of a divergence's own alpha, both ways round; none without one."""
    if isinstance(divergence, Renyi):
        name, alpha, value = "Renyi", divergence.alpha, _renyi
    elif isinstance(divergence, HasGenerator) and isinstance(divergence.generator, Alpha):
        name, alpha, value = "Alpha", divergence.generator.alpha, _alpha
    else:
        return {}
    return {
        f"{name}(p, q)": lambda p, q, old: value(alpha, p, q),
        f"{name}(q, p)": lambda p, q, old: value(alpha, q, p),
    }


def potentials(divergence: Divergence) -> list[Potential]:
    """A divergence's potential, and the ones that wraps; empty without one."""
    out: list[Potential] = []
    owner: object = divergence
    while isinstance(owner, HasPotential):
        owner = owner.potential
        out.append(owner)
    return out


def functionals(divergence: Divergence) -> Mapping[str, Functional]:
    """What a divergence may turn out to be: the known ones, and the Bregman divergence of its own potential,
    both ways round.
    """
    wrapped = potentials(divergence)
    if not wrapped:
        return {**KNOWN, **of_order(divergence)}
    name = own_name(divergence)
    return {
        **KNOWN,
        f"{name}(p, q)": lambda p, q, old: _bregman(wrapped[0], p, q),
        f"{name}(q, p)": lambda p, q, old: _bregman(wrapped[0], q, p),
    }


def own_name(divergence: Divergence) -> str:
    """The class of a divergence's potential, with that of the potential that it wraps in brackets."""
    names = [type(potential).__name__ for potential in potentials(divergence)]
    return "[".join(names) + "]" * (len(names) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A divergence and a list of functionals at every state, tokens drawn in one way.

    Attributes:
        estimates: the divergence's expectation, a reading for each state.
        references: the functionals', by name.
    """

    estimates: Sequence[ValueAndGradient]
    references: Mapping[str, Sequence[ValueAndGradient]]

    def same(self, part: str) -> tuple[str, float] | None:
        """The first functional, and the factor on it, that the divergence's "value" or "gradient" is at every
        state to nine digits.
        """
        estimates = torch.stack([getattr(value_and_gradient, part) for value_and_gradient in self.estimates])
        for name, head_outputs in self.references.items():
            reference = torch.stack(
                [getattr(value_and_gradient, part) for value_and_gradient in head_outputs]
            )
            factor = (estimates[0] * reference[0]).sum() / reference[0].square().sum()
            if bool(factor.isfinite()) and torch.allclose(
                estimates, factor * reference, rtol=1e-9, atol=1e-12
            ):
                return name, float(factor)
        return None


def measured(divergence: Divergence, *, on_policy: bool) -> Measured:
    """The divergence and what it may turn out to be, on- or off-policy."""
    states = [at.on_policy() if on_policy else at for at in STATES]
    references = {
        name: [
            value_and_gradient(
                lambda log_p, at=at, function=function: function(log_p, at.log_q, at.log_old), at.log_p
            )
            for at in states
        ]
        for name, function in functionals(divergence).items()
    }
    return Measured(estimates=[expectation(divergence, at) for at in states], references=references)


def estimated(divergence: Divergence, on: Measured) -> str:
    """What a divergence stands for: its potential's Bregman divergence, or what it equals on-policy in value,
    else in gradient, else KL.
    """
    if not potentials(divergence):
        return (on.same("value") or on.same("gradient") or ("KL(p, q)",))[0]
    own_divergence = f"{own_name(divergence)}(p, q)"
    # Negative entropy and the square go by the names that are known for them.
    return (
        Measured(estimates=on.references[own_divergence], references=on.references).same("value")
        or (own_divergence,)
    )[0]


def cell(measurement: Measured, part: str, target: str) -> str:
    """In words, what a value or a gradient is: zero, a functional, or how it lies to the one it stands
    for.
    """
    if all(
        bool((getattr(value_and_gradient, part).abs() <= 1e-12).all())
        for value_and_gradient in measurement.estimates
    ):
        return "0"
    match = measurement.same(part)
    if match is not None:
        name, factor = match
        return (
            name
            if abs(factor - 1) < 1e-9
            else f"-{name}"
            if abs(factor + 1) < 1e-9
            else f"{factor:.3g} {name}"
        )
    estimate = getattr(measurement.estimates[0], part)
    reference = getattr(measurement.references[target][0], part)
    if part == "value":
        return f"biased, {float(estimate / reference):.2f} of {target}"
    cosine = float((estimate * reference).sum() / (estimate.norm() * reference.norm()))
    return f"cos {cosine:.2f} to {target}, {float(estimate.norm() / reference.norm()):.2f} as long"


def can_be_negative(divergence: Divergence) -> bool:
    """A single reading below zero was seen, at one of 200 random states."""
    return bool((divergence(*_many_states()) < -1e-12).any())


@cache
def _many_states() -> tuple[Tensor, Tensor, Tensor]:
    states = [drawn_state(seed) for seed in range(200)]
    log_p, log_q, log_old = (
        torch.stack([getattr(at, name) for at in states]) for name in ("log_p", "log_q", "log_old")
    )
    return log_p, log_q, log_old


def convex(potential: Potential) -> bool:
    """Whether a potential's mirror map falls nowhere, at 200 probabilities."""
    return bool((potential.df(torch.logspace(-4, 0, 200, dtype=torch.float64)).diff() >= -1e-12).all())


def formula(divergence: Divergence) -> str:
    """The equation of a divergence's docstring, that of its innermost potential, and their settings."""
    wrapped = potentials(divergence)
    inner = [divergence.generator] if isinstance(divergence, HasGenerator) else wrapped[-1:]
    components = [_equation(divergence), *map(_equation, inner), *_settings(divergence, "")]
    warning = "; **not convex**, so no divergence" if wrapped and not convex(wrapped[0]) else ""
    return "; ".join(f"`{part}`" for part in components if part) + warning


def _equation(owner: object) -> str:
    # The first line of what a docstring states, without what the page's head says once.
    lines, _ = docstring_equation(owner)
    kept = [part for part in "".join(lines[:1]).split(",   ") if not part.startswith("p = ")]
    return ", ".join(" ".join(part.split()) for part in kept)


def _settings(owner: object, prefix: str) -> list[str]:
    out: list[str] = []
    if not is_dataclass(owner):
        return out
    for name in (field.name for field in fields(owner)):
        value = getattr(owner, name)
        if is_dataclass(value):
            out += _settings(value, f"{prefix}{name}.")
        else:
            out.append(f"{prefix}{name}={value}")
    return out


def row(name: str, divergence: Divergence) -> list[str]:
    """The table's row."""
    on, off = measured(divergence, on_policy=True), measured(divergence, on_policy=False)
    target = estimated(divergence, on)
    cells = [cell(measurement, part, target) for measurement in (on, off) for part in ("value", "gradient")]
    return [
        name,
        divergence.reads,
        formula(divergence),
        *cells,
        "yes" if can_be_negative(divergence) else "no",
    ]


def divergences(conf: Path) -> dict[str, Divergence]:
    """Every divergence of a config folder, by name.

    Raises:
        ValueError: if the folder is none, or a file cannot be built.
    """
    if not (conf / "train.yaml").exists():
        raise ValueError(f"--conf {conf}: no train.yaml there; name the conf folder")
    register()
    names = sorted(path.stem for path in (conf / "divergence").glob("*.yaml"))
    # The group's file alone; a whole config takes many times as long.
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        return {
            name: _of_few(build_penalty(resolved(compose(f"divergence/{name}"))["divergence"]))
            for name in names
        }


def _of_few(penalty: Penalty) -> Divergence:
    # Where it sums the likeliest tokens, so few that five leave some out.
    divergence = penalty.divergence
    if isinstance(divergence, TopBregman | TopFDivergence):
        return replace(divergence, k=TOP_K)
    return divergence


def page(conf: Path) -> str:
    """The table in markdown, with a line on how it is read."""
    rows = [
        COLUMNS,
        ["---"] * len(COLUMNS),
        *(row(name, divergence) for name, divergence in divergences(conf).items()),
    ]
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |" for cells in rows]
    shown = ", ".join(f"{name} = {probabilities}" for name, probabilities in PROBABILITIES.items())
    legend = (
        "Tokens are drawn from p on-policy and from old off-policy; x = log q - log p. A bare name says: "
        "exactly that functional's "
        "value or gradient, at five "
        "states and to nine digits; the name of a potential stands for its Bregman divergence, sum_v f(p_v) "
        "- f(q_v) - f'(q_v)(p_v - q_v). "
        f"Of the five tokens, divergences that sum the likeliest sum {TOP_K}; no other k changes a cell. "
        f"Other cells compare with the named functional's at {shown}."
    )
    return "\n".join([*lines, "", legend])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.estimator_table"),
        description="What the value and the gradient of each divergence are, as a table.",
    )
    parser.add_argument("--conf", type=Path, default=conf(), help="the config folder (default: %(default)s)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PAGE",
        help="replace what stands between the markers of this page, in place of printing",
    )
    args = parser.parse_args(arguments)
    try:
        publish(page(args.conf), args.write, MARKERS)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
