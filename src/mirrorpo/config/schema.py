"""The run-level settings, and everything that can be said of a config without building it. Imports no
torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirrorpo.config.values import Config, JsonObject

# Of the questions that are also sampled: as many as are evaluated.
ALL = "all"
# What a sweep planned; no cell has it.
PLAN = "plan"
SELECTION = "selection"

# What OmegaConf takes for a node of any keys.
Group: TypeAlias = Any


@dataclass
class TrainConfig:
    """Every top-level setting of a run; a key that is not here fails at compose.

    A group has no type: its file fixes its keys.
    """

    algo: Group = MISSING
    divergence: Group = MISSING
    weighting: Group = MISSING
    beta_schedule: Group = MISSING
    model: Group = MISSING
    dataset: Group = MISSING
    reward: Group = MISSING
    rollout: Group = MISSING
    eval_rollout: Group = MISSING
    optim: Group = MISSING
    schedule: Group = MISSING
    tracking: Group = MISSING
    importance_correction: Any = None
    trust_region: Any = None
    entropy: Any = None
    anchor: Any = None

    seed: int = MISSING
    name: str = MISSING
    out: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    deterministic: bool = MISSING
    compile: str = MISSING
    progress: bool = MISSING
    sandbox: str = MISSING

    steps: int = MISSING
    prompts_per_step: int = MISSING
    group_size: int = MISSING
    updates_per_rollout: int = MISSING
    update_window: str = MISSING
    data_order: str = MISSING
    max_new_tokens: int = MISSING
    temperature: float = MISSING
    lr: float = MISSING
    max_grad_norm: float = MISSING
    tokens_per_micro_batch: int = MISSING
    tokens_per_call: int | None = None
    shared_prefix: str = MISSING
    logit_chunk: int = MISSING
    head_precision: str = MISSING

    eval_every: int = MISSING
    eval_split: str = MISSING
    eval_questions: int = MISSING
    eval_max_new_tokens: int = MISSING
    eval_sampled_questions: int | str | None = MISSING
    eval_samples: int = MISSING
    eval_temperature: float = MISSING
    eval_datasets: Any = MISSING
    drift_questions: int = MISSING
    drift_positions: int = MISSING
    drift_every: int = MISSING
    right_answer_questions: int = MISSING
    contamination_questions: int = MISSING
    checkpoint_every: int = MISSING
    checkpoint_minutes: float = MISSING
    checkpoint_async: bool = MISSING
    keep_checkpoints: int = MISSING
    shown_completions: int = MISSING
    extend: bool = False
    allow_equal_arms: bool = False
    # What a sweep's file says of itself (`analysis/study/plan.py`): of the launch, and of no cell.
    plan: Any = None
    # How the sweep's settings were chosen (`launch/selection.py`): likewise.
    selection: Any = None


def register() -> None:
    """Make the schema known to Hydra under the name that `conf/train.yaml` lists first."""
    ConfigStore.instance().store(name="schema", node=TrainConfig)


def check(cfg: DictConfig) -> None:
    """Everything that can be said of a config without building it.

    Raises:
        ValueError: naming the knob, its value and the fix.
    """
    _check_keys(cfg)
    _check_values(cfg)
    _check_screen(cfg)
    if not cfg.out or not cfg.name or any(part in ("..", ".", "") for part in str(cfg.name).split("/")):
        raise ValueError(
            f"out={cfg.out!r}, name={cfg.name!r}: give a root folder and a name for the sweep's folder below "
            f"it"
        )
    if cfg.update_window == "split" and cfg.prompts_per_step % cfg.updates_per_rollout:
        raise ValueError(
            f"updates_per_rollout={cfg.updates_per_rollout} does not divide "
            f"prompts_per_step={cfg.prompts_per_step}: "
            "with update_window=split each update takes an equal share of the groups"
        )
    refuse_evaluation(cfg)


def refuse_evaluation(values: Config | DictConfig, prefix: str = "") -> None:
    """Check the settings of an evaluation that are no plain numbers.

    Args:
        values: of the run, or of one of its sets.
        prefix: of the settings' names.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    temperature, sampled = values["eval_temperature"], values["eval_sampled_questions"]
    if isinstance(sampled, str) and sampled != ALL:
        raise ValueError(
            f"{prefix}eval_sampled_questions={sampled}: give a number, or {ALL} for all that are evaluated"
        )
    if values["eval_samples"] > 0 and not 0 < temperature < math.inf:
        raise ValueError(
            f"{prefix}eval_temperature={temperature}: samples at temperature 0 are all the same; set "
            f"{prefix}eval_samples=0 for greedy only"
        )


