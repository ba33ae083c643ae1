"""What an update costs: prompts computed once over full rows, memory as batch and vocabulary grow.

    python benchmarks/update.py time --model tiny
    python benchmarks/update.py time --model 25m --rounds 2
    python benchmarks/update.py memory
    python benchmarks/update.py axes --model 25m --rounds 2 --prompts 1

`time`: `Learner.learn` with an optimiser step, no divergence, every advantage nonzero, groups of 8, random
tokens; arms take turns in one process, in an order that turns too, medians of seconds of processor. "ragged"
are lengths spread evenly from 0.3 to 1.7 times the mean. `full rows` is `shared_prefix=never`, `idle half` is
`auto` with half of the groups at advantage zero. `memory`: the most that an update's tensors hold at once,
gradients included, weights and Adam's averages not, for one, four and sixteen micro-batches of 8 x 128 tokens
and their prompts. `axes`: what each choice of divergence, placement, anchor, trust region and algorithm costs
over the row that it extends: rescoring, credit, all updates and the anchor's move, on a ragged rollout in
groups of 4; arms of a row take turns with it, and the ratio is the median of those of a round.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peak import of_tensors
from timing import Seconds, timed, typical
from words import words

from mirrorpo.config.schema import register
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, RolloutBatch
from mirrorpo.core.protocols import Anchor
from mirrorpo.distributed.device import prepare
from mirrorpo.divergence.anchor import after, moving_parts
from mirrorpo.model.load import Scratch, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.learner import Learner, ScoredBatch

CONF = Path(__file__).parents[1] / "conf"
ARMS = ("full rows", "auto", "always", "idle half")
# Prompts, their tokens, completions' mean tokens, ragged.
SHAPES = ((96, 96, False), (96, 96, True), (47, 62, True), (8, 128, False), (8, 128, True))
PROMPTS = {"tiny": 16, "25m": 2}
VOCABULARIES = (1_000, 32_000, 150_000)
REGION = ("updates_per_rollout=2", "divergence=none")
EXACT = "divergence=kl_exact"
# By the row that is extended, what is set beside it; each arm has a name of its own.
AXES: Mapping[tuple[str, ...], Mapping[str, tuple[str, ...]]] = {
    ("divergence=kl_k1",): {
        f"placement {place}": (f"divergence.placement={place}",)
        for place in ("reward", "reward_to_go", "loss_to_go", "completion")
    },
    (EXACT,): {
        "placement reward_to_go, exact": ("divergence.placement=reward_to_go",),
        "anchor old, exact": ("anchor=old",),
        "anchor ema, exact": ("anchor=ema",),
        "anchor mixture, exact": ("anchor=mixture",),
    },
    REGION: {
        "tv, binary": ("trust_region=tv",),
        "kl, binary": ("trust_region=kl",),
        "tv, top 64": ("trust_region=tv", "trust_region.over=top"),
        "kl, top 64": ("trust_region=kl", "trust_region.over=top"),
        "tv, vocabulary": ("trust_region=tv", "trust_region.over=vocabulary"),
        "kl, vocabulary": ("trust_region=kl", "trust_region.over=vocabulary"),
        "prefix_budget": ("trust_region=prefix_budget",),
        "smooth": ("trust_region=smooth",),
    },
    ("divergence=kl",): {
        "anchor old": ("anchor=old",),
        "anchor ema": ("anchor=ema",),
        "anchor reset": ("anchor=reset", "anchor.every=1"),
        "anchor mixture, reference and old": ("anchor=mixture", "anchor.second=old"),
        "anchor mixture, reference and ema": ("anchor=mixture",),
        "js": ("divergence=js",),
        "js_corrected": ("divergence=js_corrected",),
        "kl_topk": ("divergence=kl_topk",),
        "kl_topk to a mixture": ("divergence=kl_topk", "anchor=mixture"),
        "js_topk": ("divergence=js_topk",),
        **{name: (f"divergence={name}",) for name in (
            "kl_exact", "js_exact", "alpha_exact", "hellinger_exact", "tv_exact", "renyi_exact"
        )},
    },
    ("updates_per_rollout=2",): {"mirror_descent": ("algo=mirror_descent",)},
}  # fmt: skip
LARGE = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 1024,
}  # fmt: skip


def assembled(*overrides: str) -> Components:
    """The parts of a cell."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    return build_components(config)


