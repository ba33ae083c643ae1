"""What forbids a table because of the runs' metrics step by step: what one lacks, sums, copies of a run."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pandas.util import hash_pandas_object

from analysis.data.export import Export, Frame
from analysis.data.runs import TIMED
from analysis.study.design import Run
from analysis.study.finding import Finding
from analysis.study.question_scores import evaluation_metric

# A budget, and what a step adds to it.
SUMS: Mapping[str, str] = {
    "budget/completions": "rollout/completions",
    "budget/tokens_sampled": "rollout/tokens",
}
# Metrics that settings alone say the steps of, and settings that say them.
AT_SET_STEPS = ("eval/", "drift/", "budget/")
# A correlation has no value where all answers are worth the same.
AT_TIMES_UNDEFINED = "_correlation"
STEP_SETTINGS = ("steps", "eval_", "eval_sets.", "drift_", "dataset.", "reward.", "model.")
# Metrics that every run has that was trained; others are of what happened to be sampled.
ALWAYS = (
    *("reward/mean", "completion/length", "completion/truncated", "entropy/mean", "loss/value", "grad/norm"),
    *("divergence/value", "divergence/beta", "lr/value", "rollout/tokens", "kl/reference", "kl/old"),
)
# Numbers of a step that two seeds cannot have alike; the first two are needed.
OF_TRAINING = ("loss/value", "grad/norm", "reward/mean", "entropy/mean", "completion/length")
# Wrong answers that training made, that no other run gives, and that two seeds cannot have alike by chance.
NEW_MISTAKES = 5
# Of a question's samples what two runs are less likely to share than a greedy answer.
OF_SAMPLES = ("samples_right", "distinct", "sampled_tokens")


def curves(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Runs with steps missing, without metrics that others have, or whose budgets are no sums."""
    known = {run.name: run for run in runs if run.row["config_hash"] is not None}
    summed = [name for pair in SUMS.items() for name in pair]
    names = [name for name in export.names if _at_set_steps(name) or name in (*ALWAYS, *summed)]
    frame = export.metrics.select(["run", "step", *names]).to_pandas()
    frame["run"] = frame["run"].astype(str)
    frame = frame[frame["run"].isin(list(known))].reset_index(drop=True)
    out = [
        *(Finding("nan", text) for text in _lacking_at_steps(known, frame)),
        *(Finding("nan", text) for text in _lacking_everywhere(known, frame)),
    ]
    for name, rows in frame.groupby("run"):
        out += [Finding("edited", f"{known[str(name)]}: {text}") for text in (*_gaps(rows), *_sums(rows))]
    return out


