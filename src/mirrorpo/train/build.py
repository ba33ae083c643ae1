"""Config groups to objects: the one `instantiate`, and what the objects say of each other.

Every object is checked against the protocol of its group, whether its class is of this package or not.
What an object refuses, or has to say, it states itself (`StatesRequirements`, `StatesNotes`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar, cast

from mirrorpo.algo.entropy import NO_ENTROPY_CONTROL
from mirrorpo.algo.importance_correction import NoCorrection
from mirrorpo.algo.row import Algorithm
from mirrorpo.algo.trust_region import NO_TRUST_REGION
from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.settings import AnswerSettings
from mirrorpo.config.typed import OF_ANOTHER_OBJECT
from mirrorpo.core.protocols import (
    Anchor,
    BetaSchedule,
    Config,
    Dataset,
    DeclaresEvaluationOnly,
    DeclaresInert,
    DeclaresModelNeeds,
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
from mirrorpo.train.build_object import build_object, checked, instantiated, refuse_wrong_values, without
from mirrorpo.train.build_penalty import build_penalty
from mirrorpo.train.eval_set import EvalSet
from mirrorpo.weighting.unscored import span_weighting

T = TypeVar("T")

# A reward may be a plain function. isinstance takes the type, whose own type has no name.
CALLABLE = cast("type[object]", Callable)


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
    algo = build_object(config["algo"], "algo", Algorithm)
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
        beta_schedule=build_object(config["beta_schedule"], "beta_schedule", BetaSchedule),
        model=build_object(config["model"], "model", ModelSpec),
        dataset=build_dataset(config),
        reward=verifier(build_object(config["reward"], "reward", CALLABLE)),
        rollout=engine,
        sampler=sampler,
        eval_rollout=build_object(config["eval_rollout"], "eval_rollout", RolloutEngine),
        optim=build_object(config["optim"], "optim", OptimiserSpec),
        schedule=build_object(config["schedule"], "schedule", LearningRateSchedule),
        tracking=build_object(config["tracking"], "tracking", TrackerSpec),
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
    class_settings, settings = without(node, "rollout", *OF_ANOTHER_OBJECT["rollout"])
    refuse_wrong_values({"_target_": "mirrorpo.rollout.sampler.Sampler", **settings}, "rollout")
    # A node of an outside class, or of an older run, has none of them.
    sampler = replace(AS_TRAINED, **settings)
    return sampler, sampler.engine(build_object(class_settings, "rollout", RolloutEngine))


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
    return build_object(config["dataset"], "dataset", Dataset)


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
        dataset=build_object(node["dataset"], f"{path}.dataset", Dataset),
        reward=verifier(build_object(node["reward"], f"{path}.reward", CALLABLE)),
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
    part = instantiated(_without_scope(node, "weighting"), "weighting")
    if isinstance(part, SegmentCredit):
        return part
    return span_weighting(checked(part, node, "weighting", Weighting))


def _without_scope(node: Config, group: str) -> Config:
    # A weighting around another one has that of a file with its scope, which has to be its own.
    class_settings, scope = without(node, group, "scope")
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


def _optional(config: Config, group: str, contract: type[T]) -> T | None:
    # A group that may be null is absent from the configs of runs that are older than it.
    node = config.get(group)
    return None if node is None else build_object(node, group, contract)
