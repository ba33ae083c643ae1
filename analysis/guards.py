"""What forbids a table: everything that would make its numbers mean something else than they say.

A finding of a kind that nobody allowed is an error that lists them all. One that was allowed is a note in the
foot of every table, and what cannot be used is left out: unfinished runs, all but the newest of a duplicated
cell.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.design import Design, Run
from analysis.export import Export
from analysis.schema import PER_QUESTION

KINDS: Mapping[str, str] = {
    "missing": "a seed that one arm has and another has not, or that the sweep's command names",
    "unfinished": "a run that is not done, or whose rows do not reach its configured steps",
    "duplicated": "several runs of one arm and seed",
    "stale": "runs of different code, or marked stale",
    "mixed": "settings that differ beside the compared axis",
    "prompt": "different rendered prompts",
    "extractor": "different versions of the answer extraction",
    "data": "different questions: their fingerprints, or those that were asked last",
    "answers": "a last evaluation whose answers have another mean than its metric",
    "nan": "a number that is not finite, or a last evaluation without the metric",
    "dirty": "code that differs from its commit",
    "provenance": "a run that does not say its commit, prompts or extraction",
}
# What matters only where runs are compared.
COMPARED = ("missing", "duplicated", "stale", "mixed", "prompt", "extractor", "data")
SHOWN = 12


class Refused(ValueError):
    """The findings that forbid a table."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong.

    Attributes:
        kind: of KINDS.
        said: which run, what, and where it matters what to do.
    """

    kind: str
    said: str


def findings(export: Export, design: Design, metric: str) -> list[Finding]:
    """Everything wrong with the runs of a design, in the order of KINDS."""
    runs = design.runs
    found = [
        *_missing(design),
        *(Finding("unfinished", f"{run} {problem}") for run in runs if (problem := unfinished(run.row))),
        *_duplicated(runs),
        *_stale(runs),
        *_mixed(design),
        *_differing(
            "prompt",
            runs,
            lambda run: run.row["prompt_hash"],
            lambda run: (run.row["model"], run.row["dataset"]),
        ),
        *_differing("extractor", runs, lambda run: run.row["extractor"], lambda run: run.row["dataset"]),
        *_differing("data", runs, lambda run: run.row["data"], lambda run: run.row["dataset"]),
        *_asked(export, runs),
        *_answers(export, runs, metric),
        *_nan(export, runs, metric),
        *(
            Finding("dirty", f"{run} ran code that differs from commit {str(run.row['commit'])[:9]}")
            for run in runs
            if run.row["dirty"]
        ),
        *_provenance(runs),
    ]
    order = list(KINDS)
    return sorted(found, key=lambda one: order.index(one.kind))


def check(
    export: Export, design: Design, metric: str, allow: Iterable[str] = (), *, compared: bool = True
) -> tuple[Design, list[Finding]]:
    """The design with what may be used, and the findings that were allowed; with `compared` false only what
    is wrong with single runs.

    Raises:
        Refused: listing the findings of every kind that was not allowed.
        ValueError: if a kind to allow does not exist.
    """
    allowed = set(allow)
    if unknown := allowed - set(KINDS):
        raise ValueError(f"allow={', '.join(sorted(unknown))}: the guards are {', '.join(KINDS)}")
    found = [one for one in findings(export, design, metric) if compared or one.kind not in COMPARED]
    if refused := [one for one in found if one.kind not in allowed]:
        raise Refused(listed(refused))
    usable = [run for run in design.runs if not unfinished(run.row)]
    if not usable:
        raise Refused("no run is left: " + listed(found))
    if not compared:
        return replace(design, runs=usable), found
    newest: dict[tuple[str, str, int], Run] = {}
    for run in usable:
        key = (run.block, run.arm, run.seed)
        if key not in newest or str(run.row["ended"]) > str(newest[key].row["ended"]):
            newest[key] = run
    return replace(design, runs=list(newest.values())), found


def listed(found: Sequence[Finding]) -> str:
    """The findings as an error says them, by kind, with the way out."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one.said)
    lines = [f"{len(found)} findings forbid this table:"]
    for kind, said in by_kind.items():
        lines.append(f"  {kind} ({KINDS[kind]}):")
        lines += [f"    {text}" for text in said[:SHOWN]] + (
            [f"    and {len(said) - SHOWN} more"] if len(said) > SHOWN else []
        )
    return "\n".join(
        [
            *lines,
            (
                f"Finish, repair or leave out these runs, or say --allow {','.join(by_kind)}: the table's "
                f"foot "
                f"will name them."
            ),
        ]
    )


