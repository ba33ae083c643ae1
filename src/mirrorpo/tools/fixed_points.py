"""Where each regularised policy ends in a world of one decision, before anything is trained.

    python -m mirrorpo.tools.fixed_points model=exploit algo=dr_grpo
    python -m mirrorpo.tools.fixed_points model=exploit algo=dr_grpo divergence=kl_exact,probl2 \\
        reward=exploit_rare,exploit_common

The answers to a question of `dataset=exploit` are ten, so what training does to the policy in expectation is
a flow of ten numbers, p' = p (g - mean g) with g the reward less the penalty's pull, and its end is computed
from the start model's own probabilities. The pull is taken from the penalty's code by differentiation, that
of a sampled estimator as it acts in the loss: it is not always that of the divergence whose name it has.

Each divergence gets the beta at which the gold reward ends at --gold where the proxy is the gold, so that all
are equally strong where nothing can be exploited; with divergence.beta=0.1,1 those. `beta` in the table is
the setting: the algorithm's own scale of the reward is in it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from hydra import initialize_config_dir
from torch import Tensor

from mirrorpo.algo.advantage import GroupMean, LeaveOneOut, NoBaseline
from mirrorpo.config.paths import command, conf
from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Divergence
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.distributed.device import named_device, prepare
from mirrorpo.divergence.bregman import CorrectedBregman, SampledBregman
from mirrorpo.divergence.flow import Ending, ending, equal_strength
from mirrorpo.divergence.neural_mirror import NeuralMirror
from mirrorpo.divergence.tabulated import Tabulated
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.reward.named_answer import names_of
from mirrorpo.tools.cells import composed, listed, or_exit, without
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.loaded import Loader, render

UNEVALUATED = "eval_questions=0"
# Samples of a question of which distinct right answers are counted.
SAMPLES = 8
# Of the table that stands for a neural map's units, as of the files of the exact forms.
KNOTS = 8192


@dataclass(frozen=True, kw_only=True)
class MapTable(Tabulated):
    """The table of a neural map, of a signed one too, whose potential need not be convex."""

    def __post_init__(self) -> None:
        pass

    @property
    def convex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of the map."""
        return self.potential.convex


def from_table(divergence: Divergence) -> Divergence:
    """A divergence whose neural map is read from a table: 1e-9 from it, at a fiftieth of its cost."""
    if isinstance(divergence, SampledBregman | CorrectedBregman) and isinstance(
        divergence.potential, NeuralMirror
    ):
        return replace(divergence, potential=MapTable(potential=divergence.potential, knots=KNOTS))
    return divergence


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The decisions of a cell.

    Attributes:
        prompts: the questions.
        start: the start model's probabilities of the answers, [Q, A], which sum to 1.
        proxy: what each pays, [Q, A].
        gold: what each is worth, [Q, A].
        names: of each answer, Q of A.
    """

    start: Tensor
    proxy: Tensor
    gold: Tensor
    names: Sequence[Sequence[str]]
    prompts: Sequence[Prompt] = ()

    def paid(self, components: Components) -> "World":
        """The same decisions, paid by the reward of a cell."""
        proxy: list[list[float]] = []
        gold: list[list[float]] = []
        for prompt in self.prompts:
            answers = list(names_of(prompt.gold))
            verdicts = components.reward(answers, [prompt] * len(answers))
            proxy.append([verdict.reward for verdict in verdicts])
            gold.append([verdict.reward if verdict.gold is None else verdict.gold for verdict in verdicts])
        return replace(
            self,
            proxy=torch.tensor(proxy, dtype=torch.float64),
            gold=torch.tensor(gold, dtype=torch.float64),
        )

    def share(self, policy: Tensor, name: str) -> float:
        """Of the answers by a name, the mean over questions."""
        named = torch.tensor([[answer == name for answer in row] for row in self.names])
        return float((policy * named).sum(-1).mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Where a policy ends.

    Attributes:
        beta: the setting.
        gold: mean gold reward.
        proxy: mean of what is trained on.
        shares: of the answers, by name.
        distinct: expected answers that differ among `SAMPLES`.
        distinct_right: right ones among those.
        passed: chance that one of `SAMPLES` is right, pass@k.
        coverage: expected share of a question's right answers among `SAMPLES`.
        entropy: of a question's answers, in nats.
        at_rest: False where the flow still moved.
    """

    beta: float
    gold: float
    proxy: float
    shares: Mapping[str, float]
    distinct: float
    distinct_right: float
    passed: float
    coverage: float
    entropy: float
    at_rest: bool


