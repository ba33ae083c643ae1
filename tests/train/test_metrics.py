"""Each metric from its definition, on batches small enough to do by hand."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from completions import completion_of
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import PolicyOutputs, RolloutBatch, Verdict
from mirrorpo.rollout.collate import collate
from mirrorpo.train.metrics import (
    RunningMeans,
    Totals,
    finite,
    k3,
    pass_at_k,
    rollout_metrics,
    update_metrics,
)

NAN = float("nan")
CONF = Path(__file__).parents[2] / "conf/algo"


@given(policy=st.floats(-20, 0), other=st.floats(-20, 0))
def test_k3_is_schulmans_estimator(policy: float, other: float) -> None:
    ratio = math.exp(other - policy)
    found = k3(torch.tensor([policy], dtype=torch.float64), torch.tensor([other], dtype=torch.float64))
    assert float(found) == pytest.approx(ratio - 1 - math.log(ratio), rel=1e-6, abs=1e-12)


def test_k3_has_the_expectation_kl_of_policy_and_other() -> None:
    p, q = (
        torch.softmax(torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), 0)
        for seed in (0, 1)
    )
    torch.testing.assert_close((p * k3(p.log(), q.log())).sum(), (p * (p / q).log()).sum())


def test_k3_of_nearly_equal_policies_is_exact_in_float32() -> None:
    # exp(x) - 1 - x would be 1.66e-8 here.
    assert float(k3(torch.tensor(-1.0), torch.tensor(-1.0 + 2**-13))) == pytest.approx(2**-27, rel=1e-3)


def test_k3_stays_finite_where_the_policy_gives_nothing() -> None:
    assert k3(torch.tensor([-200.0]), torch.tensor([0.0])).isfinite().all()


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: int) -> None:
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            subsets = list(combinations(answers, k))
            assert pass_at_k(right, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(1, 2000, 1000) == pytest.approx(0.5)


def test_means_are_weighted_by_tokens_not_by_micro_batch() -> None:
    means = RunningMeans()
    means.add("x", torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, True, True]]))
    means.add("x", torch.tensor([[10.0, NAN]]), torch.tensor([[True, False]]))
    assert means.totals()[0].means() == {"x": 4.0}


def test_means_do_not_depend_on_how_tokens_are_split() -> None:
    values = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    whole, parts = RunningMeans(), RunningMeans()
    whole.add("x", values, mask)
    for rows in ([0, 3], [1], [2, 4, 5]):
        parts.add("x", values[rows], mask[rows])
    assert parts.totals()[0].means()["x"] == pytest.approx(whole.totals()[0].means()["x"], rel=1e-12)
    assert whole.totals()[0].means()["x"] == pytest.approx(float(values[mask].mean()), rel=1e-12)


def test_means_sum_in_double_precision() -> None:
    means = RunningMeans()
    means.add("x", torch.tensor([1e8, 1.0, -1e8]), torch.tensor([True, True, True]))
    assert means.totals()[0].means() == {"x": pytest.approx(1 / 3)}


def test_a_mean_of_nothing_is_left_out() -> None:
    means = RunningMeans()
    means.add("x", torch.tensor([[1.0]]), torch.tensor([[False]]))
    means.add("y", torch.tensor([[1.0]]), torch.tensor([[True]]))
    assert means.totals()[0].means() == {"y": 1.0}


def test_means_of_two_runs_share_nothing() -> None:
    RunningMeans().add("x", torch.tensor([1.0]), torch.tensor([True]))
    assert RunningMeans().totals()[0].means() == {}


def test_finite_leaves_out_what_json_cannot_hold() -> None:
    assert finite({"a": 1.0, "b": NAN, "c": math.inf, "d": -math.inf, "e": 0.0}) == {"a": 1.0, "e": 0.0}


# Two groups of three. The last completion of group 7 has no verdict, one of group 3 is truncated and masked.
LENGTHS = [2, 4, 1, 3, 3, 2]
GROUPS = [7, 7, 7, 3, 3, 3]
REWARDS = [1.0, 0.0, NAN, 0.5, 0.5, 0.5]
TRUNCATED = [False, True, False, False, False, False]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
VERDICTS = [
    Verdict(reward=1.0, strict=True, flexible=True, correct=True, outcome="right"),
    Verdict(reward=0.0, strict=False, flexible=True, correct=False, outcome="wrong"),
    Verdict(reward=NAN, strict=False, flexible=False, correct=False, outcome="unverifiable"),
    Verdict(reward=0.5, strict=False, flexible=True, correct=True, outcome="right"),
    Verdict(reward=0.5, strict=True, flexible=True, correct=True, outcome="right"),
    Verdict(reward=0.5, strict=False, flexible=False, correct=False, outcome="no_answer"),
]


def batch() -> RolloutBatch:
    completions = [
        completion_of([6] * length, group=group, prompt_ids=[5], logprob=-1.0, truncated=truncated)
        for group, length, truncated in zip(GROUPS, LENGTHS, TRUNCATED, strict=True)
    ]
    return collate(completions, REWARDS, pad_id=0, mask_truncated=True)


def uniform() -> Tensor:
    return batch().mask.float()


def measured(weights: Tensor | None = None, advantages: Tensor = ADVANTAGES) -> dict[str, float]:
    return rollout_metrics(VERDICTS, batch(), advantages, uniform() if weights is None else weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward/mean", 2.5 / 5),  # over completions with a verdict
        ("reward/group_std", 0.25),  # group 7 has rewards 1 and 0, group 3 has no spread
        ("reward/strict", 2 / 5),
        ("reward/flexible", 4 / 5),
        ("completion/length", 15 / 6),
        ("completion/length_min", 1),
        ("completion/length_max", 4),
        ("completion/truncated", 1 / 6),
        ("completion/trained", 4 / 6),  # without the one that has no verdict and the masked one
        ("group/zero_advantage", 1 / 2),
        ("weight/effective_tokens", 1),
        ("weight/max", 1),
        ("outcome/right", 3),
        ("outcome/wrong", 1),
        ("outcome/no_answer", 1),
        ("outcome/unverifiable", 1),
    ],
)
def test_rollout_metrics_by_hand(name: str, value: float) -> None:
    assert measured()[name] == pytest.approx(value)


def test_every_rollout_metric_is_a_finite_number_beside_an_unknown_reward() -> None:
    assert all(math.isfinite(value) for value in measured().values())


def test_unverifiable_is_counted_even_when_there_is_none() -> None:
    known = [verdict for verdict in VERDICTS if verdict.outcome != "unverifiable"]
    assert rollout_metrics(known, batch(), ADVANTAGES, uniform())["outcome/unverifiable"] == 0


def test_declared_outcomes_are_counted_even_where_there_is_none() -> None:
    made = rollout_metrics(VERDICTS, batch(), ADVANTAGES, uniform(), ["right", "exploit"])
    assert (made["outcome/exploit"], made["outcome/right"], made["outcome/wrong"]) == (0, 3, 1)


@pytest.mark.parametrize(
    ("advantages", "share"), [([0.0] * 6, 1.0), ([0, 0, 0, 0, 0, -1e-3], 0.5), ([1, -1, 0, 1, 0, -1], 0.0)]
)
def test_zero_advantage_is_the_share_of_groups_that_teach_nothing(
    advantages: list[float], share: float
) -> None:
    assert measured(advantages=torch.tensor(advantages, dtype=torch.float32))[
        "group/zero_advantage"
    ] == pytest.approx(share)


def test_effective_tokens_are_the_inverse_participation_of_the_weights() -> None:
    weights = uniform()
    weights[0, :2] = torch.tensor([2.0, 0.0])  # one of two tokens: 1/2
    weights[3, :3] = torch.tensor([1.5, 1.5, 0.0])  # two of three: 2/3
    assert measured(weights)["weight/effective_tokens"] == pytest.approx((1 / 2 + 2 / 3 + 1 + 1) / 4)


def test_the_largest_weight_is_reported() -> None:
    weights = uniform()
    weights[0, :2] = torch.tensor([1.75, 0.25])
    assert measured(weights)["weight/max"] == 1.75


def test_a_completion_whose_weights_are_all_zero_has_no_effective_tokens() -> None:
    weights = uniform()
    weights[0] = 0
    assert measured(weights)["weight/effective_tokens"] == pytest.approx(3 / 4)


def grpo() -> Algorithm:
    return instantiate(OmegaConf.load(CONF / "grpo.yaml"), _convert_="all")


# Three trained tokens: ratios 1, 1.5 and 0.5, advantages 1, 1 and -1; clipped are the second and the third.
LIVE = [[-1.0, -1.0 + math.log(1.5)], [-1.0 + math.log(0.5), 0.0]]


def tokens(lengths: Sequence[int], logprob: float = -1.5) -> RolloutBatch:
    """Completions of these lengths, one a group, right and wrong in turn."""
    completions = [
        completion_of([6] * length, group=i, prompt_ids=[5], logprob=logprob)
        for i, length in enumerate(lengths)
    ]
    return collate(completions, [1.0, 0.0][: len(lengths)], pad_id=0, mask_truncated=False)


def updated(first: bool, anchored: bool) -> dict[str, float]:
    b = tokens((2, 1))
    b = b.with_(
        old_logprobs=torch.tensor([[-1.0, -1.0], [-1.0, NAN]]),
        anchor_logprobs=torch.tensor([[-2.0, -1.0], [-1.0, NAN]]),
    )
    outputs = PolicyOutputs(
        logprobs=torch.tensor(LIVE),
        entropy=torch.tensor([[1.0, 2.0], [6.0, 0.0]]),
        divergence=torch.tensor([[0.5, 0.0], [0.1, 0.0]]),
    )
    means = RunningMeans()
    update_metrics(
        means,
        outputs,
        b,
        torch.tensor([1.0, -1.0])[:, None].expand_as(b.mask),
        grpo(),
        first=first,
        anchored=anchored,
    )
    return means.totals()[0].means()


def k3_by_hand(log_p: float, log_q: float) -> float:
    return math.exp(log_q - log_p) - 1 - (log_q - log_p)


TOKENS = (-1.0, -1.0 + math.log(1.5), -1.0 + math.log(0.5))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio/mean", (1 + 1.5 + 0.5) / 3),
        ("ratio/clip_fraction", 2 / 3),
        ("kl/old", sum(k3_by_hand(-1.0, p) for p in TOKENS) / 3),
        ("divergence/value", 0.2),
        ("entropy/mean", 3.0),
        ("kl/sampler", sum(k3_by_hand(-1.5, p) for p in TOKENS) / 3),
        ("kl/reference", sum(k3_by_hand(p, q) for p, q in zip(TOKENS, (-2.0, -1.0, -1.0), strict=True)) / 3),
    ],
)
def test_update_metrics_by_hand(name: str, value: float) -> None:
    assert updated(first=True, anchored=True)[name] == pytest.approx(value, rel=1e-5)


def test_a_later_update_measures_neither_sampler_nor_reference() -> None:
    assert not {
        "kl/sampler",
        "kl/reference",
        "entropy/mean",
        "mismatch/ratio_mean",
        "mismatch/ratio_max",
    } & set(updated(first=False, anchored=True))


def test_the_ratio_of_old_policy_and_sampler_has_a_mean_and_a_maximum() -> None:
    b = tokens((2, 1)).with_(old_logprobs=torch.tensor([[-1.0, -1.5], [-2.0, NAN]]))
    outputs = PolicyOutputs(
        logprobs=torch.tensor(LIVE), entropy=torch.zeros(2, 2), divergence=torch.zeros(2, 2)
    )
    means = RunningMeans()
    for rows in ([0], [1]):
        picked = PolicyOutputs(
            **{
                name: getattr(outputs, name)[rows][:, : 2 - rows[0]]
                for name in ("logprobs", "entropy", "divergence")
            }
        )
        update_metrics(
            means,
            picked,
            b.rows(torch.tensor(rows)),
            torch.ones_like(picked.logprobs),
            grpo(),
            first=True,
            anchored=False,
        )
    # The sampler says -1.5 of every token.
    ratios = (math.exp(0.5), 1.0, math.exp(-0.5))
    assert means.totals()[0].means()["mismatch/ratio_mean"] == pytest.approx(sum(ratios) / 3, rel=1e-6)
    assert means.totals()[0].means()["mismatch/ratio_max"] == pytest.approx(ratios[0], rel=1e-6)


def test_where_nothing_was_sampled_nothing_is_said() -> None:
    b = tokens((1,), NAN).with_(old_logprobs=torch.zeros(1, 1))
    means = RunningMeans()
    update_metrics(
        means,
        PolicyOutputs(**dict.fromkeys(("logprobs", "entropy", "divergence"), torch.zeros(1, 1))),
        b,
        torch.ones(1, 1),
        grpo(),
        first=True,
        anchored=False,
    )
    assert not {"mismatch/ratio_mean", "mismatch/ratio_max"} & set(finite(means.totals()[0].means()))


def test_without_an_anchor_the_reference_is_not_measured() -> None:
    assert "kl/reference" not in updated(first=True, anchored=False)


def expected(name: str, drawn_from: Tensor, live: Tensor) -> float:
    """A metric's expectation over tokens of `drawn_from`, by enumeration."""
    total = 0.0
    for probability, log_p in zip(drawn_from, live.log(), strict=True):
        b = tokens((1,), float(probability.log())).with_(old_logprobs=probability.log().view(1, 1))
        means = RunningMeans()
        outputs = PolicyOutputs(
            logprobs=log_p.view(1, 1), entropy=torch.zeros(1, 1), divergence=torch.zeros(1, 1)
        )
        update_metrics(means, outputs, b, torch.ones(1, 1), grpo(), first=True, anchored=False)
        total += float(probability) * means.totals()[0].means()[name]
    return total


@pytest.mark.parametrize("name", ["kl/old", "kl/sampler"])
def test_over_the_tokens_that_were_sampled_k3_has_the_expectation_of_a_kl(name: str) -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    assert expected(name, p, q) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


def test_means_of_several_ranks_are_those_of_one() -> None:
    values, mask = torch.tensor([1.0, 2.0, 6.0, 9.0]), torch.tensor([True, True, True, False])
    one, first, second = RunningMeans(), RunningMeans(), RunningMeans()
    one.add("a", values, mask)
    one.raise_to("b", values, mask)
    for part, rows in ((first, slice(0, 1)), (second, slice(1, 4))):
        part.add("a", values[rows], mask[rows])
        part.raise_to("b", values[rows], mask[rows])
    # A rank without a micro-batch has added to nothing.
    parts = [means.totals()[0] for means in (RunningMeans(), first, second)]
    assert Totals.joined(parts).means() == one.totals()[0].means() == {"a": 3.0, "b": 6.0}
    assert Totals.joined(parts[1:2]) is parts[1]
