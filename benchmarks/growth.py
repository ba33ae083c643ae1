"""How a step grows: with prompts, group size, length of completions, and spans.

    python benchmarks/growth.py

The tiny model, groups of 8 unless that is what grows, completions of random tokens as long as the engine
samples them (its end-of-sequence token is taken away). `weigh` are the weights of counterfactual credit on
completions of 16 calculations, of which so many are hidden (`weighting.spans.max_spans`), with what the
uniform arm takes there off. `power` is the slope of log seconds over log size between a line and the one
above: 1 is linear, below it is cheaper. Seconds of processor, medians.
"""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from counterfactual import configured, learners, written
from floor import ENGINE
from timing import Seconds, timed, typical
from update import built, rollout, update

from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.device import prepare

# Prompts, group, tokens of a completion; prompts have 32.
BASE, DEPTH = {"prompts": 8, "group": 8, "length": 64}, 32
AXES = {"prompts": (4, 8, 16, 32), "group": (4, 8, 16, 32), "length": (32, 64, 128, 256)}
SPANS, LINES = (2, 4, 8, 16), 16


def taken(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, in turns; the first round warms up."""
    times: dict[str, list[Seconds]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            with timed(times[name]):
                work()
    return {name: typical(each[1:]).processor for name, each in times.items()}


def table(axis: str, names: Iterable[str], lines: Iterable[tuple[int, dict[str, float]]]) -> None:
    """Print lines as they come, with the power of each column."""
    print(f"\n{axis:>8}" + "".join(f"{name:>11}{'power':>7}" for name in names))
    before: tuple[int, dict[str, float]] | None = None
    for size, seconds in lines:
        row = f"{size:8}"
        for name, column in seconds.items():
            power = ""
            if before is not None:
                power = f"{math.log(column / before[1][name]) / math.log(size / before[0]):.2f}"
            row += f"{column:11.3f}{power:>7}"
        print(row, flush=True)
        before = size, seconds


def steps(axis: str, rounds: int) -> Iterable[tuple[int, dict[str, float]]]:
    """Sampling and update as one size grows."""
    learner = built("tiny")
    endless = replace(learner.policy, eos_ids=frozenset({-1}))
    for size in AXES[axis]:
        shape = BASE | {axis: size}
        batch = rollout(learner, shape["prompts"], shape["group"], DEPTH, shape["length"], ragged=False)
        prompts = [
            Prompt(uid=str(index), question="", gold="", demonstration="")
            for index in range(shape["prompts"])
        ]
        ids = [batch.prompt_ids[index * shape["group"]].tolist() for index in range(shape["prompts"])]
        settings = {
            "group_size": shape["group"],
            "max_new_tokens": shape["length"],
            "temperature": 1.0,
            "seed": 0,
        }
        seconds = taken(
            {
                "sampling": lambda: ENGINE.generate(
                    endless,
                    RolloutRequest(prompts=prompts, prompt_ids=ids, **settings),  # noqa: B023
                ),
                "update": lambda: update(learner, batch),  # noqa: B023
            },
            rounds,
        )
        yield size, seconds | {"step": sum(seconds.values())}


def spans(rounds: int) -> Iterable[tuple[int, dict[str, float]]]:
    """The weights as more spans are hidden."""
    arms, _, _ = learners("tiny", LINES)
    base = arms["uniform"]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(13, len(base.policy.tokenizer), (BASE["prompts"], DEPTH), generator=draw).tolist()
    batch = written(base, "tiny", ids, BASE["group"], LINES)
    advantages = base.algo.advantages(batch)
    for size in SPANS:
        arm = replace(base, weighting=configured("counterfactual", size)[0].weighting)
        scored = arm.weigh(batch, advantages, seed=0).spans
        assert len(scored) == size * len(batch), "every completion has so many scored spans"
        seconds = taken(
            {
                "weigh": lambda: arm.weigh(batch, advantages, seed=0),  # noqa: B023
                "uniform": lambda: base.weigh(batch, advantages, seed=0),
            },
            rounds,
        )
        yield size, {"weigh": seconds["weigh"] - seconds["uniform"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=3, help="of each that are timed (3)")
    args = parser.parse_args()
    prepare(threads=args.threads, deterministic=True)
    register()
    print(f"tiny, {BASE}, prompts of {DEPTH} tokens, {args.threads} thread(s), torch {torch.__version__}")
    for axis in AXES:
        table(axis, ("sampling", "update", "step"), steps(axis, args.rounds))
    table("spans", ("weigh",), spans(args.rounds))


if __name__ == "__main__":
    main()
