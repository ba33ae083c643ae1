"""Where a penalised policy over a few answers ends: the flow p' = p (g - mean g), and its points of rest."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mirrorpo.core.protocols import Divergence

# Of log p in a step of the flow, and the time that a step stands for: short ones at first, in which the
# flow chooses where it goes, long ones to get there.
LARGEST_CHANGE = 0.5
FIRST_TIME, LONGEST_TIME, GROWTH = 0.05, 50.0, 1.1
STEPS = 600
AT_REST = 1e-7
# Of log p, below which an answer is gone.
LEAST = -60.0
# For the slope of g, by a difference.
NUDGE = 1e-4
# Of probabilities on which f' is inverted: the powers of ten at its ends, and its points.
GRID = (-9, 0, 600)
HALVINGS = 50
# Within which a coefficient of equal strength is looked for.
SMALLEST_BETA, LARGEST_BETA = 1e-4, 1e7
# Of its logarithm; and how often it is looked for by chords ahead of halving.
CLOSE, NARROWINGS = 1e-5, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Policies at the end of the flow.

    Attributes:
        policy: probabilities of each question's answers.
        residual: mean |g - mean g| under the policy; zero at a point of rest.
    """

    policy: Float[Tensor, "Q A"]
    residual: float

    @property
    def at_rest(self) -> bool:
        """Whether nothing moves any more."""
        return self.residual < 100 * AT_REST


def pull(divergence: Divergence, log_p: Float[Tensor, "Q A"], log_q: Float[Tensor, "Q A"]) -> Tensor:
    """What an on-policy update of the penalty takes from each answer's reward, in expectation.

    The loss of a question has the expected gradient sum_v p_v h_v grad log p_v, and h is returned: of a
    divergence over the vocabulary its derivative in p_v; of one at the sampled token the derivative in log p
    of the term that is computed there, which is what automatic differentiation gives.

    Args:
        divergence: D; the policy that answers were drawn from is the policy itself.
        log_p: log-probabilities of the answers, on the CPU.
        log_q: the anchor's.
    """
    if divergence.reads == "nothing":
        return torch.zeros_like(log_p)
    policy = log_p.detach().requires_grad_()
    drawn = log_p.detach()
    with torch.enable_grad():
        value = divergence(policy, log_q, drawn)
        total = value.sum() if divergence.reads == "vocabulary" else (drawn.exp() * value).sum()
        (slope,) = torch.autograd.grad(total, policy)
    return slope / drawn.exp()


def ending(
    divergence: Divergence, beta: float, rewards: Float[Tensor, "Q A"], start: Float[Tensor, "Q A"]
) -> Ending:
    """The end of p' = p (g - mean g), g = rewards - beta h, from the anchor's own policy.

    Expected policy gradients of a softmax have the same points of rest. Steps are implicit in each answer's
    own probability, so that a stiff penalty takes no more of them than a soft one.

    Args:
        divergence: of the penalty.
        beta: its coefficient beside the rewards.
        rewards: of each question's answers.
        start: probabilities of the anchor, above zero; the flow starts there.

    Example:
        >>> from mirrorpo.divergence.none import NoDivergence
        >>> end = ending(NoDivergence(), 0.0, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.1, 0.9]]))
        >>> end.policy.round(decimals=4)
        tensor([[1., 0.]], dtype=torch.float64)
    """
    log_q, rewards = start.double().log().log_softmax(-1), rewards.double()
    twice = torch.cat([log_q, log_q])

    def gains(log_p: Tensor) -> tuple[Tensor, Tensor]:
        # There and a nudge further, asked in one: what a call costs is hardly in its numbers.
        if not beta:
            return rewards, rewards
        here, further = pull(divergence, torch.cat([log_p, log_p + NUDGE]), twice).chunk(2)
        return rewards - beta * here, rewards - beta * further

    log_p, time = log_q, FIRST_TIME
    residual = math.inf
    for _ in range(STEPS):
        g, further = gains(log_p)
        p = log_p.exp()
        apart = g - (p * g).sum(-1, keepdim=True)
        residual = float((p * apart.abs()).sum(-1).max())
        if residual < AT_REST:
            break
        stiffness = ((g - further) / NUDGE).clamp(min=0)
        rate = time / (1 + time * stiffness)
        # To first order this keeps the probabilities' sum.
        level = (p * rate * g).sum(-1, keepdim=True) / (p * rate).sum(-1, keepdim=True)
        change = (rate * (g - level)).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        log_p = (log_p + change).log_softmax(-1).clamp(min=LEAST).log_softmax(-1)
        time = min(time * GROWTH, LONGEST_TIME)
    return Ending(policy=log_p.exp(), residual=residual)


