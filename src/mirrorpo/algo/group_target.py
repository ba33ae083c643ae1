"""Mirror descent on the simplex of a prompt's own responses."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mirrorpo.core.protocols import Divergence
from mirrorpo.core.shapes import GroupIds, PerCompletion
from mirrorpo.core.tensors import integers


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTarget:
    """Pulls the policy to the mirror-descent step on the G responses of each prompt.

        b_i = log pi_old(y_i) (base: likelihood), or 0 (base: uniform)
        old_i = softmax_i(b_i)
        q_i   proportional to old_i exp(A_i / tau)
        p_i   = softmax_i(b_i + log pi(y_i) - log pi_old(y_i))
        A'_i  = -G dD(p, q) / d log pi(y_i),   the sum of log-probabilities of the tokens of y_i

    so that mean over completions of -A'_i log pi(y_i) has the gradient of the mean over prompts of D(p, q).
    With `direction: forward` that is the Bregman projection D_phi(q, p) of the target.

    Value: zero where p is q, the stationary point. With negative entropy, forward, at the old policy:
    A'_i = G (q_i - old_i), which is to first order in 1 / tau the advantage, centred, over tau where the base
    is uniform: the policy gradient. With `base: likelihood` each response counts by its own probability
    once more, though it was drawn by it; long responses then leave one point alone. Gradient: none.

    Attributes:
        divergence: between distributions over the G responses, any that reads the vocabulary.
        tau: step size is 1 / tau, > 0.
        base: "uniform", a sample counts as often as it was drawn; "likelihood", by its probability.
        length: "sum", log-probabilities of responses are sums over tokens; "mean", over their number.

    References:
        Beck & Teboulle 2003 (mirror descent), https://doi.org/10.1016/S0167-6377(02)00231-6
        Relatives with a target on the group: LPO, https://arxiv.org/abs/2605.06139
    """

    divergence: Divergence
    tau: float
    base: Literal["uniform", "likelihood"]
    length: Literal["sum", "mean"]

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(
                f"algo.update_advantage.tau={self.tau}: the step is 1 / tau; give a number above 0"
            )
        if self.divergence.reads != "vocabulary":
            raise ValueError(
                f"algo.update_advantage.divergence={type(self.divergence).__name__}: it reads a token's "
                "log-probabilities; a target wants a divergence between distributions, as *_exact"
            )

    def __call__(
        self,
        advantages: PerCompletion,
        old: PerCompletion,
        live: PerCompletion,
        lengths: Int[Tensor, " B"],
        group: GroupIds,
    ) -> PerCompletion:
        tokens = lengths.clamp(min=1) if self.length == "mean" else torch.ones_like(lengths)
        scale = tokens.double()
        old, live = old.double() / scale, live.double() / scale
        out = torch.zeros_like(advantages)
        for number in set(integers(group)):
            (rows,) = (group == number).nonzero(as_tuple=True)
            slope = self._slope(advantages[rows].double(), old[rows], live[rows])
            out[rows] = (-len(rows) * slope / scale[rows]).to(out.dtype)
        return out

    def _slope(self, advantages: Tensor, old: Tensor, live: Tensor) -> Tensor:
        # dD(p, q) / d live, of one prompt.
        base = old if self.base == "likelihood" else torch.zeros_like(old)
        target = (base + advantages / self.tau).log_softmax(0)
        with torch.enable_grad():
            leaf = live.detach().requires_grad_()
            policy = (base + leaf - old).log_softmax(0)
            distance = self.divergence(policy[None], target[None], policy.detach()[None])
            (slope,) = torch.autograd.grad(distance.sum(), leaf)
        return slope
