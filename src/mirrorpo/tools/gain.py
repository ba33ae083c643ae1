"""What one step of Adam gains under each weighting, to first order, before anything is trained.

    python -m mirrorpo.tools.gain model=ledger algo=dr_grpo divergence=none
    python -m mirrorpo.tools.gain weighting=uniform,counterfactual,random_span --batches 16

The start model answers some batches of the cell that the settings name, and every weighting's gradient is
taken on the same answers. With mu the expected gradient of the reward, which uniform weights estimate, and g
a weighting's gradient of one batch, the gain of a step of unit learning rate is

    sum_i mu_i E[g_i] / sqrt(E[g_i^2])

over the parameters, since Adam divides each by the root of its second moment. It is printed relative to
uniform's: an arm with 1.5 is expected to learn like uniform in two thirds of the steps, for as long as the
policy is near its start. Products of expectations are taken over different batches; intervals are of a
jackknife over blocks of batches, 95%. The penalty of the divergence is left out.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from hydra import initialize_config_dir
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor
from torch.optim.optimizer import StateDict

from mirrorpo.config.paths import command, conf
from mirrorpo.config.schema import register
from mirrorpo.core.protocols import Dataset, SegmentCredit, SpanWeighting
from mirrorpo.core.seeds import derive, seed_globals
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.distributed.device import named_device, prepare
from mirrorpo.rollout.collector import Collector
from mirrorpo.tools.cells import composed, listed, or_exit, without
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.learner import Learner
from mirrorpo.train.loaded import Loader
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.train.step import collated

BASELINE = "uniform"
BLOCKS = 8
LEVEL = 0.95


class GradientReader:
    """An optimiser that keeps the gradient and moves nothing."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.gradient = torch.zeros(sum(parameter.numel() for parameter in self.parameters))

    def step(self, lr: float) -> None:
        """Keep the gradient, flat, on the CPU."""
        flat = [
            torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten().cpu()
            for parameter in self.parameters
        ]
        self.gradient = torch.cat(flat)

    def zero_grad(self) -> None:
        """Forget the parameters' gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> StateDict:
        """Nothing."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Nothing."""


@dataclass(kw_only=True, slots=True)
class Moments:
    """Sums over batches of a weighting's gradient g and the uniform gradient u, a tensor of parameters each.

    Attributes:
        count: batches.
        weighted: sum of g.
        uniform: sum of u.
        product: sum of u g.
        square: sum of g^2.
    """

    count: int
    weighted: Tensor
    uniform: Tensor
    product: Tensor
    square: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            count=self.count + other.count,
            weighted=self.weighted + other.weighted,
            uniform=self.uniform + other.uniform,
            product=self.product + other.product,
            square=self.square + other.square,
        )

    def gain(self) -> float:
        """First-order gain of a step of unit learning rate; mu and g are never of one batch."""
        pairs = self.count * (self.count - 1)
        crossed = (self.uniform * self.weighted - self.product) / pairs
        scale = (self.square / self.count).sqrt()
        return float(torch.where(scale > 0, crossed / scale, 0.0).double().sum())