def built(model: str, vocabulary: int = 6_000) -> Learner:
    """A learner of the arithmetic cell, on the shipped tiny model or a Llama of 25M random weights."""
    components = assembled("divergence=none")
    large = Scratch(architecture=LARGE, prompt=PlainPrompt(instruct=False))
    spec = components.model if model == "tiny" else large
    policy = spec.load(torch.device("cpu"), 0, lambda: words(vocabulary))
    assert model == "tiny" or len(policy.tokenizer) > vocabulary, "each word is a token"
    return Learner(
        policy=policy, reference=None, optimiser=components.optim.build(policy.network),
        algo=components.algo, penalty=components.penalty, weighting=components.weighting,
        settings=UpdateSettings.of(components.config),
    )  # fmt: skip


def rollout(
    learner: Learner, prompts: int, group: int, depth: int, length: int, *, ragged: bool
) -> RolloutBatch:
    """Groups of random tokens, every second completion right."""
    draw, rows = random.Random(0), []
    vocabulary = len(learner.policy.tokenizer)

    def some(mean: int) -> list[int]:
        count = draw.randint(round(0.3 * mean), round(1.7 * mean)) if ragged else mean
        return [draw.randrange(13, vocabulary) for _ in range(count)]

    for prompt in range(prompts):
        prompt_ids = some(depth)
        for _ in range(group):
            ids = some(length)
            rows.append(
                Completion(
                    uid="",
                    group=prompt,
                    prompt_ids=prompt_ids,
                    ids=ids,
                    logprobs=[0.0] * len(ids),
                    text="",
                    truncated=False,
                )
            )
    return collate(
        rows,
        [float(index % 2) for index in range(len(rows))],
        pad_id=learner.policy.pad_id,
        mask_truncated=False,
    )


def update(learner: Learner, batch: RolloutBatch, *, idle: bool = False) -> None:
    """One update; `idle` has half of the groups at advantage zero."""
    advantages = learner.algo.advantages(batch)
    if idle:
        advantages = advantages.where(batch.group % 2 == 0, 0.0)
    credit = TokenCredit(advantages=advantages, weights=batch.mask.float())
    learner.learn(ScoredBatch(batch=batch, anchor_head=None), credit, [1e-6])