def copied(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Runs of two seeds that are one run: the same numbers in training, or the same new mistakes."""
    answers = _last_answers(export)
    trained = _of_several_seeds(runs, _trained(export))
    answered = [same for same in _of_several_seeds(runs, _printed(answers)) if _peculiar(answers, same)]
    return [
        Finding("copied", f"{' and '.join(map(str, same))} have the same {what}: one run under two seeds")
        for what, groups in (("metrics", trained), ("last answers", answered))
        for same in groups
    ]


def _of_several_seeds(runs: Sequence[Run], prints: Mapping[str, object]) -> list[list[Run]]:
    """The runs that have one print, where they are of more than one seed."""
    groups: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        if run.name in prints:
            groups[prints[run.name]].append(run)
    return [same for same in groups.values() if len({run.seed for run in same}) > 1]


def _gaps(rows: Frame) -> Iterator[str]:
    steps = rows["step"].to_numpy()
    gap = np.flatnonzero(np.diff(steps) != 1)
    if len(gap):
        yield f"metrics.jsonl lacks step {steps[gap[0]] + 1}: copy it again, or launch the run again"


def _sums(rows: Frame) -> Iterator[str]:
    for name, summand in SUMS.items():
        if name in rows and summand in rows and rows[name].notna().all():
            expected = rows[summand].fillna(0.0).cumsum()
            if not rows[name].any():
                # Demonstrations are no samples.
                continue
            wrong = (rows[name] - expected).abs() > 1e-6 * (1 + expected)
            if wrong.any():
                at = wrong.idxmax()
                yield (
                    f"{name} is {rows[name][at]:.10g} at step {rows['step'][at]}, and its steps' {summand} "
                    f"have {expected[at]:.10g}"
                )


def _lacking_at_steps(runs: Mapping[str, Run], frame: Frame) -> Iterator[str]:
    """Metrics that a run lacks at a step where another run of the same settings has them."""
    names = [name for name in frame.columns if _at_set_steps(name) and not name.endswith(AT_TIMES_UNDEFINED)]
    if frame.empty or not names:
        return
    groups = {
        name: repr([item for item in sorted(run.settings.items()) if item[0].startswith(STEP_SETTINGS)])
        for name, run in runs.items()
    }
    present = frame[names].notna()
    elsewhere = present.groupby([frame["run"].map(groups), frame["step"]]).transform("any")
    lost = (elsewhere & ~present).groupby(frame["run"]).idxmax()
    for run, rows in lost.iterrows():
        for name, at in rows.items():
            if elsewhere[name][at] and not present[name][at]:
                where = f"step {frame['step'][at]}, where other runs of its settings have it"
                yield f"{runs[str(run)]} has no {name} at {where}"


def _lacking_everywhere(runs: Mapping[str, Run], frame: Frame) -> Iterator[str]:
    """Metrics that a run lacks and another run of its arm has."""
    names = [name for name in frame.columns if name in ALWAYS]
    if frame.empty or not names:
        return
    present = frame[names].notna().groupby(frame["run"]).any()
    arms = [f"{runs[str(name)].block}, {runs[str(name)].arm}" for name in present.index]
    lost = present.groupby(arms).transform("any") & ~present
    for run, rows in lost.iterrows():
        for name, lacks in rows.items():
            if lacks:
                yield f"{runs[str(run)]} has no {name}, which other runs of its arm have"


def _at_set_steps(name: str) -> bool:
    # Another set may have been evaluated later, of some runs and some steps; seconds are no result.
    parts = evaluation_metric(name)
    own = parts is None or not parts.of_set
    return own and name.startswith(AT_SET_STEPS) and name not in TIMED


def _trained(export: Export) -> dict[str, object]:
    """By run digests of its trained steps; none of a run of less than two."""
    frame = export.metric(*OF_TRAINING)
    frame = frame[frame["step"] > 0].dropna(subset=list(OF_TRAINING[:2]))
    hashes = hash_pandas_object(frame.drop(columns="run"), index=False)  # pyright: ignore[reportCallIssue]
    by_run = hashes.groupby(frame["run"].astype(str))
    return {str(run): tuple(of_run) for run, of_run in by_run if len(of_run) > 1}


def _last_answers(export: Export) -> Frame:
    """The last answers of trained runs; `new` are those wrong ones that the start model did not give."""
    answers = export.answers("right", "completion", *OF_SAMPLES).dropna(subset=["right", "completion"])
    steps = answers.groupby("run")["step"]
    first = answers[answers["step"] == steps.transform("min")]
    last = answers[(answers["step"] == steps.transform("max")) & (answers["step"] > 0)]
    both = last.merge(
        first[["run", "uid", "completion"]], on=["run", "uid"], how="left", suffixes=("", "_first")
    )
    there = both["completion_first"].notna()
    new = there & (both["completion"] != both["completion_first"]) & ~both["right"].astype(bool)
    return both.assign(new=new)


def _printed(answers: Frame) -> dict[str, object]:
    """By run a digest of its last answers and of what their samples were; none with few new mistakes."""
    out: dict[str, object] = {}
    for run, rows in answers.groupby("run"):
        if rows["new"].sum() >= NEW_MISTAKES:
            samples = rows[list(OF_SAMPLES)].fillna(-1).itertuples(index=False, name=None)
            out[str(run)] = tuple(
                sorted(zip(map(str, rows["uid"]), rows["completion"], samples, strict=True))
            )
    return out


def _peculiar(answers: Frame, same: Sequence[Run]) -> bool:
    """Whether runs with the same answers make mistakes that no other run makes; with ten answers none are."""
    names = [run.name for run in same]
    inside = answers["run"].isin(names)
    of_others = set(zip(answers["uid"][~inside], answers["completion"][~inside], strict=True))
    new = answers[(answers["run"] == names[0]) & answers["new"]]
    own_mistakes = [pair for pair in zip(new["uid"], new["completion"], strict=True) if pair not in of_others]
    return len(own_mistakes) >= NEW_MISTAKES