def notes(found: Sequence[Finding]) -> list[str]:
    """One line a kind, for the foot of a table whose findings were allowed."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one.said)
    return [
        f"Allowed ({kind}): {'; '.join(said[:3])}{f'; and {len(said) - 3} more' if len(said) > 3 else ''}."
        for kind, said in by_kind.items()
    ]


def unfinished(row: Mapping[str, Any]) -> str | None:
    """Why a run's numbers are not its last ones; None when they are."""
    if row["state"] not in ("done", "stale"):
        return f"is {row['state']}" + (f": {row['error']}" if row["error"] else "")
    if row["steps"] is not None and row["last_step"] != row["steps"]:
        return f"has rows up to step {row['last_step']} of {row['steps']}"
    if row["rows_expected"] is not None and row["rows"] != row["rows_expected"]:
        return f"has {row['rows']} rows for {row['rows_expected']} steps"
    return None


def _missing(design: Design) -> list[Finding]:
    out: list[Finding] = []
    for block in design.blocks:
        mine = [run for run in design.runs if run.block == block]
        seeds = sorted({run.seed for run in mine} | set(design.seeds_asked))
        where = f"{block}: " if block else ""
        for arm in design.arms:
            there = {run.seed for run in mine if run.arm == arm}
            if gone := [seed for seed in seeds if seed not in there]:
                out.append(
                    Finding("missing", f"{where}{design.axis}={arm} has no seed {', '.join(map(str, gone))}")
                )
        known = {run.arm.split(" ")[0] for run in mine}
        out += [
            Finding("missing", f"{where}{design.axis}={arm} was asked for and has no run")
            for arm in design.arms_asked
            if arm not in known
        ]
    return out


def _duplicated(runs: Sequence[Run]) -> list[Finding]:
    places: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        places[run.block, run.arm, run.seed].append(run)
    return [
        Finding("duplicated", " and ".join(map(str, group))) for group in places.values() if len(group) > 1
    ]


def _stale(runs: Sequence[Run]) -> list[Finding]:
    out = [
        Finding("stale", f"{run} is stale" + (f": {run.row['error']}" if run.row["error"] else ""))
        for run in runs
        if run.row["state"] == "stale"
    ]
    # A digest of the code says more than a commit, which documentation changes too; where a run has none, the
    # commits.
    column = "codes" if all(run.row["codes"] for run in runs) else "commits"
    for run in runs:
        if len(own := json.loads(run.row[column] or "[]")) > 1 and run.row["state"] != "stale":
            out.append(Finding("stale", f"{run} was resumed with other code: {', '.join(_short(own))}"))
    return out + _differing(
        "stale",
        runs,
        lambda run: ", ".join(_short(json.loads(run.row[column] or "[]"))) or None,
        lambda run: None,
    )


def _short(values: Sequence[Any]) -> list[str]:
    return [str(value)[:9] for value in values]


