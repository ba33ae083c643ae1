"""The update at the true widths: MFU by micro-batch, memory, waits, the split of a step, a checkpoint."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from gpu.machine import MIB, Machine, listed
from gpu.models import Width, batch_of, components, credit_of, learner, request_of, wide
from gpu.rates import products
from gpu.sizes import Sizes, sizes
from gpu.table import Table
from mirrorpo.config.settings import EvaluationSettings, RunSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import EngineMemory
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.model.product import operand_bytes
from mirrorpo.model.sizes import ModelSizes, shape_of
from mirrorpo.train.drift import draw_probe
from mirrorpo.train.learner import Learner
from mirrorpo.train.memory_plan import GIB, Load, totals
from mirrorpo.train.micro_batch import plan_micro_batches
from mirrorpo.train.state import Checkpoints
from mirrorpo.train.step import Progress

SECTION = "update"
# MFU of the update, of the maker's rate, that the best micro-batch should reach.
WANTED_MFU = 0.22
# Waits for the device a micro-batch.
WANTED_SYNCS = 4.0
LEARNING_RATE = 1e-6


def run(table: Table, machine: Machine) -> None:
    """Each width, the checkpoint at the smallest alone."""
    rate = machine.peak_rate() or products(machine, machine.dtype)
    for width in sizes(machine).widths:
        _one(table, machine, width, rate)
        machine.free()


def _one(table: Table, machine: Machine, width: Width, rate: float) -> None:
    size = sizes(machine)
    model = wide(width, machine.device, machine.dtype)
    subject = learner(model, components("divergence=kl"), temperature=1.0)
    batch = batch_of(
        width.vocabulary, size.prompts, size.group, size.depth, size.learned, pad_id=model.pad_id, ragged=True
    )
    for tokens in size.micro_batches:
        arm = replace(subject, settings=replace(subject.settings, tokens_per_micro_batch=tokens))
        try:
            _arm(table, machine, width, arm, batch, rate)
        except torch.OutOfMemoryError:
            table.skip(SECTION, f"{width.name}, micro-batch {tokens}", "out of memory")
        arm.optimiser.zero_grad()
        machine.free()
    subject = replace(
        subject, settings=replace(subject.settings, tokens_per_micro_batch=size.micro_batches[1])
    )
    _waits(table, machine, width, subject, batch)
    _split(table, machine, width, subject)
    if width == size.widths[0]:
        _checkpoint(table, machine, width, subject)


def _learn(subject: Learner, batch: RolloutBatch) -> None:
    scored = subject.rescore(batch)
    subject.learn(scored, credit_of(subject, scored), [LEARNING_RATE])


def useful_flops(width: Width, batch: RolloutBatch) -> float:
    """What an update has to compute: six times the weights for each token, each prompt counted once."""
    prompts = batch.prompt_numbers()
    first = [int((prompts == number).nonzero()[0, 0]) for number in range(int(prompts.max()) + 1)]
    tokens = int(batch.present.sum()) + int(batch.prompt_present[first].sum())
    return 6.0 * width.multiplied * tokens


def _arm(
    table: Table, machine: Machine, width: Width, subject: Learner, batch: RolloutBatch, rate: float
) -> None:
    scored = subject.rescore(batch)
    credit = credit_of(subject, scored)
    machine.free()
    seconds = machine.seconds(lambda: subject.learn(scored, credit, [LEARNING_RATE]), sizes(machine).rounds)
    reached = useful_flops(width, batch) / seconds / 1e12
    counted = counted_bytes(subject, batch)
    speed = f"{int(batch.present.sum()) / seconds:.0f} tokens/s"
    table.speed(
        SECTION,
        f"{width.name}, micro-batch {subject.settings.tokens_per_micro_batch}: MFU",
        reached / rate,
        "",
        least=WANTED_MFU,
        note=f"{seconds:.3g} s, {speed}, {counted / GIB:.2g} GiB counted",
    )
    peak = machine.peak_mib()
    if peak is not None:
        # A run is refused by the sum, so that it must not be too small.
        table.speed(
            SECTION,
            f"{width.name}, micro-batch {subject.settings.tokens_per_micro_batch}: counted over peak memory",
            counted / (peak * MIB),
            "",
            least=0.95,
            note=f"peak {peak / 1024:.1f} GiB",
        )


def counted_bytes(subject: Learner, batch: RolloutBatch) -> int:
    """What `train.memory_plan` says that an update holds."""
    shape = shape_of(cast(PreTrainedModel, subject.policy.causal_lm))
    model = ModelSizes(
        shape=shape,
        rank=0,
        adapters=0,
        dropout=False,
        compute=subject.policy.dtype.itemsize,
        checkpointing=False,
    )
    load = Load(
        model=model,
        trains=True,
        reference=subject.reference is not None,
        optimiser=2 * 4 * shape.parameters,
        tokens=subject.settings.tokens_per_micro_batch,
        prompt=batch.prompt_ids.shape[1],
        completion=batch.completion_ids.shape[1],
        shared=subject.settings.shared_prefix != "never",
        anchored=0,
        logit_chunk=subject.settings.logit_chunk,
        head=operand_bytes(subject.policy.head_precision),
        engine=EngineMemory(),
    )
    return totals(load)["update"]


def _waits(table: Table, machine: Machine, width: Width, subject: Learner, batch: RolloutBatch) -> None:
    if not machine.on_card:
        table.skip(SECTION, f"{width.name}: waits a micro-batch", "only CUDA counts them")
        return
    scored = subject.rescore(batch)
    budget, sharing = subject.settings.tokens_per_micro_batch, subject.old_policy.forward.prefix_sharing
    count = len(plan_micro_batches(batch, budget, sharing))
    with machine.syncs() as waits:
        subject.learn(scored, credit_of(subject, scored), [LEARNING_RATE])
    table.speed(
        SECTION,
        f"{width.name}: waits a micro-batch",
        waits.total() / count,
        "",
        most=WANTED_SYNCS,
        note=f"{waits.total()} in an update of {count}",
        details=listed(waits),
    )


def _split(table: Table, machine: Machine, width: Width, subject: Learner) -> None:
    seconds = split(machine, subject, sizes(machine), width.vocabulary)
    step = sum(seconds.values())
    parts = ", ".join(f"{phase} {100 * part / step:.0f}%" for phase, part in seconds.items())
    table.fact(SECTION, f"{width.name}: a step, native sampling", step, "s", note=parts)


def split(machine: Machine, subject: Learner, size: Sizes, vocabulary: int) -> Mapping[str, float]:
    """Seconds of the phases of a step; rewards are dealt out, since random weights answer nothing."""
    model, engine = subject.policy, components().rollout
    request = request_of(vocabulary, size.prompts, size.group, size.depth, size.sampled)
    batch = batch_of(vocabulary, size.prompts, size.group, size.depth, size.sampled, pad_id=model.pad_id)
    scored = subject.rescore(batch)
    credit = credit_of(subject, scored)
    probe = draw_probe(
        model,
        engine,
        request.prompts,
        request.prompt_ids,
        max_new_tokens=size.sampled,
        temperature=1.0,
        positions=size.probe_positions,
    )
    phases = {
        "rollout": lambda: engine.generate(model, request),
        "score": lambda: subject.rescore(batch),
        "update": lambda: subject.learn(scored, credit, [LEARNING_RATE]),
        "drift": lambda: probe(model),
    }
    return {name: machine.seconds(phase, rounds=1) for name, phase in phases.items()}


def _checkpoint(table: Table, machine: Machine, width: Width, subject: Learner) -> None:
    config = components().config
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "checkpoints"
        folder.mkdir()
        checkpoints = Checkpoints(
            path=folder,
            config_hash="",
            learner=subject,
            ranks=ALONE,
            run=RunSettings.of(config),
            evaluation=EvaluationSettings.of(config),
        )
        progress = Progress(position=0, beta=0.0, budget=None)
        held_up = machine.seconds(lambda: checkpoints.save(1, progress, []), rounds=1, warm=0)
        seconds = held_up + machine.seconds(checkpoints.background.wait, rounds=1, warm=0)
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    table.fact(
        SECTION,
        f"{width.name}: a run held up by a checkpoint",
        held_up,
        "s",
        note=f"{nbytes / MIB:.0f} MiB, written in {seconds:.2g} s: {nbytes / seconds / 1e9:.2g} GB/s",
    )
