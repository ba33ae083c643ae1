"""The output head at the true width and vocabulary: its rate, its memory, and what its precision costs."""

import torch
from torch import Tensor

from gpu.machine import Machine
from gpu.models import Width
from gpu.rates import products
from gpu.sizes import sizes
from gpu.table import Table
from mirrorpo.model.head import Head, read_positions
from mirrorpo.model.product import HeadPrecision

SECTION = "head"
PRECISIONS: tuple[HeadPrecision, ...] = ("float32", "bf16_in")
LOGIT_CHUNK = 1024
# Positions that float64 on the CPU reads too.
COMPARED = 16
# Nats: mean of a token's log-probability, against float64, at logits of a standard deviation of 4.
NEAR = {"float32": 1e-4, "bf16_in": 2e-2}
# The part of the device's own bfloat16 product that forward and backward should reach.
WANTED_SHARE = {"float32": None, "bf16_in": 0.4}
SPREAD = 4.0


def run(table: Table, machine: Machine) -> None:
    """Both precisions at every width."""
    rate = products(machine, torch.bfloat16)
    for width in sizes(machine).widths:
        for precision in PRECISIONS:
            _one(table, machine, width, precision, rate)
            machine.free()


def head_of(width: Width, machine: Machine, precision: HeadPrecision) -> Head:
    """A head of random weights whose logits differ as a trained model's do."""
    projection = torch.nn.Linear(width.hidden, width.vocabulary, bias=False, device=machine.device)
    torch.nn.init.normal_(projection.weight, std=SPREAD / width.hidden**0.5)
    return Head(projection=projection, softcap=None, scale=1.0, temperature=1.0, precision=precision)


def _one(table: Table, machine: Machine, width: Width, precision: HeadPrecision, rate: float) -> None:
    torch.manual_seed(0)
    count, head = sizes(machine).positions, head_of(width, machine, precision)
    hidden = torch.randn(count, width.hidden, device=machine.device, dtype=machine.dtype)
    tokens = torch.randint(width.vocabulary, (count,), device=machine.device)
    name = f"{width.name}, {precision}"
    table.right(
        SECTION,
        f"{name}: log-probability, mean error",
        _error(head, hidden[:COMPARED], tokens[:COMPARED]),
        "nats",
        NEAR[precision],
    )

    def forward() -> Tensor:
        return read_positions(head, hidden, tokens, logit_chunk=LOGIT_CHUNK).logprobs

    def both() -> None:
        leaf = hidden.detach().requires_grad_()
        read_positions(head, leaf, tokens, logit_chunk=LOGIT_CHUNK).logprobs.sum().backward()
        head.projection.weight.grad = None

    with torch.no_grad():
        seconds = machine.seconds(forward, sizes(machine).rounds)
    table.fact(SECTION, f"{name}: forward", 1e3 * seconds, "ms")
    # The logits twice fewer than they are made: what a product must be, not what recomputing adds.
    useful = 6 * count * width.hidden * width.vocabulary
    seconds = machine.seconds(both, sizes(machine).rounds)
    reached = useful / seconds / 1e12
    table.fact(SECTION, f"{name}: forward, backward", 1e3 * seconds, "ms")
    table.speed(
        SECTION,
        f"{name}: share of a bfloat16 product",
        reached / rate,
        "",
        least=WANTED_SHARE[precision],
        note=f"{reached:.3g} TFLOP/s" + _memory(machine, head),
    )


def _memory(machine: Machine, head: Head) -> str:
    peak = machine.peak_mib()
    if peak is None:
        return ""
    return f"; peak {peak:.0f} MiB, of which the weights {head.projection.weight.nbytes / 2**20:.0f}"


def _error(head: Head, hidden: Tensor, tokens: Tensor) -> float:
    with torch.no_grad():
        ours = read_positions(head, hidden, tokens, logit_chunk=LOGIT_CHUNK).logprobs
        weight = head.projection.weight.detach().cpu().double()
        exact = (hidden.cpu().double() @ weight.T).log_softmax(-1).gather(1, tokens.cpu()[:, None])[:, 0]
    return float((ours.cpu().double() - exact).abs().mean())
