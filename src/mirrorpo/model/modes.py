"""Train and eval mode of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside the block, and the mode it had before after it, whatever happens.

    Example:
        >>> network = torch.nn.Dropout().train()
        >>> with evaluating(network):
        ...     network.training
        False
        >>> network.training
        True
    """
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def training(network: torch.nn.Module) -> Iterator[None]:
    """Train mode inside the block but for adapters' own dropout, and the mode it had before after it."""
    before = network.training
    network.train()
    for name, module in network.named_modules():
        # A setting of the run, which says so.
        if "lora_dropout" in name:
            module.eval()
    try:
        yield
    finally:
        network.train(before)
