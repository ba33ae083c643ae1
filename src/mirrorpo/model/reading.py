"""A chunk of positions read off its logits, with a backward pass in closed form.

Autograd would keep, and pass gradients through, half a dozen tensors over positions and vocabulary. What is
read has a known derivative with respect to the log-probabilities, so one such tensor is filled, turned into
the gradient of the logits, and handed to the head's own backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from mirrorpo.core.shapes import PerPosition, Vocabulary
from mirrorpo.core.top import TopTokens, likeliest
from mirrorpo.model.anchored import View

# Log-probability, entropy and the reader's number at the positions of one chunk; ids of some tokens and their
# log-probabilities.
Chunk: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What is read of a chunk.

    Attributes:
        logits: of hidden states, embedding and bias, over the temperature.
        view: makes the anchor's part from the policy's log-probabilities, or None.
        top: how many of the likeliest tokens are given, where there is no view that names some.
        entropy_gradient: whether the entropy has a gradient.
        keep: whether the log-probabilities wait for the backward pass; otherwise they are made again.
    """

    logits: Callable[[Tensor, Tensor, Tensor | None], Vocabulary]
    view: Callable[[Vocabulary], View] | None = None
    top: int = 0
    entropy_gradient: bool = False
    keep: bool

    def __call__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Chunk:
        """The chunk's numbers, with a gradient to hidden states, embedding and bias."""
        return cast(Chunk, _Read.apply(hidden, weight, bias, tokens, self))  # pyright: ignore[reportUnknownMemberType]


def entropy_of(log_p: Vocabulary) -> PerPosition:
    """The entropy of each distribution, in nats."""
    # A token of probability zero adds nothing; 0 times minus infinity would be NaN.
    return -log_p.exp().mul_(log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=1)


def differentiable_entropy(log_p: Vocabulary) -> PerPosition:
    """`entropy_of` with a gradient that autograd finds."""
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=1)


def entropy_slope(log_p: Vocabulary, factor: PerPosition) -> Vocabulary:
    """The gradient of factors times entropies to the log-probabilities, - factor p (log p + 1).

    A new tensor; zero at a token of probability zero.
    """
    slope = log_p.clamp(min=torch.finfo(log_p.dtype).min).add_(1)
    return slope.mul_(log_p.exp()).mul_(-factor[:, None])


class _Read(torch.autograd.Function):
    """The numbers of a chunk; those at a position have a gradient, the entropy's only where it is to."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, reading: Reading
    ) -> Chunk:
        ctx.set_materialize_grads(False)
        ctx.reading, ctx.kept = reading, None
        ctx.save_for_backward(hidden, weight, bias, tokens)
        states = _States.made(reading, hidden, weight, bias, differentiable=reading.keep)
        logprobs = states.log_p.gather(1, tokens[:, None]).squeeze(1)
        output, entropy = torch.zeros_like(logprobs), entropy_of(states.log_p)
        if reading.view is None:
            ids = likeliest(states.log_p, reading.top)
        else:
            states.view = reading.view(states.log_p)
            ids, output = states.view.ids, states.view.value()
        of_ids = TopTokens.among(ids, states.log_p).logprobs
        constants = (ids, of_ids) if reading.entropy_gradient else (entropy, ids, of_ids)
        ctx.mark_non_differentiable(*constants, *((output,) if reading.view is None else ()))
        if reading.keep:
            ctx.kept = states
        return logprobs, entropy, output, ids, of_ids

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        of_logprobs, of_entropy, of_output, *_ = gradients
        hidden, weight, bias, tokens = ctx.saved_tensors
        reading: Reading = ctx.reading
        states: _States = ctx.kept or _States.made(reading, hidden, weight, bias, differentiable=True)
        slope = None if of_entropy is None else entropy_slope(states.log_p, of_entropy)
        if of_output is not None:
            assert reading.view is not None
            view = reading.view(states.log_p) if states.view is None else states.view
            of_view = view.gradient(of_output)
            slope = of_view if slope is None else slope.add_(of_view)
        if slope is None:
            slope = torch.zeros_like(states.log_p)
        if of_logprobs is not None:
            # Each row has one token, which on CUDA a scatter that adds would not know.
            column = tokens[:, None]
            slope.scatter_(1, column, slope.gather(1, column) + of_logprobs[:, None])
        return *states.pulled_back(slope, ctx.needs_input_grad[:3], keep=ctx.kept is not None), None, None


@dataclass(slots=True)
class _States:
    # What a backward pass starts from. Of the logits' own graph the end alone is kept, not the logits.
    leaves: tuple[Tensor, Tensor, Tensor | None]
    edge: Any
    log_p: Tensor
    view: View | None = None

    @classmethod
    def made(
        cls, reading: Reading, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, differentiable: bool
    ) -> "_States":
        if not differentiable:
            return cls((hidden, weight, bias), None, _log_softmax(reading.logits(hidden, weight, bias)))
        leaves = (_leaf(hidden), _leaf(weight), None if bias is None else _leaf(bias))
        with torch.enable_grad():
            logits = reading.logits(*leaves)
        edge = get_gradient_edge(logits) if logits.requires_grad else None
        return cls(leaves, edge, _log_softmax(logits.detach()))

    def pulled_back(
        self, slope: Tensor, wanted: tuple[bool, ...], *, keep: bool
    ) -> tuple[Tensor | None, ...]:
        """From the gradient of the log-probabilities to that of hidden states, embedding and bias."""
        of_logits = torch.ops.aten._log_softmax_backward_data(slope, self.log_p, -1, self.log_p.dtype)
        inputs = [leaf for leaf, want in zip(self.leaves, wanted, strict=True) if want and leaf is not None]
        parts = iter(torch.autograd.grad([self.edge], inputs, [of_logits], retain_graph=keep))
        return tuple(next(parts) if want else None for want in wanted)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1)
