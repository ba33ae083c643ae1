"""The tables on the last evaluation: the papers' beside ours, accuracy by arm, the grid, every statistic,
every run.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis import paper
from analysis.cells import Cell, Source, Table, difference_cells, estimate, number, p_value
from analysis.comparison import (
    POWER,
    Difference,
    benjamini_hochberg,
    detectable,
    mcnemar,
    paired_bootstrap,
    probability_of_improvement,
    seeds_needed,
)
from analysis.stats import (
    Interval,
    hierarchical_bootstrap,
    iqm,
    mean_interval,
    spread_interval,
    stratified_bootstrap,
)
from analysis.study import Study

DRAWS = 2000


def sources(study: Study) -> Mapping[str, Source]:
    """Where every run of a study is, and its commit."""
    return {
        run.name: Source(
            str(run.row["commit"]) + ("+" if run.row["dirty"] else ""),
            str(run.row["config_hash"]),
            str(run.row["source"]),
        )
        for run in study.design.runs
    }


def table(
    study: Study,
    name: str,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    foot: Sequence[str],
) -> Table:
    """A table with the study's sources, its notes, and what every number's interval means."""
    return Table(name, title, head, rows, foot, study.notes, sources(study))


def titled(study: Study, block: str) -> list[list[Cell]]:
    """The heading of a block, where there are several."""
    return (
        [
            [
                Cell(
                    ", ".join(
                        filter(
                            None, (f"{'/'.join(study.design.others)}: " if study.design.others else "", block)
                        )
                    ).replace(": , ", ": ")
                )
            ]
        ]
        if block
        else []
    )


def basis(study: Study, found: Mapping[str, Difference]) -> str:
    """What the intervals of a difference are over."""
    over = next(iter(found.values())).over if found else "seeds"
    how = {
        "seeds and questions": (
            "a run is a seed, all runs answer the same questions; t interval with both "
            "drawn again (Satterthwaite)"
        ),
        "seeds": "Student's t over the seeds' differences; questions are taken as fixed",
    }[over]
    return (
        f"Differences seed by seed from {study.design.baseline}; 95% intervals, each for itself, for new "
        f"{over}: {how}. "
        "p and verdict after Holm over the block's comparisons; "
        f"in brackets the seeds at which a difference as large as the one seen would be found with "
        f"{POWER:.0%} power."
    )


def levels(study: Study) -> str:
    """What the intervals of a level are over."""
    return f"Levels: mean of the last evaluation's {study.metric} over seeds, in percent, with Student's 95% interval."


def share(values: Sequence[float], runs: Sequence[str]) -> Cell:
    """The mean of shares over seeds, in percent, with Student's interval, which ends at 0 and 100."""
    return estimate(mean_interval(values).within(0, 1).scaled(100), runs) if len(values) else Cell("—")


def accuracy(study: Study, baseline: str | None = None) -> Table:
    """Accuracy by arm, its difference from the baseline, and the verdict."""
    base = baseline or study.design.baseline
    head = [study.design.axis, "accuracy, %", f"difference from {base}", "p", "P(better)", "seeds", "verdict"]
    rows: list[list[Cell]] = []
    found: dict[str, Difference] = {}
    for block in study.design.blocks:
        found = study.differences(block, baseline=base)
        rows += titled(study, block)
        for arm in sorted(study.arms(block), key=lambda arm: arm != base):
            own, both = study.names([arm], block), study.names([arm, base], block)
            values = list(study.scores(arm, block).values())
            gap, p, verdict = (
                difference_cells(found.get(arm), both)
                if arm == base or arm in found
                else (Cell("no common seed", tone="quiet"), Cell(""), Cell(""))
            )
            chance = (
                Cell("")
                if arm not in found
                else Cell(number(better(study, arm, base, block).estimate, 2), runs=both)
            )
            level = share(values, own)
            rows.append(
                [Cell(arm, runs=own), level, gap, p, chance, Cell(str(len(values)), runs=own), verdict]
            )
    name = f"accuracy_by_{study.design.axis}" + (f"_from_{base}" if baseline else "")
    foot = [
        levels(study),
        basis(study, found).replace(f"from {study.design.baseline};", f"from {base};"),
        "P(better): chance that a run of the arm beats one of the baseline.",
    ]
    return table(
        study,
        name.replace(" ", "_"),
        f"Accuracy by {study.design.axis}" + (f", measured from {base}" if baseline else ""),
        head,
        rows,
        foot,
    )


def better(study: Study, arm: str, base: str, block: str) -> Interval:
    """Probability of improvement of an arm over the baseline."""
    ours, theirs = (np.array(list(study.scores(name, block).values()))[:, None] for name in (arm, base))
    return probability_of_improvement(ours, theirs, draws=DRAWS)


