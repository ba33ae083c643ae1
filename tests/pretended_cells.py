"""What runs on the pretended device: every row of conf/ on one written rollout, and whole cells.

The rollout is of demonstrations, so that there are spans to hide, and the network is of random weights. In
float32 everything is done on the CPU too, and has to be equal to the last bit.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
from cli import ROOT, composed, folder
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pretended import near, pretended
from rank_cells import run
from rows import CONF, names
from safetensors.torch import load_file
from small_models import TINY, network_of
from torch import Tensor
from transformers import AutoTokenizer

from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch
from mirrorpo.core.cut import Masking
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import finish, reference
from mirrorpo.rollout.collate import collate
from mirrorpo.tools.model_table import loaded
from mirrorpo.train.build import build_dataset, build_penalty, build_weighting
from mirrorpo.train.learner import Learner
from mirrorpo.train.model_check import WAYS, model_check

MASKINGS: Sequence[Masking] = get_args(Masking)
AXES = ("divergence", "weighting", "algo", "optim", "importance_correction")
LR = 1e-3


@cache
def base() -> DictConfig:
    """The default config, of an algorithm that keeps every completion."""
    with composed("tracking=none", "group_size=2", "prompts_per_step=2") as (cfg, _):
        return cfg


@cache
def settings_of(axis: str, name: str) -> Mapping[str, Any]:
    """The resolved settings of one file of conf/."""
    with initialize_config_dir(str(CONF), version_base="1.3"), warnings.catch_warnings():
        # A group's file composed by itself has no defaults to stand among.
        warnings.simplefilter("ignore")
        try:
            settings = compose(f"{axis}/{name}")[axis]
        except ConfigCompositionException:
            # It overrides other groups.
            settings = compose("train", overrides=[f"{axis}={name}", "tracking=none"])[axis]
    with open_dict(base()):
        cfg = OmegaConf.merge(base(), {axis: None})
        cfg[axis] = settings
    return OmegaConf.to_container(cfg[axis], resolve=True)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class World:
    """A policy and its start model on one device, and the rollout.

    Attributes:
        policy: the model that is trained.
        start: the same before training, frozen.
        batch: two questions with two written answers each, of which one is right.
    """

    policy: LanguageModel
    start: LanguageModel
    batch: RolloutBatch

    def in_bfloat16(self) -> "World":
        """The same models under autocast."""
        lower = torch.bfloat16
        return World(
            policy=replace(self.policy, dtype=lower),
            start=replace(self.start, dtype=lower),
            batch=self.batch,
        )

    def restore(self) -> None:
        """Put the policy back to the start."""
        with torch.no_grad():
            pairs = zip(self.policy.network.parameters(), self.start.network.parameters(), strict=True)
            for parameter, begun in pairs:
                parameter.copy_(begun)
                parameter.grad = None


def questions(count: int = 2) -> Sequence[Prompt]:
    """The first training questions of the default dataset."""
    return build_dataset(base()).load("train")[:count]


def world(device: torch.device) -> World:
    """The models on a device, alike on every device."""
    prompts, tokenizer = questions(), AutoTokenizer.from_pretrained(ROOT / "src/mirrorpo/model/tiny")
    shape = {**TINY, "num_hidden_layers": 1, "max_position_embeddings": 256, "vocab_size": len(tokenizer)}
    network = network_of("qwen3", **shape, tie_word_embeddings=True)
    policy = finish(network, tokenizer, dtype=torch.float32, device=device, checkpointing=False)
    completions = [
        answer(policy, prompt, group, text)
        for group, prompt in enumerate(prompts)
        for text in (prompt.demonstration, prompt.demonstration + prompt.gold)
    ]
    batch = collate(completions, [1.0, 0.0, 0.0, 1.0], pad_id=policy.pad_id, mask_truncated=False)
    return World(policy=policy, start=reference(policy), batch=batch)


def answer(policy: LanguageModel, prompt: Prompt, group: int, text: str) -> Completion:
    """A text as if the policy had sampled it."""
    encode = policy.tokenizer
    ids = [*encode(text, add_special_tokens=False).input_ids, encode.eos_token_id]
    return Completion(
        uid=prompt.uid,
        group=group,
        prompt_ids=encode(prompt.question + "\n", add_special_tokens=False).input_ids,
        ids=ids,
        logprobs=[-3.0] * len(ids),
        text=text,
        truncated=False,
    )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Rows of conf/ that are run together; the defaults of everything else.

    Attributes:
        divergence, weighting, algo, optim, importance_correction: files of conf/.
        masking: of a counterfactual weighting.
        updates: on the rollout; with more than one the old policy is read.
        shared_prefix: as the setting.
    """

    divergence: str = "kl"
    weighting: str = "uniform"
    algo: str = "grpo"
    optim: str = "adamw"
    importance_correction: str | None = None
    masking: str | None = None
    updates: int = 1
    shared_prefix: str = "never"

    def __str__(self) -> str:
        """What is not as usual."""
        changed = {field.name: getattr(self, field.name) for field in fields(self)}
        return " ".join(f"{name}={value}" for name, value in changed.items() if value != getattr(Arm(), name))

    def learner(self, world: World) -> Learner:
        """The learner of this arm."""
        weighting = settings_of("weighting", self.weighting)
        if self.masking is not None:
            weighting = {**weighting, "masking": self.masking}
        penalty = build_penalty(settings_of("divergence", self.divergence), weighting.get("scope", "credit"))
        correction = self.importance_correction
        settings = {
            **run_settings(),
            "updates_per_rollout": self.updates,
            "shared_prefix": self.shared_prefix,
        }
        return Learner(
            policy=world.policy,
            reference=world.start if penalty.reads_reference else None,
            optimiser=part("optim", self.optim).build(world.policy.network),
            algo=part("algo", self.algo),
            penalty=penalty,
            weighting=build_weighting(weighting),
            importance_correction=None if correction is None else part("importance_correction", correction),
            settings=UpdateSettings(**settings),
        )


