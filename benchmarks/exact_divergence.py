"""What an exact divergence costs: step time and peak memory of each, over those of a sampled one.

    python benchmarks/exact_divergence.py

The model is a Llama of random weights with 32,000 tokens, a step the project's own: 32 completions
of 128 tokens are sampled (`rollout.native`), scored under the reference and learned from
(`Learner.rescore`, `Learner.learn`), with the settings of `conf/train.yaml`. The exact divergences
are those of `conf/divergence` that read the vocabulary; the sampled one is `kl_k3`, the default.

Time: median over rounds; a round samples once and then takes every arm's step, in an order that turns
from round to round, so that whatever else the machine does falls on all arms alike. Sampling does not
depend on the divergence, so its time is counted to each arm alike.

Memory: each arm in a process of its own, rescoring and learning a second time, when the optimiser's
state is there; sampling holds less. `tensors` is the most that tensors held at once, weights and
optimiser included, exact to the byte: the bytes at rest plus the largest running sum of the
allocations that torch's profiler records. `step` leaves out what rests. `process` is the kernel's
high-water mark of resident memory (VmHWM, reset before), Python and torch's libraries included. The
profiler sees one thread, so memory is measured with one.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from peak import of_tensors, resident, restart
from timing import Seconds, timed, typical
from torch import Tensor
from torch.utils._pytree import tree_leaves
from words import words

from mirrorpo.config.schema import register, resolved
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Prompt, RolloutBatch, RolloutRequest
from mirrorpo.distributed.device import prepare
from mirrorpo.model.load import Scratch
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_components
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.learner import Learner

CONF = Path(__file__).parents[1] / "conf"
SAMPLED = "kl_k3"
TIME_BOUND, MEMORY_BOUND = 1.5, 1.25
VOCABULARY, PROMPTS, GROUP, PROMPT_TOKENS, NEW_TOKENS = 32_000, 4, 8, 64, 128
LEARNING_RATE = 1e-6


def composed(divergence: str) -> DictConfig:
    """The config of a GSM8K cell with this divergence."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cell = ["model=tiny", "dataset=gsm8k", f"max_new_tokens={NEW_TOKENS}"]
        return compose("train", overrides=[f"divergence={divergence}", *cell])


def built(divergence: str, group: str) -> Any:
    """One group of that config as the trainer uses it."""
    components = build_components(resolved(composed(divergence)))
    return dict(components.groups())[group]


