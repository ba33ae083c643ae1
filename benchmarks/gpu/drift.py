"""The drift probe at the true vocabulary: its numbers against plain ones in float64, and what it costs."""

import torch
from torch import Tensor

from gpu.machine import Machine
from gpu.models import Width, components, request_of, wide
from gpu.sizes import sizes
from gpu.table import Table
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.train.drift import Probe, draw_probe

SECTION = "drift"
# Of the three distances, relative to each; float32 log-probabilities are behind both sides.
CLOSE = 1e-3
# Seconds a step.
WANTED_SECONDS = 0.3
# What the policy is moved by, as a share of its weights' spread.
MOVED = 0.2


def run(table: Table, machine: Machine) -> None:
    """One probe a width."""
    for width in sizes(machine).widths:
        _one(table, machine, width)
        machine.free()


def _one(table: Table, machine: Machine, width: Width) -> None:
    size = sizes(machine)
    model = wide(width.with_(layers=min(width.layers, 4)), machine.device, machine.dtype)
    request = request_of(width.vocabulary, size.prompts, 1, size.depth, size.sampled)
    probe = draw_probe(
        model,
        components().rollout,
        request.prompts,
        request.prompt_ids,
        max_new_tokens=size.sampled,
        temperature=1.0,
        positions=size.probe_positions,
    )
    assert isinstance(probe, Probe)
    before = _table(model, probe)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(MOVED * parameter.std() * torch.randn_like(parameter))
    ours, theirs = probe(model), _distances(_table(model, probe), before)
    for name, value in ours.items():
        table.right(
            SECTION,
            f"{width.name}, {len(probe.positions)} states: {name}, error",
            abs(value / theirs[name] - 1),
            "share",
            CLOSE,
            note=f"{value:.6g}",
        )
    table.speed(
        SECTION,
        f"{width.name}, V = {width.vocabulary}: a probe, 4 layers at most",
        machine.seconds(lambda: probe(model), size.rounds),
        "s",
        most=WANTED_SECONDS,
    )


def _table(model: LanguageModel, probe: Probe) -> Tensor:
    # Log-probabilities at the probe's states, in float64 on the CPU.
    batch = probe.batch.to(model.device)
    with torch.no_grad(), model.evaluating():
        hidden = completion_hidden(model, batch)[batch.present][probe.positions.to(model.device)]
    # Not by the probe's own head: the weights as they are.
    weight = model.causal_lm.get_output_embeddings().weight.detach().cpu().double()
    return (hidden.cpu().double() @ weight.T).log_softmax(-1)


def _distances(log_p: Tensor, log_q: Tensor) -> dict[str, float]:
    distance = log_p.exp() - log_q.exp()
    return {
        "drift/kl": float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        "drift/probl2": float(distance.square().sum(-1).mean()),
        "drift/tv": float(distance.abs().sum(-1).mean() / 2),
    }
