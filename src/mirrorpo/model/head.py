"""The output head, read by chunks of positions: no tensor over completions, tokens and vocabulary exists.

A chunk's logits are made, read and dropped. For the backward pass they are made again, unless they are few;
under a frozen head the gradient of the hidden states is formed at once and nothing is made twice. What a
reader takes from the vocabulary (a log-probability, an entropy, an exact divergence) is one number a
position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from mirrorpo.core.shapes import PerPosition, Vocabulary

Reader = Callable[[Vocabulary, Vocabulary], Tensor]
# Log-probability, entropy and the reader's number at the positions of one chunk.
Chunk: TypeAlias = tuple[Tensor, Tensor, Tensor]

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

    @property
    def frozen(self) -> bool:
        """Whether nothing of the head is trained."""
        parameters = (self.projection.weight, self.projection.bias)
        return not any(parameter is not None and parameter.requires_grad for parameter in parameters)

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """The model's own logits, before temperature."""
        # A product in bfloat16 would lose three digits of every logit before the cast.
        weight, bias = self.projection.weight, self.projection.bias
        wide = torch.promote_types(weight.dtype, torch.float32)
        wide_bias = None if bias is None else bias.to(wide)
        logits = linear(hidden.to(wide), weight.to(wide), wide_bias).mul_(self.scale)
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
    """Log-probability, entropy and the reader's number at N positions.

    Value: equal to reading the full [N, V] log-probabilities, up to rounding.
    Gradient: to `hidden` and the head's parameters, through `logprobs` and `reader_output`; the anchor is
    a constant.
    Memory: logits of one chunk, or of `KEPT` numbers if those are more.

    Args:
        head: of the policy.
        hidden: the policy's last hidden state at each position.
        tokens: the token whose log-probability is read there.
        logit_chunk: positions whose logits exist at a time; a quarter of them with a reader.
        reader: one number a position from the policy's and the anchor's log-probabilities [n, V].
        anchor_head: of the anchor; without it the reader's number is zero.
        anchor_hidden: the anchor's last hidden states; without them the reader's number is zero.
    """
    read = partial(_read_chunk, head, reader, anchor_head)
    # Beside the policy's log-probabilities, the anchor's and the reader's gradient are as large.
    tensors = 1 if reader is None else 4
    height = max(logit_chunk // tensors, 1)
    # The backward pass starts at the last chunk, when no other is there.
    retained = max(height, KEPT // (tensors * head.projection.out_features))
    frozen = head.frozen
    chunks: list[Chunk] = []
    for start in range(0, hidden.shape[0], height):
        cut = slice(start, start + height)
        inputs = (hidden[cut], tokens[cut], None if anchor_hidden is None else anchor_hidden[cut])
        if torch.is_grad_enabled() and frozen:
            chunk = _with_known_gradient(read, *inputs)
        elif torch.is_grad_enabled() and hidden.shape[0] - start > retained:
            # torch gives `checkpoint` no type; it returns what `read` does.
            chunk = cast(Chunk, checkpoint(read, *inputs, use_reentrant=False, preserve_rng_state=False))
        else:
            chunk = read(*inputs)
        chunks.append(chunk)
    if not chunks:
        # An empty micro-batch keeps its place in the graph.
        empty = hidden.sum(dim=1)
        return HeadOutputs(logprobs=empty, entropy=empty.detach(), reader_output=empty)
    logprobs, entropy, reader_output = (torch.cat(part) for part in zip(*chunks, strict=True))
    return HeadOutputs(logprobs=logprobs, entropy=entropy, reader_output=reader_output)


def _read_chunk(
    head: Head,
    reader: Reader | None,
    anchor_head: Head | None,
    hidden: Tensor,
    tokens: Tensor,
    anchor_hidden: Tensor | None,
) -> Chunk:
    log_p = head(hidden)
    logprobs = log_p.gather(1, tokens[:, None]).squeeze(1)
    if reader is None or anchor_head is None or anchor_hidden is None:
        reader_output = torch.zeros_like(logprobs)
    else:
        with torch.no_grad():
            log_q = anchor_head(anchor_hidden)
        reader_output = reader(log_p, log_q)
    # Last, since the recomputation stops once it has what the backward pass needs.
    with torch.no_grad():
        entropy = -log_p.exp().mul_(log_p).sum(dim=1)
    return logprobs, entropy, reader_output


def _with_known_gradient(
    read: Callable[[Tensor, Tensor, Tensor | None], Chunk],
    hidden: Tensor,
    tokens: Tensor,
    anchor_hidden: Tensor | None,
) -> Chunk:
    # A position's numbers depend on its own hidden state alone, so their gradient is a row of it, whatever
    # the loss makes of them.
    leaf = hidden.detach().requires_grad_()
    logprobs, entropy, reader_output = read(leaf, tokens, anchor_hidden)
    (slope,) = torch.autograd.grad(logprobs.sum(), leaf, retain_graph=reader_output.requires_grad)
    logprobs = _known_gradient(hidden, logprobs.detach(), slope)
    if reader_output.requires_grad:
        (slope,) = torch.autograd.grad(reader_output.sum(), leaf)
        reader_output = _known_gradient(hidden, reader_output.detach(), slope)
    return logprobs, entropy, reader_output


class _KnownGradient(torch.autograd.Function):
    """Values of rows whose gradient with respect to each row is known."""

    @staticmethod
    def forward(ctx: BackwardCFunction, rows: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope).to(slope.dtype), None, None


def _known_gradient(rows: Tensor, values: Tensor, slope: Tensor) -> Tensor:
    return cast(Tensor, _KnownGradient.apply(rows, values, slope))
