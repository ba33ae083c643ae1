"""What forbids a table because numbers do not follow from answers, which every evaluated step must have."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.export import Export, Frame
from analysis.study.design import Run
from analysis.study.finding import Finding
from analysis.study.question_scores import (
    COLUMNS,
    GREEDY,
    EvaluationMetric,
    evaluation_metric,
    question_scores,
)
from mirrorpo.config.identity import EVAL_SETS

# Counts of an evaluation.
QUESTIONS, SAMPLED, UNVERIFIABLE = "questions", "sampled_questions", "unverifiable"
# Outcomes of the package's rewards that are right; an answer that some part of a reward calls right may be
# unverifiable to another part.
RIGHT = ("right", "passed")
# Rewards whose outcomes have other names, or mean nothing.
FREE = ("http", "verifiers")
TOLERANCE = 1e-9
# Behind the names of metrics: of those that answers were counted to. And the column of how many answers.
COUNTED, ANSWERS = " of answers", "answers"


def numbers_of_answers(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Evaluations that lack their answers, or whose numbers are not those of their answers, at any step."""
    return [
        Finding("answers", text)
        for of_set in ("", *export.sets)
        for text in _of_set(export, runs, of_set)
        if export.questions.num_rows
    ]


def _of_set(export: Export, runs: Sequence[Run], of_set: str) -> Iterator[str]:
    answers = export.answers(*COLUMNS, "outcome", of_set=of_set)
    answers = answers[answers["run"].isin([run.name for run in runs])]
    accuracy = str(EvaluationMetric(of_set, GREEDY))
    names = list(dict.fromkeys([accuracy, *(name for name in export.names if _is_of(name, of_set))]))
    stated = export.metric(*names).set_index(["run", "step"])
    counted = _counted(names, answers)
    both = stated.join(counted, how="outer")
    of_runs = dict(list(both.reset_index().groupby("run")))
    for run in runs:
        rows = of_runs.get(run.name)
        if rows is not None:
            yield from _lacking(run, rows, accuracy, of_set)
            yield from _other_numbers(run, rows.dropna(subset=[ANSWERS]), names)
    yield from _other_outcomes(runs, answers, of_set)


def _is_of(name: str, of_set: str) -> bool:
    parts = evaluation_metric(name)
    return parts is not None and parts.of_set == of_set


def _counted(names: Sequence[str], answers: Frame) -> Frame:
    """By run and step what the answers say of each metric that they say something of."""
    columns: dict[str, Any] = {}
    for name in names:
        if (scores := question_scores(name, answers)) is not None:
            columns[name + COUNTED] = scores
    by = [answers["run"], answers["step"]]
    means: Frame = pd.DataFrame(columns, index=answers.index).groupby(by).mean()
    counts = {
        QUESTIONS: answers["uid"].notna(),
        SAMPLED: answers["samples"].notna(),
        UNVERIFIABLE: (answers["outcome"] == UNVERIFIABLE).where(answers["outcome"].notna()),
    }
    sums = {name: column.astype(float).groupby(by).sum(min_count=1) for name, column in counts.items()}
    for name in names:
        parts = evaluation_metric(name)
        if parts is not None and parts.quantity in sums:
            means[name + COUNTED] = sums[parts.quantity]
    means[ANSWERS] = sums[QUESTIONS]
    return means


def _lacking(run: Run, rows: Frame, accuracy: str, of_set: str) -> Iterator[str]:
    of = f" of {of_set}" if of_set else ""
    if run.row["config_hash"] is None:
        # Of a table from elsewhere nobody knows what else there was.
        return
    without = rows[rows[ANSWERS].isna() & rows[accuracy].notna()]["step"]
    if len(without):
        steps = ", ".join(map(str, without[:5])) + (", ..." if len(without) > 5 else "")
        yield (
            f"{run} has no answers{of} at step {steps}, where it was evaluated: copy its eval/ again, or "
            "launch it again"
        )
    without = rows[rows[ANSWERS].notna() & rows[accuracy].isna()]["step"]
    if len(without):
        yield f"{run} has answers{of} at step {without.iloc[0]}, and no {accuracy} there"


def _other_numbers(run: Run, rows: Frame, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name + COUNTED not in rows:
            continue
        stated, counted = rows[name].to_numpy(float), rows[name + COUNTED].to_numpy(float)
        near = np.abs(stated - counted) <= TOLERANCE * np.maximum(1.0, np.abs(counted))
        wrong = np.flatnonzero(~np.isnan(stated) & ~near)
        if len(wrong):
            at, more = wrong[-1], f", and at {len(wrong) - 1} steps more" if len(wrong) > 1 else ""
            yield (
                f"{run}: {name} is {stated[at]:.4f}, its answers have {counted[at]:.4f} "
                f"(step {rows['step'].iloc[at]}{more})"
            )


def _other_outcomes(runs: Sequence[Run], answers: Frame, of_set: str) -> Iterator[str]:
    """Answers that are right by one column and not by another."""
    of = f" of {of_set}" if of_set else ""
    known = answers.dropna(subset=["right", "outcome"])
    right, by_outcome = known["right"].astype(bool), _right_by_outcome(runs, known, of_set)
    wrong = known[(right != by_outcome) & ~(right & (known["outcome"] == UNVERIFIABLE))]
    for run in runs:
        reward = str(run.settings.get("reward._target_") or "")
        if not of_set and any(f".{name}." in reward for name in FREE):
            continue
        of_run = wrong[wrong["run"] == run.name]
        if reward.startswith("mirrorpo.") and len(of_run):
            first = of_run.iloc[0]
            verdict = "right" if first["right"] else "not right"
            yield (
                f"{run}: {len(of_run)} answers{of} are right in one column and not in another "
                f"({first['uid']} at step {first['step']} is {verdict}, its outcome {first['outcome']})"
            )


def _right_by_outcome(runs: Sequence[Run], known: Frame, of_set: str) -> Frame:
    """Whether each answer is right by its outcome, a series in the order of the rows.

    An outcome that the reward's settings name, such as one that `pays` a number, is right where it is in most
    answers of the runs with these settings; any other one by its word.
    """
    prefix = f"{EVAL_SETS}.{of_set}.reward." if of_set else "reward."
    of_reward = {
        run.name: [item for item in sorted(run.settings.items()) if item[0].startswith(prefix)]
        for run in runs
    }
    named = {name: {key.rpartition(".")[2] for key, _ in items} for name, items in of_reward.items()}
    pairs = zip(known["run"], known["outcome"], strict=True)
    by_settings = pd.Series([word in named[run] for run, word in pairs], known.index, dtype=bool)
    rewards = known["run"].map({name: repr(items) for name, items in of_reward.items()})
    shares = known["right"].astype(float).groupby([rewards, known["outcome"]]).transform("mean")
    return known["outcome"].isin(RIGHT).where(~by_settings, shares > 1 / 2)
