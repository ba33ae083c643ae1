"""Native sampling at the true widths: tokens a second, waits for the device, kl to the trainer."""

import torch

from gpu.machine import Machine, listed
from gpu.models import Width, components, request_of, wide
from gpu.sizes import sizes
from gpu.table import Table
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.divergence.kl import k3
from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate

SECTION = "sampling"
# Milliseconds a token of all rows: 28 layers of some seventy kernels, launched one by one.
WANTED_MS = 20.0
# Waits a token: one look in `check_every`, and what a compaction and the end take.
WANTED_SYNCS = 1.0
# Mean k3 from sampler to trainer, in nats.
KL = 1e-4


def run(table: Table, machine: Machine) -> None:
    """Each width."""
    for width in sizes(machine).widths:
        _one(table, machine, width)
        machine.free()


def _one(table: Table, machine: Machine, width: Width) -> None:
    size, engine = sizes(machine), components().rollout
    model = wide(width, machine.device, machine.dtype)
    request = request_of(width.vocabulary, size.prompts, size.group, size.depth, size.sampled)
    rows = size.prompts * size.group
    seconds = machine.seconds(lambda: engine.generate(model, request), size.rounds)
    name = f"{width.name}, {rows} rows, {size.sampled} tokens"
    table.fact(SECTION, f"{name}: native", rows * size.sampled / seconds, "tokens/s")
    table.speed(SECTION, f"{name}: a token of all rows", 1e3 * seconds / size.sampled, "ms", most=WANTED_MS)
    with machine.syncs() as waits:
        answers = engine.generate(model, request)
    if machine.on_card:
        table.speed(
            SECTION,
            f"{width.name}: waits a token",
            waits.total() / size.sampled,
            "",
            most=WANTED_SYNCS,
            details=listed(waits),
        )
    batch = collate(answers, [0.0] * len(answers), pad_id=model.pad_id, mask_truncated=False)
    table.right(SECTION, f"{width.name}: kl/sampler", _kl(model, batch), "nats", KL)
    if not machine.on_card:
        table.skip(SECTION, f"{width.name}: waits a token", "only CUDA counts them")


def _kl(model: LanguageModel, batch: RolloutBatch) -> float:
    values = []
    with torch.no_grad(), model.evaluating():
        for part in torch.arange(len(batch)).split(16):
            rows = batch.rows(part).to(model.device)
            out, _ = read_completions(model, rows, temperature=1.0, logit_chunk=1024)
            values.append(k3(rows.sampler_logprobs[rows.present], out.logprobs).cpu().double())
    return float(torch.cat(values).mean())