# Every kind of row in few arms: what a divergence reads, how a weighting asks the policy, every masking.
KINDS = (
    Arm(divergence="kl", weighting="counterfactual", masking="pad"),
    Arm(
        divergence="probl2_exact",
        weighting="gradient",
        algo="dapo",
        updates=2,
        importance_correction="truncated",
    ),
    Arm(divergence="kl_corrected", weighting="attention", algo="gspo", shared_prefix="always"),
    Arm(
        divergence="neural_mirror_exact", weighting="counterfactual_downstream", masking="block", optim="muon"
    ),
    Arm(
        divergence="itakura_saito", weighting="counterfactual_code", masking="delete", algo="gmpo", updates=2
    ),
    Arm(divergence="none", weighting="counterfactual", masking="direct", algo="sapo", shared_prefix="always"),
    Arm(divergence="kl_k1", weighting="entropy_top20", algo="sft"),
)


def every_row() -> list[Arm]:
    """An arm for each file of the axes, in turn with one and two updates, with and without shared prompts."""
    rows = [{axis: name} for axis in AXES for name in names(axis)]
    rows += [{"weighting": "counterfactual_downstream", "masking": masking} for masking in MASKINGS]
    sharing = ("never", "never", "always", "always")
    return [
        Arm(**row, updates=1 + number % 2, shared_prefix=sharing[number % 4])  # type: ignore
        for number, row in enumerate(rows)
    ]


@cache
def part(axis: str, name: str) -> Any:
    """The object that a file of conf/ builds."""
    return instantiate(settings_of(axis, name), _convert_="all")


@cache
def run_settings() -> Mapping[str, Any]:
    """The run-level settings of passes and updates, two rows a micro-batch at most."""
    data = OmegaConf.to_container(base(), resolve=True)
    settings = {field.name: data[field.name] for field in fields(UpdateSettings)}  # type: ignore
    return settings | {"tokens_per_micro_batch": 256, "logit_chunk": 128}


@dataclass(frozen=True)
class Outcome:
    """What an arm's step leaves.

    Attributes:
        numbers: metrics, weights of tokens and drops of spans, as text.
        metrics: of the updates.
        spans: that were hidden.
        parameters: after the updates.
    """

    numbers: str
    metrics: Mapping[str, float]
    spans: int
    parameters: Sequence[Tensor]


def step(arm: Arm, world: World) -> Outcome:
    """Score, weigh and learn, as a step of training does between sampling and drift."""
    world.restore()
    learner = arm.learner(world)
    scored = learner.rescore(world.batch)
    advantages = learner.algo.advantages(scored.batch)
    credit = learner.weigh(scored.batch, advantages, 7)
    metrics = learner.learn(scored, credit, [LR] * arm.updates)
    numbers = repr((metrics, credit.weights.tolist(), [scored.drop for scored in credit.spans]))
    parameters = [near(parameter.detach()).clone() for parameter in world.policy.network.parameters()]
    return Outcome(numbers, metrics, len(credit.spans), parameters)


def faults(arms: Sequence[Arm]) -> dict[str, str]:
    """What is wrong with each arm on the pretended device; empty where nothing is.

    In float32 it has to leave the CPU's numbers; in bfloat16, under autocast, finite ones. A divergence over
    the vocabulary is computed in float64 on a CPU and in float32 elsewhere, and has to come near.
    """
    plain = world(torch.device("cpu"))
    expected = {arm: step(arm, plain) for arm in arms}
    with pretended() as device:
        far = world(device)
        lower = far.in_bfloat16()
        return {str(arm): fault(arm, far, lower, outcome) for arm, outcome in expected.items()}


def reads_vocabulary(arm: Arm) -> bool:
    """Whether an arm's divergence is exact, at some tokens at least."""
    reads = build_penalty(settings_of("divergence", arm.divergence), "credit").reads
    return reads in ("vocabulary", "top")


