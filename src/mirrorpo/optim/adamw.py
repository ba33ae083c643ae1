"""AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mirrorpo.core.protocols import Optimiser
from mirrorpo.optim.together import Together


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay, as in torch; on CUDA one fused kernel for all parameters.

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
        # Elsewhere torch's own choice.
        on_cuda = bool(parameters) and all(parameter.device.type == "cuda" for parameter in parameters)
        adamw = torch.optim.AdamW(
            parameters,
            betas=(first, second),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            fused=True if on_cuda else None,
        )
        return Together([(adamw, 1.0)])

    def state_bytes(self, matrices: int, others: int) -> int:
        """Two float32 averages of each parameter."""
        return 8 * (matrices + others)
