"""One thing wrong with the runs of a table, and how runs that differ become one."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from analysis.study.design import Run


@dataclass(frozen=True)
class Finding:
    """One thing wrong.

    Attributes:
        kind: of KINDS.
        text: which run, what, and where it matters what to do.
    """

    kind: str
    text: str


def differing(
    kind: str, runs: Sequence[Run], value: Callable[[Run], str | None], group: Callable[[Run], Hashable]
) -> list[Finding]:
    """A finding for each group of runs that do not all have the same value.

    Args:
        kind: of the finding.
        runs: all of them.
        value: of a run; None says nothing.
        group: runs of one group should have one value.
    """
    groups: dict[Hashable, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if (known := value(run)) is not None:
            groups[group(run)][known].append(run)
    out: list[Finding] = []
    for values in groups.values():
        if len(values) > 1:
            each = "; ".join(f"{name[:40]} in {len(same)} runs ({same[0]})" for name, same in values.items())
            out.append(Finding(kind, each))
    return out
