"""What verdicts rest on where nobody says: sampled answers to all questions, or else greedy ones."""

from collections.abc import Sequence
from typing import NamedTuple

from analysis.data.export import Export, Frame
from analysis.study.question_scores import GREEDY, EvaluationMetric, last_answers

# Columns of a run's last evaluation of a set.
QUESTIONS, SAMPLED, LEAST, MOST = "questions", "sampled", "least", "most"


class MetricChoice(NamedTuple):
    """The accuracy that is compared, and why that one; "" where somebody named it."""

    metric: str
    reason: str


def metric_choice(export: Export, runs: Sequence[str], of_set: str = "") -> MetricChoice:
    """avg@k where every run sampled every question that it evaluated, equally often; else greedy accuracy.

    Args:
        export: the numbers.
        runs: ids of the runs that are compared.
        of_set: the evaluation set; "" is the run's own.
    """
    greedy = str(EvaluationMetric(of_set, GREEDY))
    counts = _counts(export, runs, of_set)
    if counts.empty or not counts[SAMPLED].any():
        return MetricChoice(greedy, "greedy answers: no question was sampled (eval_samples)")
    short = counts[counts[SAMPLED] < counts[QUESTIONS]]
    if len(short):
        sampled, questions = int(short[SAMPLED].min()), int(short[QUESTIONS].max())
        few = f"{len(short)} of {len(counts)} runs sampled {sampled} of {questions} (eval_sampled_questions)"
        return MetricChoice(greedy, f"greedy answers: avg@k needs every question sampled, and {few}")
    sizes = sorted({int(size) for size in (*counts[LEAST], *counts[MOST])})
    if len(sizes) > 1 or sizes[0] < 2:
        wanted = "at least two samples of every question, as many in all runs"
        there = f"there are {', '.join(map(str, sizes))} (eval_samples)"
        return MetricChoice(greedy, f"greedy answers: avg@k needs {wanted}; {there}")
    k = sizes[0]
    average, pass_at_one = (str(EvaluationMetric(of_set, name)) for name in (f"avg@{k}", "pass@1"))
    last = _last(export, runs, average, pass_at_one)
    why = f"avg@{k}: the mean of {k} sampled answers to each of the {int(counts[QUESTIONS].max())} questions"
    if average in last and last[average].notna().all():
        return MetricChoice(average, why)
    # Runs of an older version logged the same number under this name alone.
    return MetricChoice(pass_at_one, f"{why}, which runs of an older version call pass@1")


def _counts(export: Export, runs: Sequence[str], of_set: str) -> Frame:
    """By run: questions of the last evaluation, how many were sampled, and least and most samples of one."""
    answers = last_answers(export, "samples", of_set=of_set)
    answers = answers[answers["run"].isin(runs)]
    if answers["run"].nunique() < len(set(runs)):
        return _counts_of_metrics(export, runs, of_set)
    samples = answers.assign(samples=answers["samples"].astype(float)).groupby("run")["samples"]
    return samples.agg(**{QUESTIONS: "size", SAMPLED: "count", LEAST: "min", MOST: "max"})


def _counts_of_metrics(export: Export, runs: Sequence[str], of_set: str) -> Frame:
    """The same where runs bring no rows, of what their last evaluations say."""
    prefix = str(EvaluationMetric(of_set, "avg@"))
    averages = {name: int(name.removeprefix(prefix)) for name in export.names if name.startswith(prefix)}
    asked, sampled = (str(EvaluationMetric(of_set, name)) for name in ("questions", "sampled_questions"))
    last = _last(export, runs, asked, sampled, *averages)
    sizes = last[list(averages)].notna().mul(list(averages.values())).max(axis=1) if averages else 0
    counts = last.assign(
        **{QUESTIONS: last[asked], SAMPLED: last[sampled].fillna(0), LEAST: sizes, MOST: sizes}
    )
    counts.loc[counts[LEAST] == 0, SAMPLED] = 0
    return counts[[QUESTIONS, SAMPLED, LEAST, MOST]]


def _last(export: Export, runs: Sequence[str], *names: str) -> Frame:
    """By run the last row that has one of some metrics."""
    values = export.metric(*names)
    return values[values["run"].isin(runs)].groupby("run").tail(1).set_index("run")
