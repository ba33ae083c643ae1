"""Whether a run fits on its card, said before anything large is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from mirrorpo.algo.trust_region import top_of
from mirrorpo.config.settings import AnswerSettings, RolloutSettings, UpdateSettings
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import (
    BoundsRolls,
    Dataset,
    DeclaresStateBytes,
    EngineMemory,
    GivesExamples,
    HoldsDeviceMemory,
    RolloutEngine,
    SamplingSizes,
    SegmentCredit,
)
from mirrorpo.model.product import operand_bytes
from mirrorpo.model.sizes import HasSizes, ModelSizes
from mirrorpo.train.build import Components
from mirrorpo.train.memory_plan import Load, cures, line, record, refusal
from mirrorpo.train.questions import Questions

# Of a text without its tokenizer: few languages need more, and a template adds some.
CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 3, 32
# An id and a log-probability.
TOP_TOKEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What a run will hold on its card.

    Attributes:
        note: in words.
        table: for the manifest.
    """

    note: str
    table: Mapping[str, object]


def checked_memory(
    components: Components, questions: Questions, device: torch.device, processes: int
) -> Memory | None:
    """The sum of what a run will hold on a CUDA device; None elsewhere, and where a model has no sizes.

    Raises:
        ValueError: if it does not fit, with the settings under which it would.
    """
    if device.type != "cuda":
        return None
    _, card = torch.cuda.mem_get_info(device)
    load = load_of(components, questions, device, card, processes)
    if load is None:
        return None
    if reason := refusal(load, card, cures(load)):
        raise ValueError(reason)
    return Memory(note=f"memory: {line(load, card)}, by counting", table=record(load, card))


def load_of(
    components: Components, questions: Questions, device: torch.device, card: int, processes: int
) -> Load | None:
    """What decides how much a run holds; None where its model has no sizes, or cannot be loaded."""
    if not isinstance(components.model, HasSizes):
        return None
    try:
        model = components.model.sizes(device)
    except (ImportError, OSError, ValueError):
        # Loading it says what is wrong.
        return None
    config, update = components.config, UpdateSettings.of(components.config)
    rollout, prompt = RolloutSettings.of(config), prompt_tokens(components, questions)
    rows = rollout.prompts_per_step * rollout.group_size
    row = prompt + rollout.max_new_tokens
    tokens, parts = rows * rollout.max_new_tokens, components.anchor.parts
    read, region = components.penalty.reads_reference, components.trust_region
    leaves = update.updates_per_rollout > 1
    trained_matrices = model.trained if model.rank else model.shape.hidden
    return Load(
        model=model,
        trains=config["steps"] > 0,
        reference=read and any(part.source == "reference" and not part.moves for part in parts),
        moving=sum(part.moves for part in parts) if read else 0,
        optimiser=_optimiser_bytes(components.optim, trained_matrices, model.trained - trained_matrices),
        tokens=max(min(update.tokens_per_micro_batch, rows * row), row),
        prompt=prompt,
        completion=rollout.max_new_tokens,
        shared=update.shared_prefix != "never",
        anchored=tokens * len(parts) if components.penalty.reads_hidden else 0,
        logit_chunk=update.logit_chunk,
        head=operand_bytes(config["head_precision"]),
        engine=_engines(components, questions, model, card, processes),
        processes=processes,
        anchor_top=tokens * components.penalty.anchor_top * TOP_TOKEN,
        old_states=tokens * (leaves and region.reads == "vocabulary"),
        old_top=tokens * leaves * top_of(region) * TOP_TOKEN,
        rolls=isinstance(components.weighting, SegmentCredit),
    )


def prompt_tokens(components: Components, questions: Questions) -> int:
    """About how long the longest prompt is."""
    dataset = components.dataset
    return _tokens_of(dataset, (*questions.train, *questions.evaluation))


def _tokens_of(dataset: Dataset, prompts: Iterable[Prompt]) -> int:
    longest = max(len(prompt.question) for prompt in prompts)
    turns = [dataset.system, dataset.user]
    if isinstance(dataset, GivesExamples):
        turns += [dataset.user + example.question + example.answer for example in dataset.examples]
    return TEMPLATE_TOKENS + (sum(map(len, turns)) + longest) // CHARACTERS_PER_TOKEN


def _optimiser_bytes(optimiser: object, matrices: int, others: int) -> int:
    if isinstance(optimiser, DeclaresStateBytes):
        return optimiser.state_bytes(matrices, others)
    return 8 * (matrices + others)


def _engines(
    components: Components, questions: Questions, model: ModelSizes, card: int, processes: int
) -> EngineMemory:
    # Training and evaluation share an engine where theirs are equal.
    rollout = RolloutSettings.of(components.config)
    prompt = prompt_tokens(components, questions)
    sets: list[tuple[AnswerSettings, int]] = [(AnswerSettings.of(components.config), prompt)]
    for name, eval_set in components.eval_sets.items():
        longest = _tokens_of(eval_set.dataset, questions.sets[name].evaluation)
        sets.append((eval_set.settings, longest))

    def held(engine: RolloutEngine, rows: int, tokens: int) -> EngineMemory:
        sizes = SamplingSizes(
            card=card,
            rows=-(-rows // processes),
            tokens=tokens,
            token_bytes=model.shape.cached * model.compute,
            vocabulary=model.shape.vocabulary,
        )
        return engine.device_memory(sizes) if isinstance(engine, HoldsDeviceMemory) else EngineMemory()

    rows = rollout.prompts_per_step * rollout.group_size
    training = held(components.rollout, *_sampled_sizes(components, rows, prompt, rollout.max_new_tokens))
    answering = held(
        components.eval_rollout,
        # A greedy answer is sampled beside the others.
        max(max(each.eval_questions, each.sampled * (each.eval_samples + 1)) for each, _ in sets),
        max(length + each.eval_max_new_tokens for each, length in sets),
    )
    return _together(training, answering, shared=components.rollout == components.eval_rollout)


def _sampled_sizes(components: Components, rows: int, prompt: int, longest: int) -> tuple[int, int]:
    # Rows and their tokens in the larger call: the rollout's, or that of its rolls, of which the one with the
    # longest beginning may go on for as long as the one with the shortest.
    weighting = components.weighting
    if not isinstance(weighting, SegmentCredit):
        return rows, prompt + longest
    rolls = rows * weighting.most_rolls if isinstance(weighting, BoundsRolls) else rows
    return max(rows, rolls), prompt + 2 * longest - 1


def _together(training: EngineMemory, answering: EngineMemory, *, shared: bool) -> EngineMemory:
    # Of two engines one waits while the other samples.
    def joined(first: EngineMemory, second: EngineMemory) -> EngineMemory:
        if shared:
            return EngineMemory(
                sampling=max(first.sampling, second.sampling), between=max(first.between, second.between)
            )
        return EngineMemory(
            sampling=max(first.sampling + second.between, second.sampling + first.between),
            between=first.between + second.between,
        )

    both = joined(training, answering)
    under = {
        " ".join(
            f"{group}.{setting}"
            for group, engine in (("rollout", training), ("eval_rollout", answering))
            if setting in engine.under
        ): joined(training.under.get(setting, training), answering.under.get(setting, answering))
        for setting in {**training.under, **answering.under}
    }
    return EngineMemory(sampling=both.sampling, between=both.between, under=under)
