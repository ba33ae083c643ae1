"""Weights before and after the bounds, by hand."""

import math

import pytest
import torch
from completions import completion_of

from mirrorpo.algo.importance_correction import BoundedImportance, TruncatedImportance
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import ImportanceCorrection
from mirrorpo.rollout.collate import collate
from mirrorpo.train.correction_metrics import correction_metrics, derived
from mirrorpo.train.metrics import RunningMeans

# pi_old / sampler of three trained tokens.
RATIOS = (4.0, 1.0, 0.25)


def batch() -> RolloutBatch:
    completions = [completion_of([6] * length, group=row) for row, length in enumerate((2, 1))]
    old = torch.tensor([[math.log(4.0), 0.0], [math.log(0.25), float("nan")]]) - 1.5
    made = collate(completions, [1.0, 0.0], pad_id=0, mask_truncated=False)
    return made.with_(old_logprobs=old, sampler_logprobs=torch.full((2, 2), -1.5))


def measured(
    correction: ImportanceCorrection, *, first: bool = True, advantages: tuple[float, float] = (1.0, -1.0)
) -> dict[str, float]:
    """Of both completions, one a micro-batch, as an update adds them."""
    given, means = batch(), RunningMeans()
    for row in (0, 1):
        part = given.rows(torch.tensor([row]))
        credit = torch.full(part.mask.shape, advantages[row])
        correction_metrics(means, correction, part, part.old_logprobs, credit, first=first)
    return derived(means.totals()[0].means())


def test_weights_before_and_after_the_bounds_and_the_effective_share() -> None:
    out = measured(TruncatedImportance(cap=2.0))
    after = (2.0, 1.0, 0.25)
    assert out == pytest.approx(
        {
            "mismatch/raw_mean": sum(RATIOS) / 3,
            "mismatch/raw_min": 0.25,
            "mismatch/raw_max": 4.0,
            "mismatch/weight_mean": sum(after) / 3,
            "mismatch/weight_min": 0.25,
            "mismatch/weight_max": 2.0,
            "mismatch/clipped": 1 / 3,
            "mismatch/masked": 0.0,
            "mismatch/effective": sum(after) ** 2 / (3 * sum(w**2 for w in after)),
        },
        rel=1e-5,
    )


def test_what_is_left_out_by_a_band_or_by_its_completion_is_masked() -> None:
    band = BoundedImportance(
        level="token", rule="mask", low=0.5, high=5.0, segment_tokens=None, completion_bound=None
    )
    out = measured(band)
    assert out["mismatch/masked"] == pytest.approx(1 / 3) and out["mismatch/weight_min"] == 0
    off = BoundedImportance(
        level="token", rule="truncate", low=1.0, high=1.0, segment_tokens=None, completion_bound=1.0
    )
    # The second completion's token has become four times less likely: log 4 is above 1 nat.
    assert measured(off)["mismatch/masked"] == pytest.approx(1 / 3)
    assert measured(off, advantages=(1.0, 1.0))["mismatch/masked"] == 0
    assert measured(off, first=False) == {"mismatch/masked": pytest.approx(1 / 3)}
    everything = BoundedImportance(
        level="sequence", rule="mask", low=0.9, high=1.1, segment_tokens=None, completion_bound=None
    )
    out = measured(everything)
    assert (out["mismatch/effective"], out["mismatch/masked"]) == (0.0, 1.0)


def test_a_sum_over_a_long_completion_that_is_small_is_seen_before_and_after_the_bound() -> None:
    # 0.06 of a weight killed a run of another trainer, which logged neither.
    sequence = BoundedImportance(
        level="sequence", rule="truncate", low=0.0, high=2.0, segment_tokens=None, completion_bound=None
    )
    given = collate([completion_of([6] * 200)], [1.0], pad_id=0, mask_truncated=False)
    gap = math.log(0.06) / 200
    given = given.with_(
        old_logprobs=torch.full((1, 200), -1.0 + gap), sampler_logprobs=torch.full((1, 200), -1.0)
    )
    means = RunningMeans()
    correction_metrics(means, sequence, given, given.old_logprobs, torch.ones(1, 200), first=True)
    out = derived(means.totals()[0].means())
    for name in ("raw_mean", "raw_max", "weight_mean", "weight_min"):
        assert out[f"mismatch/{name}"] == pytest.approx(0.06, rel=1e-3)


def test_a_weight_beyond_every_number_is_still_one_in_the_log() -> None:
    sequence = BoundedImportance(
        level="sequence", rule="truncate", low=0.0, high=2.0, segment_tokens=None, completion_bound=None
    )
    given = batch().with_(old_logprobs=torch.tensor([[500.0, 500.0], [0.0, 0.0]]))
    means = RunningMeans()
    correction_metrics(means, sequence, given, given.old_logprobs, torch.ones(2, 2), first=True)
    out = derived(means.totals()[0].means())
    assert out["mismatch/raw_max"] == pytest.approx(math.exp(700)) and out["mismatch/weight_max"] == 2.0
