"""Optimisers and learning-rate schedules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mirrorpo.core.protocols import Optimiser
from mirrorpo.core.shards import like, whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The factor on the learning rate, by update.

    Rises linearly over the first `warmup` of all updates, holds, and falls over the rest from
    `decay_from` on, to `floor`.

    Attributes:
        shape: of the fall: constant (none), linear, or cosine.
        warmup: share of the updates, in [0, 1).
        decay_from: share of the updates after which the fall begins.
        floor: factor at the end of the fall.

    Example:
        >>> schedule = Schedule(shape="linear", warmup=0.0, decay_from=0.5, floor=0.0)
        >>> [schedule.factor(update, 4) for update in range(4)]
        [1.0, 1.0, 1.0, 0.5]
    """

    shape: Literal["constant", "linear", "cosine"]
    warmup: float
    decay_from: float
    floor: float

    def __post_init__(self) -> None:
        if self.shape not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule.shape={self.shape}: choose constant, linear or cosine")
        if not (0 <= self.warmup < 1 and 0 <= self.decay_from <= 1 and 0 <= self.floor <= 1):
            raise ValueError(f"schedule: warmup={self.warmup}, decay_from={self.decay_from}, floor={self.floor} are shares in [0, 1]")

    def factor(self, update: int, updates: int) -> float:
        """The factor at `update`, counted from 0, of `updates`."""
        rise = min(1.0, (update + 1) / (self.warmup * updates)) if self.warmup * updates >= 1 else 1.0
        start = self.decay_from * updates
        if self.shape == "constant" or update <= start:
            return rise
        gone = (update - start) / max(updates - start, 1e-9)
        fall = 1 - gone if self.shape == "linear" else (1 + math.cos(math.pi * gone)) / 2
        return rise * (self.floor + (1 - self.floor) * fall)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay, as in torch.

    Attributes:
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.
        weight_decay: per unit of learning rate.

    References:
        Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    """

    betas: Sequence[float]
    epsilon: float
    weight_decay: float

    def build(self, network: torch.nn.Module) -> Optimiser:
        """The optimiser over a network's trainable parameters."""
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        first, second = self.betas
        return Together([(torch.optim.AdamW(parameters, betas=(first, second), eps=self.epsilon, weight_decay=self.weight_decay), 1.0)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon:
    """Orthogonalised momentum for the hidden matrices, Adam for everything else.

    Newton-Schulz runs in float32: torch's own Muon uses bfloat16, which CPUs do slowly and coarsely.

    Attributes:
        momentum: of the matrices' gradients.
        iterations: Newton-Schulz steps.
        rest_factor: learning rate of the embeddings, head, norms and biases over that of the matrices.

    References:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """

    momentum: float
    iterations: int
    rest_factor: float

    def build(self, network: torch.nn.Module) -> Optimiser:
        """The pair of optimisers over a network's trainable parameters."""
        embedded = {id(p) for m in network.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
        if isinstance(network, PreTrainedModel):
            head: Any = network.get_output_embeddings()
            embedded |= {id(p) for p in head.parameters()}
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embedded]
        inside = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in inside]
        parts: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            parts.append((OrthogonalMomentum(matrices, self.momentum, self.iterations), 1.0))
        if rest:
            parts.append((torch.optim.AdamW(rest, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0), self.rest_factor))
        return Together(parts)


class OrthogonalMomentum(torch.optim.Optimizer):
    """Nesterov momentum whose update is replaced by its nearest semi-orthogonal matrix."""

    def __init__(self, parameters: Sequence[Tensor], momentum: float, iterations: int) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                # Of the whole matrix, on every rank that holds a share of it.
                update = orthogonal(whole(parameter.grad.lerp(state["momentum"], group["momentum"])), group["iterations"])
                # Jordan's scale: a tall matrix moves each of its outputs as far as a square one does.
                scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(like(update, parameter), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """Roughly U V^T of the matrix's singular value decomposition, by a quintic Newton-Schulz iteration.

    Value: after 5 iterations, singular values that were at least 0.002 of the Frobenius norm are within
    0.33 of one; smaller ones stay small.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Together:
    """Several torch optimisers stepped as one, each with its own factor on the learning rate."""

    def __init__(self, parts: Sequence[tuple[torch.optim.Optimizer, float]]) -> None:
        self._parts = parts

    def step(self, lr: float) -> None:
        """Set the learning rates and update."""
        for optimiser, factor in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
            optimiser.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimiser, _ in self._parts:
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Every part's state."""
        return {str(index): optimiser.state_dict() for index, (optimiser, _) in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put every part's state back."""
        for index, (optimiser, _) in enumerate(self._parts):
            optimiser.load_state_dict(state[str(index)])
