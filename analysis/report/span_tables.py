"""The tables on spans: what they are worth by kind, and against re-rolled success rates."""

from collections.abc import Sequence
from pathlib import Path

from analysis.data import paper
from analysis.data.export import Frame
from analysis.report.study_table import DASH, EMPTY, label, mean_cell, percent_cell, study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell
from analysis.stats.intervals import Interval, mean_interval
from analysis.study.span_value import FILE, agreement, by_kind
from analysis.study.study import Study, late_counts, late_means

HEAD = (
    "kind of span",
    "drop, nats",
    "tokens, %",
    "policy gradient, %",
    "gradient / tokens",
    "negative drops, %",
    "runs",
    "steps",
)
DISTRACTORS = "credit/distractors"
TRUTH_FOOT = (
    "95% intervals, bootstrap over completions; python -m analysis importance RUN prints the same.",
)


def span_kinds(study: Study) -> list[str]:
    """The kinds of spans that some run scored."""
    prefix = "credit/drop_"
    return [name.removeprefix(prefix) for name in study.export.names if name.startswith(prefix)]


def span_metrics(kinds: Sequence[str]) -> list[str]:
    """The metrics of some kinds: drop, share of tokens, share of the gradient."""
    return [f"credit/{quantity}_{kind}" for kind in kinds for quantity in ("drop", "tokens", "gradient")]


def importance(study: Study) -> Table | None:
    """What spans are worth by kind, over the last quarter of the steps; None where nothing was scored."""
    kinds = span_kinds(study)
    if not kinds:
        return None
    metrics = [*span_metrics(kinds), DISTRACTORS]
    curves = study.curve(*metrics)
    late, counts = late_means(curves, metrics), late_counts(curves, metrics)
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        for arm in study.arms(block):
            runs = late[(late["arm"] == arm) & (late["block"] == block)]
            if runs[metrics].dropna(how="all").empty:
                continue
            sources = study.names([arm], block)
            rows.append([TableCell(label(block, arm))])
            steps = counts[counts["run"].isin(runs["run"])]
            rows += [_kind_row(runs, steps, kind, sources) for kind in kinds]
            negative = percent_cell(list(runs[DISTRACTORS].dropna()), sources)
            resting = _resting_on(runs, steps, DISTRACTORS, sources)
            rows.append([TableCell("all spans", runs=sources), *[EMPTY] * 4, negative, *resting])
    claims = [
        f"arXiv {source}: {claim} [{mark}]."
        for source, claim, mark in paper.CLAIMS
        if source == paper.COUNTERFACTUAL and "span" in claim
    ]
    foot = [
        "Mean of the last quarter of a run's steps, then over seeds with Student's 95% interval. Drop: how "
        "much hiding the span lowers the score that the weighting uses; shares are of the scored "
        "completions' trained tokens and of their policy gradient. Runs, steps: in how many runs, and in how "
        "many steps of one, such spans were scored there; a kind that is rare rests on few.",
        *claims,
    ]
    return (
        study_table(study, "importance", "What spans are worth, by kind", HEAD, rows, foot) if rows else None
    )


def _kind_row(runs: Frame, steps: Frame, kind: str, sources: Sequence[str]) -> list[TableCell]:
    drop, tokens, gradient = (runs[name].dropna() for name in span_metrics([kind]))
    ratios = list((gradient / tokens).dropna())
    # Neither share is below 0, so their ratio is not.
    ratio = estimate_cell(mean_interval(ratios).within(0), sources, digits=2) if ratios else DASH
    return [
        TableCell(kind, runs=tuple(sources)),
        mean_cell(list(drop), sources),
        percent_cell(list(tokens), sources),
        percent_cell(list(gradient), sources),
        ratio,
        EMPTY,
        *_resting_on(runs, steps, span_metrics([kind])[0], sources),
    ]


def _resting_on(
    runs: Frame, steps: Frame, metric: str, sources: Sequence[str]
) -> tuple[TableCell, TableCell]:
    """In how many runs a metric has a value, of how many; and in how many steps of those runs."""
    counted = steps[metric][steps[metric] > 0]
    there = TableCell(f"{runs[metric].notna().sum()} of {len(runs)}", runs=tuple(sources))
    if counted.empty:
        return there, DASH
    low, high = int(counted.min()), int(counted.max())
    return there, TableCell(str(low) if low == high else f"{low} to {high}", runs=tuple(sources))


def truth(study: Study) -> list[Table]:
    """For every run whose spans were re-rolled: drops by kind, and what each measure puts first."""
    out: list[Table] = []
    for run in study.design.runs:
        folder = Path(run.row["source"])
        if not (folder / FILE).exists():
            continue
        which = label(run.block, run.arm, f"seed {run.seed}")
        for name, title, frame in (
            ("kind", "What spans are worth, re-rolled", by_kind(folder)),
            ("order", "What each measure puts first", agreement(folder)),
        ):
            rows = [[_truth_cell(value, run.name) for value in row] for row in frame.itertuples(index=False)]
            head = list(frame.columns)
            out.append(
                study_table(study, f"truth_{name}_{run.name}", f"{title}: {which}", head, rows, TRUTH_FOOT)
            )
    return out


def _truth_cell(value: object, run: str) -> TableCell:
    if isinstance(value, Interval):
        return estimate_cell(value, [run], digits=2)
    return TableCell(str(value), runs=(run,))
