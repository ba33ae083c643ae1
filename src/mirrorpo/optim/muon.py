"""Muon: orthogonalised momentum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        embedded = {
            id(p) for m in network.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
        }
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
            parts.append(
                (torch.optim.AdamW(rest, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0), self.rest_factor)
            )
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
                update = orthogonal(
                    full_tensor(parameter.grad.lerp(state["momentum"], group["momentum"])),
                    group["iterations"],
                )
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
