"""What a reader of a table has to know and the table does not say, as the runs show it."""

from collections.abc import Hashable

import numpy as np

from analysis.data import paper
from analysis.data.export import Frame
from analysis.report.accuracy_tables import binomial_error
from analysis.report.contamination import contamination
from analysis.report.study_table import label
from analysis.study.steered_drift import steered_drift
from analysis.study.study import DRIFT, Study

# Columns of answers that a difference between two arms shows in.
TOLD_BY = ("right", "tokens", "samples_right", "sampled_tokens")
FEW_SEEDS, FEW_QUESTIONS, OFTEN_CUT = 5, 1000, 0.05


def caveats(study: Study) -> list[str]:
    """Sentences, the gravest first; what the guards found and somebody allowed stands before all others."""
    return [
        *study.notes,
        *_identical(study),
        *_size(study),
        *_world(study),
        *contamination(study),
        *_truncated(study),
        *_unverifiable(study),
        *_drift(study),
        *_ratio(study),
        *_choice(study),
    ]


def _identical(study: Study) -> list[str]:
    """Arms whose runs gave the same answers: one experiment under two names."""
    groups: dict[Hashable, list[str]] = {}
    for block in study.design.blocks:
        for arm in study.arms(block):
            answers = [study.answers(run) for run in study.runs(arm, block).values()]
            if not answers or any(table.empty for table in answers):
                continue
            given = [
                tuple(zip(table.index, *(_numbers(table[name]) for name in TOLD_BY), strict=True))
                for table in answers
            ]
            groups.setdefault((block, *given), []).append(label(block, arm))
    return [
        f"{' and '.join(arms)} gave the same verdict and length on every question with every seed: nothing "
        "in the last evaluation tells them apart."
        for arms in groups.values()
        if len(arms) > 1
    ]


def _numbers(column: Frame) -> Frame:
    # Two missing values are alike, which two NaN are not.
    return column.astype(float).fillna(-1)


def _size(study: Study) -> list[str]:
    out: list[str] = []
    seeds = min(len(study.runs(arm, block)) for block in study.design.blocks for arm in study.arms(block))
    if seeds < FEW_SEEDS:
        out.append(
            f"There are {seeds} seeds in the smallest arm. Below {FEW_SEEDS} a spread over seeds is hardly "
            "known, and only large differences can be told."
        )
    questions = {len(study.answers(run)) for run in study.design.runs} - {0}
    if questions and min(questions) < FEW_QUESTIONS:
        n = min(questions)
        error = 100 * binomial_error(0.8, n)
        at_most = "at most " if study.by_samples else ""
        out.append(
            f"Accuracy is over {n} questions: one run's accuracy of 80% has a binomial standard error of "
            f"{at_most}{error:.1f} points."
        )
    sampled = study.export.metric("eval/sampled_questions").dropna()
    least = int(sampled["eval/sampled_questions"].min()) if len(sampled) else FEW_QUESTIONS
    if least < min(questions | {FEW_QUESTIONS}):
        out.append(f"pass@k is over {least} questions, the first ones.")
    return out


def _world(study: Study) -> list[str]:
    datasets, models = (
        sorted({str(run.row[name]) for run in study.design.runs}) for name in ("dataset", "model")
    )
    twins = [name for name in datasets if name in paper.TWINS and name not in paper.BENCHMARKS]
    if not twins:
        return []
    return [
        f"{', '.join(twins)} with {', '.join(models)} stands in for the papers' benchmarks and models. "
        "What holds here need not hold there, nor the other way round; levels are not comparable."
    ]


def _truncated(study: Study) -> list[str]:
    cut = {run.arm: study.last(run, "eval/truncated") for run in study.design.runs}
    often = {arm: share for arm, share in cut.items() if share > OFTEN_CUT}
    if not often:
        return []
    listed = ", ".join(f"{arm} {100 * share:.0f}%" for arm, share in often.items())
    return [
        f"The length cap cut greedy answers ({listed}): part of a difference may be learning to finish "
        "inside the cap."
    ]


def _unverifiable(study: Study) -> list[str]:
    counts = [study.last(run, "eval/unverifiable") for run in study.design.runs]
    total = sum(count for count in counts if count > 0)
    text = (
        f"The verifier gave no verdict on {total:.0f} answers of the last evaluations; they count as wrong."
    )
    return [text] if total else []


def _drift(study: Study) -> list[str]:
    if study.design.axis != "divergence" or steered_drift(study):
        return []
    drifts = {
        arm: [study.last(run, DRIFT) for run in study.design.runs if run.arm == arm]
        for arm in study.design.arms
    }
    measured = {arm: [value for value in values if value == value] for arm, values in drifts.items()}
    ends = {arm: np.mean(values) for arm, values in measured.items() if values}
    known = {arm: value for arm, value in ends.items() if value > 0}
    if len(known) < 2:
        return []
    low, high = min(known, key=lambda arm: known[arm]), max(known, key=lambda arm: known[arm])
    return [
        f"Arms end at different drifts from the start model ({low} {known[low]:.3g}, {high} "
        f"{known[high]:.3g} nats). Coefficients of different divergences are not comparable; arms at equal "
        "drift and steps are those of beta_schedule=matched_drift."
    ]


def _ratio(study: Study) -> list[str]:
    settings = [run.settings for run in study.design.runs if run.settings]
    if settings and all(of_run.get("updates_per_rollout") == 1 for of_run in settings):
        return [
            "One update per rollout: the importance ratio is exactly one, clipping never acts, and "
            "algorithms that differ only in it are the same."
        ]
    return []


def _choice(study: Study) -> list[str]:
    splits = {str(run.settings.get("eval_split")) for run in study.design.runs if run.settings}
    out = ["Every number is of the last step; no checkpoint was chosen by its score."]
    if splits == {"validation"}:
        out.append(
            "The questions are validation questions, held out of training; the test split was not read."
        )
    return out
