"""Our whole training against TRL's, each as its users run it: tokens a second and peak memory.

    python benchmarks/whole_run.py --model tiny
    python benchmarks/whole_run.py --model 25m --beta 0.04

Each arm is a process of its own, and the arms take turns. Ours is a run of `train.py`'s trainer as it is,
deterministic kernels, grading, drift, metrics and files included. TRL's is `GRPOTrainer.train()` with torch's
own defaults, tuned (`gradient_checkpointing=False`, all rows in one batch), with our grading for its reward.
Both run in float32 and in bfloat16 (float32 weights under autocast); the better one of each side is compared.
Every completion has an advantage: the reward that is learned from is 1 for every second row. Each samples its
own completions from the same policy, which the learning rate of 1e-6 leaves as it is, so that tokens a second
are compared. A step is all from the end of one step to the end of the next; the first is not counted.

The ratio is of processor seconds. Above a load of 1.5 a core there is no verdict.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from grpo_sizes import BOUNDS, CONF, LR, SIZES
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peak import resident
from whole_run_report import SIDES, Measured, report

from mirrorpo.config.cell import AXES, Cell
from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.protocols import Split, Verifier
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.train.build import Components, build_components

PRECISIONS = ("float32", "bfloat16")
# What decides whether bfloat16 is quick on a CPU.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class Marks:
    """The ends of steps."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float, int]] = []

    def end(self, tokens: int) -> None:
        """A step of so many completion tokens is over."""
        self.ends.append((time.process_time(), time.perf_counter(), tokens))

    def measured(self) -> Measured:
        """From the end of the first step on."""
        (processor, wall, _), (last_processor, last_wall, _) = self.ends[0], self.ends[-1]
        return Measured(
            tokens=sum(tokens for _, _, tokens in self.ends[1:]),
            processor=last_processor - processor,
            wall=last_wall - wall,
            peak_mb=resident("VmHWM") / 2**20,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EverySecond:
    """A verifier whose verdicts are graded, and whose rewards are 1 for every second row.

    Attributes:
        verifier: that grades.
    """

    verifier: Verifier

    @property
    def version(self) -> str:
        """Of no run that anybody keeps."""
        return "benchmark/1"

    def unjudgeable(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """As the verifier says."""
        return self.verifier.unjudgeable(prompts)

    def provenance(self) -> Mapping[str, object]:
        """As the verifier says."""
        return self.verifier.provenance()

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        """Graded, so that this is paid for."""
        verdicts = self.verifier(texts, prompts)
        return [replace(verdict, reward=float(row % 2)) for row, verdict in enumerate(verdicts)]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordPrompts:
    """Random words, for the model of random weights."""

    words: Sequence[str]
    system: str = ""
    user: str = "{question}"

    def load(self, split: Split) -> Sequence[Prompt]:
        """Some more than a step's, of 47 to 75 tokens: a word, a new line."""
        draw = torch.Generator().manual_seed(0)
        rows = (torch.randint(len(self.words), (24 + 2 * (row % 8),), generator=draw) for row in range(64))
        texts = ("\n".join(self.words[index] for index in row.tolist()) for row in rows)
        return [
            Prompt(uid=f"{split}/{n}", question=text, gold="1", demonstration="")
            for n, text in enumerate(texts)
        ]

    def fingerprint(self, split: Split) -> str:
        """The same in every process."""
        return f"words of {split}"


def cell_of(args: argparse.Namespace, folder: Path) -> Cell:
    """The cell that our side runs, and from which TRL's side has prompts and reward."""
    count, group, longest = SIZES[args.model]
    penalty = ["divergence=kl", f"divergence.beta={args.beta}"] if args.beta else ["divergence=none"]
    model = ["model=llama", f"model.path={folder / 'model'}", "dataset=arithmetic", "reward=math_answer"]
    overrides = [
        *penalty, *(model if args.model == "25m" else []), f"model.dtype={args.precision}",
        "model.gradient_checkpointing=false", f"out={folder}", "name=benchmark", "tracking=none",
        "progress=false", f"threads={args.threads}", f"steps={args.steps + 1}", f"prompts_per_step={count}",
        f"group_size={group}", f"max_new_tokens={longest}", "eval_questions=0", "eval_sampled_questions=0",
        f"lr={LR}", "schedule=constant",
    ]  # fmt: skip
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    return Cell(config=config, choices=dict.fromkeys(AXES, "benchmark"), settings={})


def parts_of(args: argparse.Namespace, cell: Cell, folder: Path) -> Components:
    """Its parts, with a reward under which all completions have an advantage."""
    components = build_components(cell.config)
    components = replace(components, reward=EverySecond(verifier=components.reward))
    if args.model == "25m":
        words = json.loads((folder / "words.json").read_text())
        model = replace(components.model, prompt=PlainPrompt(instruct=False))
        components = replace(components, dataset=WordPrompts(words=words), model=model)
    return components


def ours(args: argparse.Namespace, folder: Path) -> Measured:
    """A run of ours, in this process."""
    from mirrorpo.run.folder import RunFolder
    from mirrorpo.run.preemption import StopRequest
    from mirrorpo.train.recorder import Recorder
    from mirrorpo.train.step import StepResult
    from mirrorpo.train.trainer import Trainer

    cell, marks, record = cell_of(args, folder), Marks(), Recorder.step

    def step(self: Recorder, number: int, result: StepResult, *others: Any) -> None:
        record(self, number, result, *others)
        marks.end(sum(len(answer.completion.ids) for answer in result.rollout.answers))

    Recorder.step = step
    run = RunFolder(cell.folder)
    with run.locked():
        Trainer(
            cell=cell,
            components=parts_of(args, cell, folder),
            folder=run,
            root=CONF.parent,
            stop_request=StopRequest(),
        ).run()
    return marks.measured()


def theirs(args: argparse.Namespace, folder: Path) -> Measured:
    """TRL's training, in this process."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(args.threads)
    count, group, longest = SIZES[args.model]
    cell, marks = cell_of(args, folder), Marks()
    components = parts_of(args, cell, folder)
    policy = components.model.load(torch.device("cpu"), 0, lambda: ())
    policy.network.save_pretrained(folder / "trl_model")
    policy.tokenizer.save_pretrained(folder / "trl_model")
    prompts = components.dataset.load("train")[: count * (args.steps + 1)]
    settings = {"system": components.dataset.system, "user": components.dataset.user}
    texts = [
        components.model.prompt(policy.tokenizer, question=prompt.question, **settings).text
        for prompt in prompts
    ]
    by_text = dict(zip(texts, prompts, strict=True))
    del policy

    def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        return [
            verdict.reward for verdict in components.reward(completions, [by_text[text] for text in prompts])
        ]

    class Counted(GRPOTrainer):
        def _generate(self, prompts: list) -> Any:
            generated = super()._generate(prompts)
            self.counted = sum(len(ids) for ids in generated[1])
            return generated

    class Ends(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            marks.end(trainer.counted)

    arguments = GRPOConfig(
        output_dir=str(folder / "trl"), max_steps=args.steps + 1, per_device_train_batch_size=count * group,
        num_generations=group, max_completion_length=longest, temperature=cell.config["temperature"],
        beta=args.beta, loss_type="grpo", num_iterations=1, use_bias_correction_kl=False, learning_rate=LR,
        lr_scheduler_type="constant", max_grad_norm=cell.config["max_grad_norm"], use_cpu=True,
        bf16=args.precision == "bfloat16", gradient_checkpointing=False, report_to=[], save_strategy="no",
        disable_tqdm=True, model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    trainer = Counted(
        model=str(folder / "trl_model"),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        callbacks=[Ends()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return marks.measured()


def large_model(folder: Path) -> None:
    """The Llama of random weights, and the words of its vocabulary."""
    from counterfactual import LARGE, corpus

    from mirrorpo.model.load import Scratch

    spec = Scratch(architecture=LARGE, prompt=PlainPrompt(instruct=False))
    policy = spec.load(torch.device("cpu"), 0, lambda: corpus("25m", 10))
    policy.network.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    words = policy.tokenizer.convert_ids_to_tokens(list(range(100, len(policy.tokenizer))))
    (folder / "words.json").write_text(json.dumps(words))


def child(args: argparse.Namespace, side: str, precision: str, models: Path) -> Measured:
    """An arm, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=models) as folder:
        for name in ("model", "words.json"):
            if (models / name).exists():
                (Path(folder) / name).symlink_to(models / name)
        options = {
            "--model": args.model, "--beta": args.beta, "--threads": args.threads, "--steps": args.steps,
            "--side": side, "--precision": precision, "--folder": folder,
        }  # fmt: skip
        arguments = [text for option, value in options.items() for text in (option, str(value))]
        command = [sys.executable, __file__, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(f"{side} in {precision} failed:\n{result.stdout}{result.stderr}")
        return Measured(**json.loads(result.stdout.splitlines()[-1]))


def machine() -> str:
    """The processor, and what it has for bfloat16."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in entries.items()}
    has = [flag for flag in FLAGS if flag in named.get("flags", "").split()]
    return (
        f"{named.get('model name', 'unknown')}, {os.cpu_count()} cores, {' '.join(has) or 'no vector flags'}"
    )


def load_of_a_core() -> float:
    """Over the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=("tiny", "25m"), default="tiny", help="as in benchmarks/grpo.py (tiny)"
    )
    parser.add_argument("--beta", type=float, default=0.0, help="of the KL term; 0 has none (0)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm (3)")
    parser.add_argument("--steps", type=int, default=4, help="that count in each process (4)")
    parser.add_argument("--side", choices=SIDES, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="one alone (both)")
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    warnings.filterwarnings("ignore")
    if args.side:
        measured = (ours if args.side == "ours" else theirs)(args, args.folder)
        print(json.dumps(asdict(measured)))
        return
    precisions = [args.precision] if args.precision else PRECISIONS
    arms = [(side, precision) for precision in precisions for side in SIDES]
    rounds: dict[tuple[str, str], list[Measured]] = {arm: [] for arm in arms}
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        if args.model == "25m":
            large_model(Path(folder))
        for number in range(args.rounds):
            # The other way round every second time.
            for arm in arms if number % 2 == 0 else reversed(arms):
                rounds[arm].append(child(args, *arm, Path(folder)))
                loads.append(load_of_a_core())
    count, group, longest = SIZES[args.model]
    print(f"{machine()}; torch {torch.__version__}, {args.threads} thread(s)")
    print(
        f"{args.model}, {count} prompts x {group}, at most {longest} new tokens, beta {args.beta}; "
        f"{args.rounds} rounds of {args.steps} steps; load a core {min(loads):.1f} to {max(loads):.1f}"
    )
    print("\n".join(report(rounds, loads, BOUNDS[args.model])))


if __name__ == "__main__":
    main()
