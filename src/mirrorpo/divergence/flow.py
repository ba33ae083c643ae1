"""Where a penalised policy over a few answers ends: the flow p' = p (g - mean g), and its points of rest."""

import math
from collections.abc import Callable
from dataclasses import dataclass

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

    def gain(log_p: Tensor) -> Tensor:
        return rewards - beta * pull(divergence, log_p, log_q) if beta else rewards

    log_p, time = log_q, FIRST_TIME
    residual = math.inf
    for _ in range(STEPS):
        g = gain(log_p)
        p = log_p.exp()
        apart = g - (p * g).sum(-1, keepdim=True)
        residual = float((p * apart.abs()).sum(-1).max())
        if residual < AT_REST:
            break
        stiffness = ((g - gain(log_p + NUDGE)) / NUDGE).clamp(min=0) if beta else torch.zeros_like(g)
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
    low, high = math.log(SMALLEST_BETA), math.log(LARGEST_BETA)
    if not reached(math.exp(high)) < target < reached(math.exp(low)):
        return None
    # From 1, in steps of ten: a coefficient that is far out costs more time.
    bound, step = 0.0, math.log(10.0)
    falls = reached(1.0) > target
    while (reached(math.exp(bound)) > target) == falls:
        bound += step if falls else -step
    low, high = (bound - step, bound) if falls else (bound, bound + step)
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(math.exp(middle)) > target else (low, middle)
    return math.exp((low + high) / 2)
