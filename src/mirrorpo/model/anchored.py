"""What is read of policy and anchor together, a chunk of positions at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mirrorpo.core.shapes import PerPosition, Vocabulary
from mirrorpo.core.top import TopTokens, likeliest
from mirrorpo.model.product import HeadPrecision

# Numbers of an embedding that are copied at once.
ROWS = 2**24

Reader = Callable[[Vocabulary, Vocabulary], Tensor]
ReaderGradient = Callable[[Vocabulary, Vocabulary, PerPosition], Vocabulary]


@runtime_checkable
class AnchorHead(Protocol):
    """The anchor's output head; `tables` are the tensors over positions and vocabulary that a call holds."""

    @property
    def tables(self) -> int: ...

    def __call__(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]: ...

    def logprobs_at(
        self, hidden: Float[Tensor, "N D"], ids: Int[Tensor, "N K"], known: TopTokens
    ) -> Float[Tensor, "N K"]: ...


@runtime_checkable
class View(Protocol):
    """The anchor beside the policy's log-probabilities at the positions of one chunk.

    `ids` are the tokens that are read, [n, 0] where all are. `value` is one number a position; `gradient` is
    that of factors times values, to the policy's log-probabilities, a new tensor.
    """

    @property
    def ids(self) -> Int[Tensor, "N K"]: ...

    def value(self) -> PerPosition: ...

    def gradient(self, factor: PerPosition) -> Vocabulary: ...


@runtime_checkable
class AnchorReader(Protocol):
    """Makes the view of any cut of N positions, from the policy's log-probabilities there.

    `tensors` are the ones over positions and vocabulary that it holds at once, the policy's included.
    `knows_gradient` says that a view has one; otherwise autograd differentiates its value.
    """

    @property
    def tensors(self) -> int: ...

    @property
    def knows_gradient(self) -> bool: ...

    def __call__(self, cut: slice, log_p: Vocabulary) -> View: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyReader:
    """Reads the vocabulary under both.

    Attributes:
        reader: one number a position from the policy's and the anchor's log-probabilities [n, V].
        gradient: of the reader's numbers times factors [n], with respect to the policy's log-probabilities,
            in a new tensor; without it autograd differentiates the reader.
        head: of the anchor.
        hidden: the anchor's last hidden states.
    """

    reader: Reader
    gradient: ReaderGradient | None
    head: AnchorHead
    hidden: Float[Tensor, "N D"]

    @property
    def tensors(self) -> int:
        """Beside the policy's log-probabilities, the anchor's and the reader's gradient are as large."""
        return 3 + self.head.tables

    @property
    def knows_gradient(self) -> bool:
        """Whether the reader's is given."""
        return self.gradient is not None

    def __call__(self, cut: slice, log_p: Vocabulary) -> View:
        with torch.no_grad():
            log_q = self.head(self.hidden[cut])
        return _VocabularyView(self, log_p, log_q)


@dataclass(frozen=True, slots=True)
class _VocabularyView:
    of: VocabularyReader
    log_p: Vocabulary
    log_q: Vocabulary

    @property
    def ids(self) -> Int[Tensor, "N K"]:
        return likeliest(self.log_p, 0)

    def value(self) -> PerPosition:
        return self.of.reader(self.log_p, self.log_q)

    def gradient(self, factor: PerPosition) -> Vocabulary:
        assert self.of.gradient is not None
        return self.of.gradient(self.log_p, self.log_q, factor)


@dataclass(frozen=True, slots=True)
class AnchorTop:
    """The anchor's likeliest tokens, known beforehand."""

    top: TopTokens

    def __call__(self, cut: slice, log_p: Vocabulary) -> TopTokens:
        return TopTokens(self.top.ids[cut], self.top.logprobs[cut])


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTop:
    """The policy's likeliest tokens, and what the anchor gives them.

    Attributes:
        k: their number.
        head: of the anchor.
        hidden: the anchor's last hidden states.
        known: a token at each position, [N, 1], and its log-probability under the anchor; of a mixture a
            column for each part.
    """

    k: int
    head: AnchorHead
    hidden: Float[Tensor, "N D"]
    known: TopTokens

    def __call__(self, cut: slice, log_p: Vocabulary) -> TopTokens:
        ids = likeliest(log_p, self.k)
        known = TopTokens(self.known.ids[cut], self.known.logprobs[cut])
        with torch.no_grad():
            return TopTokens(ids, self.head.logprobs_at(self.hidden[cut], ids, known))


@dataclass(frozen=True, kw_only=True, slots=True)
class TopReader:
    """Reads a few tokens at each position.

    Attributes:
        reader: one number a position from both log-probabilities of the tokens, [n, k].
        gradient: of the reader's numbers times factors [n], with respect to the policy's, [n, k].
        tokens: which, with their log-probabilities under the anchor.
    """

    reader: Reader
    gradient: ReaderGradient
    tokens: AnchorTop | PolicyTop

    @property
    def tensors(self) -> int:
        """The policy's log-probabilities alone."""
        return 1

    @property
    def knows_gradient(self) -> bool:
        """It is given."""
        return True

    def __call__(self, cut: slice, log_p: Vocabulary) -> View:
        return _TopView(self, log_p, self.tokens(cut, log_p))


@dataclass(frozen=True, slots=True)
class _TopView:
    of: TopReader
    log_p: Vocabulary
    top: TopTokens

    @property
    def ids(self) -> Int[Tensor, "N K"]:
        return self.top.ids

    def value(self) -> PerPosition:
        return self.of.reader(self.log_p.gather(1, self.top.ids), self.top.logprobs)

    def gradient(self, factor: PerPosition) -> Vocabulary:
        of_top = self.of.gradient(self.log_p.gather(1, self.top.ids), self.top.logprobs, factor)
        return torch.zeros_like(self.log_p).scatter_(1, self.top.ids, of_top)


def logits_at(
    hidden: Float[Tensor, "N D"],
    factor: Float[Tensor, "V D"],
    bias: Tensor | None,
    ids: Int[Tensor, "N K"],
    precision: HeadPrecision,
) -> Float[Tensor, "N K"]:
    """Entries of h W^T + b at some tokens, in float32 at least; of W, `ROWS` numbers are copied at a time."""
    dtype = torch.promote_types(factor.dtype, torch.float32)
    states = (hidden.to(torch.bfloat16) if precision == "bf16_in" else hidden).to(dtype)
    height = max(ROWS // max(ids.shape[1] * factor.shape[1], 1), 1)
    pieces = [
        torch.bmm(factor[of_ids].to(dtype), of_states[:, :, None]).squeeze(2)
        for of_ids, of_states in zip(ids.split(height), states.split(height), strict=True)
    ]
    logits = torch.cat(pieces)
    return logits if bias is None else logits + bias.to(dtype)[ids]