def papers(study: Study) -> Table | None:
    """The papers' numbers beside ours; None where no arm is one of theirs."""
    axis, base = study.design.axis, study.design.baseline
    head = [
        axis,
        "published",
        "published difference",
        "ours, %",
        "our difference",
        "published lies",
        "p",
        "seeds",
        "verdict",
    ]
    rows: list[list[Cell]] = []
    benchmarks: set[str] = set()
    for block in study.design.blocks:
        found = study.differences(block)
        mine: list[list[Cell]] = []
        for arm in study.arms(block):
            run = next(iter(study.runs(arm, block).values()))
            choice, dataset = str(run.row[axis]), str(run.row["dataset"])
            if paper.canonical(choice) is None or dataset not in paper.TWINS:
                continue
            value = next(
                (
                    one
                    for quantity in ("accuracy", "pass@1", "gain")
                    if (one := paper.published(axis, choice, dataset, quantity))
                ),
                None,
            )
            benchmarks |= {paper.BENCHMARKS[paper.TWINS[dataset]]} if value else set()
            shown = str(value) if value and value.quantity != "gain" else "—"
            theirs = paper.gain(axis, choice, base.split(" ")[0], dataset) if arm != base else None
            words = "—" if value is None or value.quantity != "gain" else str(value)
            published = words if theirs is None else _range(theirs)
            own, both = study.names([arm], block), study.names([arm, base], block)
            values = list(study.scores(arm, block).values())
            gap, p, verdict = difference_cells(found.get(arm), both)
            lies = (
                Cell("")
                if theirs is None or arm not in found
                else Cell(_place(theirs, found[arm].interval.scaled(100)), runs=both)
            )
            level = share(values, own)
            mine.append(
                [
                    Cell(arm, runs=own),
                    Cell(shown),
                    Cell("" if arm == base else published),
                    level,
                    gap,
                    lies,
                    p,
                    Cell(str(len(values)), runs=own),
                    verdict,
                ]
            )
        rows += [*titled(study, block), *mine] if len(mine) > 1 else []
    if not rows or not benchmarks:
        return None
    datasets = sorted({str(run.row["dataset"]) for run in study.design.runs})
    models = sorted({str(run.row["model"]) for run in study.design.runs})
    which = paper.GBMPO if axis == "divergence" else paper.COUNTERFACTUAL
    foot = [
        f"Published: {', '.join(sorted(benchmarks))}, arXiv {which}; ours: {', '.join(datasets)}, "
        f"{', '.join(models)}. "
        "Differences may be set beside each other; levels of another data set and model may not.",
        "Marks: "
        + "; ".join(f"{mark} {said}" for mark, said in paper.MARKS.items())
        + ". 'Inside' and 'outside' are of our 95% interval.",
        levels(study),
        basis(study, study.differences(study.design.blocks[0])),
    ]
    return table(study, f"papers_{axis}", f"The published numbers and ours, by {axis}", head, rows, foot)


def _range(gain: tuple[float, float, str]) -> str:
    low, high, mark = gain
    return (
        f"{number(low, 1, True)} [{mark}]"
        if low == high
        else f"{number(low, 1, True)} to {number(high, 1, True)} [{mark}]"
    )


def _place(gain: tuple[float, float, str], ours: Interval) -> str:
    low, high, _ = gain
    return "inside" if ours.low <= high and low <= ours.high else "outside"


def grid(study: Study) -> Table | None:
    """Arms by blocks, such as weightings by models; None for one block."""
    blocks = study.design.blocks
    if len(blocks) < 2:
        return None
    head = [study.design.axis, *blocks]
    rows: list[list[Cell]] = []
    found = {block: study.differences(block) for block in blocks}
    for arm in study.design.arms:
        level: list[Cell] = [Cell(arm)]
        gap: list[Cell] = [Cell(f"  against {study.design.baseline}", tone="quiet")]
        for block in blocks:
            values = list(study.scores(arm, block).values())
            level.append(share(values, study.names([arm], block)))
            if arm in found[block]:
                _, _, verdict = difference_cells(found[block][arm], ())
                cell, _, _ = difference_cells(
                    found[block][arm], study.names([arm, study.design.baseline], block)
                )
                gap.append(Cell(cell.text, cell.detail, verdict.tone, cell.runs))
            else:
                gap.append(Cell(""))
        rows += [level] if arm == study.design.baseline else [level, gap]
    foot = [
        levels(study),
        basis(study, found[blocks[0]]),
        "Bold is better, italic worse, plain cannot be told.",
    ]
    return table(
        study,
        f"{study.design.axis}_by_{'_'.join(study.design.others)}",
        f"Accuracy by {study.design.axis} and {', '.join(study.design.others)}",
        head,
        rows,
        foot,
    )


