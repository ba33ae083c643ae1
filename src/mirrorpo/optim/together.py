"""Several torch optimisers stepped as one."""

from collections.abc import Sequence

import torch
from torch.optim.optimizer import StateDict


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

    def state_dict(self) -> dict[str, StateDict]:
        """Every part's state."""
        return {str(index): optimiser.state_dict() for index, (optimiser, _) in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, StateDict]) -> None:
        """Put every part's state back."""
        for index, (optimiser, _) in enumerate(self._parts):
            optimiser.load_state_dict(state[str(index)])