def fault(arm: Arm, far: World, lower: World, expected: Outcome) -> str:
    """What is wrong with an arm on the pretended device, in float32 and in bfloat16."""
    try:
        outcome = step(arm, far)
        in_bfloat16 = step(arm, lower)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if reads_vocabulary(arm):
        if far_off := [
            name
            for name, value in expected.metrics.items()
            if not math.isclose(outcome.metrics[name], value, rel_tol=1e-3, abs_tol=1e-6)
        ]:
            return f"other numbers than on the CPU: {far_off}"
    elif outcome.numbers != expected.numbers:
        return f"other numbers than on the CPU: {outcome.numbers[:600]} for {expected.numbers[:600]}"
    elif not all(map(torch.equal, outcome.parameters, expected.parameters)):
        return "other parameters than on the CPU"
    if not all(bool(parameter.isfinite().all()) for parameter in in_bfloat16.parameters):
        return "a parameter that is not finite in bfloat16"
    hides = arm.weighting.startswith("counterfactual")
    return "no span was hidden" if hides and not outcome.spans else ""


# ---------------------------------------------------------------- whole cells

SMALLEST = [
    "steps=2",
    "prompts_per_step=2",
    "group_size=2",
    "max_new_tokens=6",
    "eval_max_new_tokens=4",
    "eval_questions=2",
    "eval_sampled_questions=1",
    "eval_samples=2",
    "eval_every=0",
    "checkpoint_every=1",
    "drift_questions=2",
    "drift_positions=4",
    "threads=1",
    "tracking=none",
    "progress=false",
    "shown_completions=1",
]
SMALLEST_DATA = [f"dataset.{split}_size=12" for split in ("train", "validation", "test")]
# Everything that carries state, or moves tensors where nothing else does.
EVERYTHING = [
    "algo=dapo",
    "algo.rollout_rule.max_draws=2",
    "updates_per_rollout=2",
    "divergence=probl2_corrected",
    "lora@model.lora=r16",
    "beta_schedule=matched_drift",
    "weighting=entropy",
    "importance_correction=truncated",
    "entropy=adaptive",
    "entropy.start=0.01",
]


def write_model(folder: Path) -> Path:
    """The model of the arms as a folder."""
    policy = world(torch.device("cpu")).policy
    policy.network.save_pretrained(folder)  # type: ignore[operator]
    policy.tokenizer.save_pretrained(folder)
    return folder


def run_cell(
    out: Path, overrides: Sequence[str], device: torch.device, stop_after: int | None = None
) -> None:
    """Train a cell on a device, or go on with it."""

    def aligned(network: torch.nn.Module, *args: Any, **kwargs: Any) -> LanguageModel:
        # What lies in a file's mapping is rounded otherwise than what was copied to a device.
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        return finish(network, *args, **kwargs)  # type: ignore[arg-type]

    def read_adapter(path: str, device: str | torch.device = "cpu", **kwargs: Any) -> dict[str, Tensor]:
        # The library knows the devices it can read to.
        return {name: tensor.to(device) for name, tensor in load_file(path, **kwargs).items()}

    with (
        patch("mirrorpo.train.trainer.named_device", lambda name, ranks: device),
        patch("mirrorpo.model.load.finish", aligned),
        patch("peft.utils.save_and_load.safe_load_file", read_adapter),
    ):
        run([*SMALLEST, *SMALLEST_DATA, *overrides, f"out={out}"], stop_after, ALONE)


def left_by(out: Path) -> dict[str, bytes]:
    """The numbers and the policy that a cell left."""
    run_folder = folder(out)
    paths = [run_folder / "metrics.jsonl", *(run_folder / "policy").glob("*.safetensors")]
    return {path.name: path.read_bytes() for path in paths}


def cells(root: Path, overrides: Sequence[str]) -> list[dict[str, bytes]]:
    """A cell on the CPU, on the pretended device, and there stopped after its first step and resumed.

    With `lora@model.lora=continue` they go on from the adapter that another cell has left.
    """
    torch.set_num_threads(1)
    model = write_model(root / "model")
    if "lora@model.lora=continue" in overrides:
        first = [f"model.path={model}", "lora@model.lora=r16"]
        run_cell(root / "first", first, torch.device("cpu"))
        model = folder(root / "first") / "policy"
        overrides = [override for override in overrides if override != "lora@model.lora=r16"]
    overrides = [f"model.path='{model}'", *overrides]
    run_cell(root / "cpu", overrides, torch.device("cpu"))
    with pretended() as device:
        run_cell(root / "far", overrides, device)
        run_cell(root / "stopped", overrides, device, stop_after=1)
        run_cell(root / "stopped", overrides, device)
    return [left_by(root / name) for name in ("cpu", "far", "stopped")]


def closed_ways(names: Sequence[str]) -> dict[str, str]:
    """What the self-test at load closes on the pretended device and not on the CPU, by architecture."""
    torch.set_num_threads(1)
    out: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            try:
                model = loaded(name)
            except (ValueError, ImportError):
                # What is refused on the CPU never reaches a device.
                continue
            on_cpu = model_check(model, WAYS).closed
            with pretended() as device:
                far = replace(model, network=model.network.to(device), device=device)
                on_far = model_check(far, WAYS).closed
            differing = {way: reason for way, reason in on_far.items() if way not in on_cpu}
            out[name] = "; ".join(f"{way}: {reason}" for way, reason in differing.items())
    return out