def prediction(world: World, end: Ending, beta: float) -> Prediction:
    """What an end of the flow is, in the terms of the metrics."""
    p = end.policy
    drawn, right = 1 - (1 - p) ** SAMPLES, world.gold >= 1
    return Prediction(
        beta=beta,
        gold=float((p * world.gold).sum(-1).mean()),
        proxy=float((p * world.proxy).sum(-1).mean()),
        shares={name: world.share(p, name) for name in dict.fromkeys(world.names[0])},
        distinct=float(drawn.sum(-1).mean()),
        distinct_right=float((drawn * right).sum(-1).mean()),
        passed=float((1 - (1 - (p * right).sum(-1)) ** SAMPLES).mean()),
        coverage=float(((drawn * right).sum(-1) / right.sum(-1)).mean()),
        entropy=_entropy(p),
        at_rest=end.at_rest,
    )


def strength(world: World, divergence: Divergence, gold: float) -> float | None:
    """The coefficient at which the gold reward, trained on, ends at a value; None where none does it."""

    def reached(beta: float) -> float:
        end = ending(divergence, beta, world.gold, world.start)
        return float((end.policy * world.gold).sum(-1).mean())

    return equal_strength(reached, gold)


def reward_scale(components: Components) -> float:
    """What the algorithm multiplies the expected gradient of the reward by.

    Raises:
        ValueError: for an algorithm that scales by what was sampled, whose policy has no end in closed form.
    """
    advantage, size = components.algo.advantage, components.config["group_size"]
    if isinstance(advantage, GroupMean):
        # The mean has the completion's own reward in it.
        return (size - 1) / size
    if isinstance(advantage, LeaveOneOut | NoBaseline):
        return 1.0
    raise ValueError(
        f"algo.advantage={type(advantage).__name__}: it scales rewards by what was sampled; "
        "use algo=dr_grpo, rloo or reinforce"
    )


def world_of(components: Components) -> World:
    """The decisions of a cell's training questions.

    Raises:
        ValueError: where answers are not named by the gold, or are no single token.
    """
    config = components.config
    prepare(threads=config["threads"], deterministic=config["deterministic"])
    loaded = Loader(components=components, device=named_device("cpu", ALONE), ranks=ALONE).load()
    policy, prompts = loaded.learner.policy, loaded.questions.train
    answers = [names_of(prompt.gold) for prompt in prompts]
    if len({len(row) for row in answers}) != 1 or len(answers[0]) < 2:
        raise ValueError(
            f"dataset={type(components.dataset).__name__}: its golds do not list the answers there are, by "
            "name; use dataset=exploit"
        )
    start: list[Tensor] = []
    for prompt, row in zip(prompts, answers, strict=True):
        ids = render(components, policy, prompt).ids
        start.append(_probabilities(policy, ids, list(row), float(config["temperature"])))
    unpaid = torch.zeros(len(prompts), len(answers[0]), dtype=torch.float64)
    world = World(
        start=torch.stack(start),
        proxy=unpaid,
        gold=unpaid,
        names=[list(row.values()) for row in answers],
        prompts=prompts,
    )
    return world.paid(components)


def _probabilities(
    policy: LanguageModel, prompt: Sequence[int], answers: Sequence[str], temperature: float
) -> Tensor:
    tokens = [policy.tokenizer(answer, add_special_tokens=False).input_ids for answer in answers]
    if any(len(ids) != 1 for ids in tokens):
        raise ValueError(f"answers such as {answers[0]!r} are no single token of the model's tokenizer")
    with torch.no_grad():
        logits = policy.network(torch.tensor([list(prompt)])).logits[0, -1].double() / temperature
    # What is none of the answers is next to nothing, and left out.
    return logits[[ids[0] for ids in tokens]].softmax(-1)


def penalties(overrides: Sequence[str], names: Sequence[str], *, skip: bool) -> dict[str, Divergence]:
    """The divergences by name.

    Args:
        overrides: of the cell.
        names: of the group's files.
        skip: leave out those that do not fit, and say so; else they are an error.

    Raises:
        ValueError: naming the setting.
    """
    out: dict[str, Divergence] = {}
    for name in names:
        try:
            penalty = build_components(composed(overrides, f"divergence={name}", UNEVALUATED)).penalty
            if penalty.placement != "loss" or penalty.sources != ("reference",):
                raise ValueError("the flow is of divergence.placement=loss and divergence.anchor=reference")
            out[name] = from_table(penalty.divergence)
        except ValueError as error:
            if not skip:
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
    return out


def predictions(
    world: World, arms: Mapping[str, Divergence], betas: Mapping[str, float | None], scale: float
) -> dict[str, Prediction | None]:
    """Where each arm ends; None without a coefficient.

    Args:
        world: the decisions.
        arms: divergences by name.
        betas: of each, beside unscaled rewards.
        scale: of the algorithm; the setting is the coefficient times it.
    """
    out: dict[str, Prediction | None] = {}
    for name, divergence in arms.items():
        beta = betas[name]
        if beta is None:
            out[name] = None
            continue
        end = ending(divergence, beta, world.proxy, world.start)
        out[name] = prediction(world, end, beta * scale)
    return out


