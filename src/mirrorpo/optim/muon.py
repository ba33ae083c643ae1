"""Muon: orthogonalised momentum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mirrorpo.core.protocols import Optimiser
from mirrorpo.distributed.fsdp import full_tensor, shard_like
from mirrorpo.optim.together import Together


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
        outer: list[torch.nn.Module] = [m for m in network.modules() if isinstance(m, torch.nn.Embedding)]
        if isinstance(network, PreTrainedModel) and (head := network.get_output_embeddings()) is not None:
            outer.append(head)
        embedded = {id(parameter) for module in outer for parameter in module.parameters()}
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        for parameter in network.parameters():
            if parameter.requires_grad:
                hidden = parameter.ndim == 2 and id(parameter) not in embedded
                (matrices if hidden else rest).append(parameter)
        parts: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            parts.append((OrthogonalMomentum(matrices, self.momentum, self.iterations), 1.0))
        if rest:
            adam = torch.optim.AdamW(rest, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
            parts.append((adam, self.rest_factor))
        return Together(parts)

    def state_bytes(self, matrices: int, others: int) -> int:
        """One float32 average of a matrix, two of everything else."""
        return 4 * matrices + 8 * others


class OrthogonalMomentum(torch.optim.Optimizer):
    """Nesterov momentum whose update is replaced by its nearest semi-orthogonal matrix."""

    def __init__(self, parameters: Sequence[Tensor], momentum: float, iterations: int) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum, "iterations": iterations})

    # Takes no closure, which torch's own optimisers call.
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                # Of the full matrix, on every rank that holds a share of it.
                gradient = full_tensor(parameter.grad.lerp(state["momentum"], group["momentum"]))
                update = orthogonal(gradient, group["iterations"])
                # Jordan's scale: a tall matrix moves each of its outputs as far as a square one does.
                scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(shard_like(update, parameter), alpha=-group["lr"] * scale)


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
