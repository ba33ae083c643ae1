"""The coefficient at which a penalty acts: where its gradient is a share of the policy term's.

    python -m mirrorpo.tools.strength model=tiny algo=dr_grpo divergence=probl2
    python -m mirrorpo.tools.strength divergence=kl_exact,probl2_exact --after 10,40 --ratio 0.1,1

The cell that the settings name is trained without its penalty, by its own schedule and moving its anchor.
After some steps the two terms' gradients are taken on the same answers, the penalty's with divergence.beta=1.
At the start a divergence from the start model has no gradient, so no coefficient is right for all of a run:
the ratio grows with the drift. With

    r = sqrt(mean |penalty gradient|^2) / sqrt(mean |policy gradient|^2)

over batches, beta = ratio / r. A penalty whose ratio is far below 0.1 to the end of a run is next to none.
That holds where the loss is linear in beta. With placement=reward, under an algorithm that divides advantages
by their standard deviation, it is not: the number is then of beta=1 alone.
For a search over maps: divergence=neural_mirror_candidate with
divergence.potential.parameters.generation=mirrorpo:generation_scaled divergence.potential.parameters.sign=0.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import initialize_config_dir
from torch import Tensor

from mirrorpo.config.paths import command, conf
from mirrorpo.config.schema import register
from mirrorpo.core.protocols import SegmentCredit
from mirrorpo.core.seeds import derive, seed_globals
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.distributed.device import named_device, prepare
from mirrorpo.tools.cells import composed, listed, or_exit, without
from mirrorpo.tools.gain import GradientReader, scored_rollout
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.loaded import Loader
from mirrorpo.train.step import Progress, TrainStep
from mirrorpo.train.trainer import train_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """The two terms' gradients after some steps.

    Attributes:
        steps: that were trained before.
        policy: root mean square norm of the policy term's gradient of a batch.
        penalty: the same of the penalty's with a coefficient of 1.
    """

    steps: int
    policy: float
    penalty: float

    def beta(self, ratio: float) -> float:
        """The coefficient at which the penalty's norm is the ratio times the policy term's.

        Infinite where the penalty has no gradient.

        >>> Strength(steps=10, policy=2.0, penalty=0.5).beta(0.25)
        1.0
        """
        return ratio * self.policy / self.penalty if self.penalty else math.inf


def measure(components: Components, after: Sequence[int], batches: int) -> list[Strength]:
    """The gradients after so many of the cell's own steps, without a penalty.

    Args:
        components: of the cell.
        after: steps, rising.
        batches: that gradients are taken of, each time, and not trained on.

    Raises:
        ValueError: if the run is shorter, or the weighting has no policy term to compare.
    """
    config = components.config
    if isinstance(components.weighting, SegmentCredit):
        raise ValueError(
            "weighting: it re-rolls what it credits, which is not done here; give weighting=uniform"
        )
    if after[-1] > config["steps"]:
        raise ValueError(f"--after={after[-1]}: the run has steps={config['steps']}; give steps={after[-1]}")
    prepare(threads=config["threads"], deterministic=config["deterministic"])
    seed_globals(config["seed"])
    loaded = Loader(components=components, device=named_device(config["device"], ALONE), ranks=ALONE).load()
    out = list[Strength]()
    with TemporaryDirectory() as folder:
        step_of = train_step(components, loaded, ranks=ALONE, folder=Path(folder))
        progress = Progress(position=0, beta=0.0, budget=None)
        for step in range(1, after[-1] + 1):
            # A schedule of beta may move it.
            progress = replace(step_of(step, progress).progress, beta=0.0)
            if step in after:
                out.append(_strength(step_of, step, progress, batches))
    return out


def _strength(step_of: TrainStep, step: int, progress: Progress, batches: int) -> Strength:
    learner = step_of.learner
    reader = GradientReader(learner.policy.network)
    settings = replace(learner.settings, updates_per_rollout=1, max_grad_norm=0.0)
    without_penalty, whole = (
        replace(learner, optimiser=reader, settings=settings, penalty=replace(learner.penalty, beta=beta))
        for beta in (0.0, 1.0)
    )
    policy = penalty = 0.0
    position = progress.position
    for number in range(step + 1, step + 1 + batches):
        # With a coefficient of 1, so that what the penalty reads is measured.
        scored, position = scored_rollout(step_of.collector, whole, step_of.dataset, number, position)
        seed, gradients = derive(step_of.seed, "weighting", number), list[Tensor]()
        for learner_of in (without_penalty, whole):
            learner_of.learn(scored, learner_of.credit(scored, seed), [0.0])
            gradients.append(reader.gradient.double())
        policy += float(gradients[0].square().sum()) / batches
        penalty += float((gradients[1] - gradients[0]).square().sum()) / batches
    return Strength(steps=step, policy=math.sqrt(policy), penalty=math.sqrt(penalty))


def rows(name: str, strengths: Sequence[Strength], ratios: Sequence[float]) -> list[str]:
    """A divergence's rows in Markdown."""
    return [
        f"| {name} | {entry.steps} | {entry.policy:.3g} | {entry.penalty:.3g} | "
        f"{' | '.join(f'{entry.beta(ratio):.3g}' for ratio in ratios)} |"
        for entry in strengths
    ]


def print_all(overrides: Sequence[str], after: str, ratio: str, batches: int) -> None:
    """Print the rows of each divergence, under their heads.

    Args:
        overrides: of the cell; `divergence` may list several.
        after: steps without a penalty, with commas.
        ratio: of the gradients, with commas.
        batches: that gradients are taken of, each time.

    Raises:
        ValueError: naming the setting.
    """
    steps, ratios = sorted({int(text) for text in after.split(",")}), list(map(float, ratio.split(",")))
    if steps[0] < 1 or min(ratios) <= 0 or batches < 1:
        raise ValueError(
            f"--after={after} --ratio={ratio} --batches={batches}: give positive ones; at the start the "
            "penalty has no gradient"
        )
    register()
    betas = " | ".join(f"beta at {each:g}" for each in ratios)
    print(f"| divergence | steps | policy gradient | penalty's at beta 1 | {betas} |")
    print("|" + "---|" * (4 + len(ratios)))
    cell = without(overrides, "divergence")
    for name in listed(overrides, "divergence") or ["kl"]:
        with initialize_config_dir(str(conf()), version_base="1.3"):
            components = build_components(composed(cell, f"divergence={name}", "eval_questions=0"))
        print("\n".join(rows(name, measure(components, steps, batches), ratios)), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a cell."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.strength"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as of train.py")
    parser.add_argument(
        "--after", default="10,30", help="steps without a penalty, before gradients are taken"
    )
    parser.add_argument("--ratio", default="0.1,0.3,1", help="of the penalty's gradient to the policy term's")
    parser.add_argument("--batches", type=int, default=8, help="of prompts_per_step x group_size answers")
    given = parser.parse_intermixed_args(arguments)
    or_exit(lambda: print_all(given.overrides, given.after, given.ratio, given.batches))


if __name__ == "__main__":
    main()
