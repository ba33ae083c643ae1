"""How much each section of speed measures: true sizes on a card, cut ones on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpu.machine import Machine
from gpu.models import CUT, QWEN_06B, QWEN_17B, Width


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of the sections of speed.

    Attributes:
        widths: models.
        positions: of the head; a few of them are compared with float64.
        layer_rows: sequences of the layer, of `layer_tokens` tokens each.
        layer_tokens: of a sequence.
        prompts: of a rollout.
        group: completions of a prompt.
        depth: tokens of a prompt.
        sampled: tokens of a completion that is sampled.
        learned: mean tokens of a completion that is learned from.
        micro_batches: tokens of a micro-batch, the settings that are compared.
        probe_positions: of the drift probe.
        rounds: of which the median is taken.
    """

    widths: Sequence[Width]
    positions: int
    layer_rows: int
    layer_tokens: int
    prompts: int
    group: int
    depth: int
    sampled: int
    learned: int
    micro_batches: Sequence[int]
    probe_positions: int
    rounds: int


CARD = Sizes(
    widths=(QWEN_06B, QWEN_17B), positions=8192, layer_rows=16, layer_tokens=512, prompts=16, group=8,
    depth=128, sampled=128, learned=256, micro_batches=(4096, 8192, 16384), probe_positions=512, rounds=2,
)  # fmt: skip
ON_CPU = Sizes(
    widths=(CUT,), positions=96, layer_rows=2, layer_tokens=64, prompts=2, group=4, depth=16, sampled=12,
    learned=16, micro_batches=(64, 128, 256), probe_positions=32, rounds=1,
)  # fmt: skip


def sizes(machine: Machine) -> Sizes:
    """Those of a machine."""
    return CARD if machine.on_card else ON_CPU
