"""What forbids a table because of the runs' answers, on their own questions and on other evaluation sets."""

import json
from collections.abc import Callable, Mapping, Sequence

from analysis.data.export import Export
from analysis.study.design import Run
from analysis.study.finding import Finding, differing
from analysis.study.question_scores import COLUMNS, GREEDY, evaluation_metric, question_scores

# What a run says of another evaluation set, and the kind of finding if runs say different things.
OF_A_SET: Mapping[str, str] = {
    "settings": "mixed",
    "content": "data",
    "prompt": "prompt",
    "extractor": "extractor",
}


def other_questions(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Runs that answered other questions at their last evaluation, of their own set or another one."""
    return [finding for of_set in ("", *export.sets) for finding in _other_questions_of(export, runs, of_set)]


def _other_questions_of(export: Export, runs: Sequence[Run], of_set: str) -> list[Finding]:
    answers = export.answers(of_set=of_set)
    if answers.empty:
        return []
    last = answers.groupby("run")["step"].transform("max")
    sets = answers[answers["step"] == last].groupby("run")["uid"].agg(lambda uids: hash(tuple(sorted(uids))))
    counts = answers[answers["step"] == last].groupby("run")["uid"].size()
    by_name = {run.name: run for run in runs}
    called = f"{of_set}: set" if of_set else "set"
    known = {
        name: f"{called} {index} of {counts[name]} questions"
        for index, value in enumerate(dict.fromkeys(sets))
        for name in sets[sets == value].index
    }
    return differing(
        "data",
        [by_name[name] for name in known if name in by_name],
        lambda run: known[run.name],
        lambda run: run.row["dataset"] if not of_set else None,
    )


def answers_of_metrics(export: Export, runs: Sequence[Run], metric: str) -> list[Finding]:
    """Last evaluations whose answers have another mean than the metric, or an accuracy of another set."""
    # The tables of other sets show both accuracies, whatever is compared.
    of_sets = [
        name
        for name in export.names
        if (parts := evaluation_metric(name)) is not None
        and parts.of_set in export.sets
        and (parts.quantity == GREEDY or parts.quantity.startswith("avg@"))
    ]
    names = dict.fromkeys([metric, *of_sets])
    return [finding for name in names for finding in _answers_of(export, runs, name)]


def _answers_of(export: Export, runs: Sequence[Run], metric: str) -> list[Finding]:
    parts = evaluation_metric(metric)
    if parts is None:
        return []
    answers = export.answers(*COLUMNS, of_set=parts.of_set)
    scores = question_scores(metric, answers)
    if scores is None or answers.empty:
        return []
    answers = answers.assign(score=scores)
    answers = answers[answers["step"] == answers.groupby("run")["step"].transform("max")]
    means = answers.groupby("run").agg(mean=("score", "mean"), step=("step", "max"))
    both = export.metric(metric).merge(means, on=["run", "step"])
    wrong = both[(both[metric] - both["mean"]).abs() > 1e-9].set_index("run")
    out: list[Finding] = []
    for run in runs:
        if run.name in wrong.index:
            stated, counted = wrong.loc[run.name, metric], wrong.loc[run.name, "mean"]
            out.append(Finding("answers", f"{run}: {metric} is {stated:.4f}, its answers have {counted:.4f}"))
    return out


def other_sets(runs: Sequence[Run]) -> list[Finding]:
    """Evaluation sets of one name that are not the same in all runs."""
    said = {run.name: json.loads(run.row.get("sets") or "{}") for run in runs}
    names = sorted({name for of_run in said.values() for name in of_run})
    out: list[Finding] = []
    for of_set in names:
        for key, kind in OF_A_SET.items():
            found = differing(
                kind, runs, _value(said, of_set, key), lambda run: (run.block, run.row["model"])
            )
            out += [Finding(kind, f"{of_set}: {key} {finding.text}") for finding in found]
    return out


def _value(
    said: Mapping[str, Mapping[str, Mapping[str, str | None]]], of_set: str, key: str
) -> Callable[[Run], str | None]:
    return lambda run: said[run.name].get(of_set, {}).get(key)
