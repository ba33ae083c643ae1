"""Config groups to objects: the one `instantiate`, and what can be said of the objects together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_class, instantiate

from mirrorpo.algo.importance_correction import TruncatedImportance
from mirrorpo.algo.row import Algorithm
from mirrorpo.core.batch import Prompt
from mirrorpo.core.cut import TAKE_A_MASK
from mirrorpo.core.protocols import Dataset, Divergence, RewardFn, RolloutEngine, Weighting
from mirrorpo.divergence.beta_schedule import Fixed, MatchedDrift
from mirrorpo.divergence.neural_mirror import NeuralMirror
from mirrorpo.divergence.tabulated import Tabulated
from mirrorpo.model.load import ModelSpec
from mirrorpo.optim.adamw import AdamW
from mirrorpo.optim.muon import Muon
from mirrorpo.optim.schedule import Schedule
from mirrorpo.reward.code.code_tests import CodeTests
from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.rollout.vllm import Colocated
from mirrorpo.run.tracking import NoTracker, WandB
from mirrorpo.weighting.counterfactual import Counterfactual


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """The objects a config names; all light, no model is loaded and no data read yet."""

    algo: Algorithm
    divergence: Divergence
    weighting: Weighting
    beta_schedule: Fixed | MatchedDrift
    model: ModelSpec
    dataset: Dataset
    reward: RewardFn
    rollout: RolloutEngine
    eval_rollout: RolloutEngine
    optim: AdamW | Muon
    schedule: Schedule
    tracking: NoTracker | WandB
    importance_correction: TruncatedImportance | None

    def divergence_at(self, beta: float) -> Divergence:
        """The divergence with another coefficient."""
        return self.divergence if beta == self.divergence.beta else replace(self.divergence, beta=beta)  # type: ignore[type-var]


def build_components(config: Mapping[str, Any]) -> Components:
    """Build every group of a resolved config.

    Raises:
        ValueError: naming the group, when a key is unknown, missing or refused by the object, or when
            groups do not fit together.
    """
    components = Components(**{group: _build(config, group) for group in Components.__annotations__})
    if not 0 <= components.divergence.beta < math.inf:
        raise ValueError(
            f"divergence.beta={components.divergence.beta}: a coefficient is not negative; a negative one "
            f"would push away from the "
            f"anchor"
        )
    _refuse_untaught(components, config)
    _refuse_unsteerable(components, config)
    _refuse_unmasked(components, config)
    _refuse_unshared(config)
    _refuse_unsampled(components)
    _refuse_elsewhere(components, config)
    return components


def questions(
    components: Components, config: Mapping[str, Any]
) -> tuple[list[Prompt], list[Prompt], dict[str, str]]:
    """The training questions, those of the evaluations, and what was left out of both because nothing can be
    judged by it, with the reason.

    Raises:
        ValueError: if nothing is left to train on, or this machine cannot isolate programs that have to be
            run.
    """
    train, asked = list(components.dataset.load("train")), list(components.dataset.load(config["eval_split"]))
    faults = components.reward.unjudgeable([*train, *asked]) if isinstance(components.reward, CodeTests) else {}
    for prompts in (train, asked):
        if prompts and all(prompt.uid in faults for prompt in prompts):
            raise ValueError(
                f"none of {len(prompts)} problems can be judged, the first one, {prompts[0].uid}, since "
                f"{faults[prompts[0].uid]}"
            )
    train, asked = ([prompt for prompt in prompts if prompt.uid not in faults] for prompts in (train, asked))
    return train, asked[: config["eval_questions"]], faults


def judged_by(reward: RewardFn) -> dict[str, Any]:
    """What the manifest says of the verifier: its version, and for programs what kept them in."""
    mechanism = str(reward.mechanism) if isinstance(reward, CodeTests) else None
    return {"reward_version": getattr(reward, "version", None), "sandbox": mechanism}


def notes(components: Components, config: Mapping[str, Any]) -> list[str]:
    """Arms that are configured and have no effect, one sentence each."""
    out: list[str] = []
    single = config["updates_per_rollout"] == 1
    if single and _departs_from_reinforce(components.algo):
        out.append(
            "updates_per_rollout=1: the ratio is exactly 1, so algo.ratio and algo.surrogate act as the "
            "plain policy gradient; "
            "arms that differ only in them are the same run"
        )
    if single and components.divergence.reads != "nothing" and components.divergence.anchor == "old":
        out.append(
            "updates_per_rollout=1 with divergence.anchor=old: the policy is its own anchor, the divergence "
            "is zero with zero gradient"
        )
    if components.divergence.reads != "nothing" and components.divergence.beta == 0:
        out.append(
            "divergence.beta=0: the divergence is measured at the cost of the anchor's forward and changes "
            "nothing; divergence=none is "
            "free"
        )
    potential = getattr(components.divergence, "potential", None)
    if potential is not None and not potential.convex:
        out.append(
            "divergence.potential.parameters.signed=true: the mirror map need not rise, so the penalty is no "
            "divergence; "
            "it may be negative and push away from the anchor"
        )
    if (config["model"].get("lora") or {}).get("dropout"):
        out.append(
            "model.lora.dropout > 0: the policy that is updated drops activations, the one that sampled did "
            "not; "
            "the sampler and the trainer then differ, which kl/sampler shows"
        )
    if (
        isinstance(components.weighting, Counterfactual)
        and components.weighting.completions == "correct"
        and isinstance(components.rollout, Demonstrations)
    ):
        out.append(
            "weighting.completions=correct with demonstrations: none is better than its group, so none is "
            "scored and every weight is 1"
        )
    if config["rollout"].get("top_p", 1.0) < 1:
        out.append(
            f"rollout.top_p={config['rollout']['top_p']}: completions come from a cut distribution, ratios "
            f"and divergences are of the "
            f"whole one"
        )
    return out


def mirror_map(divergence: Divergence) -> str | None:
    """Fingerprint of a neural mirror map's numbers; None where a divergence has no such map."""
    potential = getattr(divergence, "potential", None)
    while isinstance(potential, Tabulated):
        potential = potential.potential
    return potential.fingerprint if isinstance(potential, NeuralMirror) else None


