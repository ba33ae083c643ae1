"""Config groups to objects: the one `instantiate`, and what the objects say of each other.

Every object is checked against the protocol of its group, whether its class is of this package or not.
What an object refuses, or has to say, it states itself (`StatesRequirements`, `StatesNotes`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_object, instantiate

from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL
from mirrorpo.algo.importance_correction import NoCorrection
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.trust_region import NO_TRUST_REGION
from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.settings import AnswerSettings
from mirrorpo.config.typed import OF_ANOTHER_OBJECT, parameters
from mirrorpo.core.protocols import (
    Anchor,
    BetaSchedule,
    Config,
    Dataset,
    DeclaresEvaluationOnly,
    DeclaresInert,
    DeclaresModelNeeds,
    Divergence,
    EntropyControl,
    ImportanceCorrection,
    Inert,
    LearningRateSchedule,
    ModelNeed,
    OptimiserSpec,
    RolloutEngine,
    SegmentCredit,
    SpanWeighting,
    StatesNotes,
    StatesRequirements,
    TrackerSpec,
    TrustRegion,
    Verifier,
    Weighting,
)
from mirrorpo.divergence.anchor import Fixed as FixedAnchor
from mirrorpo.divergence.penalty import Penalty, SecondPart
from mirrorpo.model.compiled import compile_requirements
from mirrorpo.model.load import ModelSpec
from mirrorpo.reward.plain import verifier
from mirrorpo.rollout.sampler import AS_TRAINED, Sampler
from mirrorpo.train.eval_set import EvalSet
from mirrorpo.weighting.unscored import span_weighting

T = TypeVar("T")

# A reward may be a plain function. isinstance takes the type, whose own type has no name.
CALLABLE = cast("type[object]", Callable)

# What a number, a text or a switch is called in a message.
KINDS: Mapping[type[object], str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """The objects that a config names; all light, no model is loaded and no data read yet."""

    config: Config = field(compare=False, repr=False)
    algo: Algorithm
    penalty: Penalty
    weighting: SpanWeighting | SegmentCredit
    beta_schedule: BetaSchedule
    anchor: Anchor
    model: ModelSpec
    dataset: Dataset
    reward: Verifier
    rollout: RolloutEngine
    eval_rollout: RolloutEngine
    optim: OptimiserSpec
    schedule: LearningRateSchedule
    tracking: TrackerSpec
    importance_correction: ImportanceCorrection | None
    trust_region: TrustRegion
    entropy: EntropyControl
    sampler: Sampler = AS_TRAINED
    eval_sets: Mapping[str, EvalSet] = field(default_factory=dict[str, EvalSet])

    def groups(self) -> Iterator[tuple[str, object]]:
        """The config group of each object, and the object."""
        names = [component.name for component in fields(self) if component.name not in ("config", EVAL_SETS)]
        for name in names:
            yield "divergence" if name == "penalty" else name, getattr(self, name)


def build_components(config: Config) -> Components:
    """Build every group of a resolved config.

    Raises:
        ValueError: naming the group, when a key is unknown, missing or refused by the object, when an object
            keeps no contract, or when groups do not fit together.
    """
    algo = _build(config["algo"], "algo", Algorithm)
    penalty = build_penalty(config["divergence"], config["weighting"].get("scope", "credit"))
    if config["divergence"].get("placement") is None:
        penalty = replace(penalty, placement=algo.penalty_placement or "loss")
    sampler, engine = build_rollout(config["rollout"])
    anchor = _optional(config, "anchor", Anchor) or FixedAnchor(source=penalty.anchor)
    penalty = _measured_to(penalty, anchor)
    components = Components(
        config=config,
        anchor=anchor,
        algo=algo,
        penalty=penalty,
        weighting=build_weighting(config["weighting"]),
        beta_schedule=_build(config["beta_schedule"], "beta_schedule", BetaSchedule),
        model=_build(config["model"], "model", ModelSpec),
        dataset=build_dataset(config),
        reward=verifier(_build(config["reward"], "reward", CALLABLE)),
        rollout=engine,
        sampler=sampler,
        eval_rollout=_build(config["eval_rollout"], "eval_rollout", RolloutEngine),
        optim=_build(config["optim"], "optim", OptimiserSpec),
        schedule=_build(config["schedule"], "schedule", LearningRateSchedule),
        tracking=_build(config["tracking"], "tracking", TrackerSpec),
        importance_correction=_correction(config),
        trust_region=_optional(config, "trust_region", TrustRegion) or NO_TRUST_REGION,
        entropy=build_entropy(config),
        eval_sets=build_eval_sets(config),
    )
    for reason in _requirements(components):
        raise ValueError(reason)
    return components


def _correction(config: Config) -> ImportanceCorrection | None:
    part = _optional(config, "importance_correction", ImportanceCorrection)
    return None if isinstance(part, NoCorrection) else part


def build_rollout(node: Config) -> tuple[Sampler, RolloutEngine]:
    """How far the sampler of a `rollout` group is from the policy, and its engine.

    Raises:
        ValueError: naming the setting.
    """
    class_settings, settings = _without(node, "rollout", *OF_ANOTHER_OBJECT["rollout"])
    _refuse_wrong_values({"_target_": "mirrorpo.rollout.sampler.Sampler", **settings}, "rollout")
    # A node of an outside class, or of an older run, has none of them.
    sampler = replace(AS_TRAINED, **settings)
    return sampler, sampler.engine(_build(class_settings, "rollout", RolloutEngine))


def _measured_to(penalty: Penalty, anchor: Anchor) -> Penalty:
    first, *others = anchor.parts
    second = SecondPart(source=others[0].source, share=anchor.share) if others else None
    return replace(penalty, anchor=first.source, second=second)


def build_entropy(config: Config) -> EntropyControl:
    """The entropy control of a resolved config; none of a config that is older than the group.

    Raises:
        ValueError: naming the setting.
    """
    control = _optional(config, "entropy", EntropyControl) or NO_ENTROPY_CONTROL
    if control.reads not in ("nothing", "sampled", "vocabulary"):
        raise ValueError(
            f"entropy: {type(control).__name__}.reads is {control.reads!r}; choose nothing, sampled or "
            "vocabulary"
        )
    return control


def build_dataset(config: Config) -> Dataset:
    """The dataset of a resolved config.

    Raises:
        ValueError: naming the setting.
    """
    return _build(config["dataset"], "dataset", Dataset)


def build_eval_sets(config: Config) -> dict[str, EvalSet]:
    """The sets beside the run's own; none of a config that is older than them.

    Raises:
        ValueError: naming the set and the setting.
    """
    return {name: _eval_set(name, node) for name, node in config.get(EVAL_SETS, {}).items()}


def _eval_set(name: str, node: Config) -> EvalSet:
    path = f"{EVAL_SETS}.{name}"
    return EvalSet(
        name=name,
        dataset=_build(node["dataset"], f"{path}.dataset", Dataset),
        reward=verifier(_build(node["reward"], f"{path}.reward", CALLABLE)),
        split=node["eval_split"],
        settings=AnswerSettings.of(node),
    )


def notes(components: Components) -> list[str]:
    """What the parts have to say of a run, such as arms that are configured and have no effect."""
    return [
        note
        for group, part, assembly in _with_eval_sets(components)
        if isinstance(part, StatesNotes)
        for note in part.notes(group, assembly)
    ]


def inert(components: Components) -> list[Inert]:
    """Which settings have no effect in a run of these parts."""
    return [
        entry
        for group, part in components.groups()
        if isinstance(part, DeclaresInert)
        for entry in part.inert(group, components)
    ]


def model_needs(components: Components) -> set[ModelNeed]:
    """In which ways the parts will read the model, beyond what every model allows."""
    return {
        need
        for _, part in components.groups()
        if isinstance(part, DeclaresModelNeeds)
        for need in part.model_needs()
    }


def _requirements(components: Components) -> Iterator[str]:
    dataset, steps = components.dataset, components.config["steps"]
    if steps > 0 and isinstance(dataset, DeclaresEvaluationOnly) and dataset.evaluation_only:
        yield (
            f"steps={steps} with dataset={type(dataset).__name__}: it has no training split and is for "
            "evaluation only; use steps=0"
        )
    yield from compile_requirements(components.config, model_needs(components))
    for group, part, assembly in _with_eval_sets(components):
        if isinstance(part, StatesRequirements):
            yield from part.requirements(group, assembly)


def _with_eval_sets(components: Components) -> Iterator[tuple[str, object, Components]]:
    # Each part with its name and the run that it is a part of: a set's parts see each other as that run's.
    for group, part in components.groups():
        yield group, part, components
    for name, eval_set in components.eval_sets.items():
        seen = replace(components, dataset=eval_set.dataset, reward=eval_set.reward)
        for group, part in (("dataset", eval_set.dataset), ("reward", eval_set.reward)):
            yield f"{EVAL_SETS}.{name}.{group}", part, seen


def build_weighting(node: Config) -> SpanWeighting | SegmentCredit:
    """The token weights, or signed credit, of a `weighting` group; its `scope` belongs to the penalty."""
    part = _instantiated(_without_scope(node, "weighting"), "weighting")
    if isinstance(part, SegmentCredit):
        return part
    return span_weighting(_checked(part, node, "weighting", Weighting))


def _without_scope(node: Config, group: str) -> Config:
    # A weighting around another one has that of a file with its scope, which has to be its own.
    class_settings, scope = _without(node, group, "scope")
    inner = class_settings.get("weighting")
    if not isinstance(inner, Mapping):
        return _without_prior_scope(class_settings)
    settings = cast("Config", inner)
    if settings.get("scope", scope.get("scope")) != scope.get("scope"):
        raise ValueError(
            f"{group}.scope={scope.get('scope')} and {group}.weighting.scope={settings['scope']}: a control "
            f"has its arm's scope; set {group}.weighting.scope alone"
        )
    return {**class_settings, "weighting": _without_scope(settings, f"{group}.weighting")}


def _without_prior_scope(settings: Config) -> Config:
    # Segments by another weighting's drops have that of a file, whose scope nothing reads.
    segments = settings.get("segments")
    prior = cast("Config", segments).get("prior") if isinstance(segments, Mapping) else None
    if not isinstance(prior, Mapping):
        return settings
    unscoped = {key: value for key, value in cast("Config", prior).items() if key != "scope"}
    return {**settings, "segments": {**cast("Config", segments), "prior": unscoped}}


def build_penalty(node: Config, scope: Literal["credit", "loss"] = "credit") -> Penalty:
    """The penalty of a `divergence` group: its `beta`, `anchor` and `placement`, and the divergence of
    everything else.

    A placement that is null or absent is the loss; an algorithm's row may say another.

    Raises:
        ValueError: naming the setting.
    """
    class_settings, penalty_settings = _without(node, "divergence", "beta", "anchor", "placement")
    divergence = _build(class_settings, "divergence", Divergence)
    _check_divergence(divergence)
    # Where nothing is read there is nothing to weigh or to measure to.
    defaults: Config = {"beta": 0.0, "anchor": "reference"} if divergence.reads == "nothing" else {}
    settings = {**defaults, **penalty_settings}
    settings["placement"] = settings.get("placement") or "loss"
    absent = [name for name in ("beta", "anchor") if name not in settings]
    if absent:
        raise ValueError(
            f"divergence: missing {', '.join(map(repr, absent))}; give its coefficient and its anchor"
        )
    of_penalty = {"_target_": "mirrorpo.divergence.penalty.Penalty"}
    _refuse_wrong_values(of_penalty | settings, "divergence")
    _refuse_wrong_values(of_penalty | {"scope": scope}, "weighting")
    return Penalty(divergence=divergence, scope=scope, **settings)


def _check_divergence(divergence: Divergence) -> None:
    table = torch.full((2, 3, 5), 0.2, dtype=torch.float64).log()
    shapes = {"nothing": [2, 3, 5], "sampled": [2, 3, 5], "top": [2, 3, 5], "vocabulary": [2, 3]}
    shape = shapes.get(divergence.reads)
    name = type(divergence).__name__
    if shape is None:
        raise ValueError(
            f"divergence: {name}.reads is {divergence.reads!r}; choose nothing, sampled, top or vocabulary"
        )
    returned = _shape_or_class(divergence(table, table, table))
    if returned != shape:
        raise ValueError(
            f"divergence: {name} reads {divergence.reads!r} and returned {returned} for {[*table.shape]} "
            f"log-probabilities; wanted is {shape}"
        )


def _shape_or_class(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def _without(node: object, group: str, *names: str) -> tuple[Config, Config]:
    # Some settings of a group belong to another object than the group's own class.
    if not isinstance(node, Mapping):
        raise ValueError(f"{group}={node}: give a class by _target_")
    settings = cast("Config", node)
    return (
        {key: value for key, value in settings.items() if key not in names},
        {key: settings[key] for key in names if key in settings},
    )


def _optional(config: Config, group: str, contract: type[T]) -> T | None:
    # A group that may be null is absent from the configs of runs that are older than it.
    node = config.get(group)
    return None if node is None else _build(node, group, contract)


def _build(node: object, group: str, contract: type[T]) -> T:
    return _checked(_instantiated(node, group), node, group, contract)


def _instantiated(node: object, group: str) -> object:
    _refuse_wrong_values(node, group)
    try:
        return instantiate(node, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{group}: {cause}{_leftover_settings(node, group)}") from error


def _checked(part: object, node: object, group: str, contract: type[T]) -> T:
    if not isinstance(part, contract):
        target = cast("Config", node).get("_target_") if isinstance(node, Mapping) else node
        lacking = [name for name in _members(contract) if not hasattr(part, name)]
        raise ValueError(
            f"{group}: {target} gave a {type(part).__name__}, which is no {contract.__name__}"
            + (f": it lacks {', '.join(lacking)}" if lacking else "")
        )
    return part


def _leftover_settings(node: object, path: str) -> str:
    """What to do where a node has settings that its class does not take; empty where it has none."""
    if not isinstance(node, Mapping):
        return ""
    settings = cast("Config", node)
    accepted = parameters(str(settings.get("_target_")))
    taken = settings.keys() if accepted is None else accepted
    extra = [key for key in settings if not key.startswith("_") and key not in taken]
    if extra:
        target = settings["_target_"]
        near = [(key, name) for key in extra for name in get_close_matches(key, taken, 1, cutoff=0.8)]
        if near:
            return ". " + "; ".join(f"{path}.{key}: did you mean {path}.{name}?" for key, name in near)
        return (
            f". {path} has {', '.join(extra)}, which {target} does not take: a file that names another class "
            f"keeps the settings of the one before; {path}={{_target_: {target}}} on the command line drops "
            "them, and so does a group's file of your own with the entire node"
        )
    below = (_leftover_settings(value, f"{path}.{key}") for key, value in settings.items())
    return next((text for text in below if text), "")


def _members(contract: type[object]) -> list[str]:
    named = {
        name for base in contract.__mro__ for name in vars(base) if base.__module__.startswith("mirrorpo.")
    }
    return sorted(name for name in named if name == "__call__" or not name.startswith("_"))


def _refuse_wrong_values(node: object, path: str) -> None:
    # Group files have no schema; the annotations of the dataclasses they build are one.
    if isinstance(node, list):
        for index, item in enumerate(cast("list[object]", node)):
            _refuse_wrong_values(item, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    settings = cast("Config", node)
    hints = _annotations(settings)
    for key, value in settings.items():
        hint, knob = hints.get(key), f"{path}.{key}"
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{knob}={value}: choose one of {', '.join(map(str, get_args(hint)))}")
        if isinstance(hint, type) and hint in KINDS and not _is_a(value, hint):
            raise ValueError(f"{knob}={value!r}: give {KINDS[hint]}")
        _refuse_wrong_values(value, knob)


def _is_a(value: object, hint: type[object]) -> bool:
    # A bool is an int to Python.
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _annotations(node: Config) -> Mapping[str, object]:
    if "_target_" not in node:
        return {}
    try:
        return get_type_hints(get_object(node["_target_"]))
    except (ImportError, ValueError, NameError, TypeError):
        # A class that is missing is for instantiate to report, with its group; one without hints has none.
        return {}
