"""The report of a sweep: one HTML page, and beside it every table and figure as files."""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import paper
from analysis.caveats import caveats
from analysis.cells import Table, bounds, number
from analysis.courses import every
from analysis.export import Export, Frame, commit, this_command
from analysis.figures import draw
from analysis.page import document, picture
from analysis.render import latex, markdown, to_html
from analysis.study import Study
from mirrorpo.config.paths import sweeps

# Each table's figures stand below it; the rest at the end.
BESIDE: Mapping[str, Sequence[str]] = {
    "papers": ("differences",), "accuracy": ("differences", "learning_curves"), "sampled": ("length",), "matched_drift": ("frontier", "mirror_maps"),
    "importance": ("importance", "weights"),
}  # fmt: skip
SAMPLES = 5


def report(study: Study, folder: Path, name: str) -> Path:
    """Write `report.html`, `tables/` and `figures/` into a folder; the page's path.

    The page holds its figures and needs neither the folder nor a network.
    """
    tables, figures = every(study), draw(study, folder / "figures")
    write_tables(tables, folder / "tables")
    body = [
        head(study, name),
        section("asked", "What was asked", asked(study)),
        section("findings", "Findings", findings(study)),
        section("tables", "Tables and figures", between(tables, figures)),
        section("samples", "Sample answers side by side", samples(study)),
        section(
            "caveats",
            "Caveats",
            "<ul class='caveats'>"
            + "".join(f"<li>{html.escape(text)}</li>" for text in caveats(study))
            + "</ul>",
        ),
        section("again", "How to make this again", again(study)),
        section("runs", "Runs", runs(study)),
    ]
    page = folder / "report.html"
    page.write_text(document(f"{name}: {study.design.axis}", "\n".join(body)))
    return page


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Each table as LaTeX, Markdown and HTML, with the runs behind every cell as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in tables:
        for ending, text in (
            ("tex", latex(one)),
            ("md", markdown(one)),
            ("html", document(one.title, to_html(one))),
            ("json", one.traced()),
        ):
            (folder / f"{one.name}.{ending}").write_text(text)


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page."""
    return f"<section id='{anchor}'><h2>{html.escape(title)}</h2>\n{content}</section>"


def head(study: Study, name: str) -> str:
    """Title, what varies, and the way through the page."""
    design, rows = study.design, [run.row for run in study.design.runs]
    fixed = [
        f"{axis} {', '.join(sorted(values))}"
        for axis in ("algo", "model", "dataset")
        if len(values := {str(row[axis]) for row in rows}) == 1
    ]
    seeds = sorted({run.seed for run in design.runs})
    commits = sorted({str(row["commit"])[:9] + ("+" if row["dirty"] else "") for row in rows})
    links = [
        ("asked", "what was asked"),
        ("findings", "findings"),
        ("tables", "tables and figures"),
        ("samples", "answers"),
        ("caveats", "caveats"),
    ]
    nav = "".join(
        f"<a href='#{anchor}'>{text}</a>"
        for anchor, text in [*links, ("again", "how to make it again"), ("runs", "runs")]
    )
    said = f"{len(rows)} runs: {len(design.arms)} choices of {design.axis}" + (
        f", {len(design.blocks)} of {', '.join(design.others)}" if design.others else ""
    )
    where = "; ".join([f"{said}, seeds {_ranges(seeds)}", *fixed, f"commit {', '.join(commits)}"])
    return f"<h1>{html.escape(name)}</h1><p class='quiet'>{html.escape(where)}</p><nav>{nav}</nav>"


def _ranges(seeds: Sequence[int]) -> str:
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def asked(study: Study) -> str:
    """The claim, the grid, and what the papers say about it."""
    design = study.design
    claim = [line for one in study.export.about.get("asked", []) for line in sweep_comment([*one["typed"]])]
    entries = [("claim", " ".join(claim))] if claim else []
    entries += [
        (
            design.axis,
            ", ".join(arm + (" (baseline)" if arm == design.baseline else "") for arm in design.arms),
        )
    ]
    entries += [(", ".join(design.others), ", ".join(design.blocks))] if design.others else []
    entries += [("swept", ", ".join(design.swept))] if design.swept else []
    entries.append(("compared", f"{study.metric} at the last step, seed by seed, against {design.baseline}"))
    which = {"divergence": paper.GBMPO, "weighting": paper.COUNTERFACTUAL}.get(design.axis)
    if which:
        said = [f"{claim} [{mark}]" for source, claim, mark in paper.CLAIMS if source == which]
        entries.append((f"arXiv {which}", f"{paper.TITLES[which]}: " + "; ".join(said) + "."))
    return (
        "<dl class='lead'>"
        + "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in entries if value
        )
        + "</dl>"
    )


def sweep_comment(typed: Sequence[str]) -> list[str]:
    """The comment that opens the sweep file which a command names."""
    names = [override.split("=", 1)[1] for override in typed if override.startswith("sweep=")]
    paths = [sweeps() / "sweep" / f"{name}.yaml" for name in names]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [
        line.removeprefix("#").strip()
        for line in lines
        if line.startswith("# ") and not line.startswith(("# @", "#   "))
    ]


def findings(study: Study) -> str:
    """One sentence an arm: the difference, its interval, and whether it can be told."""
    lines: list[str] = []
    for block in study.design.blocks:
        for arm, one in study.differences(block).items():
            interval, verdict = one.interval.scaled(100), one.verdict()
            label = ", ".join(filter(None, (block, arm)))
            gap = f"{number(interval.estimate, 1, True)} points {bounds(interval)}".strip()
            base = html.escape(study.design.baseline)
            if verdict in ("better", "worse"):
                told = f"<b class='{verdict}'>{verdict}</b> than {base}, with {one.n} seeds"
            else:
                why = verdict.removeprefix("cannot tell").strip(" ()")
                told = f"cannot be told from {base} with {one.n} seed{'s' if one.n > 1 else ''}"
                told += (
                    f"; a difference of this size would take {html.escape(why)}"
                    if why.endswith(" seeds")
                    else f" ({html.escape(why)})"
                )
            lines.append(f"<li><b>{html.escape(label)}</b>: {html.escape(gap)}; {told}.</li>")
    said = (
        "<p class='quiet'>Differences in points with 95% intervals, verdicts after Holm's correction, seeds "
        "for 80% power. "
        "'Cannot be told' is not 'equal': the interval says what is not excluded.</p>"
    )
    return f"<ul>{''.join(lines)}</ul>{said}" if lines else "<p>There is one arm; nothing is compared.</p>"


def between(tables: Sequence[Table], figures: Mapping[str, tuple[Path, str]]) -> str:
    """The tables, each with its figures below it."""
    parts: list[str] = []
    left = dict(figures)
    for one in tables:
        parts.append(to_html(one))
        for prefix, names in BESIDE.items():
            if one.name.startswith(prefix):
                parts += [picture(*left.pop(name)) for name in names if name in left]
    return "".join([*parts, *(picture(*one) for one in left.values())])


def samples(study: Study) -> str:
    """Some questions with every arm's answer of one seed: where arms disagree most, then one all right and
    one all wrong.
    """
    parts: list[str] = []
    for block in study.design.blocks:
        arms = study.arms(block)
        common = sorted(set.intersection(*(set(study.runs(arm, block)) for arm in arms)))
        if not common:
            continue
        found = {arm: _answers(study, study.runs(arm, block)[common[0]].name) for arm in arms}
        shared = [uid for uid in found[arms[0]].index if all(uid in table.index for table in found.values())]
        chosen = _chosen({uid: [bool(table.loc[uid, "right"]) for table in found.values()] for uid in shared})
        if chosen:
            where = html.escape(", ".join(filter(None, (block, f"seed {common[0]}"))))
            parts.append(
                f"<p class='quiet'>{where}, greedy, last evaluation. Chosen by rule: where arms disagree, "
                f"one that all got right, one "
                f"that none did.</p>"
            )
        for uid in chosen:
            row = found[arms[0]].loc[uid]
            question = row["question"] if isinstance(row["question"], str) else str(uid)
            parts.append(
                f"<h3>{html.escape(str(uid))}</h3><p>{html.escape(question)} <span class='quiet'>Gold: "
                f"{html.escape(str(row['gold']))}</span></p>"
            )
            same: dict[str, list[str]] = {}
            for arm, table in found.items():
                same.setdefault(str(table.loc[uid, "completion"]), []).append(arm)
            parts.append(
                "<div class='answers'>"
                + "".join(_answer(", ".join(mine), found[mine[0]].loc[uid]) for mine in same.values())
                + "</div>"
            )
    return "".join(parts) or "<p>The export holds no answers.</p>"


def _answers(study: Study, run: str) -> Frame:
    frame = study.export.answers("question", "gold", "right", "outcome", "tokens", "truncated", "completion")
    mine = frame[frame["run"] == run]
    return mine[mine["step"] == mine["step"].max()].set_index("uid")


def _chosen(right: Mapping[str, Sequence[bool]]) -> list[str]:
    split = sorted(right, key=lambda uid: (abs(sum(right[uid]) / len(right[uid]) - 0.5), uid))
    split = [uid for uid in split if 0 < sum(right[uid]) < len(right[uid])][: SAMPLES - 2]
    ends = [
        next((uid for uid in sorted(right) if all(right[uid]) == wanted and any(right[uid]) == wanted), None)
        for wanted in (True, False)
    ]
    return [*split, *(uid for uid in ends if uid is not None)]


def _answer(arms: str, row: Any) -> str:
    kind = "right" if row["right"] else "wrong"
    said = kind if kind == "right" or not row["outcome"] else str(row["outcome"]).replace("_", " ")
    cut = ", cut" if row["truncated"] else ""
    return (
        f"<article class='answer "
        f"{kind}'><header><span>{html.escape(arms)}</span><b>{html.escape(said)}</b></header>"
        f"<pre>{html.escape(str(row['completion']))}</pre><small class='quiet'>{row['tokens']} "
        f"tokens{cut}</small></article>"
    )


def again(study: Study) -> str:
    """Commits, the commands that were typed, and the command of this page."""
    rows = [run.row for run in study.design.runs]
    commits = sorted({str(row["commit"]) for row in rows})
    lines = [f"git checkout {one}" for one in commits]
    typed = [one for one in study.export.about.get("asked", []) if one["typed"]]
    lines += [f"python train.py -m {shlex.join(one['typed'])}" for one in typed]
    singles = [
        shlex.join(["python", *command])
        for row in rows
        if row["command"] and (command := json.loads(row["command"]))
    ]
    made = commit()
    here = (
        [f"git checkout {made.removesuffix('+')}"] if made and made.removesuffix("+") not in commits else []
    )
    here.append(shlex.join(this_command()))
    versions = sorted({str(row["versions"]) for row in rows if row["versions"]})
    machines = sorted({str(row["machine"]) for row in rows if row["machine"]})
    parts = [f"<pre>{html.escape(chr(10).join(lines))}</pre>" if typed else ""]
    parts.append(
        f"<details{'' if typed else ' open'}><summary>the command of every "
        f"run</summary><pre>{html.escape(chr(10).join(singles))}</pre></details>"
    )
    parts.append(
        f"<p>This page, from the package at "
        f"{html.escape(str(made))}:</p><pre>{html.escape(chr(10).join(here))}</pre>"
    )
    about = [("packages", one) for one in versions] + [("machine", one) for one in machines]
    parts.append(
        "<details><summary>packages and machines</summary><dl class='lead'>"
        + "".join(f"<dt>{key}</dt><dd>{html.escape(one)}</dd>" for key, one in about)
        + "</dl></details>"
    )
    return "".join(parts)


def runs(study: Study) -> str:
    """Every run: where it is, its identity and its commit; tables link here."""
    heads = (
        "run",
        study.design.axis,
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
    lines: list[str] = []
    for run in sorted(
        study.design.runs, key=lambda run: (run.block, study.design.arms.index(run.arm), run.seed)
    ):
        row = run.row
        made = str(row["commit"])[:9] + ("+" if row["dirty"] else "")
        cells = [
            ", ".join(filter(None, (run.block, run.arm))), run.seed, row["last_step"], row["state"], made, row["config_hash"],
            str(row["prompt_hash"])[:9], row["extractor"], row["started"], row["ended"], row["source"],
        ]  # fmt: skip
        lines.append(
            f"<tr id='run-{html.escape(run.name)}'><th>{html.escape(run.name)}</th>"
            + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            + "</tr>"
        )
    table = (
        "<div class='scroll'><table><thead><tr>"
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
    return table + "<p class='foot'>A plus behind a commit: the code differed from it.</p>"


def named(source: str, export: Export) -> str:
    """What a report calls its sweep."""
    sweeps = sorted({str(row["sweep"]) for row in export.records})
    return sweeps[0] if len(sweeps) == 1 else Path(source).name