def clocked(learner: Learner, batch: RolloutBatch, arms: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Seconds of processor of each arm."""
    settings = {"full rows": "never", "auto": "auto", "always": "always", "idle half": "auto"}
    times: dict[str, list[Seconds]] = {arm: [] for arm in arms}
    for turn in range(rounds + 1):
        for arm in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            chosen = replace(learner, settings=replace(learner.settings, shared_prefix=settings[arm]))  # type: ignore[arg-type]
            with timed(times[arm]):
                update(chosen, batch, idle=arm == "idle half")
    # The first round warms up.
    return {arm: typical(each[1:]).processor for arm, each in times.items()}


def time_table(model: str, rounds: int, shapes: list[int]) -> None:
    """Arms over shapes."""
    learner = built(model)
    arms = "".join(f"{arm:>11}" for arm in ARMS)
    print(f"{'prompt':>6}{'completion':>12}{arms}{'full/auto':>13}{'full/always':>13}")
    for depth, length, ragged in (SHAPES[index] for index in shapes):
        batch = rollout(learner, PROMPTS[model], 8, depth, length, ragged=ragged)
        seconds = clocked(learner, batch, ARMS, rounds)
        row = f"{depth:6}{length:12}" + "".join(f"{seconds[arm]:11.2f}" for arm in ARMS)
        row += "".join(f"{seconds['full rows'] / seconds[arm]:13.2f}" for arm in ("auto", "always"))
        print(row + ("   ragged" if ragged else ""), flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A learner, and how its anchor moves."""

    learner: Learner
    anchor: Anchor

    @classmethod
    def of(cls, base: Learner, *overrides: str) -> "Arm":
        """The learner with the parts of a cell, on the same policy."""
        parts = assembled(*overrides)
        models = [
            reference(base.policy, moves=part.moves)
            for part in parts.anchor.parts
            if part.source == "reference" and parts.penalty.reads_reference
        ]
        learner = replace(
            base, algo=parts.algo, penalty=parts.penalty, trust_region=parts.trust_region,
            settings=UpdateSettings.of(parts.config), reference=next(iter(models), None),
            second_reference=next(iter(models[1:]), None),
        )  # fmt: skip
        return cls(learner=learner, anchor=parts.anchor)

    def step(self, batch: RolloutBatch) -> float:
        """Seconds of processor from a rollout to the next one."""
        start, learner = time.process_time(), self.learner
        scored = learner.rescore(batch)
        learner.learn(scored, learner.credit(scored, 0), [1e-6] * learner.settings.updates_per_rollout)
        shares, _ = after(moving_parts(self.anchor), 1, {}, {})
        for number, share in shares.items():
            learner.move_reference(share, number)
        return time.process_time() - start


def axes_table(model: str, rounds: int, prompts: int) -> None:
    """Each arm over the row that it extends."""
    base = built(model)
    batch = rollout(base, prompts, 4, *SHAPES[2][:2], ragged=True)
    for row, arms in AXES.items():
        learners = {"": Arm.of(base, *row)}
        learners |= {name: Arm.of(base, *row, *overrides) for name, overrides in arms.items()}
        spent = {name: list[float]() for name in learners}
        learners[""].step(batch)  # warms up
        for turn in range(rounds):
            names = [*learners]
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                spent[name].append(learners[name].step(batch))
        row_s = spent.pop("")
        print(f"{' '.join(row):48}{statistics.median(row_s):8.2f} s", flush=True)
        for name, seconds in spent.items():
            ratio = _typical_ratio(seconds, row_s)
            print(f"  {name:46}{statistics.median(seconds):8.2f} s{ratio:7.2f}", flush=True)


def _typical_ratio(seconds: Sequence[float], row: Sequence[float]) -> float:
    return statistics.median(ours / theirs for ours, theirs in zip(seconds, row, strict=True))


def peak(vocabulary: int, prompts: int) -> None:
    """Print the most MiB that an update's tensors hold at once; in a process of its own.

    Weights and Adam's averages do not count.
    """
    learner = built("25m", vocabulary)
    learner = replace(learner, settings=replace(learner.settings, tokens_per_micro_batch=1280))
    update(learner, rollout(learner, 1, 2, 8, 8, ragged=False))
    batch = rollout(learner, prompts, 8, 128, 128, ragged=False)
    print(of_tensors(lambda: update(learner, batch)) / 2**20)


def memory_table() -> None:
    """Peaks by vocabulary and number of micro-batches."""
    columns = f"{'one, MiB':>10}{'four, MiB':>11}{'sixteen, MiB':>14}"
    print(f"{'vocabulary':>10}{columns}{'all logits of one, MiB':>24}")
    for vocabulary in VOCABULARIES:
        peaks: list[float] = []
        for prompts in (1, 4, 16):
            size = ["--vocabulary", str(vocabulary), "--prompts", str(prompts)]
            command = [sys.executable, __file__, "peak", *size]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(float(output.split()[-1]))
        logits = 8 * 128 * vocabulary * 4 / 2**20
        print(f"{vocabulary:10}{peaks[0]:10.0f}{peaks[1]:11.0f}{peaks[2]:14.0f}{logits:24.0f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("time", "memory", "axes", "peak"))
    parser.add_argument(
        "--model",
        choices=list(PROMPTS),
        default="tiny",
        help="the shipped tiny model, or a Llama of 25M random weights",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=3, help="updates of each arm that are timed (3)")
    parser.add_argument(
        "--shapes", type=int, nargs="+", default=list(range(len(SHAPES))), help="lines of the table (all)"
    )
    parser.add_argument("--vocabulary", type=int, default=1_000, help="of `peak`")
    parser.add_argument("--prompts", type=int, default=1, help="of `peak`, one a micro-batch, and of `axes`")
    args = parser.parse_args()
    prepare(threads=args.threads, deterministic=True)
    register()
    if args.what == "peak":
        peak(args.vocabulary, args.prompts)
        return
    model = "25m" if args.what == "memory" else args.model
    print(f"{args.what}, {model}, {args.threads} thread(s), torch {torch.__version__}")
    if args.what == "time":
        time_table(args.model, args.rounds, args.shapes)
    elif args.what == "axes":
        axes_table(args.model, args.rounds, args.prompts)
    else:
        memory_table()


if __name__ == "__main__":
    main()
