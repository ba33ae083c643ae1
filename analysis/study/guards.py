"""What forbids a table: everything that would make its numbers mean something else than they say.

A finding of a kind that nobody allowed is an error that lists them all. One that was allowed is a note in the
foot of every table, and what cannot be used is left out: unfinished runs, all but the newest of a duplicated
cell.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from analysis.data.export import Export
from analysis.data.schema import Json
from analysis.study.answer_guards import other_questions, other_sets, other_texts
from analysis.study.answer_numbers import numbers_of_answers
from analysis.study.chosen_guards import chosen_faults, chosen_settings
from analysis.study.curve_guards import copied, curves
from analysis.study.design import Design, Run
from analysis.study.environment_guards import other_environment
from analysis.study.finding import Finding, differing
from analysis.study.record_guards import contradictions
from analysis.study.selection import named
from mirrorpo.run.inputs import CODE, DATASET, PROMPTS

KINDS: Mapping[str, str] = {
    "missing": "a seed that one arm has and another has not, or that the sweep's command names",
    "unfinished": "a run that is not done, or whose rows do not reach its configured steps",
    "duplicated": "several runs of one arm and seed",
    "copied": "runs of two seeds with the same numbers or answers",
    "stale": "runs of different code, data, maps or weights, or marked stale",
    "mixed": "settings that differ beside the compared axis",
    "chosen": "a seed that settings were chosen on, or settings that are not those chosen",
    "environment": "another device, precision, sandbox or version of a package",
    "prompt": "different rendered prompts",
    "extractor": "different versions of the answer extraction",
    "data": "different questions: their fingerprints, those that were left out or those that were answered",
    "answers": "answers that are missing, or whose numbers are not the metrics' at some step",
    "nan": "a number that is not finite, or a metric that one run lacks",
    "edited": "files, a manifest or a plan that are not what was written",
    "contradiction": "a run whose folder, seed, choices, command and config do not agree",
    "dirty": "code that differs from its commit",
    "provenance": "a run that does not say its commit, prompts or extraction",
}
# What matters only where runs are compared.
COMPARED = (
    *("missing", "duplicated", "copied", "stale", "mixed", "chosen", "environment"),
    *("prompt", "extractor", "data"),
)
SHOWN = 12


class Refused(ValueError):
    """The findings that forbid a table."""


def findings(export: Export, design: Design, metric: str) -> list[Finding]:
    """Everything wrong with the runs of a design, in the order of KINDS."""
    runs = design.runs
    finished = [run for run in runs if not unfinished(run.row)]
    out = [
        *_missing(design),
        *(Finding("unfinished", f"{run} {problem}") for run in runs if (problem := unfinished(run.row))),
        *_duplicated(runs),
        *_stale(runs),
        *_other_inputs(runs),
        *_mixed(design, chosen_settings(export.selections)),
        *chosen_faults(export.selections, runs),
        *differing(
            "prompt",
            runs,
            lambda run: run.row["prompt_hash"],
            lambda run: (run.row["model"], run.row["dataset"]),
        ),
        *differing("extractor", runs, lambda run: run.row["extractor"], lambda run: run.row["dataset"]),
        *differing("data", runs, lambda run: run.row["data"], lambda run: run.row["dataset"]),
        *other_questions(export, runs),
        *other_texts(export, finished),
        *numbers_of_answers(export, finished),
        *curves(export, finished),
        *copied(export, finished),
        *other_environment(finished),
        *contradictions(runs),
        *(Finding("edited", text) for text in export.edited),
        *other_sets(runs),
        *_nan(export, runs, metric),
        *(
            Finding("dirty", f"{run} ran code that differs from commit {str(run.row['commit'])[:9]}")
            for run in runs
            if run.row["dirty"]
        ),
        *_provenance(runs),
    ]
    order = list(KINDS)
    return sorted(out, key=lambda finding: order.index(finding.kind))


def check(
    export: Export, design: Design, metric: str, allow: Iterable[str] = (), *, compared: bool = True
) -> tuple[Design, list[Finding]]:
    """The design with what may be used, and the findings that were allowed.

    Args:
        export: the numbers of the runs.
        design: all runs.
        metric: the accuracy that is compared.
        allow: kinds of findings to pass over.
        compared: false where runs are only listed: then only what is wrong with single runs matters.

    Raises:
        Refused: listing the findings of every kind that was not allowed.
        ValueError: if a kind to allow does not exist.
    """
    allowed = set(allow)
    if unknown := allowed - set(KINDS):
        raise ValueError(f"allow={', '.join(sorted(unknown))}: the guards are {', '.join(KINDS)}")
    relevant = [
        finding for finding in findings(export, design, metric) if compared or finding.kind not in COMPARED
    ]
    if refused := [finding for finding in relevant if finding.kind not in allowed]:
        raise Refused(listed(refused))
    usable = [run for run in design.runs if not unfinished(run.row)]
    if not usable:
        raise Refused("no run is left: " + listed(relevant))
    if not compared:
        return replace(design, runs=usable), relevant
    newest: dict[tuple[str, str, int], Run] = {}
    for run in usable:
        key = (run.block, run.arm, run.seed)
        if key not in newest or str(run.row["ended"]) > str(newest[key].row["ended"]):
            newest[key] = run
    return replace(design, runs=list(newest.values())), relevant


def _by_kind(findings: Sequence[Finding]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        out[finding.kind].append(finding.text)
    return out


def listed(findings: Sequence[Finding]) -> str:
    """The findings as an error says them, by kind, with the way out."""
    by_kind = _by_kind(findings)
    lines = [f"{len(findings)} findings forbid this table:"]
    for kind, texts in by_kind.items():
        lines.append(f"  {kind} ({KINDS[kind]}):")
        lines += [f"    {text}" for text in texts[:SHOWN]]
        lines += [f"    and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    lines.append(
        f"Finish, repair or leave out these runs, or say --allow {','.join(by_kind)}: "
        "the table's foot will name them."
    )
    return "\n".join(lines)


def notes(findings: Sequence[Finding]) -> list[str]:
    """One line a kind, for the foot of a table whose findings were allowed."""
    return [
        f"Allowed ({kind}): {'; '.join(texts[:3])}{f'; and {len(texts) - 3} more' if len(texts) > 3 else ''}."
        for kind, texts in _by_kind(findings).items()
    ]


def notes_along(design: Design) -> list[str]:
    """What differs between arms because it comes along with a choice, for the foot of every table."""
    inside = tuple(f"{name}." for name in (design.axis, *design.swept))
    return [
        f"By the sweep's file, {choice} comes with {', '.join(named({key: value}) for key, value in others)}."
        for choice, settings in design.along.items()
        if (others := [item for item in settings.items() if not item[0].startswith(inside)])
        and any(choice in run.choices for run in design.runs)
    ]


def unfinished(row: Json) -> str | None:
    """Why a run's numbers are not its last ones; None when they are."""
    # Of a run in a chart alone nobody knows how it ended.
    if row["state"] not in ("done", "stale", "unknown"):
        return f"is {row['state']}" + (f": {row['error']}" if row["error"] else "")
    if row["steps"] is not None and row["last_step"] != row["steps"]:
        return f"has rows up to step {row['last_step']} of {row['steps']}"
    if row["rows_expected"] is not None and row["rows"] != row["rows_expected"]:
        return f"has {row['rows']} rows for {row['rows_expected']} steps"
    return None


