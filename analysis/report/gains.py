"""What runs gained from their first evaluation to their last, question by question."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from analysis.data.export import Frame
from analysis.report.study_table import label
from analysis.report.table_cells import bounds, number
from analysis.stats.intervals import Interval
from analysis.study.comparison import difference
from analysis.study.question_scores import COLUMNS, question_scores
from analysis.study.study import Study

HOW = (
    "95% intervals; both evaluations ask the same questions, so the interval is of the difference question "
    "by question (Student's t; over several seeds both seeds and questions are drawn again)."
)


@dataclass(frozen=True, slots=True)
class Gain:
    """A metric before and after, of one run or of an arm's runs.

    Attributes:
        before, after: means over runs and questions.
        interval: of the difference, paired by question.
        won, lost: answers that turned right, and that turned wrong; both None where the metric is not of
            right and wrong.
        questions: that both evaluations asked.
        seeds: of runs.
    """

    before: float
    after: float
    interval: Interval
    won: int | None
    lost: int | None
    questions: int
    seeds: int

    def __str__(self) -> str:
        gap = self.interval.scaled(100)
        levels = f"{number(100 * self.before)}% → {number(100 * self.after)}%"
        what = f"{number(gap.estimate, 1, True)} points {bounds(gap)}".strip()
        over = f"{self.questions:,} questions" + (f" and {self.seeds} seeds" if self.seeds > 1 else "")
        turned = "" if self.won is None else f", {self.won} turned right, {self.lost} turned wrong"
        return f"{levels}: {what} over {over}{turned}"


def pairs(study: Study) -> dict[str, Frame]:
    """By run its values by question, column 0 the first evaluation and 1 the last.

    Runs with one evaluation, or without answers question by question, are left out.
    """
    frame = study.export.answers(*COLUMNS, of_set=study.of_set)
    values = question_scores(study.metric, frame)
    if values is None:
        return {}
    frame = frame.assign(value=values).dropna(subset=["value"])
    frame = frame[frame["run"].isin([run.name for run in study.design.runs])]
    out: dict[str, Frame] = {}
    for name, rows in frame.groupby("run"):
        ends = [rows["step"].min(), rows["step"].max()]
        table = rows[rows["step"].isin(ends)].pivot(index="uid", columns="step", values="value").dropna()
        if ends[0] < ends[1] and len(table):
            out[str(name)] = table.set_axis([0, 1], axis=1)
    return out


def gain(tables: Sequence[Frame]) -> Gain | None:
    """What runs gained together; None where they share no question.

    Args:
        tables: of `pairs`, one a seed.
    """
    shared = reduce(lambda left, right: left.intersection(right), [table.index for table in tables])
    if not len(shared):
        return None
    before, after = (np.array([table.loc[shared, side].to_numpy() for table in tables]) for side in (0, 1))
    gaps = after - before
    # Of one run the questions are the sample; of several, runs and questions.
    made = difference(after[0], before[0]) if len(tables) == 1 else difference(after, before)
    binary = np.isin(np.unique(gaps), (-1.0, 0.0, 1.0)).all()
    turned = (int((gaps > 0).sum()), int((gaps < 0).sum())) if binary else (None, None)
    levels = float(before.mean()), float(after.mean())
    return Gain(*levels, made.interval, *turned, questions=len(shared), seeds=len(tables))


def of_runs(study: Study) -> dict[str, Gain]:
    """The gain of every run by itself, by the run's name."""
    alone = ((name, gain([table])) for name, table in pairs(study).items())
    return {name: made for name, made in alone if made is not None}


def gains(study: Study) -> list[tuple[str, Gain]]:
    """Gains where nothing is compared: of each block's runs together, and of each run."""
    if len(study.design.arms) > 1:
        return []
    tables, alone = pairs(study), of_runs(study)
    out: list[tuple[str, Gain]] = []
    for block in study.design.blocks:
        runs = [run for run in study.runs(study.design.arms[0], block).values() if run.name in tables]
        if len(runs) > 1 and (together := gain([tables[run.name] for run in runs])):
            out.append((label(block, f"{len(runs)} seeds"), together))
        out += [(label(block, f"seed {run.seed}"), alone[run.name]) for run in runs if run.name in alone]
    return out