def _departs_from_reinforce(algo: Algorithm) -> bool:
    # Asked of the row itself, at two completions of two tokens that have moved away from the old policy.
    old, mask, advantages = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), torch.tensor([1.0, -1.0])
    live = torch.tensor([[2.0, 0.1], [0.1, -2.0]]).requires_grad_()
    log_ratio = algo.ratio(live, old, mask, advantages)
    if torch.equal(log_ratio, algo.ratio(live, old - 1, mask, advantages)):
        return False  # no old policy is read: supervised
    spread = advantages[:, None].expand_as(log_ratio)
    (gradient,) = torch.autograd.grad(algo.surrogate(log_ratio, spread).sum(), live)
    return not torch.allclose(gradient, -spread * live.detach().exp())


WORDS: Mapping[Any, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def _build(config: Mapping[str, Any], group: str) -> Any:
    # A group that may be null is absent from the configs of runs that are older than it.
    node = config.get(group) if group == "importance_correction" else config[group]
    _refuse_wrong_values(node, group)
    try:
        return instantiate(node, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{group}: {cause}") from error


def _refuse_wrong_values(node: Any, path: str) -> None:
    # Group files have no schema; the annotations of the dataclasses they build are one.
    if isinstance(node, list):
        for index, item in enumerate(node):
            _refuse_wrong_values(item, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    hints = _annotations(node)
    for key, value in node.items():
        hint, knob = hints.get(key), f"{path}.{key}"
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{knob}={value}: choose one of {', '.join(map(str, get_args(hint)))}")
        wanted = (
            {float: (int, float), int: int, str: str, bool: bool}.get(hint)
            if isinstance(hint, type)
            else None
        )
        if wanted is not None and (
            not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool)
        ):
            raise ValueError(f"{knob}={value!r}: give {WORDS[hint]}")
        _refuse_wrong_values(value, knob)


def _annotations(node: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return get_type_hints(get_class(node["_target_"])) if "_target_" in node else {}
    except ImportError:
        # A class that is not there is instantiate's to report, with its group.
        return {}


def _refuse_untaught(components: Components, config: Mapping[str, Any]) -> None:
    # Asked of the estimator itself: rewards that differ within one group must give some advantage.
    size = config["group_size"]
    rewards = torch.arange(float(size)).remainder(2)
    advantage = components.algo.advantage(rewards, torch.zeros(size, dtype=torch.long))
    if not bool(advantage.any()):
        raise ValueError(
            f"group_size={size}: algo.advantage gives every completion advantage zero, so nothing would be "
            f"learned; use group_size=2 or "
            f"more"
        )


def _refuse_unsteerable(components: Components, config: Mapping[str, Any]) -> None:
    if components.beta_schedule.measure is None:
        return
    if components.divergence.beta == 0:
        raise ValueError(
            "divergence.beta=0 with beta_schedule=matched_drift: there is no coefficient to steer; take a "
            "divergence with a beta above 0"
        )
    if components.divergence.anchor != "reference":
        raise ValueError(
            "divergence.anchor=old with beta_schedule=matched_drift: a pull to the previous policy does not "
            "hold the drift from the start "
            "model"
        )
    if config["drift_questions"] == 0:
        raise ValueError(
            "drift_questions=0 with beta_schedule=matched_drift: the drift that it holds is not measured; "
            "set drift_questions=16"
        )


def _refuse_unmasked(components: Components, config: Mapping[str, Any]) -> None:
    # read_cuts refuses it too, but only once there is a rollout.
    attention = config["model"].get("attention", "sdpa")
    if isinstance(components.weighting, Counterfactual) and attention not in TAKE_A_MASK:
        raise ValueError(
            f"model.attention={attention} with a weighting that hides spans: hiding needs an attention mask; "
            f"use model.attention=sdpa"
        )


def _refuse_unshared(config: Mapping[str, Any]) -> None:
    # The learner refuses it too, but only once the model is loaded.
    model = config["model"]
    if config["shared_prefix"] == "always" and model.get("gradient_checkpointing"):
        raise ValueError(
            "shared_prefix=always with model.gradient_checkpointing=true: recomputed layers run without the "
            "cache that holds the prompts; "
            "set model.gradient_checkpointing=false or shared_prefix=auto"
        )
    if config["shared_prefix"] == "always" and model.get("attention", "sdpa") not in TAKE_A_MASK:
        raise ValueError(
            f"shared_prefix=always with model.attention={model['attention']}: completions behind a prompt "
            f"need a mask; use "
            f"model.attention=sdpa"
        )


def _refuse_unsampled(components: Components) -> None:
    if components.importance_correction is not None and isinstance(components.rollout, Demonstrations):
        raise ValueError(
            "importance_correction=truncated with rollout=demonstrations: nothing was sampled, so no "
            "sampler's probability can be "
            "corrected; set "
            "importance_correction=null"
        )


def _refuse_elsewhere(components: Components, config: Mapping[str, Any]) -> None:
    # vLLM takes the first device that its process sees, and has no sleep mode on a CPU.
    for group, engine in (("rollout", components.rollout), ("eval_rollout", components.eval_rollout)):
        if isinstance(engine, Colocated) and str(config["device"]).partition(":")[2] not in ("", "0"):
            raise ValueError(
                f"device={config['device']} with {group}=vllm: the engine in this process takes the first "
                f"device it sees; "
                f"set device=cuda and CUDA_VISIBLE_DEVICES={config['device'].partition(':')[2]}"
            )
        if isinstance(engine, Colocated) and engine.sleep and config["device"] == "cpu":
            raise ValueError(
                f"{group}.sleep=true with device=cpu: vLLM cannot sleep on a CPU; set {group}.sleep=false"
            )
