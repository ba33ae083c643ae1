"""How settings were chosen: what each arm got, from which candidates, and what has to be said of it."""

from collections.abc import Sequence

import numpy as np

from analysis.data.selections import RecordedArm, RecordedSelection
from analysis.report.table_cells import Table, TableCell
from analysis.study.selection import named, order, shown

HEAD = ("arm", "chosen", "on the selection's seeds", "the next", "candidates", "remarks")
FOOT = (
    "Chosen on these seeds, so their values favour what was chosen and are no comparison of arms: that is "
    "made on other seeds. Noise: half the 95% interval of a difference between two candidates' means, of "
    "what is left when candidates and seeds have their means taken away."
)
DIGITS = 12


def chosen_tables(selections: Sequence[RecordedSelection]) -> list[Table]:
    """Of each selection what the arms got, and all candidates."""
    tables = [table for selection in selections for table in (_chosen(selection), _candidates(selection))]
    if len(selections) < 2:
        return tables
    return [
        Table(f"{table.name}_{place // 2 + 1}", table.title, table.head, table.rows, table.foot)
        for place, table in enumerate(tables)
    ]


def summary(selection: RecordedSelection) -> str:
    """A selection in a few sentences."""
    sentences = [
        f"{selection['rule']}, in {_source(selection)}",
        *selection["remarks"],
        *(_searched(arm, entry, selection["over"]) for arm, entry in selection["arms"].items()),
    ]
    return ". ".join(sentences)


def _searched(arm: str, entry: RecordedArm, over: Sequence[str]) -> str:
    """What an arm was chosen from, what it got, and what has to be said of it."""
    settings = [other["settings"] for other in entry["candidates"]]
    tried = {key: sorted((had[key] for had in settings if key in had), key=order) for key in over}
    texts = {key: dict.fromkeys(map(shown, values)) for key, values in tried.items() if values}
    values = ", ".join(f"{key} of {', '.join(texts[key])}" for key in texts)
    parts = [f"{arm}: {len(entry['candidates'])} candidates, {values}", f"chosen {named(entry['chosen'])}"]
    return "; ".join([*parts, *entry["remarks"]])


def _source(selection: RecordedSelection) -> str:
    """The runs that it was chosen by."""
    seeds = ", ".join(map(str, selection["seeds"]))
    digits = selection["runs_sha256"][:DIGITS]
    return f"sweep {selection['sweep']}, seeds {seeds}, {selection['runs']} runs (sha256 {digits})"


def _chosen(selection: RecordedSelection) -> Table:
    rows = [_row(arm, entry) for arm, entry in selection["arms"].items()]
    setting = ", ".join(f"{key} {value}" for key, value in selection["setting"].items())
    commits = ", ".join(commit[:9] for commit in selection["commits"])
    rule = selection["rule"]
    foot = [
        f"{rule[:1].upper()}{rule[1:]}. In {_source(selection)}; {setting}; commit {commits}.",
        *(f"{text[:1].upper()}{text[1:]}." for text in selection["remarks"]),
        FOOT,
    ]
    return Table("chosen", f"Settings chosen for each arm: {selection['metric']}", HEAD, rows, foot)


def _row(arm: str, entry: RecordedArm) -> list[TableCell]:
    best, *others = entry["candidates"]
    follower = f"{_mean(others[0]['values'])} ({named(others[0]['settings'])})" if others else "—"
    return [
        TableCell(arm),
        TableCell(named(entry["chosen"])),
        TableCell(_mean(best["values"]), _listed(best["values"])),
        TableCell(follower),
        TableCell(str(len(entry["candidates"]))),
        TableCell("; ".join(entry["remarks"])),
    ]


def _candidates(selection: RecordedSelection) -> Table:
    over = selection["over"]
    head = ["arm", *over, "mean", *(f"seed {seed}" for seed in selection["seeds"])]
    rows = [
        [
            TableCell(arm),
            *(TableCell(shown(candidate["settings"].get(key, "—"))) for key in over),
            TableCell(_mean(candidate["values"])),
            *(TableCell(f"{value:.4f}") for value in candidate["values"]),
        ]
        for arm, entry in selection["arms"].items()
        for candidate in entry["candidates"]
    ]
    foot = [f"{selection['metric']}; each arm's best first, which is the one that was chosen."]
    return Table("candidates", f"Candidates of {selection['sweep']}", head, rows, foot)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}"


def _listed(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"
