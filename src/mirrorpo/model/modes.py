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
