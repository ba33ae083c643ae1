"""Small programs on the pretended device: what it has to refuse, to allow and to count."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pretended import CAST, DOWN, KERNEL, SYNC, UP, WEIGHT_CAST, Far, Mixed, counting, near, pretended
from pretended_cells import KINDS, World, step, world
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from mirrorpo.core.batch import RolloutBatch

Program = Callable[[], object]


class Stranger(torch.autograd.Function):
    """Its backward pass adds a tensor of the CPU."""

    @staticmethod
    def forward(ctx: object, given: Tensor) -> Tensor:
        return given * 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] + torch.ones(3)


def refused(device: torch.device) -> Mapping[str, Program]:
    """Programs that CUDA refuses."""
    far, cpu = torch.ones(3, device=device), torch.ones(3)
    index, mask = torch.tensor([0], device=device), torch.ones(3, dtype=torch.bool)
    layer = torch.nn.Linear(3, 3).to(device)
    trained = torch.ones(3, device=device, requires_grad=True)
    rows = torch.ones(1, 1, 2, 3)
    return {
        "a sum of two devices": lambda: far + cpu,
        "a sum that is written to the CPU": lambda: torch.zeros(3).add_(far),
        "a scalar of the CPU that is written to": lambda: torch.tensor(0.0).add_(far.sum()),
        "a layer over the CPU's input": lambda: layer(cpu),
        "a product with the CPU's weight": lambda: linear(far, torch.ones(3, 3)),
        "the CPU's tensor at a device's index": lambda: cpu[index],
        "the CPU's tensor put at a device's index": lambda: far.index_put((index,), torch.ones(1)),
        "an embedding of the CPU's ids": lambda: torch.nn.functional.embedding(
            torch.tensor([0]), layer.weight
        ),
        "a scalar index of the CPU": lambda: far.gather(0, torch.tensor(0)),
        "a concatenation": lambda: torch.cat([far, cpu]),
        "a choice by the CPU's mask": lambda: torch.where(mask, far, far),
        "a fill by the CPU's mask": lambda: far.masked_fill(mask, 0.0),
        "attention over the CPU's keys": lambda: scaled_dot_product_attention(rows.to(device), rows, rows),
        "numpy of a tensor": lambda: far.numpy(),
        "an array of a tensor": lambda: np.asarray(far),
        "a pinned tensor of the device": lambda: far.pin_memory(),
        "in the backward pass": lambda: Stranger.apply(trained).sum().backward(),
    }


def allowed(device: torch.device) -> Mapping[str, Program]:
    """Programs that CUDA allows."""
    far, index = torch.arange(3.0, device=device), torch.tensor([0, 1])
    target = torch.zeros(3, device=device)
    layer = torch.nn.Linear(3, 3).to(device)
    return {
        "a scalar of the CPU": lambda: far + torch.tensor(2.0),
        "a number": lambda: far * 2 + 1,
        "an index of the CPU": lambda: far[index],
        "a scalar put at an index of the CPU": lambda: far.index_put((index,), torch.tensor(1.0)),
        "a copy across": lambda: target.copy_(torch.ones(3)),
        "a tensor of a tensor": lambda: torch.tensor(far),
        "a tensor of numbers of the device": lambda: torch.tensor([far[0], far[1]]),
        "a tensor made like another": lambda: far.new_tensor([1.0]) + far.new_zeros(1) + torch.ones_like(far),
        "recomputation": lambda: checkpoint(layer, far, use_reentrant=False).sum().backward(),
    }


def syncs(device: torch.device) -> Mapping[str, tuple[int, Program]]:
    """Programs and how often each waits for the device."""
    far, layer = torch.arange(3.0, device=device), torch.nn.Linear(3, 3).to(device)
    target = torch.zeros(3, device=device)
    return {
        "item": (1, lambda: far.sum().item()),
        "float, int and bool": (3, lambda: (float(far[0]), int(far[1]), bool(far[2] > 0))),
        "a formatted number": (1, lambda: f"{far[0]:.1f}"),
        "tolist": (1, lambda: far.tolist()),
        "numbers that make a tensor": (2, lambda: torch.tensor([far[0], far[1]])),
        "a copy to the CPU": (1, lambda: far.cpu()),
        "the same by name": (1, lambda: far.to("cpu")),
        "a copy from the CPU": (1, lambda: torch.ones(3).to(device)),
        "a list that becomes a tensor": (1, lambda: torch.tensor([1, 2], device=device)),
        "an asynchronous copy": (0, lambda: torch.ones(3).pin_memory().to(device, non_blocking=True)),
        "a copy in place": (1, lambda: target.copy_(torch.ones(3))),
        "where something is": (1, lambda: far.nonzero()),
        "an index by a mask": (1, lambda: far[far > 0]),
        "a number put at a mask": (0, lambda: target.masked_fill_(far > 0, 0.0)),
        "distinct values": (1, lambda: far.unique()),
        "an index of the CPU": (1, lambda: far[torch.tensor([0])]),
        "computing": (0, lambda: layer(far).relu().sum().backward()),
        "a slice": (0, lambda: far[1:].view(2, 1).expand(2, 2)),
        "making": (0, lambda: torch.zeros(3, device=device) + torch.arange(3, device=device)),
    }


def found() -> dict[str, str]:
    """What the device gets wrong of the programs: empty if nothing."""
    out: dict[str, str] = {}
    with pretended() as device, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, program in refused(device).items():
            try:
                program()
            except (Mixed, TypeError, RuntimeError):
                continue
            out[name] = "was not refused"
        for name, program in allowed(device).items():
            try:
                program()
            except Exception as error:
                out[name] = f"was refused: {error}"
        for name, (expected, program) in syncs(device).items():
            with counting() as tally:
                program()
            if tally.of(SYNC) != expected:
                out[name] = (
                    f"waits {tally.of(SYNC)} times by the tally, {expected} in truth: {tally.lines(SYNC)}"
                )
    return out


def counts() -> dict[str, float]:
    """Kernels, casts and bytes of a few operations."""
    with pretended() as device:
        layer = torch.nn.Linear(3, 3).to(device)
        far = torch.ones(2, 3, device=device)
        out: dict[str, float] = {}
        with counting() as tally:
            torch.ones(5).to(device).cpu()
        out |= {"bytes up": tally.of(UP), "bytes down": tally.of(DOWN)}
        with counting() as tally, torch.no_grad():
            layer(far).view(6)[1:].exp()
        out["kernels of a layer and an exponential"] = tally.of(KERNEL)
        with counting() as tally, torch.autocast(device.type, dtype=torch.bfloat16):
            layer(layer(far)).sum().backward()
        out |= {"casts of a weight that is trained": tally.of(WEIGHT_CAST)}
        for mode in (torch.no_grad, torch.inference_mode):
            with counting() as tally, mode(), torch.autocast(device.type, dtype=torch.bfloat16):
                layer(layer(far))
            out |= {f"casts of a weight in {mode.__name__}": tally.of(WEIGHT_CAST)}
        with counting() as tally, torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            far.exp()
            out["casts to the wider type where it is that already"] = tally.of(CAST)
        return out


def dtypes() -> dict[str, str]:
    """The types that autocast gives results."""
    with pretended() as device, torch.autocast(device.type, dtype=torch.bfloat16):
        far = torch.ones(2, 2, device=device)
        low = far @ far
        results = {
            "product": low,
            "exponential": low.exp(),
            "sum": low.sum(),
            "softmax": low.softmax(-1),
            "norm": torch.linalg.vector_norm(low),
            "concatenation with the wider": torch.cat([far, low]),
            "sum of both": far + low,
            "maximum": low.amax(),
        }
        return {name: str(result.dtype).removeprefix("torch.") for name, result in results.items()}


def planted() -> str:
    """The error of an arm whose batches stay on the CPU."""
    with pretended() as device, patch.object(RolloutBatch, "to", lambda batch, device: batch):
        try:
            step(KINDS[0], world(device))
        except Mixed as error:
            return str(error)
    return ""


def copies() -> dict[str, bool]:
    """Whether models and files of the device are what they should be."""
    with pretended() as device:
        made: World = world(device)
        network, causal_lm = made.policy.network, made.policy.causal_lm
        embedding, head = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
        start = made.start.causal_lm.get_input_embeddings()
        return {
            "a moved module's parameters are on the device": all(
                isinstance(parameter, Far) and isinstance(parameter, torch.nn.Parameter)
                for parameter in network.parameters()
            ),
            "tied weights stay tied": embedding.weight is head.weight,
            "a copy has its own numbers": near(start.weight).data_ptr() != near(embedding.weight).data_ptr(),
            "a batch keeps its fields": replace(made.batch.to(device)).present.device.type == device.type,
        }


def everything() -> dict[str, Any]:
    """All of the above, from one process."""
    return {
        "found": found(),
        "counts": counts(),
        "dtypes": dtypes(),
        "planted": planted(),
        "copies": copies(),
    }
