"""What a run will hold on its device, added up from shapes before anything is allocated.

Activations are counted as autograd keeps them: each tensor of a decoder layer that waits for the backward
pass, in the precision it has there. Weights and the optimiser's state are exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Literal, TypeAlias

from mirrorpo.core.protocols import EngineMemory
from mirrorpo.model.sizes import ModelSizes

GIB = 2**30
# Of a card: CUDA's context, libraries, and gaps between blocks of unlike size.
RESERVED = 0.05
# Float32 tensors that the backward pass of a trained, and of a frozen head holds at once: over a chunk's
# positions and the vocabulary; as large as its matrix, whose gradient there is of a chunk and in sum.
LOGIT_TENSORS, HEAD_TENSORS = (4, 3), (2, 0)
FLOAT = 4

Phase: TypeAlias = Literal["sampling", "update"]
PHASES: Sequence[Phase] = ("sampling", "update")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What decides how much a run holds.

    Attributes:
        model: its sizes.
        trains: whether there are updates.
        reference: whether a frozen copy is kept beside a policy without adapters.
        moving: anchors whose weights move with the run: each a copy of what is trained.
        optimiser: bytes of the optimiser's state.
        tokens: of the largest micro-batch.
        prompt: tokens of the longest prompt.
        completion: tokens of the longest completion.
        shared: whether prompts may be computed once for their completions.
        anchored: completion tokens whose hidden states under the anchor are kept, for an exact divergence; of
            a mixture once for each part.
        logit_chunk: positions whose logits exist at once.
        head: bytes of a number in the head's product.
        engine: of the rollouts and evaluations.
        processes: that share the run.
        anchor_top: bytes of the anchor's likeliest tokens, where a divergence reads them.
        old_states: completion tokens whose hidden states under the old policy are kept, for a trust region.
        old_top: bytes of the old policy's likeliest tokens, where a trust region reads them.
        rolls: whether completions are sampled on from while what was read of them is kept.
    """

    model: ModelSizes
    trains: bool
    reference: bool
    optimiser: int
    tokens: int
    prompt: int
    completion: int
    shared: bool
    anchored: int
    logit_chunk: int
    head: int
    engine: EngineMemory
    processes: int = 1
    anchor_top: int = 0
    moving: int = 0
    old_states: int = 0
    old_top: int = 0
    rolls: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a run holds in some of its phases."""

    name: str
    size: int
    phases: Sequence[Phase]


def layer_bytes(load: Load) -> int:
    """What one layer keeps of one token for the backward pass."""
    model, shape, c = load.model, load.model.shape, load.model.compute
    width, heads, keys = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    cast = c != FLOAT
    if model.rank:
        # Frozen norms keep what they normalised; adapters keep their own inputs, what is between their two
        # matrices, and a byte for what was dropped.
        out = 2 * FLOAT * width + width * c * (6 if cast or model.dropout else 2) + 7 * model.rank * c
        out += (6 * width + shape.intermediate) * model.dropout
        normed = FLOAT
    else:
        # Two norms in float32, what goes in and what was normalised; casts of five products' input, or two.
        out = 4 * FLOAT * width + width * c * (5 if cast else 2)
        normed = FLOAT + c
    if shape.normed_heads:
        out += normed * (heads + keys)
    # Gate, its activation, the other factor, and the product.
    out += 4 * shape.intermediate * c
    # Queries, result, keys and values, the latter two for every head, and with the shared prompt before them.
    row = load.prompt + load.completion
    spread = row / load.completion if load.shared and not model.checkpointing else 1.0
    out += round((2 + 2 * spread) * heads * c) + shape.heads * FLOAT
    # The mask: a row of keys for each query.
    return out + row * c


def saved(load: Load) -> int:
    """What a pass over the largest micro-batch leaves for its backward pass, but for weights."""
    model, shape = load.model, load.model.shape
    of_layer = shape.width * model.weight if model.checkpointing else layer_bytes(load)
    # The last norm: its input, and what it makes of it.
    last = (1 if model.rank else 2) * FLOAT * shape.width
    return load.tokens * (shape.layers * of_layer + last)


def activations(load: Load) -> int:
    """What there is of the largest micro-batch at the begin of its backward pass: the head's states too."""
    return saved(load) + load.tokens * 2 * FLOAT * load.model.shape.width


def layer_backward(load: Load) -> int:
    """What a layer's backward pass holds beside: the gradient of its products, and the layer made again."""
    again = layer_bytes(load) if load.model.checkpointing else 0
    return load.tokens * (again + 2 * load.model.compute * load.model.shape.intermediate)


def casts(load: Load) -> int:
    """Autocast's copies of the layers' matrices, which live through a pass."""
    model = load.model
    return 0 if model.weight == model.compute else model.shape.hidden * model.compute


def reference(load: Load) -> int:
    """The frozen copy: matrices as they are computed with, embeddings in float32."""
    if not load.reference or load.model.rank:
        return 0
    shape = load.model.shape
    return shape.hidden * load.model.compute + shape.embeddings * FLOAT


def moving(load: Load) -> int:
    """Anchors that move: copies in the policy's own dtype, or further adapters."""
    model = load.model
    return load.moving * (model.adapters * FLOAT if model.rank else model.shape.parameters * model.weight)


def logits(load: Load) -> int:
    """What the head holds at a chunk: tensors over the vocabulary, gradients and copies of its matrix."""
    shape, frozen = load.model.shape, load.model.rank > 0
    positions, matrix = min(load.logit_chunk, load.tokens), shape.vocabulary * shape.width
    # In half precision the gradient of the logits has a copy too.
    rounded = load.head if load.head != FLOAT else 0
    of_position = FLOAT * LOGIT_TENSORS[frozen] + rounded
    copy = load.head if load.head != load.model.weight else 0
    return positions * shape.vocabulary * of_position + matrix * (FLOAT * HEAD_TENSORS[frozen] + copy)