def statistics(study: Study) -> Table:
    """Every statistic of the comparison, for whoever prefers another one."""
    head = [
        study.design.axis, "interquartile mean, %", "standard deviation", "both-level bootstrap", "P(better)",
        "McNemar, seeds with p<.05", "question bootstrap p", "p", "Holm p", "BH q", "seeds wanted", "seen with 80% power",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    base = study.design.baseline
    for block in study.design.blocks:
        found = study.differences(block)
        q = dict(zip(found, benjamini_hochberg([one.p for one in found.values()]), strict=True))
        rows += titled(study, block)
        for arm in study.arms(block):
            own, both = study.names([arm], block), study.names([arm, base], block)
            values = np.array(list(study.scores(arm, block).values()))
            middle = (
                stratified_bootstrap(values[:, None], iqm, draws=DRAWS)
                if len(values)
                else mean_interval([math.nan])
            )
            row = [
                Cell(arm, runs=own),
                estimate(middle.scaled(100), own),
                estimate(spread_interval(list(values)).scaled(100), own),
            ]
            if arm not in found:
                rows.append([*row, *[Cell("")] * (len(head) - len(row))])
                continue
            one = found[arm]
            ours, theirs = study.pair(arm, block)
            cells = [
                Cell("—"),
                estimate(better(study, arm, base, block), both, digits=2),
                Cell("—"),
                Cell("—"),
            ]
            if ours.ndim == 2:
                cells[0] = estimate(hierarchical_bootstrap(ours - theirs).scaled(100), both, sign=True)
                if set(np.unique(np.concatenate([ours, theirs]))) <= {0.0, 1.0}:
                    tests = [mcnemar(mine, other) for mine, other in zip(ours, theirs, strict=True)]
                    cells[2] = Cell(f"{sum(test.p < 0.05 for test in tests)} of {len(tests)}", runs=both)
                cells[3] = Cell(
                    p_value(paired_bootstrap(ours.mean(axis=0), theirs.mean(axis=0)).p), runs=both
                )
            wanted = seeds_needed(one.interval.estimate / one.spread) if one.spread else None
            smallest = detectable(one.n) * one.spread * 100 if one.n > 1 and one.spread else math.nan
            shown = [
                p_value(one.p),
                p_value(one.adjusted),
                p_value(q[arm]),
                ">10000" if wanted is None else str(wanted),
                number(smallest),
            ]
            rows.append([*row, *cells, *(Cell(text, runs=both) for text in shown)])
    foot = [
        f"Differences are from {base}. Interquartile mean: stratified bootstrap over seeds; standard "
        f"deviation: over seeds, "
        f"chi-square interval; "
        "both-level bootstrap: seeds and questions drawn again. Over five seeds the first is too narrow and "
        "the last too wide "
        "(docs/analysis.md has the coverage); verdicts rest on the t intervals.",
        (
            "McNemar compares two checkpoints, and the question bootstrap the seeds' mean answer: neither "
            "knows "
            "that other seeds would train "
            "other checkpoints."
        ),
        "Seeds wanted: for 80% power at the difference seen, by a paired t test without correction; seen "
        "with 80% power: the smallest "
        "difference, "
        "in points, at these seeds.",
    ]
    return table(
        study, f"statistics_{study.design.axis}", f"Every statistic, by {study.design.axis}", head, rows, foot
    )


def binomial_error(share: float, n: float) -> float:
    """Standard error of a share of n independent answers.

    Example:
        >>> round(binomial_error(0.6, 500), 4)
        0.0219
    """
    return (share * (1 - share) / n) ** 0.5


def before_after(study: Study) -> Table:
    """Accuracy of every run at its first and its last evaluation.

    The errors are binomial, of one evaluation each; both evaluations ask the same questions, so they
    do not add up to the error of the gain.
    """
    curves = study.curve(study.metric, "eval/questions").dropna()
    head = ["arm", "seed", "steps", "questions", "before, %", "after, %", "gain", "commit"]
    rows: list[list[Cell]] = []
    known = sources(study)
    for run in sorted(
        study.design.runs, key=lambda run: (run.block, study.design.arms.index(run.arm), run.seed)
    ):
        mine = curves[curves["run"] == run.name]
        if mine.empty:
            continue
        own, first, last = (run.name,), mine.iloc[0], mine.iloc[-1]
        shares = [float(row[study.metric]) for row in (first, last)]
        asked = int(last["eval/questions"])
        both = [
            Cell(number(100 * share), f"± {100 * binomial_error(share, asked):.1f}", runs=own)
            for share in shares
        ]
        gain = Cell(number(100 * (shares[1] - shares[0]), sign=True), runs=own)
        label = Cell(", ".join(filter(None, (run.block, run.arm))), runs=own)
        counts = [Cell(str(value), runs=own) for value in (run.seed, int(last["step"]), asked)]
        rows.append(
            [
                label,
                *counts,
                *both,
                gain,
                Cell(known[run.name].commit[:9] + ("+" if run.row["dirty"] else ""), runs=own),
            ]
        )
    return table(
        study,
        "before_after",
        "Every run before and after",
        head,
        rows,
        ["± is the binomial standard error of one evaluation."],
    )
