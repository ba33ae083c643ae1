"""Passes without gradient: what each rank reads of its rows, put together, is what one process reads of
all.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small_models import model, rollout
from torch import Tensor

from mirrorpo.core.cut import Cut
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.model.forward import completion_hidden
from mirrorpo.train.budget import PassMeter
from mirrorpo.train.micro_batch import TOKENS_PER_CALL
from mirrorpo.train.old_policy import ForwardSettings, PolicyScorer


@dataclass(frozen=True, slots=True)
class Apart(Ranks):
    """A rank that keeps what it has read to itself."""

    def all_reduce(self, *tensors: Tensor) -> None:
        pass


def old_policy(ranks: Ranks) -> PolicyScorer:
    forward = ForwardSettings(
        temperature=0.7,
        logit_chunk=16,
        tokens_per_micro_batch=40,
        prefix_sharing="auto",
        tokens_per_call=TOKENS_PER_CALL,
        ranks=ranks,
        meter=PassMeter(),
    )
    return PolicyScorer(policy=model("llama"), forward=forward)


BATCH = rollout()
LENGTHS = BATCH.present.sum(dim=1).tolist()
CUTS = [Cut(row=row, start=1, end=3, first=4, last=LENGTHS[row]) for row in (0, 2, 3, 7)] + [
    Cut(row=2, start=0, end=1, first=2, last=5)
]
ASKED = {
    "logprobs": lambda scorer: [scorer.logprobs(BATCH)],
    "entropies": lambda scorer: [scorer.entropies(BATCH)],
    "cut": lambda scorer: [*scorer.cut(BATCH, CUTS, "pad")],
    "gradient": lambda scorer: [scorer.importance(BATCH, [1] * len(BATCH), "gradient")],
    "attention": lambda scorer: [scorer.importance(BATCH, [1] * len(BATCH), "attention")],
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("count", [2, 3, 20])
def test_the_ranks_shares_add_up_to_the_whole(asked: str, count: int) -> None:
    expected = ASKED[asked](old_policy(ALONE))
    shares: list[Any] = [
        ASKED[asked](old_policy(Apart(rank=index, world_size=count, local_rank=index)))
        for index in range(count)
    ]
    for place, tensor in enumerate(expected):
        torch.testing.assert_close(sum(share[place] for share in shares), tensor, rtol=1e-5, atol=1e-5)
        # More ranks than rows: some have nothing to read.
        assert sum(bool(share[place].any()) for share in shares) > 1


def test_hidden_states_are_kept_of_a_ranks_own_rows_alone() -> None:
    mine = torch.arange(len(BATCH)) % 2 == 0
    scores = old_policy(Apart(rank=0, world_size=2, local_rank=0)).forward.score(
        model("llama"), BATCH, mine, keep_hidden=True
    )
    whole = old_policy(ALONE).forward.score(model("llama"), BATCH, torch.ones_like(mine), keep_hidden=True)
    there = BATCH.present & mine[:, None]
    torch.testing.assert_close(scores.hidden[there], whole.hidden[there], rtol=1e-5, atol=1e-5)
    assert not scores.hidden[~mine].any() and not scores.logprobs[~mine].any() and scores.logprobs[mine].any()


def test_hidden_states_are_kept_as_narrow_as_the_head_reads_them() -> None:
    everything = torch.ones(len(BATCH), dtype=torch.bool)
    for precision, dtype in (("float32", torch.float32), ("bf16_in", torch.bfloat16)):
        policy = replace(model("llama"), head_precision=precision)
        kept = old_policy(ALONE).forward.score(policy, BATCH, everything, keep_hidden=True).hidden
        assert kept.dtype == dtype and kept.device == policy.device, precision
        # The head's numbers are those of what was not narrowed.
        with torch.no_grad():
            states = completion_hidden(policy, BATCH)[BATCH.present]
            ours, its = (policy.head(0.7)(hidden) for hidden in (kept[BATCH.present], states))
        torch.testing.assert_close(ours, its, rtol=2e-3 if precision == "bf16_in" else 1e-5, atol=1e-4)


def test_fewer_of_the_likeliest_tokens_are_those_that_a_pass_for_fewer_keeps() -> None:
    reader, batch = old_policy(ALONE), rollout()
    every = torch.ones(len(batch), dtype=torch.bool)
    five, three = (reader.forward.score(reader.policy, batch, every, keep_top=count) for count in (5, 3))
    narrowed = five.with_top(3)
    assert torch.equal(narrowed.top_ids, three.top_ids)
    assert torch.equal(narrowed.top_logprobs, three.top_logprobs)
    assert five.with_top(5) is five and five.with_top(0).top_ids.shape[-1] == 0
