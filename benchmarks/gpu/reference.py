"""One reference row: a real small model on GSM8K, from files, with what it cost."""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu.cells import cell, ran
from gpu.machine import Machine
from gpu.table import Table
from mirrorpo.run.preemption import StopRequest

SECTION = "reference"
# A short run of the GSM8K recipe: enough to see whether it learns, and what a step takes.
SETTINGS = (
    "model=qwen3_0_6b",
    "dataset=gsm8k",
    "prompts_per_step=16",
    "group_size=8",
    "temperature=1.0",
    "lr=1.0e-6",
    "eval_every=0",
    "eval_sampled_questions=0",
    "tracking=none",
    "progress=false",
)
PHASES = ("rollout_s", "score_s", "update_s", "drift_s")
# Mean k3 from sampler to trainer, in nats.
KL = 1e-3


def run(table: Table, machine: Machine, model: str, data: str, overrides: Sequence[str]) -> None:
    """The row.

    Args:
        table: for its lines.
        machine: that runs it.
        model: a folder with a model's files, which are not fetched.
        data: a folder with `gsm8k/train.jsonl` and `gsm8k/test.jsonl`.
        overrides: of the cell, after the row's own.
    """
    sources = (f"model.path={model}", f"dataset.root={data}")
    with tempfile.TemporaryDirectory() as root:
        subject = cell(machine, Path(root), *sources, *overrides, settings=SETTINGS)
        folder = ran(subject, StopRequest())
        rows = [json.loads(line) for line in folder.metrics.path.read_text().splitlines()]
        timings = [json.loads(line) for line in folder.timings.path.read_text().splitlines()]
    _lines(table, rows, timings)


def _lines(table: Table, rows: Sequence[Mapping[str, float]], timings: Sequence[Mapping[str, float]]) -> None:
    first, last = rows[0], rows[-1]
    for name in ("eval/greedy_accuracy", "eval/greedy_flexible", "eval/truncated"):
        note = f"{last['eval/questions']:.0f} questions; {first[name]:.3f} before"
        table.fact(SECTION, f"{name} after {len(rows) - 1} steps", last[name], "", note=note)
    steps = timings[1:]
    spent = {name: statistics.median(step[name] for step in steps) for name in PHASES}
    total = sum(spent.values())
    parts = ", ".join(f"{name.removesuffix('_s')} {100 * part / total:.0f}%" for name, part in spent.items())
    table.fact(SECTION, "a step", total, "s", note=parts)
    speed = statistics.median(step["tokens_per_s"] for step in steps)
    table.fact(SECTION, "completion tokens of a step", speed, "tokens/s")
    seconds = sum(row["seconds"] + row.get("eval_s", 0.0) for row in timings)
    table.fact(SECTION, "the run, evaluations included", seconds / 3600, "hours")
    memory = max(step["peak_memory_mb"] for step in steps) / 1024
    table.fact(SECTION, "peak memory", memory, "GiB")
    kl = max(row.get("kl/sampler", 0.0) for row in rows)
    table.right(SECTION, "largest kl/sampler", kl, "nats", KL)