def _check_keys(cfg: DictConfig) -> None:
    known = {field.name for field in fields(TrainConfig)}
    if extra := sorted(str(key) for key in cfg if key not in known):
        raise ValueError(f"unknown settings {extra}: the run-level settings are {sorted(known)}")
    if gone := sorted(known - {str(key) for key in cfg}):
        raise ValueError(f"~{gone[0]}: a run needs this setting; give it a value in place of taking it out")
    if missing := sorted(_missing(cfg)):
        raise ValueError(
            f"no recipe sets {missing} for this model and dataset: give them on the command line or write "
            "conf/recipe/<dataset>.yaml"
        )


def _check_values(cfg: DictConfig) -> None:
    for knob, least in MINIMUM.items():
        if isinstance(cfg[knob], int | float) and cfg[knob] < least:
            raise ValueError(f"{knob}={cfg[knob]}: needs at least {least}")
    for knob, choices in CHOICES.items():
        if cfg[knob] not in choices:
            raise ValueError(f"{knob}={cfg[knob]}: choose one of {', '.join(choices)}")
    if not (0 <= cfg.lr < math.inf and 0 < cfg.temperature < math.inf):
        raise ValueError(
            f"lr={cfg.lr}, temperature={cfg.temperature}: the learning rate is not negative, and training "
            "samples at a temperature above 0"
        )
    if not cfg.max_grad_norm >= 0:
        raise ValueError(
            f"max_grad_norm={cfg.max_grad_norm}: a negative norm would turn the gradient round; 0 does not "
            f"clip"
        )


def _check_screen(cfg: DictConfig) -> None:
    for knob in ("right_answer_questions", "contamination_questions"):
        if cfg[knob] > cfg.eval_questions:
            raise ValueError(
                f"{knob}={cfg[knob]}: they are the first ones of eval_questions={cfg.eval_questions}; "
                "give at most as many"
            )


def _missing(cfg: DictConfig, prefix: str = "") -> list[str]:
    # OmegaConf.missing_keys follows interpolations and raises at the first one that leads to a gap.
    out: list[str] = []
    for key in cfg:
        node = cfg._get_node(str(key))
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            out += _missing(node, f"{prefix}{key}.")
        elif OmegaConf.is_missing(cfg, str(key)):
            out.append(f"{prefix}{key}")
    return out


MINIMUM: Mapping[str, int] = {
    "steps": 0,
    "prompts_per_step": 1,
    "group_size": 1,
    "updates_per_rollout": 1,
    "max_new_tokens": 1,
    "threads": 1,
    "tokens_per_micro_batch": 1,
    "tokens_per_call": 1,
    "logit_chunk": 1,
    "eval_every": 0,
    "eval_questions": 0,
    "eval_max_new_tokens": 1,
    "eval_sampled_questions": 0,
    "eval_samples": 0,
    "drift_questions": 0,
    "drift_positions": 1,
    "drift_every": 1,
    "right_answer_questions": 0,
    "contamination_questions": 0,
    "checkpoint_every": 0,
    "checkpoint_minutes": 0,
    "keep_checkpoints": 1,
    "shown_completions": 0,
    "seed": 0,
}
CHOICES: Mapping[str, Sequence[str]] = {
    "update_window": ("whole", "split"),
    "shared_prefix": ("auto", "always", "never"),
    "compile": ("none", "layers"),
    "head_precision": ("float32", "bf16_in"),
    "data_order": ("shuffled", "sequential", "informative"),
    "eval_split": ("validation", "test"),
    "sandbox": ("required", "unsafe"),
}


def resolved(cfg: DictConfig) -> JsonObject:
    """The config as plain data, interpolations filled in, without what a sweep says of itself.

    Raises:
        ValueError: if an interpolation cannot be filled.
    """
    try:
        out: JsonObject = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ValueError(f"the config cannot be resolved: {error}") from error
    for of_sweep in (PLAN, SELECTION):
        out.pop(of_sweep, None)
    # null says the same, and two names of a value would be two runs.
    return out | ({"eval_sampled_questions": ALL} if out.get("eval_sampled_questions", 0) is None else {})
