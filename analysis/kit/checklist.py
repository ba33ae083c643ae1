"""`python -m analysis checklist SWEEP`: a paper's checklist, answered by what the runs recorded.

The items are those of the NeurIPS paper checklist and of the ML reproducibility checklist that files can
answer. An item that they cannot answer says so, and is left to the authors.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.report.caveats import caveats
from analysis.report.cost_table import cost
from analysis.report.planned_table import planned
from analysis.report.selection_table import summary
from analysis.report.study_table import basis, levels
from analysis.report.table_cells import Table, TableCell
from analysis.study.study import Study
from mirrorpo.run.manifest import MANIFEST, read_manifest

NAME = "checklist"
TITLE = "Reproducibility checklist"
HEAD = ("item", "answer", "from")
UNKNOWN = "not recorded: for the authors"
SEVERAL = 6
# Of the questions of a paper's checklist, those that no file of a sweep answers.
FOR_AUTHORS: Sequence[tuple[str, str]] = (
    ("Claims: do abstract and introduction state what was found?", UNKNOWN),
    (
        "Compute: what did runs cost that are not in this folder, such as failed and preliminary ones?",
        UNKNOWN,
    ),
    ("Licences and terms of use of data, models and code?", UNKNOWN),
    ("Broader impact, safeguards, human subjects, consent, review?", UNKNOWN),
)
FOOT = (
    "Answers are read from the manifests, metrics and answers of the runs that tables use. What is not "
    "recorded there is said to be not recorded; nothing is assumed.",
)


def checklist(study: Study) -> Table:
    """The items with their answers and where they were read."""
    entries = [
        *_planned(study),
        *_data(study),
        *_selection(study),
        *_searched(study),
        *_statistics(study),
        *_compute(study),
        *_code(study),
        *_artefacts(study),
        ("Limitations that the runs show", "; ".join(caveats(study)), "caveats of the report"),
        *((item, answer, "") for item, answer in FOR_AUTHORS),
    ]
    rows = [
        [TableCell(item), TableCell(answer or UNKNOWN), TableCell(source)] for item, answer, source in entries
    ]
    return Table(NAME, TITLE, HEAD, rows, FOOT, study.notes)


Entries = list[tuple[str, str, str]]


def _values(study: Study, column: str) -> list[str]:
    return sorted({str(run.row[column]) for run in study.design.runs if run.row[column] not in (None, "")})


def _settings(study: Study, key: str) -> str:
    values = {str(run.settings[key]) for run in study.design.runs if run.settings and key in run.settings}
    return ", ".join(sorted(values))


def _listed(values: Sequence[str]) -> str:
    """Values, or how many there are.

    Example:
        >>> _listed(["a", "b"]), _listed([str(number) for number in range(9)])
        ('a, b', '9 different ones, in archive.json and the runs')
    """
    if len(values) > SEVERAL:
        return f"{len(values)} different ones, in archive.json and the runs"
    return ", ".join(values)


def text(table: Table) -> str:
    """The checklist for a terminal: an item a paragraph."""
    items = [
        f"{item}\n    {answer}" + (f"\n    ({source})" if str(source) else "")
        for item, answer, source in table.rows
    ]
    return "\n".join([table.title, "", *items, "", *table.foot, *table.notes, ""])


def _planned(study: Study) -> Entries:
    commands = [" ".join(command["typed"]) for command in study.export.commands if command["typed"]]
    table = planned(study)
    rows = table.rows if table is not None else []
    said = [f"{item} {text}" + (f" ({run})" if str(run) else "") for item, text, run in rows]
    return [
        ("What was run", "; ".join(dict.fromkeys(commands)), "multirun.yaml of the sweep"),
        (
            "What was planned before",
            "; ".join(said) or "nothing: all comparisons are exploratory",
            "launches.json",
        ),
    ]


def _data(study: Study) -> Entries:
    counts = study.export.metric("eval/questions")["eval/questions"]
    questions = sorted({str(int(count)) for count in counts})
    hashes = [json.loads(text) for text in _values(study, "data")]
    digests = sorted({f"{split} {str(value)[:12]}" for entry in hashes for split, value in entry.items()})
    left_out = {uid for text in _values(study, "bad_data") for uid in json.loads(text)}
    return [
        ("Data sets", ", ".join(_values(study, "dataset")), "choices"),
        ("Split that is evaluated", _settings(study, "eval_split"), "config eval_split"),
        ("Questions that are evaluated", _listed(questions), "metrics.jsonl, eval/questions"),
        ("Further evaluation sets", ", ".join(study.export.sets) or "none", "eval/, evaluated/"),
        ("Data by content", _listed(digests), "manifest, data"),
        ("Questions that were left out", str(len(left_out)), "manifest, bad_data"),
        ("How an answer is extracted", _listed(_values(study, "extractor")), "manifest, reward_version"),
        ("Prompts", _listed([text[:12] for text in _values(study, "prompt_hash")]), "manifest, prompt"),
    ]


def _selection(study: Study) -> Entries:
    fixed = sorted({str(run.row["steps"]) for run in study.design.runs})
    return [
        (
            "Which checkpoint is reported",
            f"the last step ({_listed(fixed)}); none was chosen by a score",
            "steps",
        ),
        ("What is compared", f"{study.metric}{f' ({study.reason})' if study.reason else ''}", "the study"),
        ("Baseline", f"{study.design.axis} {study.design.baseline}", "the study"),
        (
            "Settings of every run",
            "config.yaml of each run, with its hash; what differs from the named choices in settings.txt",
            "config.yaml",
        ),
    ]


def _searched(study: Study) -> Entries:
    """By what settings were chosen, as the launches recorded it."""
    item = "Hyperparameters: over which values were they searched, and by what was the final one chosen?"
    searched = [summary(selection) for selection in study.export.selections]
    return [(item, "; ".join(searched), "launches.json, selection; table chosen" if searched else "")]


def _statistics(study: Study) -> Entries:
    design = study.design
    seeds = {
        f"{arm}{f' ({block})' if block else ''}: {', '.join(map(str, sorted(study.runs(arm, block))))}"
        for block in design.blocks
        for arm in study.arms(block)
    }
    every = [gap for block in design.blocks for gap in study.differences(block).values()]
    used, present = len(design.runs), study.export.runs.num_rows
    return [
        ("Seeds", "; ".join(sorted(seeds)), "config seed"),
        ("Runs that tables leave out", f"{present - used} of {present}", "the study"),
        ("Intervals of levels", levels(study), "analysis.stats"),
        ("Intervals of differences, tests, correction", basis(study, every), "analysis.stats"),
    ]


def _compute(study: Study) -> Entries:
    card = cost(study)
    rows = [row for row in card.rows if len(row) > 1] if card is not None else []
    heads = card.head if card is not None else []
    spent = [
        f"{row[0]}: "
        + ", ".join(f"{head} {cell}" for head, cell in zip(heads[1:], row[1:], strict=True) if str(cell))
        for row in rows
    ]
    machines = [json.loads(text) for text in _values(study, "machine")]
    about = sorted({f"{machine.get('cpu')}, {machine.get('cores')} cores" for machine in machines})
    return [
        ("Devices", _listed(_values(study, "device")), "manifest, device"),
        ("Machines", _listed(about), "manifest, machine"),
        ("Precision", _listed(_values(study, "computed_in")), "manifest, computed_in"),
        ("Compute by arm", "; ".join(spent), "table cost"),
    ]


def _code(study: Study) -> Entries:
    commits = sorted({commit for text in _values(study, "commits") for commit in json.loads(text)})
    differed = sum(bool(run.row["dirty"]) for run in study.design.runs)
    clean = f"{differed} of {len(study.design.runs)} runs had code that differed from it" if differed else ""
    versions = [json.loads(text) for text in _values(study, "versions")]
    packages = sorted({f"{name} {value}" for entry in versions for name, value in entry.items() if value})
    several = len({json.dumps(entry, sort_keys=True) for entry in versions}) > 1
    code = "; ".join(filter(None, [_listed(commits), clean]))
    return [
        ("Code, by commit", code, "manifest, launches"),
        ("Packages", ("several: " if several else "") + ", ".join(packages), "manifest, versions"),
        ("Command of every run", "in its manifest" if _all(study, "command") else "", "manifest, command"),
    ]


def _artefacts(study: Study) -> Entries:
    inputs = [json.loads(text) for text in _values(study, "inputs")]
    weights = {name for entry in inputs for name in entry if name.startswith("model.path")}
    named = sorted({str(run.settings.get("model.path") or "") for run in study.design.runs if run.settings})
    commits = _values(study, "model_commit")
    hub = f", commit {_listed(commits)}" if commits else ""
    hashed = f", {len(weights)} files by content" if weights else ""
    models = ", ".join(filter(None, named))
    return [
        ("Start models", f"{models}{hub}{hashed}" if models else "", "config model.path, manifest inputs"),
        ("Trained weights", _policies(study), "policy/ of each run, sha256 in its manifest"),
        (
            "Answers of every evaluation",
            "eval/ of each run" if study.export.questions.num_rows else "",
            "eval/",
        ),
    ]


def _policies(study: Study) -> str:
    """Of how many runs there is one, as their manifests say: the files themselves may lie elsewhere."""
    manifests = [read_manifest(Path(str(run.row["source"])) / MANIFEST) for run in study.design.runs]
    kept = sum(any(name.startswith("policy/") for name in made.get("sha256") or ()) for made in manifests)
    return f"of {kept} of {len(manifests)} runs" if kept else ""


def _all(study: Study, column: str) -> bool:
    cells: Iterable[object] = (run.row[column] for run in study.design.runs)
    return all(cells)
