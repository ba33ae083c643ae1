"""A GRPO step of ours against one of TRL's `GRPOTrainer`, on the same network, prompts and groups.

    python benchmarks/grpo.py --model tiny --beta 0
    python benchmarks/grpo.py --model 25m --beta 0.04

Both sample, score under the reference where there is a penalty (beta > 0), and take one update on the
full rollout in float32 on the CPU, every completion with an advantage: the reward is 1 for every second
row. The loss is GRPO's with k3 in both, the learning rate 1e-6, so that both policies stay what they
were. Each draws its own completions from that same policy: compare seconds for each completion token.

TRL is tuned: `bf16=False`, `gradient_checkpointing=False` (its defaults take several times as long on a
CPU), rows that are learned from at once by `--trl-batch`. Its step is clocked from `on_step_begin` to
`on_step_end` of its own loop, and ours is taken in between two of them, so that the arms take turns.

Where a step's time goes: benchmarks/whole_run.py compares the two as their users run them. Ours has
deterministic kernels, TRL's has not.

generation: `generate` and what it returns, decoded. scoring: the reference. update: forward, backward,
optimiser. rest: rewards, advantages, padding, metrics. Medians over rounds; one step of each warms up.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from counterfactual import LARGE, corpus
from datasets import Dataset
from grpo_sizes import BOUNDS, CONF, LR, SIZES
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from timing import Seconds, timed, typical
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from mirrorpo.config.schema import register
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.determinism import set_deterministic
from mirrorpo.distributed.device import prepare
from mirrorpo.model.load import Scratch, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.learner import Learner

STAGES = ("generation", "scoring", "update", "rest")
# Seconds of each stage and of the step, and its completion tokens.
Step = tuple[dict[str, Seconds], int]


def built(
    args: argparse.Namespace, vocabulary: Iterable[str] | None = None
) -> tuple[Learner, Components, dict[str, Any]]:
    """The learner, and the cell that it belongs to; `vocabulary` is that of the model of random weights."""
    penalty = ["divergence=kl", f"divergence.beta={args.beta}"] if args.beta else ["divergence=none"]
    model = [
        "model=llama",
        f"model.path={args.path}",
        "model.dtype=float32",
        "model.gradient_checkpointing=false",
        "dataset=arithmetic",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [*penalty, *(model if args.model == "smollm2" else [])]
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    components = build_components(config)
    large = Scratch(architecture=LARGE, prompt=PlainPrompt(instruct=False))
    spec = large if args.model == "25m" else components.model
    policy = spec.load(torch.device("cpu"), 0, lambda: vocabulary or corpus("25m", 10))
    learner = Learner(
        policy=policy, reference=reference(policy) if args.beta else None,
        optimiser=components.optim.build(policy.network), algo=components.algo,
        penalty=components.penalty, weighting=components.weighting,
        settings=UpdateSettings.of(config),
    )  # fmt: skip
    return learner, components, config


def questions(
    args: argparse.Namespace, learner: Learner, components: Components, count: int
) -> tuple[list[Prompt], list[str], list[list[int]]]:
    """Prompts, their texts and their ids; a text's ids are the same in both arms."""
    tokenizer = learner.policy.tokenizer
    if args.model == "25m":
        draw = torch.Generator().manual_seed(0)
        rows = (torch.randint(100, len(tokenizer), (48 + 2 * row,), generator=draw) for row in range(count))
        texts = [" ".join(tokenizer.convert_ids_to_tokens(row.tolist())) for row in rows]
        prompts = [
            Prompt(uid=str(row), question=text, gold="", demonstration="") for row, text in enumerate(texts)
        ]
    else:
        prompts = list(components.dataset.load("train"))[:count]
        settings = {"system": components.dataset.system, "user": components.dataset.user}
        texts = [
            components.model.prompt(tokenizer, question=prompt.question, **settings).text
            for prompt in prompts
        ]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert min(map(len, ids)) > 8, "prompts are read as several tokens"
    return prompts, texts, ids


def rewards(rows: int) -> list[float]:
    """One for every second row, so that no group has advantages of zero."""
    return [float(row % 2) for row in range(rows)]


