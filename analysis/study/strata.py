"""Questions in strata by what was known before training: the start model's own answers to them."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.data.export import Frame
from analysis.study.comparison import Difference, corrected, difference
from analysis.study.endpoint import read_endpoint
from analysis.study.question_scores import evaluation_metric
from analysis.study.study import Study

# A calculation of an answer, as in 23 + 5 = 28.
STATEMENT = re.compile(r"(?<![<>=!])=(?!=)")
COLUMNS = ("right", "tokens", "samples", "samples_right", "completion")
THIRDS = (1 / 3, 2 / 3)
# A stratum of fewer questions is none.
FEWEST_QUESTIONS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """Questions by something that was known of them before training.

    Attributes:
        name: what they are parted by.
        by: in a sentence.
        questions: the ids of each stratum, by its name, in order.
    """

    name: str
    by: str
    questions: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Start:
    """The start model's answers, pooled over runs, and how questions are parted by them.

    Attributes:
        answers: rows of all runs' evaluation at step 0.
    """

    answers: Frame

    @cached_property
    def sampled(self) -> bool:
        """Whether every question was sampled."""
        return bool(self.answers["samples"].fillna(0).gt(0).all())

    @cached_property
    def strata(self) -> list[Strata]:
        """The ways to part questions that make at least two strata."""
        made = [self._by_answers(), self._by_length(), self._by_steps()]
        return [strata for strata in made if len(strata.questions) > 1]

    def _by_answers(self) -> Strata:
        rows, sampled = self.answers, self.sampled
        shares = rows["right"].astype(float)
        if sampled:
            shares = rows["samples_right"].astype(float) / rows["samples"].astype(float)
        share = shares.groupby(rows["uid"]).mean()
        order = ("right", "sometimes", "never" if sampled else "wrong")
        kinds = [order[0] if value >= 1 else order[2] if value <= 0 else order[1] for value in share]
        how = (
            "all of its sampled answers are right, some, or none" if sampled else "its greedy answer is right"
        )
        return Strata(name="start's answers", by=how, questions=_parted(share.index, kinds, order))

    def _by_length(self) -> Strata:
        length = self.answers.groupby("uid")["tokens"].mean().dropna()
        by = "tokens of its greedy answer, in thirds"
        return Strata(name="start's length", by=by, questions=_in_parts(length, "tokens"))

    def _by_steps(self) -> Strata:
        texts = self.answers.dropna(subset=["completion"])
        lines = texts["completion"].astype(str).map(_statements)
        steps = lines.groupby(texts["uid"]).median().round().astype(int)
        kinds = [f"{count} step{'s' if count != 1 else ''}" for count in steps]
        order = [f"{count} step{'s' if count != 1 else ''}" for count in sorted(set(steps))]
        by = "lines of its greedy answer that calculate something"
        return Strata(name="start's steps", by=by, questions=_parted(steps.index, kinds, order))


def _statements(completion: str) -> int:
    return sum(bool(STATEMENT.search(line)) for line in completion.splitlines())


def _parted(uids: pd.Index, kinds: Sequence[str], order: Sequence[str]) -> dict[str, list[str]]:
    """Ids by kind, in an order; kinds of few questions left out."""
    by_kind = pd.Series(uids, dtype=object).groupby(np.asarray(kinds)).apply(list).to_dict()
    return {kind: by_kind[kind] for kind in order if len(by_kind.get(kind, ())) >= FEWEST_QUESTIONS}


def _in_parts(values: Frame, unit: str) -> dict[str, list[str]]:
    """Ids in thirds of a value; one where all are equal."""
    edges = [float(edge) for edge in np.unique(np.quantile(values, THIRDS))] if len(values) else []
    index = np.searchsorted(edges, values.to_numpy(dtype=float), side="left")
    names = [f"up to {edges[0]:g} {unit}"] if len(edges) else [f"all {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)]
    names += [f"over {edges[-1]:g} {unit}"] if len(edges) else []
    kinds = [names[part] for part in index]
    return _parted(values.index, kinds, names)


def start(study: Study) -> Start | None:
    """The start model's answers to the set that is compared; None where runs were not evaluated at step 0."""
    parts = evaluation_metric(study.metric)
    if parts is None:
        return None
    answers = study.export.answers(*COLUMNS, of_set=study.of_set)
    names = [run.name for run in study.design.runs]
    answers = answers[answers["run"].isin(names) & (answers["step"] == 0)]
    return None if answers.empty or answers["run"].nunique() < len(names) else Start(answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class StratumRow:
    """An arm on a stratum.

    Attributes:
        stratum, arm: which.
        questions: of the stratum.
        levels: the arm's mean score on it, by seed.
        gap: from the baseline; None of the baseline itself.
    """

    stratum: str
    arm: str
    questions: int
    levels: Sequence[float]
    gap: Difference | None


def stratum_rows(study: Study, strata: Strata, block: str = "") -> list[StratumRow]:
    """Every arm of a block on every stratum, p corrected over all of them."""
    base, made = study.design.baseline, read_endpoint(study.metric)
    rows: list[StratumRow] = []
    experiments: list[Hashable] = []
    for stratum, uids in strata.questions.items():
        for arm in study.arms(block):
            seeds = [seed for seed in study.scores(arm, block) if seed in study.scores(base, block)]
            tables = [study.table(name, seeds, block) for name in (arm, base)]
            own, other = (_columns(table, uids) for table in tables)
            if own is None or other is None or own.shape != other.shape:
                continue
            gap = None if arm == base else difference(own, other, study.margin_of(made))
            if gap is not None:
                experiments.append((stratum, own.tobytes()))
            levels = list(own.mean(axis=1))
            rows.append(StratumRow(stratum=stratum, arm=arm, questions=own.shape[1], levels=levels, gap=gap))
    adjusted = iter(corrected([row.gap for row in rows if row.gap is not None], experiments))
    return [row if row.gap is None else replace(row, gap=next(adjusted)) for row in rows]


def _columns(table: Frame | None, uids: Sequence[str]) -> NDArray[np.float64] | None:
    """Scores[seed, question] of some questions; None where there are none of them."""
    if table is None:
        return None
    there = table.columns.intersection(pd.Index(uids))
    return table[there].to_numpy(dtype=float) if len(there) else None
