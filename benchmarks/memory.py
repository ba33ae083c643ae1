"""Peak memory of a GRPO step, ours and that of TRL's `GRPOTrainer`, as the vocabulary grows.

    python benchmarks/memory.py
    python benchmarks/memory.py --beta 0.04

The step of benchmarks/grpo.py on its Llama of random weights (width 512, six layers), 32 completions of 96
tokens: sampling, scoring under the reference where there is a penalty, update. Each arm in a process of its
own, both with TRL imported, one thread. `peak` is the kernel's high-water mark of resident memory in the
second step (VmHWM, reset before it), weights, Adam's averages and libraries included; `step` is that less
what was resident when the step began.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import grpo
import torch
from peak import resident, restart
from transformers import TrainerCallback
from update import VOCABULARIES
from words import words

from mirrorpo.config.schema import register
from mirrorpo.distributed.device import prepare


class Watch(TrainerCallback):
    """The high-water mark of each step, and what was resident before it."""

    def __init__(self) -> None:
        self.marks: list[dict[str, float]] = []
        self.before = 0

    def on_step_begin(self, *_: object, **__: object) -> None:
        """The mark starts again."""
        gc.collect()
        restart()
        self.before = resident("VmRSS")

    def on_step_end(self, *_: object, **__: object) -> None:
        """Read it."""
        peak = resident("VmHWM")
        self.marks.append({"peak": peak / 2**20, "step": (peak - self.before) / 2**20})


def measured(args: argparse.Namespace) -> dict[str, float]:
    """The second step of an arm, in this process."""
    learner, parts, config = grpo.built(args, words(args.vocabulary))
    count, group, longest = grpo.SIZES[args.model]
    prompts, texts, prompt_ids = grpo.questions(args, learner, parts, count)
    watch = Watch()
    if args.arm == "ours":
        step = grpo.ours(learner, parts, prompts, prompt_ids, group, longest)
        for seed in (0, 1):
            watch.on_step_begin()
            step(seed)
            watch.on_step_end()
        return watch.marks[1]
    with tempfile.TemporaryDirectory() as folder:
        turns = grpo.Turns(lambda seed: ({}, 0))
        turns.trainer = grpo.trainer_of(args, learner, config, texts, folder, turns)
        trainer = turns.trainer
        # TRL has its own copy of the weights.
        del learner
        trainer.add_callback(watch)
        trainer.train()
    return watch.marks[1]


def child(arm: str, vocabulary: int, args: argparse.Namespace) -> dict[str, float]:
    """The second step of an arm, in a process of its own."""
    options = {
        "--arm": arm,
        "--vocabulary": vocabulary,
        "--beta": args.beta,
        "--trl-batch": args.trl_batch,
    }
    arguments = [text for option, value in options.items() for text in (option, str(value))]
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beta", type=float, default=0.0, help="of the KL term; 0 has none (0)")
    parser.add_argument(
        "--trl-batch", type=int, default=0, help="rows that TRL learns from at once; 0: all (0)"
    )
    parser.add_argument("--vocabulary", type=int, nargs="+", default=VOCABULARIES, help="words of the model")
    parser.add_argument("--arm", choices=("ours", "TRL"), default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(namespace=argparse.Namespace(model="25m", path=None, rounds=1))
    if args.arm:
        (args.vocabulary,) = args.vocabulary
        warnings.filterwarnings("ignore")
        prepare(threads=1, deterministic=args.arm == "ours")
        register()
        print(json.dumps(measured(args)))
        return
    rows = args.trl_batch or "all"
    print(f"beta {args.beta}, TRL learns from {rows} rows at once, torch {torch.__version__}; MiB")
    columns = ("peak, ours", "TRL", "ours/TRL", "step, ours", "TRL", "ours/TRL")
    print(f"{'vocabulary':>10}" + "".join(f"{name:>12}" for name in columns))
    for vocabulary in args.vocabulary:
        arms = {arm: child(arm, vocabulary, args) for arm in ("ours", "TRL")}
        row = f"{vocabulary:10}"
        for kind in ("peak", "step"):
            ours, theirs = arms["ours"][kind], arms["TRL"][kind]
            row += f"{ours:12.0f}{theirs:12.0f}{ours / theirs:12.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
