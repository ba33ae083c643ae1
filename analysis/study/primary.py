"""The comparisons that a plan names: one family, with the error that looks at fewer seeds may spend."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from analysis.stats.intervals import LEVEL, Interval
from analysis.stats.spending import nominal, sequential_p
from analysis.study.comparison import CLAIMS, EQUAL, SEEDS, UNDECIDED, Difference, corrected
from analysis.study.plan import Plan
from analysis.study.statement import Statement

# A planned comparison whose arms share no seed counts among the comparisons.
NOT_RUN = Difference(Interval(0.0, float("-inf"), float("inf")), 1.0, 0, 0.0, SEEDS, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrimaryResult:
    """A planned comparison with what came out.

    Attributes:
        comparison: as it was planned.
        block: of the runs.
        difference: over the planned seeds at most; None where the arms share no seed.
        seeds: that both arms have.
        shares: of the planned seeds at each look, this one last.
    """

    comparison: Statement
    block: str
    difference: Difference | None
    seeds: int
    shares: Sequence[float]

    @property
    def level(self) -> float:
        """The p that a single comparison would have to be below at this look."""
        return 1 - LEVEL if list(self.shares) == [1.0] else nominal(self.shares)

    @property
    def outcome(self) -> str:
        """Whether what was predicted came out."""
        if self.difference is None:
            return "not run"
        verdict = self.difference.verdict().split()[0]
        if self.comparison.sign == "=":
            # A difference that is told from zero may still lie inside the margin.
            equal = bool(self.difference.bound)
            return "as predicted" if equal else UNDECIDED if verdict == UNDECIDED else "not as predicted"
        if verdict == UNDECIDED:
            return UNDECIDED
        if self.comparison.sign == "vs":
            return "no difference" if verdict == EQUAL else "a difference"
        above = self.difference.interval.estimate > 0
        came = verdict in CLAIMS and (">" if above else "<")
        return "as predicted" if came == self.comparison.sign else "not as predicted"


def shares_of(plan: Plan, seeds: int) -> list[float]:
    """The share of the planned seeds at each look so far, the present one last; without a number, [1.0]."""
    if not plan.seeds:
        return [1.0]
    looks = [look for look in plan.looks if look < seeds]
    return [look / plan.seeds for look in (*looks, min(seeds, plan.seeds))]


def family(
    results: Sequence[PrimaryResult],
    experiments: Sequence[Hashable],
    plan: Plan,
    others: Sequence[tuple[Hashable, Difference]] = (),
) -> list[PrimaryResult]:
    """The results with p after the looks and after Holm over all planned comparisons, those not run too.

    Args:
        results: of the planned comparisons.
        experiments: what each is of; those of one experiment under several names are one comparison.
        plan: that names them.
        others: comparisons that are corrected with them: of a plan that no launch recorded, all those of the
            endpoint, since whoever names comparisons afterwards has seen them.
    """
    entries = [
        (key, _after_looks(result) if result.difference is not None else NOT_RUN)
        for result, key in zip(results, experiments, strict=True)
    ]
    entries += others
    adjusted = corrected([gap for _, gap in entries], [key for key, _ in entries])
    out: list[PrimaryResult] = []
    for result, made in zip(results, adjusted, strict=False):
        gap = result.difference
        planned = None if gap is None else as_planned(gap, replace(made, wanted=plan.seeds))
        out.append(replace(result, difference=planned))
    return out


def as_planned(gap: Difference, planned: Difference) -> Difference:
    """A difference with the p of the planned comparison that it is of."""
    return replace(
        gap,
        adjusted=planned.adjusted,
        unequal_p=planned.unequal_p,
        comparisons=planned.comparisons,
        primary=True,
        wanted=planned.wanted,
    )


def _after_looks(result: PrimaryResult) -> Difference:
    gap = result.difference
    assert gap is not None
    p, unequal_p = (sequential_p(value, result.shares) for value in (gap.p, gap.unequal_p))
    return replace(gap, p=p, unequal_p=unequal_p)
