"""The output head, read by tiles of positions: no tensor over completions, tokens and vocabulary exists.

A tile's logits are made, read and dropped. For the backward pass they are made again, unless they are few;
under a frozen head the gradient of the hidden states is formed at once and nothing is made twice. What a
reader takes from the vocabulary (a log-probability, an entropy, an exact divergence) is one number a
position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from mirrorpo.core.shapes import PerPosition, Vocabulary

Reader = Callable[[Vocabulary, Vocabulary], Tensor]

# Numbers over positions and vocabulary that may wait for the backward pass: 64 MiB in float32, little beside
# activations.
KEPT = 2**24


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Last hidden states to log-probabilities over the vocabulary.

        log p = log_softmax( transform(W h + b) / temperature )

    computed in float32 at least, whatever the model's dtype.

    Attributes:
        projection: the model's output embedding.
        softcap: Gemma's c * tanh(x / c), or None.
        scale: factor on the logits (Cohere, Granite).
        temperature: of the sampler; scoring uses the distribution that was sampled from.
    """

    projection: torch.nn.Linear
    softcap: float | None
    scale: float
    temperature: float

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """The model's own logits, before temperature."""
        # A product in bfloat16 would lose three digits of every logit before the cast.
        weight, bias = self.projection.weight, self.projection.bias
        wide = torch.promote_types(weight.dtype, torch.float32)
        logits = linear(hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide)).mul_(
            self.scale
        )
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def __call__(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        return torch.log_softmax(self.logits(hidden).div_(self.temperature), dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOutputs:
    """What one pass of the head over N positions gives.

    Attributes:
        logprobs: log-probability of the token at each position.
        entropy: in nats, without gradient.
        reader_output: the reader's number, zero without a reader.
    """

    logprobs: PerPosition
    entropy: PerPosition
    reader_output: PerPosition


def read_positions(
    head: Head,
    hidden: Float[Tensor, "N D"],
    tokens: Int[Tensor, " N"],
    *,
    logit_chunk: int,
    reader: Reader | None = None,
    anchor_head: Head | None = None,
    anchor_hidden: Float[Tensor, "N D"] | None = None,
) -> HeadOutputs:
    """Log-probability, entropy and the reader's number at N positions, `logit_chunk` positions at a time, a
    quarter of that with a reader.

    Value: equal to reading the full [N, V] log-probabilities, up to rounding.
    Gradient: to `hidden` and the head's parameters, through `logprobs` and `reader_output`; the anchor is
    a constant.
    Memory: logits of one tile, or of `KEPT` numbers if those are more.
    """

    def read(piece: Tensor, token: Tensor, anchor: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_p = head(piece)
        logprob = log_p.gather(1, token[:, None]).squeeze(1)
        if reader is None or anchor_head is None or anchor is None:
            reader_output = torch.zeros_like(logprob)
        else:
            with torch.no_grad():
                log_q = anchor_head(anchor)
            reader_output = reader(log_p, log_q)
        # Last, since the recomputation stops once it has what the backward pass needs.
        with torch.no_grad():
            entropy = -log_p.exp().mul_(log_p).sum(dim=1)
        return logprob, entropy, reader_output

    # Beside the policy's log-probabilities, the anchor's and the reader's gradient are as large.
    tensors = 1 if reader is None else 4
    height = max(logit_chunk // tensors, 1)
    # The backward pass starts at the last tile, when no other is there.
    kept = max(height, KEPT // (tensors * head.projection.out_features))
    frozen = not any(
        part is not None and part.requires_grad for part in (head.projection.weight, head.projection.bias)
    )
    tiles: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, hidden.shape[0], height):
        cut = slice(start, start + height)
        arguments = (hidden[cut], tokens[cut], None if anchor_hidden is None else anchor_hidden[cut])
        result: Any
        if torch.is_grad_enabled() and frozen:
            result = _formed(read, *arguments)
        elif torch.is_grad_enabled() and hidden.shape[0] - start > kept:
            result = checkpoint(read, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            result = read(*arguments)
        tiles.append(result)
    if not tiles:
        # An empty micro-batch keeps its place in the graph.
        empty = hidden.sum(dim=1)
        return HeadOutputs(logprobs=empty, entropy=empty.detach(), reader_output=empty)
    logprobs, entropy, reader_output = (torch.cat(part) for part in zip(*tiles, strict=True))
    return HeadOutputs(logprobs=logprobs, entropy=entropy, reader_output=reader_output)


def _formed(
    read: Callable[..., Any], hidden: Tensor, token: Tensor, anchor: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    # A position's numbers depend on its own hidden state alone, so their gradient is a row of it, whatever
    # the loss makes of them.
    leaf = hidden.detach().requires_grad_()
    logprob, entropy, reader_output = read(leaf, token, anchor)
    (slope,) = torch.autograd.grad(logprob.sum(), leaf, retain_graph=reader_output.requires_grad)
    logprob = _Known.apply(hidden, logprob.detach(), slope)
    if reader_output.requires_grad:
        (slope,) = torch.autograd.grad(reader_output.sum(), leaf)
        reader_output = _Known.apply(hidden, reader_output.detach(), slope)
    return logprob, entropy, reader_output


class _Known(torch.autograd.Function):
    """Values of rows whose gradient with respect to each row is known."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope).to(slope.dtype), None, None
