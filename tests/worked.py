"""A worked answer of one token a character, and a scorer whose drops can be worked out by hand."""

from collections.abc import Sequence

import torch
from completions import completion_of

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.reasoning import Range
from mirrorpo.weighting.spans import Arithmetic

RANGE = Range(low=0.5, high=2.0, least=0.5, answer=1.5, rest=1.0)
SPANS = Arithmetic(max_spans=10, min_tokens=1, max_tokens=50, max_backslashes=0.3, unit_words=0)
# One token a character: calculations at [0, 5) and [6, 13), the mark at 14, the answer up to 20, the end at
# 20.
WORKED = "1+1=2 2*10=20\n#### 20"


def batch(
    *texts: str, rewards: Sequence[float] | None = None, groups: Sequence[int] | None = None
) -> RolloutBatch:
    completions = [
        completion_of([*map(ord, text), 0], group=group, text=text)
        for text, group in zip(texts, groups or [0] * len(texts), strict=True)
    ]
    return collate(completions, rewards or [1.0] * len(texts), pad_id=0, mask_truncated=False)


class Table:
    """A scorer whose answer tokens each lose what `loss` says of the hidden span's first token."""

    def __init__(self, loss: dict[int, float]) -> None:
        self.loss, self.cuts, self.asked = loss, [], 0

    def with_offsets(self, batch: RolloutBatch) -> list[TokenOffsets]:
        texts = [
            "".join(map(chr, ids[present].tolist()[:-1]))
            for ids, present in zip(batch.completion_ids, batch.present, strict=True)
        ]
        return [
            TokenOffsets(text=text, offsets=[*((n, n + 1) for n in range(len(text))), (len(text), len(text))])
            for text in texts
        ]

    def cut(
        self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.cuts, self.asked = list(cuts), self.asked + 1
        before = torch.full(batch.present.shape, -0.5)
        return before, torch.stack([before[cut.row] - self.loss[cut.start] for cut in cuts])

    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        raise AssertionError("only cuts are read")

    entropies = importance = logprobs
