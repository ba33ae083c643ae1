"""What counterfactual credit costs: a step with it over a step with uniform weights, and the papers' way of paying.

    python benchmarks/counterfactual.py --model tiny
    python benchmarks/counterfactual.py --model 25m

A step is the project's own: sampling, rescoring under the reference, weights (`Learner.weigh`), update.
Sampling is timed with the engine; what is scored and learned from are completions of K calculations and an
answer, every second one right, so that each has exactly K spans and none is skipped. They are at least as
long as the sampled ones. `naive` are the papers' 1 + K forward passes over the whole batch.

Arms take turns in every round, in an order that turns too; medians over rounds.
"""

import argparse
import itertools
import os
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from timing import Seconds, timed, typical

from mirrorpo.config import register
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch
from mirrorpo.device import prepare
from mirrorpo.learner import Learner
from mirrorpo.model.load import Scratch, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.parts import Parts, assemble
from mirrorpo.rollout.collate import collate
from mirrorpo.weighting.counterfactual import ScoredSpan

CONF = Path(__file__).parents[1] / "conf"
ARMS = ("uniform", "counterfactual", "counterfactual_downstream")
BOUNDS = {"tiny": 1.3, "25m": 1.25}
LARGE = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 1024,
}  # fmt: skip


def configured(weighting: str, spans: int) -> tuple[Parts, dict[str, Any]]:
    """The arithmetic cell with a weighting that hides up to so many calculations."""
    hiding = [] if weighting == "uniform" else ["spans@weighting.spans=calculations", f"weighting.spans.max_spans={spans}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[f"weighting={weighting}", *hiding]), resolve=True)
    return assemble(config), config


def text(row: int, spans: int) -> str:
    """K calculations and an answer, other numbers in each row."""
    numbers = [(10 + (7 * row + 13 * line) % 80, 2 + (row + line) % 9) for line in range(spans)]
    lines = [f"{one} + {other} = {one + other}" for one, other in numbers]
    return "\n".join([*lines, f"#### {sum(numbers[-1])}"])


def corpus(spans: int) -> Iterator[str]:
    """Digits and signs, and words up to a vocabulary of 6,000."""
    yield from (text(row, spans) + "\n" for row in range(40))
    yield from ("".join(word) for word in itertools.islice(itertools.product(string.ascii_lowercase, repeat=4), 5_950))


def learners(model: str, spans: int) -> tuple[dict[str, Learner], Parts, dict[str, Any]]:
    """One learner an arm, on the same networks."""
    parts, config = configured("uniform", spans)
    spec = parts.model if model == "tiny" else Scratch(architecture=LARGE, prompt=PlainPrompt(instruct=False))
    policy = spec.load(torch.device("cpu"), 0, lambda: corpus(spans))
    knobs = ("temperature", "tile", "tokens_per_micro_batch", "updates_per_rollout", "update_window", "max_grad_norm")
    base = Learner(
        policy=policy, reference=reference(policy), optimiser=parts.optimiser.build(policy.network), algo=parts.algo,
        divergence=parts.divergence, weighting=parts.weighting, **{name: config[name] for name in knobs},
    )  # fmt: skip
    return {arm: replace(base, weighting=configured(arm, spans)[0].weighting) for arm in ARMS}, parts, config


def written(learner: Learner, prompt_ids: list[list[int]], group: int, spans: int) -> RolloutBatch:
    """The completions that are learned from."""
    tokenizer, end = learner.policy.tokenizer, min(learner.policy.eos_ids)
    rows: list[Completion] = []
    for index in range(len(prompt_ids) * group):
        answer = text(index, spans)
        ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end]
        place = index // group
        rows.append(Completion(uid=str(place), group=place, prompt_ids=prompt_ids[place], ids=ids, logprobs=[0.0] * len(ids), text=answer, truncated=False))
    return collate(rows, [float(index % 2) for index in range(len(rows))], pad_id=learner.policy.pad_id, mask_truncated=False)


