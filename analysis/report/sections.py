"""The sections of a report that are text: what was compared, what came out, how to make it again."""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.data import paper
from analysis.data.commands import claims
from analysis.data.export import Export, commit, this_command
from analysis.report.accuracy_tables import OWN_SET
from analysis.report.gains import HOW, Gain, gains
from analysis.report.html import definitions, items, scrolled
from analysis.report.plan_table import PREDICTED, planned_lines
from analysis.report.planned_table import file_line
from analysis.report.reconciliation import reconciled, steered_findings
from analysis.report.selection_table import summary
from analysis.report.study_table import label
from analysis.report.table_cells import bounds, number
from analysis.study.comparison import CLAIMS, EQUAL, UNDECIDED, Difference
from analysis.study.endpoint import Endpoint, read_endpoint
from analysis.study.primary import PrimaryResult
from analysis.study.study import Study

# The page's sections, and what its links to them say.
LINKS: Sequence[tuple[str, str]] = (
    ("asked", "what was asked"),
    ("findings", "findings"),
    ("tables", "tables and figures"),
    ("samples", "answers"),
    ("caveats", "caveats"),
    ("again", "how to make it again"),
    ("runs", "runs"),
)
HOW_TO_READ = (
    "<p class='quiet'>Differences with 95% intervals, verdicts after Holm's correction, seeds "
    "for 80% power. 'Undecided' is not 'equal': the interval says what is not excluded.</p>"
)
RUN_HEAD = (
    "seed",
    "steps",
    "state",
    "commit",
    "config",
    "prompts",
    "extraction",
    "started",
    "ended",
    "where",
)


def head(study: Study, name: str) -> str:
    """Title, what varies, and the way through the page."""
    design, rows = study.design, [run.row for run in study.design.runs]
    values = {axis: {str(row[axis]) for row in rows} for axis in ("algo", "model", "dataset")}
    fixed = [f"{axis} {', '.join(choices)}" for axis, choices in values.items() if len(choices) == 1]
    seeds = sorted({run.seed for run in design.runs})
    commits = sorted({str(row["commit"])[:9] + ("+" if row["dirty"] else "") for row in rows})
    grid = f"{len(rows)} runs: {len(design.arms)} choices of {design.axis}"
    if design.others:
        grid += f", {len(design.blocks)} of {', '.join(design.others)}"
    where = "; ".join([f"{grid}, seeds {_ranges(seeds)}", *fixed, f"commit {', '.join(commits)}"])
    links = "".join(f"<a href='#{anchor}'>{text}</a>" for anchor, text in LINKS)
    first = "".join(f"<p class='gain'>{_gained(*entry)}</p>" for entry in gains(study)[:1])
    title = f"<h1>{html.escape(name)}</h1><p class='quiet'>{html.escape(where)}</p>"
    return f"{title}{first}<nav>{links}</nav>"


def _gained(name: str, gain: Gain) -> str:
    return f"<b>{html.escape(name)}</b>: {html.escape(str(gain))}"


def _ranges(seeds: Sequence[int]) -> str:
    consecutive = list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if consecutive else ", ".join(map(str, seeds))


def question(study: Study, names: Mapping[str, str] | None = None) -> str:
    """The claim, the grid, and what the papers say about it.

    Args:
        study: the runs.
        names: by label of an arm what figures print for it.
    """
    design = study.design
    arms = [arm + (" (baseline)" if arm == design.baseline else "") for arm in design.arms]
    in_figures = [f"{arm} is {name}" for arm, name in (names or {}).items() if name != arm]
    entries = [
        *_claims(study),
        *planned_lines(study),
        ("sweep's file", file_line(study)),
        ("settings chosen", "; ".join(map(summary, study.export.selections))),
        (design.axis, ", ".join(arms)),
        ("in figures", "; ".join(in_figures)),
        (", ".join(design.others), ", ".join(design.blocks) if design.others else ""),
        ("swept", ", ".join(design.swept)),
        ("compared", f"{study.metric} at the last step, seed by seed, against {design.baseline}"),
        ("verdicts rest on", study.reason),
        ("evaluation sets", ", ".join([f"{OWN_SET} ({_datasets(study)})", *study.export.sets])),
    ]
    if not study.export.sets:
        entries.pop()
    which = {"divergence": paper.GBMPO, "weighting": paper.COUNTERFACTUAL}.get(design.axis)
    if which:
        claims = [f"{claim} [{mark}]" for source, claim, mark in paper.CLAIMS if source == which]
        entries.append((f"arXiv {which}", f"{paper.TITLES[which]}: " + "; ".join(claims) + "."))
    return definitions((html.escape(key), html.escape(value)) for key, value in entries if value)


def _claims(study: Study) -> list[tuple[str, str]]:
    """The claim of every launch, with the sweep file that makes it where there are several."""
    by_claim = {
        claim: next((typed for typed in command["typed"] if typed.startswith("sweep=")), "")
        for command in study.export.commands
        if (claim := " ".join(claims(command)))
    }
    several = len(by_claim) > 1
    return [(f"claim, {of_file}" if several else "claim", claim) for claim, of_file in by_claim.items()]


def _recipes(study: Study) -> list[str]:
    """The command of every launch."""
    lines = [
        shlex.join(["python", *(command.get("argv") or ["train.py", "-m", *command["typed"]])])
        for command in study.export.commands
        if command["typed"]
    ]
    return list(dict.fromkeys(lines))


