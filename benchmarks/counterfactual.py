"""What counterfactual credit costs: a step with it over a step with uniform weights, and the papers' way.

    python benchmarks/counterfactual.py --model tiny
    python benchmarks/counterfactual.py --model 25m

A step is the project's own: sampling, rescoring under the reference, weights (`Learner.weigh`), update.
What is scored and learned from are completions of K calculations and an answer, no two alike, every second
one right, so that each has exactly K spans and none is skipped. The engine samples as many tokens a
completion, its end-of-sequence token taken away; that does not depend on the weights, so its time is counted
to each arm alike. Drift is not measured.

`naive` are the papers' 1 + K batched passes over full prompts and completions, with logits where the arm
reads some: the same drops (asserted), by the same weighting. `times` is what they take over what the arm's
`weigh` takes, both beyond `weigh` with uniform weights.

Arms take turns in every round, in an order that turns too, and after them one arm's naive form, this one's
or that one's in turn; medians over rounds.
"""

import argparse
import cProfile
import os
import pstats
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from timing import Seconds, timed, typical
from torch import Tensor
from words import words

from mirrorpo.config.schema import register
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.distributed.device import prepare
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.head import read_positions
from mirrorpo.model.load import Scratch, reference
from mirrorpo.model.modes import evaluating
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.learner import Learner
from mirrorpo.train.micro_batch import micro_batches
from mirrorpo.weighting.counterfactual import Counterfactual, ScoredSpan

CONF = Path(__file__).parents[1] / "conf"
# What each arm sets; the last hides a span from the answer alone, which is another quantity and has no naive
# form here.
ARMS = {
    "uniform": ["weighting=uniform"],
    "counterfactual": ["weighting=counterfactual"],
    "counterfactual_downstream": ["weighting=counterfactual_downstream"],
    "counterfactual direct": ["weighting=counterfactual", "weighting.masking=direct"],
}
PAPERS = ("counterfactual", "counterfactual_downstream")
BOUNDS = {"tiny": 1.3, "25m": 1.25}
# The smallest of the numbers that are added, and how many there are: 86 tokens a completion on the tiny
# model, 136 on the large.
NUMBERS = {"tiny": (10, 80), "25m": (500, 500)}
LARGE = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 1024,
}  # fmt: skip


def configured(arm: str, spans: int) -> tuple[Components, dict[str, Any]]:
    """The arithmetic cell with an arm's weighting, which hides up to so many calculations."""
    hiding = ["spans@weighting.spans=calculations", f"weighting.spans.max_spans={spans}"]
    if arm == "uniform":
        hiding = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[*ARMS[arm], *hiding]), resolve=True)
    return build_components(config), config


def text(model: str, row: int, spans: int) -> str:
    """K calculations and an answer, other numbers in each row."""
    least, many = NUMBERS[model]
    second = (2, 9) if model == "tiny" else (least, many)
    numbers = [
        (least + (7 * row + 13 * line) % many, second[0] + (row + line) % second[1]) for line in range(spans)
    ]
    lines = [f"{left} + {right} = {left + right}" for left, right in numbers]
    return "\n".join([*lines, f"#### {sum(numbers[-1])}"])


def corpus(model: str, spans: int) -> Iterator[str]:
    """Digits and signs, and words up to a vocabulary of 6,000."""
    yield from (text(model, row, spans) + "\n" for row in range(40))
    yield from words(5_950)


def learners(model: str, spans: int) -> tuple[dict[str, Learner], Components, dict[str, Any]]:
    """One learner an arm, on the same networks."""
    components, config = configured("uniform", spans)
    large = Scratch(architecture=LARGE, prompt=PlainPrompt(instruct=False))
    spec = components.model if model == "tiny" else large
    policy = spec.load(torch.device("cpu"), 0, lambda: corpus(model, spans))
    base = Learner(
        policy=policy, reference=reference(policy), optimiser=components.optim.build(policy.network),
        algo=components.algo, penalty=components.penalty, weighting=components.weighting,
        settings=UpdateSettings.of(config),
    )  # fmt: skip
    arms = {arm: replace(base, weighting=configured(arm, spans)[0].weighting) for arm in ARMS}
    return arms, components, config


