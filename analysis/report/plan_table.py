"""What was planned, and the planned comparisons with what came out."""

from collections.abc import Sequence

from analysis.report.study_table import BY_SEED, basis_cell, label, study_table
from analysis.report.table_cells import Table, TableCell, difference_cells, p_value
from analysis.stats.rounding import in_full
from analysis.study.comparison import SEEDS, points
from analysis.study.endpoint import Endpoint
from analysis.study.primary import PrimaryResult
from analysis.study.study import Study

EXPLORATORY = (
    "Exploratory: no plan names a primary comparison, and p is corrected within this table alone; a claim of "
    "one table among many is a hypothesis for the next sweep."
)
RECORDED = (
    "The planned comparisons are one family: p and verdict after Holm over them, those not run counted. All "
    "comparisons of other tables are exploratory."
)
AFTERWARDS = (
    "No launch recorded the plan, so naming these comparisons earns nothing: p and verdict after Holm over "
    "them and all other comparisons of this endpoint."
)
# What a prediction's sign says.
PREDICTED = {">": "higher", "<": "lower", "=": "equal", "vs": "a difference"}


def planned_lines(study: Study) -> list[tuple[str, str]]:
    """The plan as entries of the page; without one that there is none."""
    plan = study.plan
    if plan is None or study.planned_endpoint is None:
        return [("plan", " ".join(["none, so that all comparisons are exploratory.", *study.plan_notes]))]
    margin = study.margin_of(study.planned_endpoint)
    seeds = f"{plan.seeds}" + (
        f", looked at with {', '.join(map(str, plan.looks))} before" if plan.looks else ""
    )
    entries = [
        ("hypothesis", plan.hypothesis),
        ("primary endpoint", study.planned_endpoint.description),
        ("primary comparisons", "; ".join(map(str, plan.primary))),
        ("equal within", _size(margin, study.planned_endpoint) if margin is not None else ""),
        ("seeds planned", seeds if plan.seeds else ""),
        ("stopping rule", plan.stop),
        ("plan", " ".join([*([plan.origin + "."] if plan.recorded else []), *study.plan_notes])),
    ]
    return [(key, text) for key, text in entries if text]


def _size(margin: float, endpoint: Endpoint) -> str:
    return points(margin) if endpoint.is_share else in_full(margin)


def explored(study: Study, metric: str | None = None) -> list[str]:
    """Which comparisons of a table are primary and which exploratory."""
    if study.plan is None or study.planned_endpoint is None:
        return [EXPLORATORY, *study.plan_notes]
    if str(study.planned_endpoint) != (metric or study.metric):
        return [
            f"Exploratory: the plan's endpoint is {study.planned_endpoint} (table of primary comparisons)."
        ]
    return [
        "Comparisons that the plan names are marked (primary): p and verdict are those of the table of "
        "primary comparisons. All others are exploratory"
        + (", corrected among themselves." if study.plan.recorded else "."),
        *_later_seeds(study),
    ]


def _later_seeds(study: Study) -> list[str]:
    planned = study.plan.seeds if study.plan is not None else 0
    run = max((result.seeds for result in study.primary), default=0)
    if not planned or run <= planned:
        return []
    return [
        f"Planned were {planned} seeds: difference, p and verdict of primary comparisons are of the first "
        f"{planned}, levels and all others of all."
    ]


def primary_table(study: Study) -> Table | None:
    """The comparisons that the plan names; None without a plan."""
    results, made = study.primary, study.planned_endpoint
    if not results or made is None or study.plan is None:
        return None
    rows = [_row(study, result, made) for result in results]
    head = [
        "comparison",
        "predicted",
        f"difference, {'points' if made.is_share else made.unit or made.metric}",
    ]
    head += ["for new", "p", "verdict", "outcome", "seeds"]
    title = f"Primary comparisons: {made}"
    return study_table(study, "primary", title, head, rows, _foot(study, results))


def _row(study: Study, result: PrimaryResult, made: Endpoint) -> list[TableCell]:
    planned, gap = result.comparison, result.difference
    runs = study.names([planned.arm, planned.other], result.block)
    name = TableCell(label(result.block, f"{planned.arm} − {planned.other}"), runs=runs)
    predicted = TableCell(PREDICTED[planned.sign], runs=runs)
    wanted = study.plan.seeds if study.plan is not None else 0
    seeds = TableCell(f"{result.seeds} of {wanted}" if wanted else str(result.seeds), runs=runs)
    if gap is None:
        missing = [name for name in (planned.arm, planned.other) if not study.runs(name, result.block)]
        why = f"no run of {', '.join(missing)}" if missing else "no common seed"
        return [
            name,
            predicted,
            TableCell(why, tone="quiet"),
            *[TableCell("")] * 3,
            TableCell("not run"),
            seeds,
        ]
    cells = difference_cells(gap, runs, scale=made.scale, digits=made.digits)
    return [
        name,
        predicted,
        cells[0],
        basis_cell(gap, runs),
        *cells[1:],
        TableCell(result.outcome, runs=runs),
        seeds,
    ]


def _foot(study: Study, results: Sequence[PrimaryResult]) -> list[str]:
    plan, made = study.plan, study.planned_endpoint
    assert plan is not None and made is not None
    foot = [
        f"Planned: {plan.hypothesis} Endpoint: {made.description}.",
        (RECORDED if plan.recorded else AFTERWARDS) + " 95% intervals, each for itself.",
    ]
    if any(result.difference is not None and result.difference.over == SEEDS for result in results):
        foot.append(BY_SEED.partition(" p and verdict")[0])
    foot += _on_seeds(results, plan.seeds)
    return [*foot, *([f"Plan: {plan.origin}."] if plan.recorded else []), *study.plan_notes]


def _on_seeds(results: Sequence[PrimaryResult], planned: int) -> list[str]:
    """What fewer seeds than planned, and more, come to."""
    there = [result for result in results if result.difference is not None]
    early = [result for result in there if result.seeds < planned]
    looks = [result for result in there if len(result.shares) > 1 and result not in early]
    out: list[str] = []
    for of_kind, when in ((early, "An interim look"), (looks, "The last of several looks")):
        if of_kind:
            level = min(result.level for result in of_kind)
            seeds = min(result.seeds for result in of_kind)
            out.append(
                f"{when}, at {min(seeds, planned)} of {planned} planned seeds: a single comparison needs p "
                f"below {p_value(level)}, so that all looks together err in 5% (Lan and DeMets, in O'Brien "
                "and Fleming's form); p is as of one look."
            )
    if more := [result for result in there if planned and result.seeds > planned]:
        most = max(result.seeds for result in more)
        out.append(
            f"More seeds than planned ({most}, {planned}): the error is spent on the first {planned}, and p, "
            "interval and verdict are of them alone; other tables have all seeds."
        )
    return out