def _datasets(study: Study) -> str:
    return ", ".join(sorted({str(run.row["dataset"]) for run in study.design.runs}))


def findings(study: Study) -> str:
    """One sentence a comparison, those of the plan first; of one arm its gains."""
    planned = [_planned_finding(study, result) for result in study.primary]
    base = html.escape(study.design.baseline)
    made = read_endpoint(study.metric)
    sentences = [
        f"<b>{html.escape(label(block, arm))}</b>: {_finding(difference, base, made)}."
        for block in study.design.blocks
        for arm, difference in study.differences(block).items()
        if not difference.primary
    ]
    more = [*steered_findings(study), *reconciled(study)]
    if planned or sentences:
        first = f"<h3>Planned: {html.escape(str(study.planned_endpoint))}</h3>{items(planned)}"
        rest = f"<h3>Exploratory: {html.escape(study.metric)}</h3>{items([*sentences, *more])}"
        return (first if planned else "") + (rest if sentences or more else "") + HOW_TO_READ
    gained = [_gained(*entry) + "." for entry in gains(study)]
    how = f"<p class='quiet'>{HOW} A gain has no arm beside it: it says nothing of why.</p>"
    shown = items(gained) + how if gained else "<p>No run has two evaluations question by question.</p>"
    return (
        f"<p>There is one arm; nothing is compared. {html.escape(study.metric)} before and after:</p>{shown}"
    )


def _planned_finding(study: Study, result: PrimaryResult) -> str:
    name = f"<b>{html.escape(label(result.block, result.comparison.arm))}</b>"
    other, made = html.escape(result.comparison.other), study.planned_endpoint
    if result.difference is None or made is None:
        return f"{name} against {other}: not run."
    said = _finding(result.difference, other, made)
    return f"{name}: {said} (predicted: {PREDICTED[result.comparison.sign]}; {result.outcome})."


def _finding(difference: Difference, base: str, made: Endpoint) -> str:
    interval, verdict, n = difference.interval.scaled(made.scale), difference.verdict(), difference.n
    unit = "points " if made.is_share else f"{made.unit} " if made.unit else ""
    size = number(interval.estimate, made.digits, True)
    gap = html.escape(f"{size} {unit}{bounds(interval, made.digits)}".strip())
    with_seeds = f"with {n} seed{'s' if n > 1 else ''}, for new {difference.over}"
    if verdict in CLAIMS:
        bound = f" by less than {difference.bound}" if difference.bound else ""
        return f"{gap}; <b class='{verdict}'>{verdict}</b>{bound} than {base}, {with_seeds}"
    if verdict.startswith(EQUAL):
        return f"{gap}; {verdict.replace(EQUAL, f'{EQUAL} to {base}', 1)}, {with_seeds}"
    why = html.escape(verdict.removeprefix(UNDECIDED).strip(" ()"))
    takes = why.endswith(" seeds") and "planned" not in why
    reason = f"; it would take {why}" if takes else f" ({why})"
    return f"{gap}; {UNDECIDED} against {base} {with_seeds}{reason}"


def again(study: Study) -> str:
    """Commits, the commands that were typed, and the command of this page."""
    rows = [run.row for run in study.design.runs]
    commits = sorted({str(row["commit"]) for row in rows})
    typed = _recipes(study)
    lines = [*(f"git checkout {commit}" for commit in commits), *typed]
    commands = [json.loads(row["command"]) for row in rows if row["command"]]
    singles = [shlex.join(["python", *command]) for command in commands if command]
    made = commit()
    clean = (made or "").removesuffix("+")
    here = [f"git checkout {clean}"] if clean and clean not in commits else []
    here.append(shlex.join(this_command()))
    about = [
        (name, html.escape(value))
        for name, column in (("packages", "versions"), ("machine", "machine"))
        for value in sorted({str(row[column]) for row in rows if row[column]})
    ]
    return "".join(
        [
            f"<pre>{_lines(lines)}</pre>" if typed else "",
            f"<details{'' if typed else ' open'}><summary>the command of every run</summary>",
            f"<pre>{_lines(singles)}</pre></details>",
            f"<p>This page, from the package at {html.escape(str(made))}:</p><pre>{_lines(here)}</pre>",
            f"<details><summary>packages and machines</summary>{definitions(about)}</details>",
        ]
    )


def _lines(lines: Sequence[str]) -> str:
    return html.escape("\n".join(lines))


def runs(study: Study) -> str:
    """Every run: where it is, its identity and its commit; tables link here."""
    lines: list[str] = []
    for run in study.ordered_runs():
        row = run.row
        made = str(row["commit"])[:9] + ("+" if row["dirty"] else "")
        values = [label(run.block, run.arm), run.seed, row["last_step"], row["state"], made]
        values += [row["config_hash"], str(row["prompt_hash"])[:9], row["extractor"]]
        values += [row["started"], row["ended"], row["source"]]
        name = html.escape(run.name)
        cells = "".join(f"<td>{html.escape(str(value))}</td>" for value in values)
        lines.append(f"<tr id='run-{name}'><th>{name}</th>{cells}</tr>")
    heads = "".join(f"<th>{text}</th>" for text in ("run", study.design.axis, *RUN_HEAD))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    foot = "<p class='foot'>A plus behind a commit: the code differed from it.</p>"
    return scrolled(table, "runs") + foot


def named(source: str, export: Export) -> str:
    """What a report calls its sweep."""
    sweeps = sorted({str(row["sweep"]) for row in export.records})
    return sweeps[0] if len(sweeps) == 1 else Path(source).name
