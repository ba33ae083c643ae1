"""Splitting a rollout for memory and for speed.

Functions of lengths and of which rows share a prompt alone, so that a relaunch splits alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.tensors import integers

PrefixSharing = Literal["auto", "always", "never"]

# What one more call of the network costs on a CPU, in tokens that it could compute instead: measured on the
# tiny model (docs/performance.md).
TOKENS_PER_CALL = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Rows that go through the network together.

    Attributes:
        rows: of the batch.
        rows_per_forward: how many of them are computed at once behind their prompts, run by run; empty, if
            each row is computed with its prompt.
        tokens: that are computed, padding included.
    """

    rows: Tensor
    rows_per_forward: Sequence[int]
    tokens: int


def micro_batches(batch: RolloutBatch, tokens: int) -> Iterator[Tensor]:
    """Row indices of micro-batches of similar length, each at most `tokens` padded tokens or one row."""
    prompts, lengths = batch.prompt_present.sum(dim=1), batch.present.sum(dim=1)
    order = integers(torch.argsort(prompts + lengths, stable=True))
    rows: list[int] = []
    depth = width = 0
    for row in order:
        deeper, wider = max(depth, int(prompts[row])), max(width, int(lengths[row]))
        if rows and (deeper + wider) * (len(rows) + 1) > tokens:
            yield torch.tensor(rows)
            rows, deeper, wider = [], int(prompts[row]), int(lengths[row])
        rows.append(row)
        depth, width = deeper, wider
    if rows:
        yield torch.tensor(rows)


def runs_of_similar_length(lengths: Sequence[int], tokens_per_call: int = TOKENS_PER_CALL) -> list[int]:
    """Falling lengths cut into runs of similar length.

    A run ends where filling its rows up would cost more than another call.

    Example:
        >>> runs_of_similar_length([100, 90, 80, 10, 10])
        [4, 1]
    """
    out: list[int] = []
    width = padding = 0
    for length in lengths:
        padding += width - length
        if not out or padding > tokens_per_call:
            out.append(0)
            width, padding = length, 0
        out[-1] += 1
    return out


def shared_prompts(
    batch: RolloutBatch, tokens: int, tokens_per_call: int = TOKENS_PER_CALL
) -> Iterator[MicroBatch]:
    """Micro-batches that compute each of their prompts once, each at most `tokens` padded tokens or one row.

    Completions of a prompt stay together where they fit: prompts in order of length, and a prompt that
    does not fit beside those before it starts a micro-batch of its own.
    """
    prompts, lengths = integers(batch.prompt_present.sum(dim=1)), integers(batch.present.sum(dim=1))
    prompt_of = integers(batch.prompt_numbers())
    answers: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompt_of):
        answers.setdefault(prompt, []).append(row)

    def laid(rows: Sequence[int]) -> MicroBatch:
        falling = sorted(rows, key=lambda row: -lengths[row])
        rows_per_forward = runs_of_similar_length([lengths[row] for row in falling], tokens_per_call)
        start = 0
        computed = len({prompt_of[row] for row in rows}) * max(prompts[row] for row in rows)
        for count in rows_per_forward:
            computed += count * lengths[falling[start]]
            start += count
        return MicroBatch(rows=torch.tensor(falling), rows_per_forward=rows_per_forward, tokens=computed)

    rows: list[int] = []
    for group in sorted(answers.values(), key=lambda group: prompts[group[0]]):
        if rows and laid([*rows, *group]).tokens > tokens:
            yield laid(rows)
            rows = []
        for row in group:
            if rows and laid([*rows, row]).tokens > tokens:
                yield laid(rows)
                rows = []
            rows.append(row)
    if rows:
        yield laid(rows)


def plan_micro_batches(
    batch: RolloutBatch, tokens: int, prefix_sharing: PrefixSharing, tokens_per_call: int = TOKENS_PER_CALL
) -> Sequence[MicroBatch]:
    """The micro-batches of a pass over the batch, rows by themselves or with shared prompts.

    "auto" takes what computes less.

    Args:
        batch: what is read.
        tokens: padded tokens of a micro-batch, at most.
        prefix_sharing: whether a prompt goes through the network once for all its completions.
        tokens_per_call: what one more call of the network costs, in tokens that it could compute instead.
    """
    prompts, lengths = batch.prompt_present.sum(dim=1), batch.present.sum(dim=1)
    unshared = [
        MicroBatch(
            rows=rows, rows_per_forward=(), tokens=len(rows) * int(prompts[rows].max() + lengths[rows].max())
        )
        for rows in micro_batches(batch, tokens)
    ]
    if prefix_sharing == "never":
        return unshared
    shared = list(shared_prompts(batch, tokens, tokens_per_call))
    if prefix_sharing == "always":
        return shared
    return min(
        unshared,
        shared,
        key=lambda parts: sum(
            part.tokens + tokens_per_call * (1 + len(part.rows_per_forward)) for part in parts
        ),
    )
