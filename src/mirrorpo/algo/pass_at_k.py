"""Advantages whose policy gradient is that of pass@k."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.protocols import Assembly
from mirrorpo.core.shapes import GroupIds, PerCompletion
from mirrorpo.core.tensors import integers


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    """What a completion adds to the best of k of its group, mean over all such k: pass@k as the objective.

        A_i = k ( E_S max(R_i, max_S R)  -  b_i ),   S of k - 1 of the n - 1 others, each as likely
        b_i = E_S max_S R                            (baseline: loo_minus_one)
        b_i = E_U max_U R,   U of k of the others    (baseline: loo)

    Value: with `loo_minus_one` not negative, and zero for all but those that are the best of some k; with
    k = n the best alone has one, n times its lead. k = 1 with `loo` is `LeaveOneOut`. NaN rewards get 0 and
    are nobody's peers; a group with fewer known rewards than k (k + 1 for `loo`) gets 0. Gradient:
    none; the expected gradient is that of E max(R_1, ..., R_k), without bias, of any rewards; of rewards 0
    and 1 that is pass@k, and w(p) = k (1 - p)^(k - 1) in the terms of `algo.advantage`.

    The factors are those of a mean over completions: n times the paper's, which sums. The paper's
    leave-one-out baseline (Eq. 29) is n / (n - 1) times b_i of `loo`, as its code has it; ours is of one
    scale with what it is taken from, so that a constant on all rewards changes nothing.

    Attributes:
        k: completions of which the best counts; 1 is the expected reward.
        baseline: what is taken off, by the paper's names: the best of k - 1 others (`loo_minus_one`, its
            choice, of less variance, also with k = n) or of k others (`loo`, also with k = 1).

    Example:
        >>> rewards, group = torch.tensor([1.0, 0.0, 0.0, 0.5]), torch.zeros(4, dtype=torch.long)
        >>> PassAtK(k=2, baseline="loo_minus_one")(rewards, group)
        tensor([1.6667, 0.0000, 0.0000, 0.6667])

    References:
        Walder & Karkhanis 2025 (PKPO), Eq. 29 and 33, https://arxiv.org/abs/2505.15201
    """

    k: int
    baseline: Literal["loo_minus_one", "loo"]

    def __post_init__(self) -> None:
        if self.baseline not in ("loo_minus_one", "loo"):
            raise ValueError(f"algo.advantage.baseline={self.baseline}: give loo_minus_one or loo")
        if self.k < 1 or (self.k == 1 and self.baseline == "loo_minus_one"):
            raise ValueError(
                f"algo.advantage.k={self.k} with baseline={self.baseline}: give k=2 or more, or k=1 with "
                "baseline=loo"
            )

    @property
    def least(self) -> int:
        """Completions of a group that are needed."""
        return self.k + (self.baseline == "loo")

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Groups that are large enough."""
        size = assembly.config["group_size"]
        if size < self.least:
            yield (
                f"group_size={size} with {group}.k={self.k}, baseline={self.baseline}: it takes "
                f"{self.least} completions of a prompt; give group_size={self.least} or a smaller k"
            )

    def __call__(self, rewards: PerCompletion, group: GroupIds) -> PerCompletion:
        rewards = rewards.detach()
        out = torch.zeros_like(rewards)
        for number in set(integers(group)):
            known = (group == number) & ~rewards.isnan()
            if int(known.sum()) >= self.least:
                out[known] = self._of_group(rewards[known].double()).to(out.dtype)
        return out

    def _of_group(self, rewards: Tensor) -> Tensor:
        others = _others(rewards)
        with_one_less = _chances_of_best(others.shape[1], self.k - 1).to(others)
        if self.baseline == "loo_minus_one":
            return self.k * ((rewards[:, None] - others).clamp(min=0) @ with_one_less)
        # Relative to the best, equal rewards are zero to the bit.
        rewards, others = rewards - rewards.max(), others - rewards.max()
        best = torch.maximum(rewards[:, None], others) @ with_one_less if self.k > 1 else rewards
        return self.k * (best - others @ _chances_of_best(others.shape[1], self.k).to(others))


def _others(rewards: Tensor) -> Tensor:
    # [n, n - 1], for each the rewards of all others, ascending.
    size = len(rewards)
    order = rewards.argsort()
    is_other = order[None, :] != torch.arange(size, device=rewards.device)[:, None]
    return rewards[order].expand(size, size)[is_other].view(size, size - 1)


def _chances_of_best(size: int, drawn: int) -> Tensor:
    # For each of `size` in ascending order, that it is the best of `drawn` of them.
    subsets = math.comb(size, drawn)
    ways = [math.comb(below, drawn - 1) if drawn else 0 for below in range(size)]
    return torch.tensor([way / subsets for way in ways], dtype=torch.float64)