def written(
    learner: Learner, model: str, prompt_ids: list[list[int]], group: int, spans: int
) -> RolloutBatch:
    """The completions that are learned from."""
    tokenizer, end = learner.policy.tokenizer, min(learner.policy.eos_ids)
    rows: list[Completion] = []
    for index in range(len(prompt_ids) * group):
        answer = text(model, index, spans)
        ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end]
        prompt = index // group
        rows.append(
            Completion(
                uid=str(prompt),
                group=prompt,
                prompt_ids=prompt_ids[prompt],
                ids=ids,
                logprobs=[0.0] * len(ids),
                text=answer,
                truncated=False,
            )
        )
    assert len({row.text for row in rows}) == len(rows), "a completion that stands twice is scored once"
    return collate(
        rows,
        [float(index % 2) for index in range(len(rows))],
        pad_id=learner.policy.pad_id,
        mask_truncated=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Naive:
    """The scorer of a weighting by drops, in 1 + K passes over the full batch."""

    learner: Learner

    def with_offsets(self, batch: RolloutBatch) -> Sequence[TokenOffsets]:
        """As the project's scorer."""
        return self.learner.old_policy.with_offsets(batch)

    def cut(self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking) -> tuple[Tensor, Tensor]:
        """As the project's scorer, the k-th cut of every completion in one pass."""
        assert masking == "pad"
        before, after = self._read(batch, cuts), torch.zeros(len(cuts), batch.present.shape[1])
        taken: Counter[int] = Counter()
        passes: dict[int, list[int]] = {}
        for index, cut in enumerate(cuts):
            passes.setdefault(taken[cut.row], []).append(index)
            taken[cut.row] += 1
        for indices in passes.values():
            ids = batch.completion_ids.clone()
            for index in indices:
                ids[cuts[index].row, cuts[index].start : cuts[index].end] = self.learner.policy.pad_id
            logprobs = self._read(batch.with_(completion_ids=ids), [cuts[index] for index in indices])
            after[indices] = logprobs[[cuts[index].row for index in indices]]
        return before, after

    def _read(self, batch: RolloutBatch, cuts: Sequence[Cut]) -> Tensor:
        learner, read, out = self.learner, torch.zeros_like(batch.present), torch.zeros(batch.present.shape)
        for cut in cuts:
            read[cut.row, cut.first : cut.last] = True
        for rows in micro_batches(batch, learner.settings.tokens_per_micro_batch):
            micro = batch.rows(rows)
            width = micro.present.shape[1]
            here = read[rows, :width]
            with torch.no_grad(), evaluating(learner.policy.network):
                states = completion_hidden(learner.policy, micro)[here]
                logprobs = read_positions(
                    learner.policy.head(learner.settings.temperature),
                    states,
                    micro.completion_ids[here],
                    logit_chunk=learner.settings.logit_chunk,
                ).logprobs
            out[rows, :width] = torch.zeros(here.shape).masked_scatter(here, logprobs)
        return out


def naive(learner: Learner, batch: RolloutBatch, seed: int) -> Sequence[ScoredSpan]:
    """The learner's weighting, paid for as the papers do."""
    assert isinstance(learner.weighting, Counterfactual)
    return learner.weighting.explain(batch, Naive(learner=learner), seed)[1]


STAGES = ("rescore", "weigh", "learn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds of every round, the first of which warms up.

    Attributes:
        stages: of each arm's stages.
        sampling: of the engine.
        naive: of the papers' passes, without a first round.
    """

    stages: dict[tuple[str, str], list[Seconds]]
    sampling: list[Seconds]
    naive: dict[str, list[Seconds]]


def prompts_of(model: str, base: Learner, components: Components, config: dict[str, Any]) -> RolloutRequest:
    """What the engine is given, but for the length of completions and the seed."""
    if model == "tiny":
        prompts = list(components.dataset.load("train"))[: config["prompts_per_step"]]
        texts = {"system": components.dataset.system, "user": components.dataset.user}
        prompt_ids = [
            list(components.model.prompt(base.policy.tokenizer, question=prompt.question, **texts).ids)
            for prompt in prompts
        ]
    else:
        prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(4)]
        draw = torch.Generator().manual_seed(0)
        prompt_ids = torch.randint(13, len(base.policy.tokenizer), (4, 64), generator=draw).tolist()
    return RolloutRequest(
        prompts=prompts,
        prompt_ids=prompt_ids,
        group_size=config["group_size"] if model == "tiny" else 8,
        max_new_tokens=1,
        temperature=base.settings.temperature,
        seed=0,
    )


def measure(
    arms: dict[str, Learner],
    components: Components,
    request: RolloutRequest,
    batch: RolloutBatch,
    *,
    rounds: int,
    spans: int,
) -> Measured:
    """Steps of every arm in turns, and the papers' passes."""
    base = arms["uniform"]
    tokens, endless = request.max_new_tokens, replace(base.policy, eos_ids=frozenset({-1}))
    measured = Measured(
        stages={(arm, stage): [] for arm in ARMS for stage in STAGES},
        sampling=[],
        naive={arm: [] for arm in PAPERS},
    )
    for turn in range(rounds + 1):
        with timed(measured.sampling):
            completions = components.rollout.generate(endless, replace(request, seed=turn))
        assert all(len(completion.ids) == tokens for completion in completions), (
            "as many tokens are sampled as are learned from"
        )
        first = turn % len(ARMS)
        for arm in [*ARMS][first:] + [*ARMS][:first]:
            step(arm, arms[arm], batch, measured, seed=turn, spans=spans)
        if turn > 0:
            arm = PAPERS[turn % 2]
            with timed(measured.naive[arm]):
                expected = naive(arms[arm], batch, turn)
            if turn <= 2:
                advantages = base.algo.advantages(batch)
                computed = arms[arm].weigh(batch, advantages, seed=turn).spans
                drops = (torch.tensor([span.drop for span in each]) for each in (computed, expected))
                torch.testing.assert_close(*drops, rtol=1e-3, atol=2e-3)
    return measured


def step(
    arm: str, learner: Learner, batch: RolloutBatch, measured: Measured, *, seed: int, spans: int
) -> None:
    """An arm's step behind its rollout; every completion has so many spans to score."""
    with timed(measured.stages[arm, "rescore"]):
        scored = learner.rescore(batch)
        advantages = learner.algo.advantages(scored.batch)
    with timed(measured.stages[arm, "weigh"]):
        credit = learner.weigh(scored.batch, advantages, seed=seed)
    counts = Counter(span.row for span in credit.spans)
    assert arm == "uniform" or [counts[row] for row in range(len(batch))] == [spans] * len(batch), (
        "every completion has K scored spans"
    )
    with timed(measured.stages[arm, "learn"]):
        learner.learn(scored, credit, [1e-6])


def report(measured: Measured, bound: float) -> None:
    """Print a table by the clock and a table of processor seconds."""
    clock = {key: typical(values[1:]) for key, values in measured.stages.items()}
    papers = {arm: typical(values) for arm, values in measured.naive.items()}
    columns = ("sampling", *STAGES, "step", "ratio", "bound", "naive", "ratio", "times")
    for kind in ("wall", "processor"):
        spent = {key: getattr(value, kind) for key, value in clock.items()}
        engine = getattr(typical(measured.sampling[1:]), kind)
        steps = {arm: engine + sum(spent[arm, stage] for stage in STAGES) for arm in ARMS}
        print(f"\nseconds, {kind:16}" + "".join(f"{name:>9}" for name in columns))
        for arm in ARMS:
            ratio = steps[arm] / steps["uniform"]
            stages = "".join(f"{spent[arm, stage]:9.2f}" for stage in STAGES)
            row = f"{arm:25}{engine:9.2f}{stages}{steps[arm]:9.2f}{ratio:9.2f}"
            if arm != "uniform":
                row += f"{'met' if ratio <= bound else 'not met':>9}"
            if arm in PAPERS:
                ours = spent[arm, "weigh"] - spent["uniform", "weigh"]
                theirs = getattr(papers[arm], kind) - spent["uniform", "weigh"]
                row += f"{theirs:9.2f}{1 + theirs / steps['uniform']:9.2f}{theirs / ours:9.2f}"
            print(row, flush=True)
    print(f"\nbound of the ratio: {bound}")


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        choices=list(BOUNDS),
        default="tiny",
        help="the shipped tiny model, or a Llama of 25M random weights",
    )
    parser.add_argument("--spans", type=int, default=10, help="calculations in a completion (10)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2, as conf/train.yaml)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="steps of each arm that are timed, at least 2 (5)"
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="afterwards, the N functions of `weigh` with the most time",
    )
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    prepare(threads=args.threads, deterministic=True)
    register()
    arms, components, config = learners(args.model, args.spans)
    base = arms["uniform"]
    request = prompts_of(args.model, base, components, config)
    prompt_ids = [list(ids) for ids in request.prompt_ids]
    batch = written(base, args.model, prompt_ids, request.group_size, args.spans)
    advantages = base.algo.advantages(batch)
    assert bool((advantages != 0).all()), "no completion is skipped"
    tokens = int(batch.present.sum(dim=1).max())
    request = replace(request, max_new_tokens=tokens)
    measured = measure(arms, components, request, batch, rounds=args.rounds, spans=args.spans)
    parameters = sum(weight.numel() for weight in base.policy.network.parameters())
    size = f"{parameters / 1e6:.1f}M parameters, {len(batch)} completions of {tokens} tokens, K={args.spans}"
    print(f"{args.model}: {size}, {args.threads} threads, torch {torch.__version__}")
    report(measured, BOUNDS[args.model])
    for arm in [*ARMS][1:] if args.profile else ():
        with cProfile.Profile() as profile:
            arms[arm].weigh(batch, advantages, seed=0)
        print(f"\nweigh, {arm}")
        pstats.Stats(profile).strip_dirs().sort_stats("cumulative").print_stats(args.profile)


if __name__ == "__main__":
    main()