def bregman_ending(
    slope: Callable[[Tensor], Tensor],
    beta: float,
    rewards: Float[Tensor, "Q A"],
    start: Float[Tensor, "Q A"],
) -> Float[Tensor, "Q A"]:
    """The end under an exact Bregman divergence, D(policy, start), without following the flow there.

        f'(p_a) = f'(q_a) + (r_a - level) / beta, with the level at which p sums to one

    Much cheaper than `ending`. f' is inverted on a grid, so that probabilities are off by some 1e-4, and
    answers below its first point count as that.

    Args:
        slope: f', of a convex potential.
        beta: of the penalty, beside the rewards; above 0.
        rewards: of each question's answers.
        start: probabilities of the anchor, above zero.

    Example:
        >>> from mirrorpo.divergence.potentials import NegativeEntropy
        >>> start = torch.tensor([[0.5, 0.5]])
        >>> bregman_ending(NegativeEntropy().df, 1.0, torch.tensor([[1.0, 0.0]]), start).round(decimals=3)
        tensor([[0.7310, 0.2690]], dtype=torch.float64)
    """
    start, rewards = start.double(), rewards.double()
    grid = torch.logspace(*GRID, dtype=torch.float64)
    slopes, logs = slope(grid).numpy(), grid.log().numpy()
    pulled = slope(start) + rewards / beta
    span = float(slopes[-1] - slopes[0])
    low = pulled.min(-1, keepdim=True).values - slopes[0] - span
    high = pulled.max(-1, keepdim=True).values - slopes[-1] + span

    def policy(level: Tensor) -> Tensor:
        return torch.tensor(np.exp(np.interp((pulled - level).numpy(), slopes, logs)))

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = policy(middle).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    p = policy(low)
    return p / p.sum(-1, keepdim=True)


def equal_strength(reached: Callable[[float], float], target: float) -> float | None:
    """The coefficient at which something that falls with it is at a target; None where no coefficient is.

    Args:
        reached: of a coefficient, such as the reward at the end.
        target: its value.

    Example:
        >>> round(equal_strength(lambda beta: 1 / (1 + beta), 0.8), 4)
        0.25
    """
    least, most = math.log(SMALLEST_BETA), math.log(LARGEST_BETA)

    @cache
    def excess(log_beta: float) -> float:
        return reached(math.exp(log_beta)) - target

    if not excess(most) < 0 < excess(least):
        return None
    # From 1, in steps of ten: a coefficient that is far out costs more time.
    bound, step = 0.0, math.log(10.0)
    falls = excess(0.0) > 0
    while (excess(bound) > 0) == falls:
        bound += step if falls else -step
    low, high = (bound - step, bound) if falls else (bound, bound + step)
    above, below = _narrowed(excess, low, high)
    while high - low > CLOSE:
        # Halved, so that the result does not depend on how it was found; most halves are known by now.
        middle = (low + high) / 2
        if above < middle < below:
            above, below = (middle, below) if excess(middle) > 0 else (above, middle)
        low, high = (middle, high) if middle <= above else (low, middle)
    return math.exp((low + high) / 2)


def _narrowed(excess: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """A place above zero and one that is not, near each other, of something that falls; by the Illinois rule.

    References:
        Dowell and Jarratt 1971, A modified regula falsi method, https://doi.org/10.1007/BF01934364
    """
    up, down = excess(low), excess(high)
    before = 0.0
    for _ in range(NARROWINGS):
        if high - low < CLOSE:
            break
        place = low + (high - low) * up / (up - down)
        # A little beyond the chord's zero, as seen from the nearer end, so that both ends close in.
        place += CLOSE / 4 if place - low < high - place else -CLOSE / 4
        value = excess(place)
        # An end that stays twice counts half.
        if value > 0:
            low, up, down = place, value, down / 2 if before > 0 else down
        else:
            high, down, up = place, value, up / 2 if before < 0 else up
        before = value
    return low, high
