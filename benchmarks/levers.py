"""Single levers of a step's speed, before and after in turns: processor seconds, one thread.

    python benchmarks/levers.py step --model tiny
    python benchmarks/levers.py precision --model 25m --rounds 3
    python benchmarks/levers.py own_pass --model tiny --rounds 3

step: sampling through the modules of `transformers`, and through their operations alone (`PlainStep`); the
completions are compared bit for bit. precision: sampling and update in float32 and in bfloat16 (float32
weights under autocast), each update on the completions of either sampler, with the gap between what sampled
and what is trained. own_pass: what of a step with counterfactual weights the completions' own pass takes,
which is the most that reading it off the sampler's cache could save.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from counterfactual import BOUNDS, learners, prompts_of, written
from timing import Seconds, timed

from mirrorpo.config.schema import register
from mirrorpo.core.batch import Completion, RolloutBatch, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.distributed.device import prepare
from mirrorpo.model import cuts
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.plain_step import PlainStep
from mirrorpo.train.learner import Learner

SPANS = 10
LONGEST = {"tiny": 128, "25m": 96}


def median(times: Sequence[Seconds]) -> float:
    """Of processor seconds."""
    return statistics.median(each.processor for each in times)


def learned(learner: Learner, batch: RolloutBatch, seed: int) -> Mapping[str, float]:
    """An update's metrics; the policy stays as it is."""
    scored = learner.rescore(batch)
    credit = learner.weigh(scored.batch, learner.algo.advantages(scored.batch), seed=seed)
    return learner.learn(scored, credit, [0.0])


def step(arms: Mapping[str, Learner], engine: RolloutEngine, request: RolloutRequest, rounds: int) -> None:
    """A token through modules, and through their operations alone."""
    policy = arms["uniform"].policy
    ways = {"modules": lambda: patch.object(PlainStep, "of", lambda _: None), "operations": nullcontext}
    spent: dict[str, list[Seconds]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        completions: list[Sequence[Completion]] = []
        for way, context in ways.items():
            with context(), timed(spent[way]):
                completions.append(engine.generate(policy, replace(request, seed=turn)))
        assert completions[0] == completions[1], "no digit changes"
    before, after = (median(times[1:]) for times in spent.values())
    print(f"sampling: modules {before:.3f} s, operations alone {after:.3f} s, ratio {after / before:.3f}")


def precision(
    arms: Mapping[str, Learner], engine: RolloutEngine, request: RolloutRequest, rounds: int
) -> None:
    """Sampling and update in either precision, each with each."""
    base = arms["uniform"]
    sides: dict[str, Learner] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        policy = replace(base.policy, dtype=dtype)
        # The anchor scores in the precision that is trained in.
        sides[name] = replace(base, policy=policy, reference=reference(policy))
    pairs = [(sampled, trained) for sampled in sides for trained in sides]
    sampling: dict[str, list[Seconds]] = {name: [] for name in sides}
    update: dict[tuple[str, str], list[Seconds]] = {pair: [] for pair in pairs}
    metrics: dict[tuple[str, str], Mapping[str, float]] = {}
    for turn in range(rounds + 1):
        for sampled, sampler in sides.items():
            with timed(sampling[sampled]):
                completions = engine.generate(sampler.policy, replace(request, seed=turn))
            rewards = [float(row % 2) for row in range(len(completions))]
            batch = collate(completions, rewards, pad_id=base.policy.pad_id, mask_truncated=False)
            for trained, learner in sides.items():
                with timed(update[sampled, trained]):
                    metrics[sampled, trained] = learned(learner, batch, turn)
    first = 0.0
    for sampled, trained in pairs:
        seconds = median(sampling[sampled][1:]), median(update[sampled, trained][1:])
        first = first or sum(seconds)
        gap, largest = (metrics[sampled, trained][key] for key in ("kl/sampler", "mismatch/ratio_max"))
        spent = f"sampled in {sampled:8} {seconds[0]:6.2f} s, trained in {trained:8} {seconds[1]:6.2f} s"
        speed = f"float32 over this {first / sum(seconds):.2f}"
        print(f"{spent}, {speed}, kl/sampler {gap:.1e}, largest ratio {largest:.4f}")


def own_pass(
    arms: Mapping[str, Learner], engine: RolloutEngine, request: RolloutRequest, rounds: int, size: str
) -> None:
    """The share of the completions' own pass in a step."""
    prompt_ids = [list(ids) for ids in request.prompt_ids]
    batch = written(arms["uniform"], size, prompt_ids, request.group_size, SPANS)
    endless = replace(arms["uniform"].policy, eos_ids=frozenset({-1}))
    request = replace(request, max_new_tokens=int(batch.present.sum(dim=1).max()))
    plain = cuts._completions
    for arm in ("counterfactual", "counterfactual direct"):
        steps: list[Seconds] = []
        passes: list[Seconds] = []

        def own(model: LanguageModel, batch: RolloutBatch, into: list[Seconds] = passes) -> object:
            with timed(into):
                return plain(model, batch)

        for turn in range(rounds + 1):
            with patch.object(cuts, "_completions", own), timed(steps):
                engine.generate(endless, replace(request, seed=turn))
                learned(arms[arm], batch, turn)
        share = sum(each.processor for each in passes) / sum(each.processor for each in steps)
        print(f"{arm}: a step {median(steps[1:]):.2f} s, of it the completions' own pass {share:.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lever", choices=("step", "precision", "own_pass"))
    parser.add_argument("--model", choices=list(BOUNDS), default="tiny", help="(tiny)")
    parser.add_argument("--rounds", type=int, default=5, help="behind one that warms up (5)")
    args = parser.parse_args()
    prepare(threads=1, deterministic=True)
    register()
    arms, components, config = learners(args.model, SPANS)
    request = prompts_of(args.model, arms["uniform"], components, config)
    request = replace(request, max_new_tokens=LONGEST[args.model])
    print(f"{args.model}, one thread, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    levers: Mapping[str, Callable[[], None]] = {
        "step": lambda: step(arms, components.rollout, request, args.rounds),
        "precision": lambda: precision(arms, components.rollout, request, args.rounds),
        "own_pass": lambda: own_pass(arms, components.rollout, request, args.rounds, args.model),
    }
    levers[args.lever]()


if __name__ == "__main__":
    main()
