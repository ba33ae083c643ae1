"""vLLM in this process, where it can be imported: a small cell, and how far its numbers are from ours."""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from gpu.cells import cell, ran
from gpu.machine import Machine
from gpu.table import Table
from mirrorpo.run.preemption import StopRequest

SECTION = "vllm"
# Mean k3 from vLLM's numbers to the trainer's, in nats.
KL = 1e-2


def run(table: Table, machine: Machine) -> None:
    """A cell with `rollout=vllm`."""
    if find_spec("vllm") is None:
        table.skip(SECTION, "a cell with rollout=vllm", "vllm is not here")
        return
    # The engine in this process, as docs/vllm.md says.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with tempfile.TemporaryDirectory() as root:
        subject = cell(machine, Path(root), "rollout=vllm", "rollout@eval_rollout=vllm")
        folder = ran(subject, StopRequest())
        rows = [json.loads(line) for line in folder.metrics.path.read_text().splitlines()]
        timings = [json.loads(line) for line in folder.timings.path.read_text().splitlines()]
    table.right(
        SECTION,
        "rollout=vllm: largest kl/sampler",
        max(row.get("kl/sampler", 0.0) for row in rows),
        "nats",
        KL,
    )
    table.fact(SECTION, "rollout=vllm, tiny model", timings[-1]["rollout_tokens_per_s"], "tokens/s")
