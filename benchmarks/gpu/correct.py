"""Whether the device computes what the CPU does: numbers, gradients, samples, updates.

The yardstick is the same small model in float64 on the CPU, so that a CPU can fail this too.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor

from gpu.machine import Machine
from gpu.models import (
    SMALL_VOCABULARY,
    Kept,
    batch_of,
    components,
    credit_of,
    learner,
    names,
    request_of,
    small,
)
from gpu.table import Table
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.divergence.kl import k3
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.model.lora import Lora
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native
from mirrorpo.train.build import Components
from mirrorpo.train.learner import Learner, ScoredBatch
from mirrorpo.train.model_check import WAYS, model_check

SECTION = "correct"
# What float32 may be from float64; what bfloat16 may be from it in the mean, in nats.
CLOSE, NEAR = 1e-4, 0.05
# Of what an update moves: Adam's first step is the gradient's sign, and where that is all but zero, rounding
# decides.
MOVED = 1e-2
# Mean k3 between sampler and trainer, in nats.
SAMPLER_CLOSE, SAMPLER_NEAR = 1e-9, 1e-4
MASKINGS: Sequence[Masking] = ("pad", "block", "delete", "direct")
CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=None)
NATIVE = Native(rows_at_once=64, compact_at=0.25, check_every=4, cache_block=16, top_p=1.0)


@cache
def subjects(device: torch.device) -> tuple[LanguageModel, LanguageModel, RolloutBatch]:
    """The yardstick, the same model on a device, and what both read; nothing changes them."""
    ours = small(device)
    batch = batch_of(SMALL_VOCABULARY, 3, 4, 9, 12, pad_id=ours.pad_id, ragged=True)
    return double(small(CPU)), ours, batch


def double(model: LanguageModel) -> LanguageModel:
    """The model in float64, which it then computes in."""
    return replace(model, network=copy.deepcopy(model.network).double())


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of numbers whose size is about one."""
    return float((ours.detach().cpu().double() - theirs.detach().cpu().double()).abs().max())


def share(ours: Tensor, theirs: Tensor) -> float:
    """The part of a gradient that differs, by norms."""
    theirs = theirs.double()
    return float((ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-30))


