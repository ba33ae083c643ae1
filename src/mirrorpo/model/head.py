"""The output head, read by chunks of positions: no tensor over completions, tokens and vocabulary exists.

A chunk's logits are made, read and dropped. For the backward pass they are made again, unless they are few;
under a frozen head the gradient of the hidden states is formed at once and nothing is made twice. What a
reader takes from the vocabulary (a log-probability, an entropy, an exact divergence) is one number a
position.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import checkpoint

from mirrorpo.core.shapes import PerPosition
from mirrorpo.core.top import TopTokens
from mirrorpo.model.anchored import AnchorReader, logits_at
from mirrorpo.model.product import HeadPrecision, factor, product
from mirrorpo.model.reading import Chunk, Reading, differentiable_entropy, entropy_of

# Numbers over positions and vocabulary that may wait for the backward pass: 64 MiB in float32, little beside
# activations.
KEPT = 2**24


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Last hidden states to log-probabilities over the vocabulary.

        log p = log_softmax( transform(W h + b) / temperature )

    Logits are float32 at least, whatever the model's dtype and whatever autocast does around it. With
    `precision="bf16_in"` W and h are rounded to bfloat16 first, and so is the gradient of the logits in the
    backward products; every product is still added up in float32. On CUDA that is one product on tensor
    cores, some ten times the rate of float32.

    What rounding costs, at logits of standard deviation 3 to 4 (D = 2,048, V = 16,384): 0.007 nats of a
    sampled token's log-probability on average and 0.02 at most, against float32 weights. A sampler whose
    weights are bfloat16, with a head of float32 (vLLM's `head_dtype`), rounds the same operands: from it
    `bf16_in` is 6e-7 nats away, and float32 the 0.007. A head whose logits are bfloat16 is 0.015 away from
    either.

    Attributes:
        projection: the model's output embedding.
        softcap: Gemma's c * tanh(x / c), or None.
        scale: factor on the logits (Cohere, Granite).
        temperature: of the sampler; scoring uses the distribution that was sampled from.
        precision: of the product's operands.
        factor: the embedding as it is multiplied, where it was made beforehand (`prepared`).
    """

    projection: torch.nn.Linear
    softcap: float | None
    scale: float
    temperature: float
    precision: HeadPrecision = "float32"
    factor: Tensor | None = None

    @property
    def frozen(self) -> bool:
        """Whether nothing of the head is trained."""
        parameters = (self.projection.weight, self.projection.bias)
        return not any(parameter is not None and parameter.requires_grad for parameter in parameters)

    @property
    def entries(self) -> int:
        """Numbers of the embedding, which a position is multiplied with."""
        return self.projection.weight.numel()

    @property
    def tables(self) -> int:
        """Tensors over positions and vocabulary that a call leaves or holds at once: one."""
        return 1

    def prepared(self) -> "Head":
        """The same head with its embedding cast once, for whoever calls it more than once."""
        if self.factor is not None:
            return self
        return replace(self, factor=factor(self.projection.weight, self.precision))

    def trained(self) -> tuple[Tensor, Tensor | None]:
        """Embedding and bias, as gradients go to them."""
        exact = self.precision == "float32"
        weight = self.prepared().factor if exact else self.projection.weight
        assert weight is not None
        return weight, self.projection.bias

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """The model's own logits, before temperature."""
        head = self.prepared()
        return head.transformed(hidden, *head.trained())

    def transformed(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "N V"]:
        """The logits, with embedding and bias given as tensors that may be leaves of another graph."""
        rounded = None if self.precision == "float32" else self.factor
        with _without_autocast(hidden.device):
            logits = product(hidden, weight, rounded, bias)
        return self._shaped(logits)

    def tempered(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Float[Tensor, "N V"]:
        """`transformed` logits over the temperature."""
        return self._tempered(self.transformed(hidden, weight, bias))

    def logprobs_at(
        self, hidden: Float[Tensor, "N D"], ids: Int[Tensor, "N K"], known: TopTokens
    ) -> Float[Tensor, "N K"]:
        """Log-probabilities of some tokens, without a product over the vocabulary.

        Args:
            hidden: the last hidden states.
            ids: the tokens.
            known: one token at each position, with its log-probability, which stands for the normaliser.
        """
        columns = torch.cat([known.ids, ids], dim=1)
        rows = self.prepared().factor
        assert rows is not None
        with _without_autocast(hidden.device):
            logits = logits_at(hidden, rows, self.projection.bias, columns, self.precision)
        logits = self._tempered(self._shaped(logits))
        return logits[:, 1:] - logits[:, :1] + known.logprobs.to(logits.dtype)

    def _shaped(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits.mul_(self.scale)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _tempered(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1 else logits.div_(self.temperature)

    def __call__(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        head = self.prepared()
        return torch.log_softmax(head.tempered(hidden, *head.trained()), dim=-1)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    # In which a product of float32 operands would be one of half precision.
    mixed = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if mixed else nullcontext()


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOutputs:
    """What one pass of the head over N positions gives.

    Attributes:
        logprobs: log-probability of the token at each position.
        entropy: in nats; with gradient where it was to have one.
        reader_output: the reader's number, zero without a reader.
        top: the tokens that a reader of a few reads, or the likeliest; without gradient.
    """

    logprobs: PerPosition
    entropy: PerPosition
    reader_output: PerPosition
    top: TopTokens


def read_positions(
    head: Head,
    hidden: Float[Tensor, "N D"],
    tokens: Int[Tensor, " N"],
    *,
    logit_chunk: int,
    reader: AnchorReader | None = None,
    top: int = 0,
    entropy_gradient: bool = False,
) -> HeadOutputs:
    """Log-probability, entropy and the reader's number at N positions.

    Value: equal to reading the full [N, V] log-probabilities, up to rounding.
    Gradient: to `hidden` and the head's parameters, through `logprobs`, `reader_output` and, with
    `entropy_gradient`, `entropy`; the anchor is a constant.
    Memory: logits of one chunk, or of `KEPT` numbers if those are more.

    Args:
        head: of the policy.
        hidden: the policy's last hidden state at each position.
        tokens: the token whose log-probability is read there.
        logit_chunk: positions whose logits exist at a time; a quarter of them where a reader reads the
            vocabulary, half of them where the entropy has a gradient.
        reader: of policy and anchor together; without it its number is zero.
        top: how many of the likeliest tokens are given, without a reader.
        entropy_gradient: whether the entropy has a gradient.
    """
    # An embedding of another type is cast once, not once a chunk.
    head = head.prepared()
    read = partial(_read_chunk, head, reader, top, entropy_gradient)
    tensors = max(1 if reader is None else reader.tensors, 2 if entropy_gradient else 1)
    height = max(logit_chunk // tensors, 1)
    # The backward pass starts at the last chunk, when no other is there.
    retained = max(height, KEPT // (tensors * head.projection.out_features))
    at_once = torch.is_grad_enabled() and head.frozen
    read_chunk = partial(_with_known_gradient, read) if at_once else read
    chunks: list[Chunk] = []
    for start in range(0, hidden.shape[0], height):
        cut = slice(start, start + height)
        keep = torch.is_grad_enabled() and (at_once or hidden.shape[0] - start <= retained)
        chunks.append(read_chunk(keep, cut, hidden[cut], tokens[cut]))
    if not chunks:
        # An empty micro-batch keeps its place in the graph.
        empty = hidden.sum(dim=1)
        entropy = empty if entropy_gradient else empty.detach()
        chunks = [(empty, entropy, empty, tokens[:, None][:, :0], empty.detach()[:, None][:, :0])]
    logprobs, entropy, reader_output, ids, of_ids = (torch.cat(part) for part in zip(*chunks, strict=True))
    return HeadOutputs(
        logprobs=logprobs, entropy=entropy, reader_output=reader_output, top=TopTokens(ids, of_ids)
    )


def _read_chunk(
    head: Head,
    reader: AnchorReader | None,
    top: int,
    entropy_gradient: bool,
    keep: bool,
    cut: slice,
    hidden: Tensor,
    tokens: Tensor,
) -> Chunk:
    # With `keep`, what the backward pass needs waits for it; otherwise it is made again.
    reading = Reading(logits=head.tempered, top=top, entropy_gradient=entropy_gradient, keep=keep)
    if reader is None:
        return reading(hidden, *head.trained(), tokens)
    view = partial(reader, cut)
    if reader.knows_gradient:
        return replace(reading, view=view)(hidden, *head.trained(), tokens)

    def differentiated(hidden: Tensor) -> Chunk:
        log_p = head(hidden)
        logprobs = log_p.gather(1, tokens[:, None]).squeeze(1)
        seen = view(log_p)
        reader_output = seen.value()
        with_gradient = differentiable_entropy(log_p) if entropy_gradient else None
        # Last, since the recomputation stops once it has what the backward pass needs.
        with torch.no_grad():
            top = TopTokens.among(seen.ids, log_p)
            entropy = entropy_of(log_p) if with_gradient is None else with_gradient
            return logprobs, entropy, reader_output, top.ids, top.logprobs

    if keep or not torch.is_grad_enabled():
        return differentiated(hidden)
    # torch gives `checkpoint` no type; it returns what the function does.
    return cast(Chunk, checkpoint(differentiated, hidden, use_reentrant=False, preserve_rng_state=False))


_ReadChunk = Callable[[bool, slice, Tensor, Tensor], Chunk]


def _with_known_gradient(read: _ReadChunk, keep: bool, cut: slice, hidden: Tensor, tokens: Tensor) -> Chunk:
    # A position's numbers depend on its own hidden state alone, so their gradient is a row of it, whatever
    # the loss makes of them.
    leaf = hidden.detach().requires_grad_()
    *values, ids, of_ids = read(keep, cut, leaf, tokens)
    differentiable = [index for index, value in enumerate(values) if value.requires_grad]
    for index in differentiable:
        last = index == differentiable[-1]
        (slope,) = torch.autograd.grad(values[index].sum(), leaf, retain_graph=not last)
        values[index] = _known_gradient(hidden, values[index].detach(), slope)
    logprobs, entropy, reader_output = values
    return logprobs, entropy, reader_output, ids, of_ids


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