def moments(weighted: Tensor, uniform: Tensor) -> Moments:
    """Of one batch."""
    return Moments(
        count=1, weighted=weighted, uniform=uniform, product=weighted * uniform, square=weighted.square()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A weighting's gain relative to uniform's.

    Attributes:
        ratio: of the gains.
        half_width: of its interval; NaN where there are too few blocks.
    """

    ratio: float
    half_width: float


def relative_gain(blocks: Sequence[Moments], uniform: Sequence[Moments]) -> Gain:
    """The ratio over all blocks with a jackknife interval, t_{n-1} times the standard error.

    Raises:
        ValueError: if uniform has no gradient, so that nothing is relative to it.
    """
    if not any(bool(entry.square.any()) for entry in uniform):
        raise ValueError(
            "no batch has a gradient under uniform weights: every group's rewards are equal; give more "
            "--batches, a larger group_size, or questions that the model sometimes answers rightly"
        )

    def ratio(without: int | None) -> float:
        kept = [index for index in range(len(blocks)) if index != without]
        of_uniform = _total([uniform[index] for index in kept])
        return _total([blocks[index] for index in kept]) / of_uniform if of_uniform else math.nan

    count = len(blocks)
    if count < 3:
        return Gain(ratio=ratio(None), half_width=math.nan)
    left_out = [ratio(index) for index in range(count)]
    mean = sum(left_out) / count
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left_out))
    return Gain(ratio=ratio(None), half_width=float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error)


def _total(blocks: Sequence[Moments]) -> float:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total.gain()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Gradients of all weightings on the same batches.

    Attributes:
        blocks: of each weighting, by its name.
        rewards: mean reward of each batch.
    """

    blocks: Mapping[str, list[Moments]]
    rewards: list[float] = field(default_factory=list[float])


def scored_rollout(
    collector: Collector, learner: Learner, dataset: Dataset, number: int, position: int
) -> tuple[ScoredBatch, int]:
    """The next rollout of a learner's policy, scored as the learner reads it, and the position behind it.

    Args:
        collector: of rollouts.
        learner: whose penalty says what is scored.
        dataset: of the prompts.
        number: of the step that the rollout is as of.
        position: in the walk over the prompts.
    """
    rollout = collector(learner.policy, number, position)
    offsets = [learner.policy.with_offsets(answer.completion.ids) for answer in rollout.answers]
    return learner.rescore(collated(rollout, offsets, learner, dataset)), rollout.position


def measure(components: Components, arms: Mapping[str, SpanWeighting], batches: int) -> Measured:
    """Each arm's gradients on the first batches of a run.

    Args:
        components: of the cell.
        arms: weightings by name, the baseline among them.
        batches: how many, at least 2 a block.
    """
    config = components.config
    device = named_device(config["device"], ALONE)
    prepare(threads=config["threads"], deterministic=config["deterministic"])
    seed_globals(config["seed"])
    loaded = Loader(components=components, device=device, ranks=ALONE).load()
    reader = GradientReader(loaded.policy.network)
    learner = replace(
        loaded.learner,
        optimiser=reader,
        penalty=replace(loaded.learner.penalty, beta=0.0),
        settings=replace(loaded.learner.settings, updates_per_rollout=1, max_grad_norm=0.0),
    )
    measured = Measured(blocks={name: [] for name in arms})
    position, per_block = 0, math.ceil(batches / BLOCKS)
    for batch_number in range(batches):
        scored, position = scored_rollout(
            loaded.collector, learner, components.dataset, batch_number + 1, position
        )
        measured.rewards.append(float(scored.batch.rewards.nanmean()))
        print(
            f"batch {batch_number + 1} of {batches}: mean reward {measured.rewards[-1]:.3f}", file=sys.stderr
        )
        seed = derive(config["seed"], "weighting", batch_number + 1)
        gradients: dict[str, Tensor] = {}
        for name, weighting in arms.items():
            of_arm: Learner = replace(learner, weighting=weighting)
            of_arm.learn(scored, of_arm.credit(scored, seed), [0.0])
            gradients[name] = reader.gradient
        for name, gradient in gradients.items():
            entry, blocks = moments(gradient, gradients[BASELINE]), measured.blocks[name]
            if batch_number % per_block:
                blocks[-1] = blocks[-1] + entry
            else:
                blocks.append(entry)
    return measured


def built_arms(
    overrides: Sequence[str], names: Sequence[str], *, skip: bool
) -> tuple[Components, dict[str, SpanWeighting]]:
    """The cell with uniform weights, and the weightings by name.

    Args:
        overrides: of the cell.
        names: of weightings, the baseline first.
        skip: leave out those that do not fit the cell, and say so; else they are an error.

    Raises:
        ValueError: naming the setting.
    """
    register()
    with initialize_config_dir(str(conf()), version_base="1.3"):
        cell = build_components(composed(overrides, f"weighting={BASELINE}"))
        arms: dict[str, SpanWeighting] = {}
        for name in names:
            try:
                weighting = build_components(composed(overrides, f"weighting={name}")).weighting
                if isinstance(weighting, SegmentCredit):
                    raise ValueError(
                        f"weighting={name}: it takes the place of the advantages, and a gain is of weights"
                    )
                arms[name] = weighting
            except ValueError as error:
                if not skip:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
    return cell, arms


def table(measured: Measured) -> str:
    """The gains in Markdown, from the largest."""
    uniform = measured.blocks[BASELINE]
    gains = {name: relative_gain(blocks, uniform) for name, blocks in measured.blocks.items()}
    rows = [
        f"| {name} | {gain.ratio:.2f} | [{gain.ratio - gain.half_width:.2f}, "
        f"{gain.ratio + gain.half_width:.2f}] |"
        for name, gain in sorted(gains.items(), key=lambda entry: -entry[1].ratio)
    ]
    reward = sum(measured.rewards) / len(measured.rewards)
    note = f"{len(measured.rewards)} batches of the start model, mean reward {reward:.3f}"
    return "\n".join(["| weighting | gain relative to uniform | 95% |", "|---|---|---|", *rows, "", note])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a cell."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.gain"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as of train.py")
    parser.add_argument("--batches", type=int, default=48, help="of prompts_per_step x group_size answers")
    given = parser.parse_intermixed_args(arguments)
    if given.batches < 2 * BLOCKS:
        sys.exit(f"error: --batches={given.batches}: give at least {2 * BLOCKS}, for an interval")
    named, cell = listed(given.overrides, "weighting"), without(given.overrides, "weighting")
    every = sorted(path.stem for path in (conf() / "weighting").glob("*.yaml"))

    def print_table() -> None:
        names = dict.fromkeys([BASELINE, *(named or every)])
        components, arms = built_arms(cell, list(names), skip=not named)
        print(table(measure(components, arms, given.batches)))

    or_exit(print_table)


if __name__ == "__main__":
    main()
