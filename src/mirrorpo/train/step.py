"""One step of training: the algorithm box of the papers, in the order of the data."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch

from mirrorpo.core.batch import PromptMemory, RolloutBatch, Visit
from mirrorpo.core.protocols import (
    Anchor,
    BetaSchedule,
    Dataset,
    DeclaresDeciding,
    LearningRateSchedule,
    SpanWeighting,
)
from mirrorpo.core.seeds import derive, seed_globals
from mirrorpo.core.token_offsets import Interval, TokenOffsets
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.distributed.device import stopwatch
from mirrorpo.divergence.anchor import after, moving_parts, resets
from mirrorpo.model.cost import sampling
from mirrorpo.reward.composed import outcomes
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector, Rollout
from mirrorpo.train.budget import Budget, PassMeter
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.credit_metrics import credit_metrics, gradient_shares
from mirrorpo.train.learner import Learner, NotFinite
from mirrorpo.train.metrics import baseline_metrics, rollout_metrics
from mirrorpo.train.roller import StepRoller
from mirrorpo.train.sampling_policy import SamplingPolicy
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.train.watched_metric import occurring, refuse_absent
from mirrorpo.weighting.unscored import Unscored

Drift = Callable[[], dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a run carries from step to step beside weights, optimiser and random state.

    Attributes:
        position: in the walk over the prompts.
        beta: the penalty's coefficient.
        budget: what was spent so far; None where a version that did not count began the run.
        anchor: what a moving anchor remembers.
        entropy: what an entropy control remembers.
        prompts: what the advantage remembers of prompts.
        drift: KL from the start model as it was last measured; 0 before.
    """

    position: int
    beta: float
    budget: Budget | None
    anchor: Mapping[str, float] = field(default_factory=dict[str, float])
    entropy: Mapping[str, float] = field(default_factory=dict[str, float])
    prompts: PromptMemory = field(default_factory=dict[str, Sequence[float]])
    drift: float = 0.0

    def lasting(self, device_s: float, joules: float | None = None) -> Self:
        """With a step's device seconds, and its energy where that was metered."""
        if self.budget is None:
            return self
        spent = self.budget.energy_j
        energy = None if spent is None or joules is None else spent + joules
        device_s += self.budget.device_s
        return replace(self, budget=replace(self.budget, device_s=device_s, energy_j=energy))

    def timings(self) -> dict[str, float]:
        """For `timings.jsonl`."""
        return {} if self.budget is None else self.budget.timings()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step leaves.

    Attributes:
        metrics: numbers that are deterministic.
        timings: numbers that are not: seconds, tokens a second.
        rollout: the answers.
        all_offsets: the text of each answer, and which characters each token wrote.
        credit: what each token was credited with.
        progress: for the next step.
    """

    metrics: dict[str, float]
    timings: dict[str, float]
    rollout: Rollout
    all_offsets: Sequence[TokenOffsets]
    credit: TokenCredit
    progress: Progress


class PhaseTimer:
    """Seconds of the named phases of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Generator[None]:
        with stopwatch() as clock:
            yield
        self.seconds[phase] = clock()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainStep:
    """Rolls out, scores, weighs and updates.

    Attributes:
        learner: rescoring and updates.
        sampling: the policy as the sampler has it.
        collector: rollouts.
        dataset: of the prompts.
        drift: distance from the start model.
        drift_due: whether it is measured after a step.
        beta_schedule: the coefficient of the next step.
        anchor: how what the divergence is measured to moves.
        schedule: factor on the learning rate.
        lr: peak learning rate.
        steps: of the whole run.
        seed: the run's.
        ranks: that train together.
        folder: where a batch is dumped that made a number infinite.
    """

    learner: Learner
    sampling: SamplingPolicy
    collector: Collector
    dataset: Dataset
    drift: Drift
    drift_due: Callable[[int], bool]
    beta_schedule: BetaSchedule
    anchor: Anchor
    schedule: LearningRateSchedule
    lr: float
    steps: int
    seed: int
    ranks: Ranks
    folder: Path

    def __call__(self, step: int, progress: Progress) -> StepResult:
        """One rollout and its updates.

        Raises:
            NotFinite: if a loss, a gradient or a weight is not finite; the message names the dumped batch.
        """
        if not self.ranks.first:
            # What the global generators are for, dropout, is of this rank's own rows; only rank 0's state is
            # kept.
            seed_globals(derive(self.seed, "ranks", self.ranks.rank, step))
        timer, meter = PhaseTimer(), PassMeter()
        learner = self._learner_at(step, progress, meter)
        with timer("rollout_s"):
            rollout = self._rollout(step, progress, meter)
            all_offsets = [learner.policy.with_offsets(answer.completion.ids) for answer in rollout.answers]
            batch = collated(rollout, all_offsets, learner, self.dataset)
        with timer("score_s"), learner.policy.shards.gathered():
            scored = learner.rescore(batch)
            visit = _visit(rollout, step, progress)
            roller = StepRoller.of(learner.policy, self.collector, rollout, meter)
            credit = learner.credit(scored, derive(self.seed, "weighting", step), visit, roller)
        with timer("update_s"):
            learned = self._learned(learner, scored, credit, step)
        with timer("drift_s"):
            drift = self.drift() if self.drift_due(step) else {}
        before = _before_update(rollout, scored.batch, credit, outcomes(self.collector.reward))
        metrics = before | baseline_metrics(learner.algo, visit) | learned | drift
        metrics |= self._credit_metrics(scored.batch, credit, all_offsets)
        budget = self._budget(progress.budget, meter, rollout)
        metrics |= _coefficients(learner) | _sampled(rollout, meter) | self._spent(step, budget)
        anchor = self._moved_anchor(step, progress, metrics)
        return StepResult(
            metrics=metrics | resets(anchor),
            timings=timer.seconds | _speed(rollout, timer.seconds),
            rollout=rollout,
            all_offsets=all_offsets,
            credit=credit,
            progress=Progress(
                position=rollout.position,
                beta=self.beta_schedule.after(progress.beta, drift),
                budget=budget,
                anchor=anchor,
                entropy=learner.entropy.control.after(progress.entropy, metrics),
                prompts=credit.memory,
                drift=drift.get("drift/kl", progress.drift),
            ),
        )

    def _rollout(self, step: int, progress: Progress, meter: PassMeter) -> Rollout:
        value_of = self.learner.algo.value_of(progress.prompts)
        with self.sampling() as policy:
            rollout = self.collector(policy, step, progress.position, value_of)
        if self.collector.engine.samples:
            meter.add(self.learner.policy, sampling(rollout.sampled))
        return rollout

    def _learner_at(self, step: int, progress: Progress, meter: PassMeter) -> Learner:
        return replace(
            self.learner,
            penalty=replace(self.learner.penalty, beta=progress.beta),
            entropy=self.learner.entropy.at_step(progress.entropy, derive(self.seed, "entropy", step)),
            meter=meter,
        )

    def _moved_anchor(
        self, step: int, progress: Progress, metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        moving = moving_parts(self.anchor)
        if not moving:
            return progress.anchor

        def moved() -> tuple[Mapping[int, float], Mapping[str, float]]:
            refuse_absent(self.anchor, step, progress.anchor, metrics, self._may_come(step, metrics))
            return after(moving, step, progress.anchor, metrics)

        shares, memory = self.ranks.broadcast_from_rank0(moved)
        for number, share in shares.items():
            self.learner.move_reference(share, number)
        return memory

    def _may_come(self, step: int, metrics: Mapping[str, float]) -> Iterator[str]:
        weighting = self.learner.weighting
        return occurring(
            metrics,
            drift_due=self.drift_due(step),
            outcomes_declared=bool(outcomes(self.collector.reward)),
            scores_spans=isinstance(weighting, SpanWeighting) and not isinstance(weighting, Unscored),
        )

    def _budget(self, before: Budget | None, meter: PassMeter, rollout: Rollout) -> Budget | None:
        if before is None:
            return None
        sampled = rollout.tokens if self.collector.engine.samples else 0
        return before.after(meter, completions=len(rollout.sampled), tokens_sampled=sampled)

    def _spent(self, step: int, budget: Budget | None) -> dict[str, float]:
        return self.sampling.metrics(step) | ({} if budget is None else budget.metrics())

    def _learned(
        self, learner: Learner, scored: ScoredBatch, credit: TokenCredit, step: int
    ) -> dict[str, float]:
        try:
            return learner.learn(scored, credit, self._learning_rates(step))
        except NotFinite as error:
            dump = self.folder / f"not_finite_step_{step:06d}.pt"
            if self.ranks.first:
                credited = {"advantages": credit.advantages, "weights": credit.weights}
                torch.save({**scored.batch.tensors(), **credited}, dump)
            raise NotFinite(
                f"step {step}: {error}. The batch is in {dump}; a lower lr, or float32, is the usual cure"
            ) from error

    def _learning_rates(self, step: int) -> list[float]:
        updates = self.learner.settings.updates_per_rollout
        first, last = (step - 1) * updates, self.steps * updates
        return [self.lr * self.schedule.factor(first + update, last) for update in range(updates)]

    def _credit_metrics(
        self, batch: RolloutBatch, credit: TokenCredit, all_offsets: Sequence[TokenOffsets]
    ) -> dict[str, float]:
        scored = credit_metrics(credit.spans, batch, credit.advantages, credit.weights)
        return scored | gradient_shares(all_offsets, batch, credit.advantages, credit.weights)


def _before_update(
    rollout: Rollout, batch: RolloutBatch, credit: TokenCredit, declared: Sequence[str]
) -> dict[str, float]:
    verdicts = [answer.verdict for answer in rollout.answers]
    return rollout_metrics(verdicts, batch, credit.advantages, credit.weights, declared)


def _visit(rollout: Rollout, step: int, progress: Progress) -> Visit:
    uids = [answer.prompt.uid for answer in rollout.answers]
    return Visit(uids=uids, step=step, drift=progress.drift, memory=progress.prompts)


def collated(
    rollout: Rollout, all_offsets: Sequence[TokenOffsets], learner: Learner, dataset: Dataset
) -> RolloutBatch:
    """A rollout as a batch, with the tokens that decide where the dataset says them.

    Args:
        rollout: the answers.
        all_offsets: the text of each, and which characters each token wrote.
        learner: whose policy pads, and whose algorithm says whether truncated answers are trained.
        dataset: of the prompts.
    """
    deciding: list[list[Interval]] = []
    if isinstance(dataset, DeclaresDeciding):
        for answer, offsets in zip(rollout.answers, all_offsets, strict=True):
            spans = dataset.deciding(answer.prompt, offsets.text)
            deciding.append([offsets.tokens(start, end) for start, end in spans])
    return collate(
        [answer.completion for answer in rollout.answers],
        [answer.reward for answer in rollout.answers],
        pad_id=learner.policy.pad_id,
        mask_truncated=learner.algo.rollout_rule.mask_truncated,
        deciding=deciding,
    )


def _coefficients(learner: Learner) -> dict[str, float]:
    return {"divergence/beta": learner.penalty.beta} | learner.entropy.metrics()


def _sampled(rollout: Rollout, meter: PassMeter) -> dict[str, float]:
    sampled = {
        "rollout/draws": float(rollout.draws),
        "rollout/completions": float(len(rollout.sampled)),
        "rollout/tokens": float(rollout.tokens),
    }
    if meter.rolls:
        sampled |= {"credit/rolls": float(meter.rolls), "credit/roll_tokens": float(meter.tokens_rolled)}
    return sampled


def _speed(rollout: Rollout, seconds: Mapping[str, float]) -> dict[str, float]:
    return {
        "tokens_per_s": rollout.tokens / sum(seconds.values()),
        "rollout_tokens_per_s": rollout.tokens / seconds["rollout_s"],
    }
