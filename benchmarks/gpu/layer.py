"""One decoder layer at the true width, in the dtype of a run."""

import torch
from torch import Tensor

from gpu.machine import Machine
from gpu.models import Width, wide
from gpu.rates import products
from gpu.sizes import sizes
from gpu.table import Table

SECTION = "layer"
# Ids of the model around the layer, whose head is not asked.
VOCABULARY = 512
# The part of the device's own bfloat16 product that forward and backward should reach.
WANTED_SHARE = 0.4


def run(table: Table, machine: Machine) -> None:
    """Forward, and forward with backward."""
    rate = products(machine, machine.dtype)
    for width in sizes(machine).widths:
        _one(table, machine, width, rate)
        machine.free()


def _one(table: Table, machine: Machine, width: Width, rate: float) -> None:
    size = sizes(machine)
    rows, length = size.layer_rows, size.layer_tokens
    model = wide(width.with_(layers=1, vocabulary=VOCABULARY), machine.device, machine.dtype)
    ids = torch.randint(13, VOCABULARY, (rows, length), device=machine.device)
    present = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(length, device=machine.device).expand(rows, -1)

    def forward() -> Tensor:
        return model.hidden(ids, present, positions)

    def both() -> None:
        forward().float().sum().backward()
        model.network.zero_grad(set_to_none=True)

    with torch.no_grad():
        seconds = machine.seconds(forward, size.rounds)
    table.fact(SECTION, f"{width.name}, {rows * length} tokens: forward", 1e3 * seconds, "ms")
    seconds = machine.seconds(both, size.rounds)
    # Causal attention: half of the square, twice.
    attention = 2 * width.heads * width.head_dim * length
    reached = 3 * rows * length * (2 * width.per_layer + attention) / seconds / 1e12
    table.fact(SECTION, f"{width.name}: forward, backward", 1e3 * seconds, "ms")
    table.speed(
        SECTION,
        f"{width.name}: share of a product",
        reached / rate,
        "",
        least=WANTED_SHARE,
        note=f"{reached:.3g} TFLOP/s",
    )
