"""Tracked values of prompts, against filters written out and in their limits."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirrorpo.algo import prompt_baseline
from mirrorpo.algo.prompt_baseline import KalmanTracker, TrackedBaseline
from mirrorpo.core.batch import GroupedRewards, PromptMemory, Visit
from mirrorpo.core.protocols import Assembly, GroupedAdvantageEstimator, PromptTracker, TracksPrompts

NAN = float("nan")
# As conf/algo/spo.yaml has it.
BETA: dict[str, float] = {
    "prior_value": 0.5,
    "prior_count": 1.0,
    "half_drift": 0.06,
    "low": 0.875,
    "high": 0.96,
}
KALMAN: dict[str, float] = {
    "prior_value": 0.5,
    "prior_variance": 0.25,
    "process": 0.001,
    "observation": 0.25,
}
# Visits of a prompt: the step, the drift, the rewards.
HISTORY = [(1, 0.0, [1.0]), (2, 0.01, [0.0, 1.0, 1.0]), (7, 0.2, [0.0]), (8, 0.15, [1.0, 0.25])]


def beta_tracker(**changes: float) -> prompt_baseline.BetaTracker:
    return prompt_baseline.BetaTracker(**{**BETA, **changes})


def assembled(config: dict[str, Any]) -> Any:
    """A run of which only the config is read."""
    parts = dict.fromkeys(name for name in vars(Assembly) if not name.startswith("_"))
    return SimpleNamespace(**{**parts, "config": config})


def tracked(tracker: PromptTracker, history: Sequence[tuple[int, float, Sequence[float]]]) -> list[float]:
    numbers: list[float] = []
    for step, drift, rewards in history:
        numbers = tracker.after(numbers, rewards, step=step, drift=drift)
    return numbers


def track(
    rewards: Sequence[float],
    uids: Sequence[str],
    memory: PromptMemory,
    baseline: TrackedBaseline,
    step: int = 1,
) -> tuple[Tensor, PromptMemory]:
    rollout = GroupedRewards(
        rewards=torch.tensor(rewards),
        group=torch.arange(len(rewards)),
        lengths=torch.ones(len(rewards), dtype=torch.long),
    )
    return baseline.track(rollout, Visit(uids=uids, step=step, drift=0.0, memory=memory))


# ---------------------------------------------------------------- the filters


def test_the_beta_tracker_is_two_fading_counts() -> None:
    alpha, beta, then = 0.5, 0.5, 0.0
    for _, drift, rewards in HISTORY:
        rho = 2 ** (-((drift**0.5 - then**0.5) ** 2) / 0.06)
        rho = 0.875 if rho < 0.875 else 0.96 if rho > 0.96 else rho
        alpha, beta = rho * alpha + sum(rewards), rho * beta + sum(1 - reward for reward in rewards)
        then = drift
    mean, count, last = tracked(beta_tracker(), HISTORY)
    assert (mean, count, last) == (pytest.approx(alpha / (alpha + beta)), pytest.approx(alpha + beta), 0.15)


def test_what_is_kept_halves_with_the_drift_between_its_bounds() -> None:
    free = beta_tracker(low=0.0, high=1.0)
    assert free.kept(0.06, 0.24) == pytest.approx(0.5)  # (sqrt 0.24 - sqrt 0.06)^2 = 0.06
    assert free.kept(0.24, 0.06) == free.kept(0.06, 0.24)
    assert free.kept(0.3, 0.3) == 1.0 and free.kept(0.0, -1e-9) == 1.0
    assert beta_tracker().kept(0.0, 5.0) == 0.875 and beta_tracker().kept(0.0, 0.0) == 0.96


def test_the_kalman_filter_is_the_posterior_mean_of_the_random_walk_given_all_rewards() -> None:
    # The joint Gaussian of every reward and of the walk at the last visit, solved at once.
    steps = [step for step, _, rewards in HISTORY for _ in rewards]
    seen = torch.tensor([reward for _, _, rewards in HISTORY for reward in rewards], dtype=torch.float64)
    first, last = steps[0], steps[-1]

    def covariance(a: int, b: int) -> float:
        return KALMAN["prior_variance"] + KALMAN["process"] * (min(a, b) - first)

    table = torch.tensor([[covariance(a, b) for b in steps] for a in steps], dtype=torch.float64)
    table += KALMAN["observation"] * torch.eye(len(steps), dtype=torch.float64)
    cross = torch.tensor([covariance(last, step) for step in steps], dtype=torch.float64)
    weights = torch.linalg.solve(table, cross)
    mean = KALMAN["prior_value"] + float(weights @ (seen - KALMAN["prior_value"]))
    variance = covariance(last, last) - float(weights @ cross)
    assert tracked(KalmanTracker(**KALMAN), HISTORY) == pytest.approx([mean, variance, last])


rewards_of_visits = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=3), min_size=1, max_size=6)


@given(visits=rewards_of_visits)
def test_the_limits_are_the_running_mean_and_the_last_visit(visits: list[list[float]]) -> None:
    history = [(step, 0.1 * step, rewards) for step, rewards in enumerate(visits, 1)]
    rewards = [reward for of_visit in visits for reward in of_visit]
    running, last = sum(rewards) / len(rewards), sum(visits[-1]) / len(visits[-1])
    limits: list[tuple[PromptTracker, float]] = [
        (beta_tracker(prior_count=0.0, low=1.0, high=1.0), running),
        (beta_tracker(low=0.0, high=0.0), last),
        (KalmanTracker(**{**KALMAN, "prior_variance": 1e12, "process": 0.0}), running),
        (KalmanTracker(**{**KALMAN, "prior_variance": 1e12, "process": 1e12}), last),
        # A prior that is certain, and a walk that stands still.
        (KalmanTracker(**{**KALMAN, "prior_variance": 0.0, "process": 0.0}), 0.5),
    ]
    for tracker, wanted in limits:
        assert tracker.value(tracked(tracker, history)) == pytest.approx(wanted, abs=1e-9), tracker
    # A prior counts as so many rewards, in both.
    with_prior = (sum(rewards) + 0.5 * 2) / (len(rewards) + 2)
    assert tracked(beta_tracker(prior_count=2.0, low=1.0, high=1.0), history)[0] == pytest.approx(with_prior)
    kalman = KalmanTracker(**{**KALMAN, "prior_variance": KALMAN["observation"] / 2, "process": 0.0})
    assert tracked(kalman, history)[0] == pytest.approx(with_prior)


# ---------------------------------------------------------------- the baseline


@pytest.mark.parametrize("tracker", [beta_tracker(), KalmanTracker(**KALMAN)])
def test_a_visit_has_the_value_before_it_and_is_remembered_by_the_prompt_not_the_group(
    tracker: PromptTracker,
) -> None:
    baseline = TrackedBaseline(tracker=tracker, batch_std_epsilon=None)
    assert isinstance(baseline, TracksPrompts) and not isinstance(baseline, GroupedAdvantageEstimator)
    before = {"a": [0.25, 2.0, 0.0], "other": [0.1, 3.0, 0.0]}
    kept = {uid: list(numbers) for uid, numbers in before.items()}
    advantages, after = track([1.0, 0.0, 1.0], ["a", "new", "a"], before, baseline)
    assert advantages.tolist() == [0.75, -0.5, 0.75]
    assert before == kept and after["other"] == before["other"]
    # Two groups of one prompt are one visit, and their order is none.
    assert after["a"] == tracker.after(before["a"], [1.0, 1.0], step=1, drift=0.0)
    assert after["new"] == tracker.after((), [0.0], step=1, drift=0.0)
    assert track([1.0, 1.0, 0.0], ["a", "a", "new"], before, baseline)[1] == after


@pytest.mark.parametrize("epsilon", [None, 1e-8])
def test_rewards_without_a_verdict_get_zero_and_leave_the_state(epsilon: float | None) -> None:
    baseline = TrackedBaseline(tracker=beta_tracker(), batch_std_epsilon=epsilon)
    memory = {"a": [0.25, 2.0, 0.0], "b": [0.5, 1.0, 0.0]}
    advantages, after = track([NAN, NAN, NAN], ["a", "new", "a"], memory, baseline)
    assert advantages.tolist() == [0.0, 0.0, 0.0] and after == memory
    advantages, after = track([NAN, 1.0, 0.0], ["a", "a", "b"], memory, baseline)
    assert advantages[0] == 0.0 and after["a"] == beta_tracker().after(memory["a"], [1.0], step=1, drift=0.0)
    without, _ = track([1.0, 0.0], ["a", "b"], memory, baseline)
    assert torch.equal(advantages[1:], without)


def test_standardised_advantages_have_mean_zero_and_one_completion_alone_gets_zero() -> None:
    baseline = TrackedBaseline(tracker=beta_tracker(), batch_std_epsilon=0.0)
    memory = {"a": [0.9, 2.0, 0.0], "b": [0.2, 1.0, 0.0]}
    ours, _ = track([1.0, 0.0, 1.0, 0.5], ["a", "b", "b", "c"], memory, baseline)
    centred = torch.tensor([0.1, -0.2, 0.8, 0.0])
    torch.testing.assert_close(ours, (centred - centred.mean()) / centred.std())
    assert track([1.0], ["a"], memory, baseline)[0].tolist() == [0.0]
    assert track([1.0, 1.0], ["a", "a"], memory, baseline)[0].tolist() == [0.0, 0.0]


def test_impossible_settings_are_refused_by_name() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (beta_tracker, {"low": 0.9, "high": 0.8}, "low=0.9"),
        (beta_tracker, {"half_drift": 0.0}, "half_drift=0.0"),
        (beta_tracker, {"prior_count": -1.0}, "prior_count=-1.0"),
        (KalmanTracker, {**KALMAN, "observation": 0.0}, "observation=0.0"),
        (KalmanTracker, {**KALMAN, "process": -1.0}, "process=-1.0"),
        (TrackedBaseline, {"tracker": beta_tracker(), "batch_std_epsilon": NAN}, "batch_std_epsilon=nan"),
    ]
    for part, settings, name in wrong:
        with pytest.raises(ValueError, match=name):
            part(**settings)


def test_a_drift_that_is_not_measured_is_said() -> None:
    baseline = TrackedBaseline(tracker=beta_tracker(), batch_std_epsilon=None)

    def said(baseline: TrackedBaseline, questions: int) -> list[str]:
        return list(baseline.notes("algo.advantage", assembled({"drift_questions": questions})))

    (note,) = said(baseline, 0)
    assert note.startswith("drift_questions=0:") and "algo.advantage.tracker keeps 0.96" in note
    constant = TrackedBaseline(tracker=beta_tracker(low=0.9, high=0.9), batch_std_epsilon=None)
    assert said(baseline, 8) == said(constant, 0) == []


def test_dynamic_sampling_is_refused_for_the_values_that_it_would_track() -> None:
    baseline = TrackedBaseline(tracker=beta_tracker(), batch_std_epsilon=None)

    def refusals(dynamic_sampling: bool) -> list[str]:
        config = {"algo": {"rollout_rule": {"dynamic_sampling": dynamic_sampling}}}
        return list(baseline.requirements("algo.advantage", assembled(config)))

    assert refusals(dynamic_sampling=False) == []
    (reason,) = refusals(dynamic_sampling=True)
    assert reason.startswith("algo.rollout_rule.dynamic_sampling=true with algo.advantage=TrackedBaseline: ")
    assert reason.endswith("; use algo.rollout_rule.dynamic_sampling=false algo.rollout_rule.max_draws=1")
    # Why: of a prompt that nine of ten answers get right, groups of four that differ say seven.
    every, kept = [0.5, 1.0, 0.0], [0.5, 1.0, 0.0]
    draw, tracker = torch.Generator().manual_seed(0), beta_tracker(low=1.0, high=1.0)
    for step in range(400):
        rewards = (torch.rand(4, generator=draw) < 0.9).float().tolist()
        every = tracker.after(every, rewards, step=step, drift=0.0)
        if len({*rewards}) > 1:
            kept = tracker.after(kept, rewards, step=step, drift=0.0)
    assert tracker.value(every) == pytest.approx(0.9, abs=0.03)
    assert tracker.value(kept) == pytest.approx(0.7, abs=0.03)