def naive(learner: Learner, batch: RolloutBatch, spans: list[ScoredSpan], count: int) -> None:
    """The batch whole, and with the k-th span of every completion under pad tokens."""
    learner.score(learner.policy, batch)
    order = {row: sorted(one.span.start for one in spans if one.row == row) for row in range(len(batch))}
    for place in range(count):
        ids = batch.completion_ids.clone()
        for one in spans:
            if order[one.row].index(one.span.start) == place:
                ids[one.row, one.span.start : one.span.end] = learner.policy.pad_id
        learner.score(learner.policy, batch.with_(completion_ids=ids))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(BOUNDS), default="tiny", help="the shipped tiny model, or a Llama of 25M random weights")
    parser.add_argument("--spans", type=int, default=10, help="calculations in a completion (10)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2, as conf/train.yaml)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each arm that are timed (5)")
    asked = parser.parse_args()
    prepare(threads=asked.threads, deterministic=True)
    register()
    arms, parts, config = learners(asked.model, asked.spans)
    base = arms["uniform"]
    if asked.model == "tiny":
        prompts, group = list(parts.dataset.load("train"))[: config["prompts_per_step"]], config["group_size"]
        settings = {"system": parts.dataset.system, "user": parts.dataset.user}
        prompt_ids = [list(parts.model.prompt(base.policy.tokenizer, question=prompt.question, **settings).ids) for prompt in prompts]
    else:
        prompts, group = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(4)], 8
        prompt_ids = torch.randint(13, len(base.policy.tokenizer), (4, 64), generator=torch.Generator().manual_seed(0)).tolist()
    batch = written(base, prompt_ids, group, asked.spans)
    tokens = int(batch.present.sum(dim=1).max())

    stages = ("rescore", "weigh", "learn")
    times: dict[tuple[str, str], list[Seconds]] = {(arm, stage): [] for arm in ARMS for stage in stages}
    sampling: list[Seconds] = []
    passes: list[Seconds] = []
    for turn in range(asked.rounds + 1):
        with timed(sampling):
            parts.rollout.generate(base.policy, prompts, prompt_ids, group_size=group, max_new_tokens=tokens, temperature=base.temperature, seed=turn)
        first, spans = turn % len(ARMS), []
        for arm in ARMS[first:] + ARMS[:first]:
            with timed(times[arm, "rescore"]):
                scored, anchor_head = arms[arm].rescore(batch)
                advantages = base.algo.advantage(scored.rewards, scored.group)
            with timed(times[arm, "weigh"]):
                weights, found = arms[arm].weigh(scored, advantages, seed=turn)
            spans = list(found) or spans
            assert arm == "uniform" or len(found) == asked.spans * len(batch), "every completion has K spans that are scored"
            with timed(times[arm, "learn"]):
                arms[arm].learn(scored, advantages, weights, anchor_head, [1e-6])
        with timed(passes):
            naive(base, batch, spans, asked.spans)

    # The first round warms up.
    clock = {key: typical(values[1:]) for key, values in times.items()}
    sampled, papers = typical(sampling[1:]), typical(passes[1:])
    parameters = sum(weight.numel() for weight in base.policy.network.parameters())
    size = f"{parameters / 1e6:.1f}M parameters, {len(batch)} completions of {tokens} tokens, K={asked.spans}"
    print(f"{asked.model}: {size}, {asked.threads} threads, torch {torch.__version__}")
    for kind in ("wall", "processor"):
        spent = {key: getattr(value, kind) for key, value in clock.items()}
        drawn, whole = getattr(sampled, kind), getattr(papers, kind)
        steps = {arm: drawn + sum(spent[arm, stage] for stage in stages) for arm in ARMS}
        print(f"\nseconds, {kind:9}{'sampling':>22}{'rescore':>9}{'weigh':>9}{'learn':>9}{'step':>9}{'ratio':>7}{'naive weigh':>13}{'naive ratio':>13}")
        for arm in ARMS:
            row = f"{arm:28}{drawn:10.2f}" + "".join(f"{spent[arm, stage]:9.2f}" for stage in stages) + f"{steps[arm]:9.2f}{steps[arm] / steps['uniform']:7.2f}"
            print(row + (f"{whole:13.2f}{1 + whole / steps['uniform']:13.2f}" if arm != "uniform" else ""))
    print(f"\nbound {BOUNDS[asked.model]}; the papers' passes take {papers.processor / clock['counterfactual', 'weigh'].processor:.1f} times what weigh takes")


if __name__ == "__main__":
    main()
