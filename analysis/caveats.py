"""What a reader of a table has to know and the table does not say; found in the runs, never written by hand."""

import json
from collections.abc import Hashable

import numpy as np

from analysis import paper
from analysis.study import Study

FEW_SEEDS, FEW_QUESTIONS, OFTEN_CUT = 5, 1000, 0.05


def caveats(study: Study) -> list[str]:
    """Sentences, the gravest first; what the guards found and somebody allowed stands before all others."""
    found = [
        study.notes,
        _identical(study),
        _size(study),
        _world(study),
        _truncated(study),
        _unverifiable(study),
        _drift(study),
        _ratio(study),
        _choice(study),
    ]
    return [sentence for sentences in found for sentence in sentences]


def _identical(study: Study) -> list[str]:
    """Arms whose runs gave the same answers: one experiment under two names."""
    groups: dict[Hashable, list[str]] = {}
    for block in study.design.blocks:
        for arm in study.arms(block):
            answers = [study.answers(run) for run in study.runs(arm, block).values()]
            if not answers or any(table.empty for table in answers):
                continue
            key = (
                block,
                tuple(
                    tuple(zip(table.index, table["right"], table["tokens"], strict=True)) for table in answers
                ),
            )
            groups.setdefault(key, []).append(", ".join(filter(None, (block, arm))))
    return [
        (
            f"{' and '.join(arms)} gave the same verdict and length on every question with every seed: "
            f"nothing "
            f"in the last evaluation tells "
            f"them apart."
        )
        for arms in groups.values()
        if len(arms) > 1
    ]


def _size(study: Study) -> list[str]:
    out: list[str] = []
    seeds = min(len(study.runs(arm, block)) for block in study.design.blocks for arm in study.arms(block))
    if seeds < FEW_SEEDS:
        out.append(
            f"There are {seeds} seeds in the smallest arm. Below {FEW_SEEDS} a spread over seeds is hardly "
            f"known, and only large "
            f"differences can be told."
        )
    questions = {len(study.answers(run)) for run in study.design.runs} - {0}
    if questions and min(questions) < FEW_QUESTIONS:
        n = min(questions)
        out.append(
            f"Accuracy is over {n} questions: one run's accuracy of 80% has a binomial standard error of "
            f"{100 * (0.16 / n) ** 0.5:.1f} "
            f"points."
        )
    sampled = study.export.metric("eval/sampled_questions").dropna()
    if len(sampled) and (least := int(sampled["eval/sampled_questions"].min())) < FEW_QUESTIONS:
        out.append(f"pass@k is over {least} questions, the first ones.")
    return out


def _world(study: Study) -> list[str]:
    rows = [run.row for run in study.design.runs]
    twins = sorted(
        {
            str(row["dataset"])
            for row in rows
            if row["dataset"] not in paper.BENCHMARKS and row["dataset"] in paper.TWINS
        }
    )
    if not twins:
        return []
    models = sorted({str(row["model"]) for row in rows})
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
        (
            f"The length cap cut greedy answers ({listed}): part of a difference may be learning to finish "
            f"inside the cap."
        )
    ]


def _unverifiable(study: Study) -> list[str]:
    count = sum(value for run in study.design.runs if (value := study.last(run, "eval/unverifiable")) > 0)
    return (
        [f"The verifier gave no verdict on {count:.0f} answers of the last evaluations; they count as wrong."]
        if count
        else []
    )


def _drift(study: Study) -> list[str]:
    if study.design.axis != "divergence":
        return []
    ends = {
        arm: np.nanmean(
            [study.last(run, "drift/kl") for run in study.design.runs if run.arm == arm] or [np.nan]
        )
        for arm in study.design.arms
    }
    known = {arm: value for arm, value in ends.items() if value > 0}
    if len(known) < 2:
        return []
    low, high = min(known, key=lambda arm: known[arm]), max(known, key=lambda arm: known[arm])
    return [
        f"Arms end at different drifts from the start model ({low} {known[low]:.3g}, {high} "
        f"{known[high]:.3g} nats). "
        "Coefficients of different divergences are not comparable; the table at matched drift is the fairer "
        "comparison."
    ]


def _ratio(study: Study) -> list[str]:
    configs = [json.loads(run.row["config"]) for run in study.design.runs if run.row["config"]]
    if configs and all(config.get("updates_per_rollout") == 1 for config in configs):
        return [
            (
                "One update per rollout: the importance ratio is exactly one, clipping never acts, and "
                "algorithms that differ only in "
                "it are the same."
            )
        ]
    return []


def _choice(study: Study) -> list[str]:
    split = {
        str(json.loads(run.row["config"]).get("eval_split")) for run in study.design.runs if run.row["config"]
    }
    out = ["Every number is of the last step; no checkpoint was chosen by its score."]
    if split == {"validation"}:
        out.append(
            "The questions are validation questions, held out of training; the test split was not read."
        )
    return out