def read(
    model: LanguageModel, batch: RolloutBatch, rows_per_forward: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy at each completion token, without gradient."""
    with torch.no_grad(), model.evaluating():
        out, _ = read_completions(
            model,
            batch.to(model.device),
            temperature=0.8,
            logit_chunk=32,
            rows_per_forward=rows_per_forward,
        )
    return out.logprobs, out.entropy


def learned(subject: Learner, batch: RolloutBatch) -> tuple[float, Tensor]:
    """Loss and gradient of one update off the policy, in which the ratios are not one."""
    scored = subject.rescore(batch)
    noise = torch.randn(batch.present.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), subject.policy.evaluating():
        out, _ = read_completions(
            subject.policy, batch.to(subject.policy.device), temperature=1.0, logit_chunk=64
        )
        live = per_token(out.logprobs, batch.to(subject.policy.device)).float().cpu()
    scored = ScoredBatch(
        batch=scored.batch.with_(old_logprobs=live + 0.2 * noise), anchor_head=scored.anchor_head
    )
    metrics = subject.learn(scored, credit_of(subject, scored), [1e-3])
    kept = subject.optimiser
    assert isinstance(kept, Kept) and kept.gradient is not None
    return metrics["loss/value"], kept.gradient


def _learner(policy: LanguageModel, start: LanguageModel, parts: Components) -> Learner:
    return learner(
        policy,
        parts,
        start=start,
        optimiser=Kept(policy.network),
        updates_per_rollout=2,
        temperature=1.0,
        max_grad_norm=0.0,
        tokens_per_micro_batch=160,
        logit_chunk=64,
    )


def _apart(
    exact: LanguageModel, ours: LanguageModel, batch: RolloutBatch, parts: Components
) -> tuple[float, float]:
    # How far loss and gradient are from float64's, the loss as a share of its size.
    starts = double(small(CPU, seed=1)), small(ours.device, seed=1)
    pairs = zip((exact, ours), starts, strict=True)
    (loss, gradient), (our_loss, our_gradient) = (
        learned(_learner(policy, start, parts), batch) for policy, start in pairs
    )
    return abs(our_loss - loss) / max(abs(loss), 0.01), share(our_gradient, gradient)


def forward(table: Table, machine: Machine) -> None:
    """Log-probabilities and entropies, with full rows and with prompts computed once."""
    exact, ours, batch = subjects(machine.device)
    theirs = read(exact, batch)
    for name, rows in (("full rows", ()), ("shared prompts", (4, 4, 4))):
        numbers = read(ours, batch, rows)
        for index, what in enumerate(("log-probabilities", "entropies")):
            table.right(SECTION, f"{what}, {name}", gap(numbers[index], theirs[index]), "nats", CLOSE)


def divergences(table: Table, machine: Machine) -> None:
    """Loss and gradient of every divergence; a line for each that reads the vocabulary."""
    exact, ours, batch = subjects(machine.device)
    sampled: list[tuple[float, str]] = []
    for name in names("divergence"):
        if name == "none":
            continue
        parts = components(f"divergence={name}", "divergence.beta=0.5")
        worst = max(_apart(exact, ours, batch, parts))
        if parts.penalty.reads == "vocabulary":
            table.right(SECTION, f"{name}: loss, gradient", worst, "share", CLOSE)
        else:
            sampled.append((worst, name))
    _worst(table, f"{len(sampled)} sampled divergences: loss, gradient", sampled)


def algorithms(table: Table, machine: Machine) -> None:
    """Loss and gradient of every algorithm, where ratios are not one."""
    exact, ours, batch = subjects(machine.device)
    gaps = [
        (max(_apart(exact, ours, batch, components(f"algo={name}"))), name)
        for name in names("algo")
        if name != "sft"
    ]
    _worst(table, f"{len(gaps)} algorithms off policy: loss, gradient", gaps)


def _worst(table: Table, name: str, gaps: Sequence[tuple[float, str]]) -> None:
    value, at = max(gaps)
    table.right(SECTION, name, value, "share", CLOSE, note=f"most in {at}")


def optimisers(table: Table, machine: Machine) -> None:
    """What an update of each optimiser moves."""
    _, _, batch = subjects(machine.device)
    for name in names("optim"):
        parts, moved = components(f"optim={name}", "divergence=none"), []
        for model in (double(small(CPU)), small(machine.device)):
            before = flat(model)
            subject = learner(model, parts, max_grad_norm=1.0)
            scored = ScoredBatch(batch=batch, anchor_head=None)
            subject.learn(scored, credit_of(subject, scored), [1e-2])
            moved.append(flat(model) - before)
        table.right(SECTION, f"{name}: what an update moves", share(moved[1], moved[0]), "share", MOVED)


def flat(model: LanguageModel) -> Tensor:
    """All parameters, on the CPU in float64."""
    return torch.cat([p.detach().flatten().double().cpu() for p in model.network.parameters()])


def ways(table: Table, machine: Machine) -> None:
    """Every way of reading a model against the network alone: sampling, hiding spans, gradients."""
    _, ours, _ = subjects(machine.device)
    check = model_check(ours, WAYS)
    for way in WAYS:
        closed = check.closed.get(way)
        table.right(
            SECTION,
            f"{way}: against the network alone",
            check.gaps.get(way),
            "nats",
            CLOSE,
            note=f"error: {closed}" if closed else "",
        )


def cut_spans(table: Table, machine: Machine) -> None:
    """Counterfactual cuts with each masking."""
    exact, ours, batch = subjects(machine.device)
    lengths = [int(length) for length in batch.present.sum(dim=1)]
    cuts = [
        Cut(row=row, start=start, end=start + 2, first=min(start + 3, length - 1), last=length)
        for row, length in enumerate(lengths)
        for start in range(0, length - 3, 3)
    ]
    for masking in MASKINGS:
        theirs, numbers = (
            read_cuts(
                model,
                batch.to(model.device),
                cuts,
                masking=masking,
                temperature=0.8,
                logit_chunk=32,
            )[1]
            for model in (exact, ours)
        )
        table.right(SECTION, f"{len(cuts)} cuts, masking {masking}", gap(numbers, theirs), "nats", CLOSE)


def recomputed(table: Table, machine: Machine) -> None:
    """The gradient where activations are made again in the backward pass."""
    exact, _, batch = subjects(machine.device)
    model = small(machine.device)
    causal_lm = cast("torch.nn.Module", model.causal_lm)
    # The older name is that of transformers below 5.20.
    enable = getattr(causal_lm, "activation_checkpointing_enable", None)
    (enable or getattr(causal_lm, "gradient_checkpointing_enable"))({"use_reentrant": False})  # noqa: B009
    worst = max(_apart(exact, model, batch, components()))
    table.right(SECTION, "recomputed activations: gradient", worst, "share", CLOSE)


def lora(table: Table, machine: Machine) -> None:
    """The gradient of an adapter, and its sum with the base."""
    _, _, batch = subjects(machine.device)
    if find_spec("peft") is None:
        table.skip(SECTION, "LoRA", "peft is not here")
        return
    gradients: list[Tensor] = []
    for base in (double(small(CPU)), small(machine.device)):
        model = with_adapter(base, LORA, 0)
        # A fresh adapter is the identity; peft leaves it in float32.
        draw = torch.Generator().manual_seed(0)
        for name, parameter in model.network.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(next(base.network.parameters()).dtype)
            if ".lora_B." in name:
                noise = 0.05 * torch.randn(parameter.shape, generator=draw)
                parameter.data.copy_(noise)
        gradients.append(learned(_learner(model, reference(model), components()), batch)[1])
    table.right(SECTION, "LoRA: gradient", share(gradients[1], gradients[0]), "share", CLOSE)
    adapted = with_adapter(small(machine.device), LORA, 0)
    check = model_check(adapted, ["merge"])
    table.right(
        SECTION,
        "LoRA: merged against live",
        check.gaps.get("merge"),
        "nats",
        CLOSE,
        note="".join(f"error: {reason}" for reason in check.closed.values()),
    )


def sampled_kl(model: LanguageModel, prompts: int, group: int, depth: int, length: int) -> float:
    """Mean k3 from the sampler's log-probabilities to the trainer's, in nats: `kl/sampler`."""
    request = request_of(SMALL_VOCABULARY, prompts, group, depth, length, temperature=0.8)
    answers = NATIVE.generate(model, request)
    batch = collate(answers, [0.0] * len(answers), pad_id=model.pad_id, mask_truncated=False)
    ours, _ = read(model, batch)
    return float(k3(batch.sampler_logprobs[batch.present].double(), ours.cpu().double()).mean())


def sampler(table: Table, machine: Machine) -> None:
    """What the sampler says of its tokens against what the trainer says."""
    for dtype in DTYPES:
        _sampler(table, replace(subjects(machine.device)[1], dtype=dtype))


def _sampler(table: Table, model: LanguageModel) -> None:
    half = model.dtype != torch.float32
    table.right(
        SECTION,
        f"kl/sampler, native, {_name(model.dtype)}",
        sampled_kl(model, 6, 4, 8, 48),
        "nats",
        SAMPLER_NEAR if half else SAMPLER_CLOSE,
    )


def repeated(table: Table, machine: Machine) -> None:
    """A gradient that is computed twice."""
    _, ours, batch = subjects(machine.device)
    for dtype in DTYPES:
        _repeated(table, replace(ours, dtype=dtype), batch)


def _repeated(table: Table, model: LanguageModel, batch: RolloutBatch) -> None:
    start = reference(model)
    with _undetermined() as operations:
        first, second = (learned(_learner(model, start, components()), batch)[1] for _ in range(2))
    table.right(
        SECTION,
        f"gradient again, {_name(model.dtype)}: numbers that differ",
        float((first != second).sum()),
        "",
        0.0,
        note="no deterministic form: " + ", ".join(sorted(operations)) if operations else "",
    )


@contextmanager
def _undetermined() -> Iterator[set[str]]:
    # Names of operations that torch says it cannot repeat.
    operations: set[str] = set()

    def note(message: object, *_: object, **__: object) -> None:
        text = str(message)
        if "deterministic" in text:
            operations.add(text.split()[0])

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = cast("Callable[..., None]", note)
        yield operations


def half_precision(table: Table, machine: Machine) -> None:
    """How far log-probabilities in bfloat16 are from exact ones."""
    exact, ours, batch = subjects(machine.device)
    half = replace(ours, dtype=torch.bfloat16)
    difference = (read(half, batch)[0].cpu().double() - read(exact, batch)[0]).abs()
    table.right(
        SECTION,
        "bfloat16 against float64: mean of a token",
        float(difference.mean()),
        "nats",
        NEAR,
        note=f"largest {float(difference.max()):.2g}",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PARTS = (
    forward, divergences, algorithms, optimisers, ways, cut_spans, recomputed, lora, sampler, repeated,
    half_precision,
)  # fmt: skip