def _missing(design: Design) -> list[Finding]:
    out: list[Finding] = []
    for block in design.blocks:
        of_block = [run for run in design.runs if run.block == block]
        seeds = sorted({run.seed for run in of_block} | set(design.planned_seeds))
        where = f"{block}: " if block else ""
        for arm in design.arms:
            present = {run.seed for run in of_block if run.arm == arm}
            if absent := [str(seed) for seed in seeds if seed not in present]:
                text = f"{where}{design.axis}={arm} has no seed {', '.join(absent)}"
                out.append(Finding("missing", text))
        known = {design.choices[run.arm] for run in of_block}
        out += [
            Finding("missing", f"{where}{design.axis}={arm} was asked for and has no run")
            for arm in design.planned_arms
            if arm not in known
        ]
    return out


def _duplicated(runs: Sequence[Run]) -> list[Finding]:
    cells: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.block, run.arm, run.seed].append(run)
    return [
        Finding("duplicated", " and ".join(map(str, group))) for group in cells.values() if len(group) > 1
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
        versions = _versions(run, column)
        if len(versions) > 1 and run.row["state"] != "stale":
            out.append(Finding("stale", f"{run} was resumed with other code: {', '.join(versions)}"))
    return out + differing(
        "stale",
        runs,
        lambda run: ", ".join(_versions(run, column)) or None,
        lambda run: None,
    )


def _other_inputs(runs: Sequence[Run]) -> list[Finding]:
    """Runs that were made of other outside code, data or weights than the settings that they share say."""
    # A run that recorded none is of an older version, and says nothing.
    known = [run for run in runs if _inputs(run)]
    # Prompts are compared for each model, the run's own and those of other sets.
    names = sorted(
        name for name in {name for run in known for name in _inputs(run)} if name.split()[0] != PROMPTS
    )
    return [
        Finding("stale", f"{name} is {finding.text}")
        for name in names
        for finding in _other_input(name, known)
    ]


def _other_input(name: str, runs: Sequence[Run]) -> list[Finding]:
    # Arms may use other classes and other splits; a file that one run's folder of a model lacks is a
    # difference.
    def value(run: Run) -> str | None:
        return _inputs(run).get(name)

    def or_absent(run: Run) -> str:
        return value(run) or "absent"

    if name.startswith(CODE):
        anywhere = differing("stale", runs, value, lambda run: None)
        return anywhere or differing("stale", runs, or_absent, lambda run: (run.block, run.arm))
    group = name.partition(".")[0] + "."
    if name.startswith(DATASET):
        # Of another evaluation set the name has the set's in front of the split's.
        of_set, slash, _ = name.removeprefix(DATASET).rpartition("/")
        group = f"eval_sets.{of_set}.dataset." if slash else "dataset."

    def settings(run: Run) -> str:
        return repr([item for item in sorted(run.settings.items()) if f"{item[0]}.".startswith(group)])

    return differing("stale", runs, value if name.startswith(DATASET) else or_absent, settings)


def _inputs(run: Run) -> Mapping[str, str]:
    # Exports of an older version have no such column.
    return json.loads(run.row.get("inputs") or "{}")


def _versions(run: Run, column: str) -> list[str]:
    """The commits or digests of code of a run's launches, shortened."""
    return [str(value)[:9] for value in json.loads(run.row[column] or "[]")]


def _mixed(design: Design, chosen: Sequence[str]) -> list[Finding]:
    """Settings that differ where neither the arms, the seed nor the sweep's file says so.

    Args:
        design: the runs.
        chosen: settings that a selection chose for each arm.
    """
    expected = {*design.swept, "seed"}
    below = tuple(f"{name}." for name in (design.axis, *design.swept, *chosen))
    out: list[Finding] = []
    for block in design.blocks:
        of_block = [run for run in design.runs if run.block == block and run.settings]
        by_arm = [[run for run in of_block if run.arm == arm] for arm in design.arms]
        for key in sorted({key for run in of_block for key in run.settings} - expected):
            # What a choice that makes arms holds has to be the same within an arm only.
            within = f"{key}.".startswith(below)
            groups = by_arm if within else _by_choices_along(of_block, key, design.along)
            for group in groups:
                values: dict[str, list[Run]] = defaultdict(list)
                for run in group:
                    value = run.settings.get(key)
                    values["null" if value is None else repr(value)].append(run)
                if len(values) > 1:
                    each = "; ".join(
                        f"{value} in {len(same)} runs ({same[0]})" for value, same in values.items()
                    )
                    out.append(Finding("mixed", f"{key} is {each}; if it makes the arms, say --by {key}"))
    return out


def _by_choices_along(runs: Sequence[Run], key: str, along: Mapping[str, Json]) -> list[list[Run]]:
    """The runs by those of their choices that a setting comes along with; by none of them too."""
    bringing = {choice for choice, settings in along.items() if key in settings}
    groups: dict[frozenset[str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.choices & bringing].append(run)
    return list(groups.values())


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
            text = f"{run} has no {metric} at its last step {run.row['last_step']}"
            out.append(Finding("nan", f"{text}: evaluate (eval_questions), or name another --metric"))
    return out


def _provenance(runs: Sequence[Run]) -> list[Finding]:
    needed = ("commit", "prompt_hash", "extractor", "config_hash")
    out: list[Finding] = []
    for run in runs:
        absent = [name for name in needed if run.row[name] is None]
        absent += ["state"] if run.row["state"] == "unknown" else []
        if absent and not unfinished(run.row):
            out.append(Finding("provenance", f"{run} does not say its {', '.join(absent)}"))
    return out
