"""The output head, read by tiles of positions: no tensor over completions, tokens and vocabulary exists.

A tile's logits are made, read and dropped; in the backward pass they are made again. What a reader
takes from the vocabulary (a log-probability, an entropy, an exact divergence) is one number a
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
        logits = linear(hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide)).mul_(self.scale)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def __call__(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        return torch.log_softmax(self.logits(hidden).div_(self.temperature), dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What one pass of the head over N positions gives.

    Attributes:
        logprobs: log-probability of the token at each position.
        entropy: in nats, without gradient.
        reading: the reader's number, zero without a reader.
    """

    logprobs: PerPosition
    entropy: PerPosition
    reading: PerPosition


def read_positions(
    head: Head,
    hidden: Float[Tensor, "N D"],
    tokens: Int[Tensor, " N"],
    *,
    tile: int,
    reader: Reader | None = None,
    anchor_head: Head | None = None,
    anchor_hidden: Float[Tensor, "N D"] | None = None,
) -> Readings:
    """Log-probability, entropy and the reader's number at N positions, `tile` positions at a time, a quarter of that with a reader.

    Value: equal to reading the full [N, V] log-probabilities, up to rounding.
    Gradient: to `hidden` and the head's parameters, through `logprobs` and `reading`; the anchor is
    a constant.
    """

    def read(piece: Tensor, token: Tensor, anchor: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_p = head(piece)
        logprob = log_p.gather(1, token[:, None]).squeeze(1)
        if reader is None or anchor_head is None or anchor is None:
            reading = torch.zeros_like(logprob)
        else:
            with torch.no_grad():
                log_q = anchor_head(anchor)
            reading = reader(log_p, log_q)
        # Last, since the recomputation stops once it has what the backward pass needs.
        with torch.no_grad():
            entropy = -log_p.exp().mul_(log_p).sum(dim=1)
        return logprob, entropy, reading

    # Beside the policy's log-probabilities, the anchor's and the reader's gradient are as large.
    height = tile if reader is None else max(tile // 4, 1)
    tiles: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, hidden.shape[0], height):
        cut = slice(start, start + height)
        arguments = (hidden[cut], tokens[cut], None if anchor_hidden is None else anchor_hidden[cut])
        if torch.is_grad_enabled():
            result: Any = checkpoint(read, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            result = read(*arguments)
        tiles.append(result)
    if not tiles:
        # An empty micro-batch keeps its place in the graph.
        empty = hidden.sum(dim=1)
        return Readings(logprobs=empty, entropy=empty.detach(), reading=empty)
    logprobs, entropy, reading = (torch.cat(part) for part in zip(*tiles, strict=True))
    return Readings(logprobs=logprobs, entropy=entropy, reading=reading)