def parts(load: Load) -> list[Part]:
    """Everything that a run holds, and when."""
    model, share = load.model, load.processes
    weights, update = model.shape.parameters * model.weight, load.trains
    both: Sequence[Phase] = PHASES
    # Of several processes each has its share, and gathers the parameters for a phase.
    held = [
        Part("weights", weights // share, both),
        Part("weights, gathered", weights if share > 1 else 0, both),
        Part("optimiser", update * load.optimiser // share, both),
        Part("reference", reference(load) // share, both),
        Part("anchors that move", moving(load) // share, both),
        Part("weights in the compute dtype", casts(load), both),
        Part("sampling", load.engine.sampling, ("sampling",)),
        Part("sampler, waiting", load.engine.between, ("update",)),
    ]
    if update:
        state = model.shape.width * model.compute
        rescored: Sequence[Phase] = both if load.rolls else ("update",)
        held += [
            Part("gradients", model.trained * FLOAT, ("update",)),
            Part("activations", activations(load), ("update",)),
            # The head's backward pass is over when the layers' begins.
            Part("logits, or a layer", max(logits(load), layer_backward(load)), ("update",)),
            Part("states of the anchor", load.anchored * state, rescored),
            Part("tokens of the anchor", load.anchor_top, rescored),
            Part("states of the old policy", load.old_states * state, rescored),
            Part("tokens of the old policy", load.old_top, rescored),
        ]
    return [part for part in held if part.size]


def totals(load: Load) -> dict[Phase, int]:
    """Bytes of each phase."""
    held = parts(load)
    return {phase: sum(part.size for part in held if phase in part.phases) for phase in PHASES}


def peak(load: Load) -> int:
    """Bytes at the largest phase."""
    return max(totals(load).values())


def usable(card: int) -> int:
    """Bytes of a card that tensors may take."""
    return round((1 - RESERVED) * card)


def record(load: Load, card: int) -> Mapping[str, object]:
    """The table, for the manifest, in GiB."""
    return {
        "card_gib": _gib(card),
        "usable_gib": _gib(usable(card)),
        "phases_gib": {phase: _gib(size) for phase, size in totals(load).items()},
        "parts_gib": {part.name: _gib(part.size) for part in parts(load)},
    }


def line(load: Load, card: int) -> str:
    """The largest phase and its parts, in words."""
    of_phases = totals(load)
    phase = max(PHASES, key=lambda phase: of_phases[phase])
    held = sorted((part for part in parts(load) if phase in part.phases), key=lambda part: -part.size)
    named = ", ".join(f"{part.name} {_gib(part.size)}" for part in held if part.size >= 0.05 * GIB)
    doing = {"sampling": "while it samples", "update": "in an update"}[phase]
    return f"{_gib(of_phases[phase])} of {_gib(usable(card))} GiB {doing} ({named})"


@dataclass(frozen=True, slots=True)
class Cure:
    """A setting as it is typed, and what a load is under it.

    Attributes:
        setting: the same text in front of `=` is the same setting.
        change: the load under it; the same load where it has no effect.
    """

    setting: str
    change: Callable[[Load], Load]


def refusal(load: Load, card: int, cures: Sequence[Cure]) -> str:
    """Why a run does not fit on its card and what would make it fit, in a line; empty where it fits."""
    if peak(load) <= usable(card):
        return ""
    ways = [f"{' '.join(settings)} ({_gib(size)} GiB)" for settings, size in fitting(load, card, cures)]
    advice = f"it fits with {', or '.join(ways)}" if ways else "take a smaller model, or more devices"
    return f"device=cuda: the run would hold {line(load, card)}; {advice}"


def fitting(
    load: Load, card: int, cures: Sequence[Cure], most: int = 3
) -> Iterator[tuple[Sequence[str], int]]:
    """The smallest sets of settings that make a load fit, at most so many, each with its peak."""
    chosen: list[set[str]] = []
    for count in range(1, len(cures) + 1):
        for some in combinations(cures, count):
            settings = [cure.setting for cure in some]
            twice = len({setting.partition("=")[0] for setting in settings}) < count
            if twice or any(smaller <= set(settings) for smaller in chosen):
                continue
            changed = load
            for cure in some:
                changed = cure.change(changed)
            if peak(changed) <= usable(card):
                chosen.append(set(settings))
                yield settings, peak(changed)
                if len(chosen) == most:
                    return


def cures(load: Load) -> list[Cure]:
    """Settings that may make a run hold less, the cheapest first; the last changes what is trained."""
    sizes = [size for size in (4096, 2048) if max(load.prompt + load.completion, 1) <= size < load.tokens]
    return [
        *(Cure(setting, partial(_with, engine=engine)) for setting, engine in load.engine.under.items()),
        *(Cure(f"tokens_per_micro_batch={size}", partial(_with, tokens=size)) for size in sizes),
        *([] if load.model.checkpointing else [Cure("model.gradient_checkpointing=true", _recomputed)]),
        *([] if load.model.rank else [Cure("lora@model.lora=r16", _adapted)]),
    ]


def _with(load: Load, **settings: object) -> Load:
    return replace(load, **settings)  # type: ignore[arg-type]


def _recomputed(load: Load) -> Load:
    return replace(load, model=replace(load.model, checkpointing=True))


def _adapted(load: Load) -> Load:
    # Adapters of the shipped rank; their two averages are nothing beside the rest.
    model = load.model.with_adapters(rank=16, dropout=True)
    return replace(load, model=model, optimiser=8 * model.trained)


def _gib(size: int) -> float:
    return round(size / GIB, 1)
