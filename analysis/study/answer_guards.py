"""What forbids a table because of the runs' answers, on their own questions and on other evaluation sets."""

import json
from collections.abc import Callable, Mapping, Sequence

from pandas.util import hash_pandas_object

from analysis.data.export import Export
from analysis.study.design import Run
from analysis.study.finding import Finding, differing
from mirrorpo.config.identity import EVAL_SETS

# What a run says of another evaluation set, and the kind of finding if runs say different things.
OF_A_SET: Mapping[str, str] = {
    "settings": "mixed",
    "content": "data",
    "prompt": "prompt",
    "extractor": "extractor",
}


def other_questions(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Runs that answered other questions at some evaluation, of their own set or another one."""
    return [finding for of_set in ("", *export.sets) for finding in _other_questions_of(export, runs, of_set)]


def _other_questions_of(export: Export, runs: Sequence[Run], of_set: str) -> list[Finding]:
    answers = export.answers(of_set=of_set)
    if answers.empty:
        return []
    called = f"{of_set}: set" if of_set else "set"
    hashes = hash_pandas_object(answers["uid"], index=False)  # pyright: ignore[reportCallIssue]
    by_step = answers.assign(hash=hashes).groupby(["run", "step"])
    # A sum does not depend on the order.
    sets = by_step.agg(hash=("hash", "sum"), count=("uid", "size"), distinct=("uid", "nunique")).reset_index()
    last = sets.groupby("run").tail(1).set_index("run")
    index = {value: number for number, value in enumerate(dict.fromkeys(last["hash"]))}
    known = {
        run.name: f"{called} {index[last['hash'][run.name]]} of {last['count'][run.name]} questions"
        for run in runs
        if run.name in last.index
    }
    out = differing(
        "data",
        [run for run in runs if run.name in known],
        lambda run: known[run.name],
        lambda run: run.row["dataset"] if not of_set else None,
    )
    of_set = f" of {of_set}" if of_set else ""
    for run in runs:
        of_run = sets[sets["run"] == run.name]
        twice = of_run[of_run["distinct"] < of_run["count"]]["step"]
        out += [
            Finding("answers", f"{run} answers a question{of_set} twice at step {step}") for step in twice[:1]
        ]
        if run.name in known and (other := of_run[of_run["hash"] != last["hash"][run.name]]["step"]).any():
            text = f"{run} answers other questions{of_set} at step {other.iloc[0]} than at its last one"
            out.append(Finding("answers", text))
    return out


def other_texts(export: Export, runs: Sequence[Run]) -> list[Finding]:
    """Runs in which a question, or its right answer, is another one than in most runs or at most steps."""
    columns = ["run", "set", "uid", "question", "gold"]
    counted = export.questions.group_by(columns).aggregate([("step", "count")]).to_pandas()
    counted["run"] = counted["run"].astype(str)
    by_name = {run.name: run for run in runs}
    counted = counted[counted["run"].isin(list(by_name))].fillna({"set": ""})
    counted["of"] = counted["run"].map({run.name: _dataset(run) for run in runs})
    out: list[Finding] = []
    for column in ("question", "gold"):
        known = counted.dropna(subset=[column])
        values = known.groupby(["of", "set", "uid"])[column].transform("nunique")
        several = known[values > 1]
        usual = several.groupby(["of", "set", "uid"])[column].transform(lambda texts: texts.mode()[0])
        odd = several[several[column] != usual]
        for name, rows in odd.groupby("run"):
            uids = list(dict.fromkeys(rows["uid"]))
            more = f" and {len(uids) - 1} more" if len(uids) > 1 else ""
            text = f"the {column} of {uids[0]}{more} is another one than elsewhere"
            out.append(Finding("answers", f"{by_name[str(name)]}: {text}"))
    return out


def _dataset(run: Run) -> str:
    # A style of the same dataset words its questions otherwise.
    kept = [item for item in sorted(run.settings.items()) if item[0].startswith(("dataset.", EVAL_SETS))]
    return repr((run.row["dataset"], kept))


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