def _mixed(design: Design) -> list[Finding]:
    own_keys = {*design.swept, "seed"}
    out: list[Finding] = []
    for block in design.blocks:
        mine = [run for run in design.runs if run.block == block and run.settings]
        keys = sorted({key for run in mine for key in run.settings} - own_keys)
        for key in keys:
            groups = (
                [[run for run in mine if run.arm == arm] for arm in design.arms]
                if key.split(".")[0] == design.axis
                else [mine]
            )
            for group in groups:
                values: dict[str, list[Run]] = defaultdict(list)
                for run in group:
                    values[repr(run.settings.get(key))].append(run)
                if len(values) > 1:
                    each = "; ".join(
                        f"{value} in {len(held)} runs ({held[0]})" for value, held in values.items()
                    )
                    out.append(Finding("mixed", f"{key} is {each}; if it makes the arms, say --by {key}"))
    return out


def _differing(
    kind: str, runs: Sequence[Run], value: Callable[[Run], str | None], group: Callable[[Run], Hashable]
) -> list[Finding]:
    groups: dict[Hashable, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if (known := value(run)) is not None:
            groups[group(run)][known].append(run)
    out: list[Finding] = []
    for values in groups.values():
        if len(values) > 1:
            each = "; ".join(f"{name[:40]} in {len(held)} runs ({held[0]})" for name, held in values.items())
            out.append(Finding(kind, each))
    return out


def _asked(export: Export, runs: Sequence[Run]) -> list[Finding]:
    if export.questions.num_rows == 0:
        return []
    answers = export.answers()
    last = answers.groupby("run")["step"].transform("max")
    sets = answers[answers["step"] == last].groupby("run")["uid"].agg(lambda uids: hash(tuple(sorted(uids))))
    counts = answers[answers["step"] == last].groupby("run")["uid"].size()
    by_name = {run.name: run for run in runs}
    known = {
        name: f"set {index} of {counts[name]} questions"
        for index, value in enumerate(dict.fromkeys(sets))
        for name in sets[sets == value].index
    }
    return _differing(
        "data",
        [by_name[name] for name in known if name in by_name],
        lambda run: known[run.name],
        lambda run: run.row["dataset"],
    )


def _answers(export: Export, runs: Sequence[Run], metric: str) -> list[Finding]:
    column = PER_QUESTION.get(metric)
    if column is None or column == "samples_right" or export.questions.num_rows == 0:
        return []
    answers, values = export.answers(column), export.metric(metric)
    answers = answers[answers["step"] == answers.groupby("run")["step"].transform("max")]
    means = answers.groupby("run").agg(mean=(column, "mean"), step=("step", "max"))
    found = values.merge(means, on=["run", "step"])
    wrong = found[(found[metric] - found["mean"].astype(float)).abs() > 1e-9].set_index("run")
    return [
        Finding(
            "answers",
            (
                f"{run}: {metric} is {wrong.loc[run.name, metric]:.4f}, its answers have "
                f"{wrong.loc[run.name, 'mean']:.4f}"
            ),
        )
        for run in runs
        if run.name in wrong.index
    ]


def _nan(export: Export, runs: Sequence[Run], metric: str) -> list[Finding]:
    out = [
        Finding("nan", f"{run}: not finite at {run.row['not_finite']} (metric: first step)")
        for run in runs
        if run.row["not_finite"]
    ]
    values = export.metric(metric)
    last = values.groupby("run")["step"].max() if len(values) else {}
    for run in runs:
        if not unfinished(run.row) and (run.name not in last or last[run.name] != run.row["last_step"]):
            out.append(
                Finding(
                    "nan",
                    (
                        f"{run} has no {metric} at its last step {run.row['last_step']}: evaluate "
                        f"(eval_questions), or name "
                        f"another --metric"
                    ),
                )
            )
    return out


def _provenance(runs: Sequence[Run]) -> list[Finding]:
    needed = ("commit", "prompt_hash", "extractor", "config_hash")
    out: list[Finding] = []
    for run in runs:
        if (gone := [name for name in needed if run.row[name] is None]) and not unfinished(run.row):
            out.append(Finding("provenance", f"{run} does not say its {', '.join(gone)}"))
    return out
