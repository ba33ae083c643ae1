"""What `whole_run.py` makes of its rounds. Imports no torch."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SIDES = ("ours", "TRL")
# Of a core, above which other work decides what is measured.
QUIET = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a process measured of its steps.

    Attributes:
        tokens: completion tokens of the steps that count.
        processor, wall: their seconds.
        peak_mb: the process's high-water mark.
    """

    tokens: int
    processor: float
    wall: float
    peak_mb: float


Rounds = Mapping[tuple[str, str], Sequence[Measured]]


def report(rounds: Rounds, loads: Sequence[float], bound: float | None) -> Iterator[str]:
    """The lines of the table, and the verdict."""
    rates = {
        arm: statistics.median(run.tokens / run.processor for run in runs) for arm, runs in rounds.items()
    }
    yield f"{'arm':18}{'tokens/s':>10}{'by clock':>10}{'tokens':>9}{'peak MiB':>10}   of each round"
    for (side, precision), runs in rounds.items():
        clock = statistics.median(run.tokens / run.wall for run in runs)
        peak, tokens = max(run.peak_mb for run in runs), statistics.mean(run.tokens for run in runs)
        each = " ".join(f"{run.tokens / run.processor:.0f}" for run in runs)
        rate = rates[side, precision]
        yield f"{side + ' ' + precision:18}{rate:10.0f}{clock:10.0f}{tokens:9.0f}{peak:10.0f}   {each}"
    best = {
        side: max((arm for arm in rounds if arm[0] == side), key=lambda arm: rates[arm]) for side in SIDES
    }
    ratio = rates[best["ours"]] / rates[best["TRL"]]
    memory = [max(run.peak_mb for run in rounds[best[side]]) for side in SIDES]
    yield (
        f"ours in {best['ours'][1]} over TRL in {best['TRL'][1]}: {ratio:.2f}x the tokens a second, "
        f"{memory[0] / memory[1]:.2f}x the memory"
    )
    if max(loads) > QUIET:
        yield f"no verdict: the load was up to {max(loads):.1f} a core, above {QUIET}"
    elif bound is not None:
        yield f"wanted {bound}x: {'met' if ratio >= bound else 'not met'}"