def ours(
    learner: Learner,
    components: Components,
    prompts: list[Prompt],
    prompt_ids: list[list[int]],
    group: int,
    longest: int,
) -> Callable[[int], Step]:
    """A step of ours, by its seed."""

    def step(seed: int) -> Step:
        spent: dict[str, list[Seconds]] = {stage: [] for stage in (*STAGES, "step")}
        with timed(spent["step"]):
            with timed(spent["generation"]):
                completions = components.rollout.generate(
                    learner.policy,
                    RolloutRequest(
                        prompts=prompts,
                        prompt_ids=prompt_ids,
                        group_size=group,
                        max_new_tokens=longest,
                        temperature=learner.settings.temperature,
                        seed=seed,
                    ),
                )
            batch = collate(
                completions, rewards(len(completions)), pad_id=learner.policy.pad_id, mask_truncated=False
            )
            with timed(spent["scoring"]):
                scored = learner.rescore(batch)
            advantages = learner.algo.advantages(batch)
            credit = learner.weigh(scored.batch, advantages, seed)
            with timed(spent["update"]):
                learner.learn(scored, credit, [LR])
        return with_rest(spent), sum(len(completion.ids) for completion in completions)

    return step


def with_rest(spent: Mapping[str, list[Seconds]]) -> dict[str, Seconds]:
    """Sums of each stage's clocks; the rest is what the step took beside them."""
    sums = {
        stage: Seconds(
            wall=sum(each.wall for each in spent[stage]),
            processor=sum(each.processor for each in spent[stage]),
        )
        for stage in (*STAGES[:-1], "step")
    }
    left = {
        kind: getattr(sums["step"], kind) - sum(getattr(sums[stage], kind) for stage in STAGES[:-1])
        for kind in ("wall", "processor")
    }
    return sums | {"rest": Seconds(**left)}


class Clocked(GRPOTrainer):
    """TRL's trainer with a clock on its stages."""

    spent: dict[str, list[Seconds]]
    tokens: int

    def _generate(self, prompts: list) -> Any:
        with timed(self.spent["generation"]):
            generated = super()._generate(prompts)
        self.tokens += sum(len(ids) for ids in generated[1])
        return generated

    def _get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **named: Any) -> Any:
        if model is not self.ref_model:
            return super()._get_per_token_logps_and_entropies(model, *arguments, **named)
        with timed(self.spent["scoring"]):
            return super()._get_per_token_logps_and_entropies(model, *arguments, **named)

    def _prepare_inputs(self, *arguments: Any) -> Any:
        with timed(self.spent["prepare"]):
            return super()._prepare_inputs(*arguments)

    def begin(self) -> None:
        """Start a step's clocks."""
        self.spent, self.tokens = {stage: [] for stage in (*STAGES, "prepare", "step")}, 0
        self.clock = timed(self.spent["step"])
        self.clock.__enter__()

    def end(self) -> Step:
        """Stop them; the update is what is not preparation."""
        self.clock.__exit__(None, None, None)
        kinds = ("wall", "processor")
        update = {
            kind: getattr(self.spent["step"][0], kind)
            - sum(getattr(each, kind) for each in self.spent["prepare"])
            for kind in kinds
        }
        self.spent["update"] = [Seconds(**update)]
        return with_rest(self.spent), self.tokens


class Turns(TrainerCallback):
    """Takes a step of ours after each of TRL's."""

    def __init__(self, step: Callable[[int], Step]) -> None:
        self.step, self.theirs, self.ours = step, [], []
        self.trainer: Any = None

    def on_step_begin(self, *_: object, **__: object) -> None:
        """TRL's step starts, with the kernels that its users have."""
        set_deterministic(False)
        self.trainer.begin()

    def on_step_end(self, *_: object, **__: object) -> None:
        """TRL's step is done, and ours is taken."""
        self.theirs.append(self.trainer.end())
        set_deterministic(True)
        self.ours.append(self.step(len(self.ours)))


