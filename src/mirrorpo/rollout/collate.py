"""Completions to tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mirrorpo.core.batch import Completion, RolloutBatch
from mirrorpo.core.token_offsets import Interval


def pad(rows: Sequence[Sequence[int | float]], fill: int | float, *, left: bool) -> Tensor:
    """Rows of unequal length as one matrix, padded on one side.

    Example:
        >>> pad([[1], [2, 3]], 0, left=True)
        tensor([[0, 1],
                [2, 3]])
    """
    width = max((len(row) for row in rows), default=0)
    gaps = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([[*gap, *row] if left else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)])


def collate(
    completions: Sequence[Completion],
    rewards: Sequence[float],
    *,
    pad_id: int,
    mask_truncated: bool,
    deciding: Sequence[Sequence[Interval]] = (),
) -> RolloutBatch:
    """One step's completions and rewards as a batch, before anything is rescored.

    Masks come from lengths, never from the pad id. Completions without a verdict, and truncated
    ones if asked, are present but not trained. Old and anchor log-probabilities are NaN until the
    trainer fills them in.

    Args:
        completions: of the step.
        rewards: NaN without a verdict.
        pad_id: what fills rows up.
        mask_truncated: truncated completions are not trained.
        deciding: the tokens of each completion that decide, as half-open intervals; empty where the dataset
            does not say.
    """
    present = pad([[1] * len(completion.ids) for completion in completions], 0, left=False).bool()
    truncated = torch.tensor([completion.truncated for completion in completions])
    reward = torch.tensor(list(rewards), dtype=torch.float32)
    trained = ~reward.isnan() & ~(truncated & mask_truncated)
    decides = torch.zeros_like(present)
    for row, intervals in enumerate(deciding):
        for start, end in intervals:
            decides[row, start:end] = True
    unread = torch.full(present.shape, float("nan"))
    return RolloutBatch(
        prompt_ids=pad([completion.prompt_ids for completion in completions], pad_id, left=True),
        prompt_present=pad(
            [[1] * len(completion.prompt_ids) for completion in completions], 0, left=True
        ).bool(),
        completion_ids=pad([completion.ids for completion in completions], pad_id, left=False),
        present=present,
        mask=present & trained[:, None],
        deciding=decides & present,
        group=torch.tensor([completion.group for completion in completions]),
        rewards=reward,
        truncated=truncated,
        sampler_logprobs=pad([completion.logprobs for completion in completions], 0.0, left=False).float(),
        old_logprobs=unread,
        anchor_logprobs=unread,
        anchor_hidden=torch.zeros(*present.shape, 0),
        anchor_top_ids=torch.zeros(*present.shape, 0, dtype=torch.long),
        anchor_top_logprobs=torch.zeros(*present.shape, 0),
    )