def exact_divergences() -> list[str]:
    """The files of `conf/divergence` that read the full vocabulary."""
    names = sorted(path.stem for path in (CONF / "divergence").glob("*.yaml"))
    return [name for name in names if built(name, "divergence").reads == "vocabulary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The size of the model, of what it samples, and of the machine."""

    hidden: int
    layers: int
    threads: int
    vocabulary: int = VOCABULARY

    def learner(self, divergence: str) -> Learner:
        """A learner on a random Llama; the reference is another one, so that no divergence is zero."""
        config = composed(divergence)
        architecture = {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": math.ceil(self.hidden * 8 / 3 / 32) * 32,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 64,
            "max_position_embeddings": PROMPT_TOKENS + NEW_TOKENS,
        }
        spec = Scratch(architecture=architecture, prompt=PlainPrompt(instruct=False))
        # Special tokens and digits are the other 13.
        policy, reference = (
            spec.load(torch.device("cpu"), seed, lambda: words(self.vocabulary - 13)) for seed in (0, 1)
        )
        for parameter in reference.network.parameters():
            parameter.requires_grad_(False)
        return Learner(
            policy=policy,
            reference=reference,
            optimiser=built(divergence, "optim").build(policy.network),
            algo=built(divergence, "algo"),
            penalty=built(divergence, "divergence"),
            weighting=built(divergence, "weighting"),
            settings=UpdateSettings.of(config),
        )


def sample(learner: Learner, seed: int) -> RolloutBatch:
    """A rollout on prompts of random tokens, every second completion right."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(13, VOCABULARY, (PROMPTS, PROMPT_TOKENS), generator=draw).tolist()
    prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(PROMPTS)]
    completions = built(SAMPLED, "rollout").generate(
        learner.policy,
        RolloutRequest(
            prompts=prompts,
            prompt_ids=ids,
            group_size=GROUP,
            max_new_tokens=NEW_TOKENS,
            temperature=learner.settings.temperature,
            seed=seed,
        ),
    )
    return collate(
        completions,
        [float(index % 2) for index in range(len(completions))],
        pad_id=learner.policy.pad_id,
        mask_truncated=False,
    )


def learn(learner: Learner, batch: RolloutBatch) -> None:
    """The rest of the step, as the trainer takes it."""
    scored = learner.rescore(batch)
    advantages = learner.algo.advantages(batch)
    credit = TokenCredit(advantages=advantages, weights=torch.ones_like(batch.old_logprobs))
    learner.learn(scored, credit, [LEARNING_RATE])


def seconds(setting: Setting, arms: list[str], rounds: int) -> tuple[Seconds, dict[str, Seconds]]:
    """Of sampling, and of each arm's rescoring and learning."""
    base = setting.learner(SAMPLED)
    learners = {name: replace(base, penalty=built(name, "divergence")) for name in arms}
    sampling: list[Seconds] = []
    learning: dict[str, list[Seconds]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        with timed(sampling):
            batch = sample(base, seed=turn)
        first = turn % len(arms)
        for name in arms[first:] + arms[:first]:
            with timed(learning[name]):
                learn(learners[name], batch)
    # The first round warms up.
    return typical(sampling[1:]), {name: typical(times[1:]) for name, times in learning.items()}


def at_rest(learner: Learner) -> int:
    """Bytes of the weights and of the optimiser's state."""
    assert learner.reference is not None
    networks = (learner.policy.network, learner.reference.network)
    weights = [*networks[0].parameters(), *networks[0].buffers(), *networks[1].parameters()]
    leaves = tree_leaves((weights, learner.optimiser.state_dict()))
    storages = [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def memory(setting: Setting, divergence: str) -> dict[str, float]:
    """Peak bytes of one step of a fresh process."""
    learner = setting.learner(divergence)
    batch = sample(learner, seed=0)
    learn(learner, batch)
    restart()
    learn(learner, batch)
    process, rest, step = resident("VmHWM"), at_rest(learner), of_tensors(lambda: learn(learner, batch))
    return {"tensors": rest + step, "step": step, "process": process}


def peaks_of(arms: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak bytes of each arm, in a process of its own."""
    size = ["--hidden", str(args.hidden), "--layers", str(args.layers), "--threads", "1"]
    peaks: dict[str, dict[str, float]] = {}
    for name in arms:
        child = subprocess.run(
            [sys.executable, __file__, *size, "--memory-of", name], check=True, capture_output=True, text=True
        )
        peaks[name] = json.loads(child.stdout.splitlines()[-1])
    return peaks


def report(sampling: Seconds, learning: dict[str, Seconds], peaks: dict[str, dict[str, float]]) -> None:
    """Print a row an arm."""
    print(f"{'':24}{'clock':^30}{'processor':^30}{'peak memory':^32}")
    clock = f"{'learning':>10}{'ratio':>7}{'+sampling':>11}  "
    print(f"{'':24}{clock}{clock}{'tensors':>10}{'ratio':>7}{'step':>7}{'process':>9}")
    base = learning[SAMPLED]
    for name in learning:
        row = f"{name:24}"
        for kind in ("wall", "processor"):
            ours, theirs, both = getattr(learning[name], kind), getattr(base, kind), getattr(sampling, kind)
            row += f"{ours:8.2f} s{ours / theirs:7.2f}{(both + ours) / (both + theirs):11.2f}  "
        if peaks:
            ratios = [peaks[name][kind] / peaks[SAMPLED][kind] for kind in ("tensors", "step", "process")]
            row += f"{peaks[name]['tensors'] / 1e6:7.0f} MB{ratios[0]:7.2f}{ratios[1]:7.2f}{ratios[2]:9.2f}"
        print(row, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=512, help="width of the model (512)")
    parser.add_argument("--layers", type=int, default=4, help="layers of the model (4)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2, as conf/train.yaml)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each arm that are timed (5)")
    parser.add_argument(
        "--only", nargs="*", default=exact_divergences(), help="these exact divergences (all)"
    )
    parser.add_argument("--no-memory", action="store_true", help="time alone, which is the shorter part")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    setting = Setting(hidden=args.hidden, layers=args.layers, threads=args.threads)
    prepare(threads=setting.threads, deterministic=True)
    if args.memory_of:
        print(json.dumps(memory(setting, args.memory_of)))
        return
    arms = [SAMPLED, *args.only]
    peaks = {} if args.no_memory else peaks_of(arms, args)
    sampling, learning = seconds(setting, arms, args.rounds)
    print(
        f"V={VOCABULARY}, hidden {setting.hidden}, {setting.layers} layers, {setting.threads} threads, "
        f"torch {torch.__version__}; "
        f"sampling takes {sampling.wall:.2f} s by the clock, {sampling.processor:.2f} s of processor"
    )
    report(sampling, learning, peaks)


if __name__ == "__main__":
    main()