def trainer_of(
    args: argparse.Namespace,
    learner: Learner,
    config: Mapping[str, Any],
    texts: list[str],
    folder: str,
    turns: Turns,
) -> Clocked:
    """TRL on the same network."""
    count, group, longest = SIZES[args.model]
    rows = count * group
    batch = args.trl_batch or rows
    network = learner.policy.network
    network.save_pretrained(folder)
    learner.policy.tokenizer.save_pretrained(folder)
    theirs = GRPOConfig(
        output_dir=f"{folder}/trl", max_steps=args.rounds + 1, per_device_train_batch_size=batch,
        gradient_accumulation_steps=rows // batch, num_generations=group, max_completion_length=longest,
        temperature=config["temperature"], beta=args.beta, loss_type="grpo", num_iterations=1,
        use_bias_correction_kl=False, learning_rate=LR, lr_scheduler_type="constant",
        max_grad_norm=config["max_grad_norm"], use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True, shuffle_dataset=False,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    trainer = Clocked(
        model=folder,
        reward_funcs=lambda completions, **_: rewards(len(completions)),
        args=theirs,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def report(title: str, arms: Mapping[str, list[Step]], bound: float | None) -> None:
    """Print medians, tokens a second, and ratios."""
    print(title)
    tokens = {arm: sum(count for _, count in steps) / len(steps) for arm, steps in arms.items()}
    for kind in ("processor", "wall"):
        print(
            f"\nseconds, {kind:12}"
            + "".join(f"{name:>12}" for name in (*STAGES, "step", "tokens", "tokens/s"))
        )
        spent = {
            (arm, stage): getattr(typical([clocks[stage] for clocks, _ in steps]), kind)
            for arm, steps in arms.items()
            for stage in (*STAGES, "step")
        }
        rate = {
            arm: tokens[arm] / (sum(getattr(clocks["step"], kind) for clocks, _ in steps) / len(steps))
            for arm, steps in arms.items()
        }
        for arm in arms:
            row = "".join(f"{spent[arm, stage]:12.2f}" for stage in (*STAGES, "step"))
            print(f"{arm:21}{row}{tokens[arm]:12.0f}{rate[arm]:12.0f}")
        faster = "".join(
            f"{_times(spent['TRL', stage], spent['ours', stage]):>12}" for stage in (*STAGES, "step")
        )
        ratio = rate["ours"] / rate["TRL"]
        print(
            f"{'TRL / ours':21}{faster}{'':12}{ratio:11.2f}x"
            + ("" if bound is None else f"  wanted {bound}: {'met' if ratio >= bound else 'not met'}")
        )


def _times(theirs: float, ours: float) -> str:
    return f"{theirs / ours:.2f}x" if theirs > 0.005 and ours > 0.005 else "-"


def arguments() -> argparse.Namespace:
    """Those of the command line, which go together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        choices=list(BOUNDS),
        default="tiny",
        help="the shipped tiny model, a Llama of 25M random weights, or one at --path",
    )
    parser.add_argument("--path", default=None, help="folder of the model, for --model smollm2")
    parser.add_argument("--beta", type=float, default=0.0, help="of the KL term; 0 has none (0)")
    parser.add_argument(
        "--trl-batch", type=int, default=0, help="rows that TRL learns from at once; 0: all (0)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each arm that are timed (5)")
    parser.add_argument(
        "--micro-batch", type=int, default=0, help="our tokens_per_micro_batch; 0: as in conf/train.yaml (0)"
    )
    args = parser.parse_args()
    rows = SIZES[args.model][0] * SIZES[args.model][1]
    if (args.model == "smollm2") != (args.path is not None):
        parser.error("--path: give the model's folder with --model smollm2, and only with it")
    if args.trl_batch and rows % args.trl_batch:
        parser.error(f"--trl-batch={args.trl_batch}: a step has {rows} rows; give a divisor of it")
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    count, group, longest = SIZES[args.model]
    warnings.filterwarnings("ignore")
    prepare(threads=args.threads, deterministic=True)
    register()
    learner, components, config = built(args)
    if args.micro_batch:
        learner = replace(learner, tokens_per_micro_batch=args.micro_batch)
    prompts, texts, prompt_ids = questions(args, learner, components, count)
    turns = Turns(ours(learner, components, prompts, prompt_ids, group, longest))
    with tempfile.TemporaryDirectory() as folder:
        turns.trainer = trainer_of(args, learner, config, texts, folder, turns)
        turns.trainer.train()
    parameters = sum(weight.numel() for weight in learner.policy.network.parameters())
    depth = sum(map(len, prompt_ids)) / count
    size = f"{count} prompts of {depth:.0f} tokens x {group}, at most {longest} new"
    machine = f"{args.threads} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    title = f"{args.model}: {parameters / 1e6:.1f}M parameters, {size}, beta {args.beta}, {machine}"
    # The first step of each warms up.
    report(title, {"ours": turns.ours[1:], "TRL": turns.theirs[1:]}, BOUNDS[args.model])


if __name__ == "__main__":
    main()