def table(world: World, rows: Mapping[str, Prediction | None]) -> str:
    """The predictions in Markdown, from the highest gold reward."""
    names = list(dict.fromkeys(world.names[0]))
    head = [
        "divergence",
        "beta",
        "gold",
        "proxy",
        *names,
        f"distinct of {SAMPLES}",
        "right of these",
        f"pass@{SAMPLES}",
        f"coverage@{SAMPLES}",
        "entropy",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    known = {name: row for name, row in rows.items() if row is not None}
    for name, row in sorted(known.items(), key=lambda entry: -entry[1].gold):
        shares = [f"{row.shares[answer]:.3f}" for answer in names]
        mark = "" if row.at_rest else " (still moving)"
        cells = [f"{name}{mark}", f"{row.beta:.5g}", f"{row.gold:.3f}", f"{row.proxy:.3f}", *shares]
        spread = [f"{value:.2f}" for value in (row.distinct, row.distinct_right)]
        spread += [f"{row.passed:.3f}", f"{row.coverage:.3f}", f"{row.entropy:.2f}"]
        lines.append(f"| {' | '.join([*cells, *spread])} |")
    never = ", ".join(name for name, row in rows.items() if row is None)
    return "\n".join([*lines, *(["", f"no beta ends at that gold reward: {never}"] if never else [])])


def _start_line(world: World) -> str:
    names = list(dict.fromkeys(world.names[0]))
    shares = ", ".join(f"{name} {world.share(world.start, name):.3f}" for name in names)
    return f"start model: {shares}; entropy {_entropy(world.start):.2f}"


def _entropy(p: Tensor) -> float:
    return float(-torch.special.xlogy(p, p).sum(-1).mean())


def _cells(overrides: Sequence[str], rewards: Sequence[str]) -> dict[str, Components]:
    # By the reward's name; "" is the cell's own.
    choices = {reward: [f"reward={reward}"] if reward else [] for reward in rewards or [""]}
    return {
        reward: build_components(composed(overrides, "divergence=none", *choice, UNEVALUATED))
        for reward, choice in choices.items()
    }


def at_betas(
    arms: Mapping[str, Divergence], betas: Sequence[str]
) -> dict[str, tuple[Divergence, float | None]]:
    """Divergences with the setting of their beta; of several betas each makes an arm of its own.

    Args:
        arms: divergences by name.
        betas: as typed; none leaves them to be found.

    Raises:
        ValueError: naming the setting.
    """
    try:
        values = [float(text) for text in betas]
    except ValueError as error:
        text = f"divergence.beta={','.join(betas)}"
        raise ValueError(f"{text}: give a number, or several as 0.1,1") from error
    out: dict[str, tuple[Divergence, float | None]] = {}
    for name, divergence in arms.items():
        if len(values) < 2 or divergence.reads == "nothing":
            out[name] = divergence, next(iter(values), None)
        else:
            out |= {f"{name} beta={value:g}": (divergence, value) for value in values}
    return out


def _print_all(overrides: Sequence[str], gold: float) -> None:
    named, rewards = listed(overrides, "divergence"), listed(overrides, "reward")
    cell = without(overrides, "divergence", "reward", "divergence.beta")
    every = sorted(path.stem for path in (conf() / "divergence").glob("*.yaml"))
    register()
    with initialize_config_dir(str(conf()), version_base="1.3"):
        # Without a divergence there is none to set.
        cells = _cells([text for text in cell if not text.startswith("divergence.")], rewards)
        scales = {reward: reward_scale(components) for reward, components in cells.items()}
        arms = at_betas(penalties(cell, named or every, skip=not named), listed(overrides, "divergence.beta"))
    # Rewards differ in what answers are paid, and in nothing before that.
    start = world_of(next(iter(cells.values())))
    # A few thousand numbers: threads would wait for each other at every operation.
    torch.set_num_threads(1)
    betas: dict[str, float | None] = {}
    for reward, components in cells.items():
        world, scale = start.paid(components), scales[reward]
        print(f"\nreward={reward}" if reward else "", _start_line(world), "", sep="\n", flush=True)
        rows: dict[str, Prediction | None] = {}
        for name, (divergence, beta) in arms.items():
            if divergence.reads == "nothing":
                betas[name] = 0.0
            elif name not in betas:
                betas[name] = strength(world, divergence, gold) if beta is None else beta / scale
            rows |= predictions(world, {name: divergence}, betas, scale)
            _say(name, rows[name])
        print(table(world, rows), flush=True)


def _say(name: str, row: Prediction | None) -> None:
    # As soon as it is known; the table is sorted, and waits for all.
    found = "no beta ends there" if row is None else f"beta {row.beta:.5g}, gold {row.gold:.3f}"
    print(f"{name}: {found}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of a cell."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.fixed_points"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as of train.py")
    parser.add_argument("--gold", type=float, default=0.8, help="reward at which all are equally strong")
    given = parser.parse_intermixed_args(arguments)
    or_exit(lambda: _print_all(given.overrides, given.gold))


if __name__ == "__main__":
    main()
