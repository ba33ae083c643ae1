"""The k1, k2 and k3 estimators of the reverse KL, at the sampled token.

With x = log q(y) - log p(y), y sampled from p = pi_theta and q the anchor. All three were named by
Schulman (2020); what each does as a *loss* is its pathwise gradient, which is not that of its value.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

LARGEST = 30.0


def k3(policy: Tensor, other: Tensor) -> Tensor:
    """exp(x) - 1 - x with x = other - policy, at tokens sampled from `policy`; see `K3`."""
    x = other - policy
    # Past the cut the function goes on as its tangent, so the gradient never dies and never overflows.
    near = x.clamp(max=LARGEST)
    beyond = (x - LARGEST).clamp(min=0)
    # expm1 keeps the value at log-ratios near 1e-4, where exp(x) - 1 - x is 3x too large in fp32.
    return torch.expm1(near) - near + math.expm1(LARGEST) * beyond


@dataclass(frozen=True, kw_only=True, slots=True)
class K1:
    """The log-ratio, the plain estimator of the reverse KL.

        k1 = log p - log q = -x,   x = log q(y_t) - log p(y_t)

    Value: unbiased for KL(p, q) on-policy; single terms can be negative.
    Gradient: grad log p, whose expectation is zero: as a loss term it only adds noise. It is the
    right term in a reward.

    Example:
        >>> K1()(torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.0]))
        tensor([0.5000])

    References:
        Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return policy - anchor.detach()


@dataclass(frozen=True, kw_only=True, slots=True)
class K2:
    """Half the squared log-ratio.

        k2 = x^2 / 2,   x = log q(y_t) - log p(y_t)

    Value: >= 0, biased for KL(p, q) by terms of third order in x.
    Gradient: -x grad log p, whose expectation on-policy is exactly that of the reverse KL(p, q).

    Example:
        >>> K2()(torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.0]))
        tensor([0.1250])

    References:
        Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return (policy - anchor.detach()).square() / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class LogGap:
    """The squared log-ratio, an L2 distance of log-probabilities at the sampled token: 2 k2.

        x^2,   x = log q(y_t) - log p(y_t)

    Value: >= 0. Gradient: -2 x grad log p, whose expectation on-policy is twice that of the reverse
    KL(p, q).

    Example:
        >>> LogGap()(torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.0]))
        tensor([0.2500])

    References:
        The "L2" class of the public code of GBMPO, Yuan et al. 2026, https://arxiv.org/abs/2602.04380
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return (policy - anchor.detach()).square()


@dataclass(frozen=True, kw_only=True, slots=True)
class K3:
    """The low-variance estimator: the negative-entropy Bregman term over p.

        k3 = exp(x) - 1 - x,   x = log q(y_t) - log p(y_t)

    Value: >= 0 and unbiased for the reverse KL(p, q) on-policy.
    Gradient: (1 - exp(x)) grad log p, whose expectation on-policy is that of the *forward* KL(q, p).

    Beyond x = 30, long before exp overflows single precision (88.7), the function goes on as its
    tangent: finite, still rising, still pulling a runaway token back.

    Example:
        >>> K3()(torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.0]))
        tensor([0.1065])

    References:
        Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html
        Shao et al. 2024 (GRPO), Eq. 4, https://arxiv.org/abs/2402.03300
    """

    reads: ClassVar[Literal["nothing", "sampled", "vocabulary"]] = "sampled"

    def __call__(self, policy: Tensor, anchor: Tensor, old: Tensor) -> Tensor:
        return k3(policy, anchor.detach())
