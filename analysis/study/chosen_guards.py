"""What would make settings that were chosen mean something else than a choice on other seeds."""

from collections.abc import Sequence

from analysis.data.schema import Json
from analysis.data.selections import RecordedSelection
from analysis.study.design import Run
from analysis.study.finding import Finding
from analysis.study.selection import shown
from mirrorpo.config.identity import ADDED


def chosen_faults(selections: Sequence[RecordedSelection], runs: Sequence[Run]) -> list[Finding]:
    """Runs on seeds that settings were chosen on, and runs whose settings are not the chosen ones."""
    return [
        Finding("chosen", f"{run} {text}")
        for run in runs
        for text in (*(_seed(selection, run) for selection in selections), _settings(selections, run))
        if text
    ]


def chosen_settings(selections: Sequence[RecordedSelection]) -> tuple[str, ...]:
    """The settings that some selection chose by arm, which may differ between arms."""
    return tuple(dict.fromkeys(key for selection in selections for key in selection["over"]))


def _seed(selection: RecordedSelection, run: Run) -> str:
    if run.seed not in selection["seeds"]:
        return ""
    return f"is of a seed that its settings were chosen on ({selection['sweep']}): run it on another seed"


def _settings(selections: Sequence[RecordedSelection], run: Run) -> str:
    wanted = [
        entry["chosen"]
        for selection in selections
        if (entry := selection["arms"].get(str(run.row[selection["axis"]]))) is not None
    ]
    if not run.settings or not wanted or any(_has(run, chosen) for chosen in wanted):
        return ""
    differing = [
        f"{key} {shown(_setting(run, key))}, {shown(value)} was chosen"
        for key, value in wanted[-1].items()
        if _setting(run, key) != value
    ]
    return f"does not have what was chosen: {'; '.join(differing)}"


def _has(run: Run, chosen: Json) -> bool:
    return all(_setting(run, key) == value for key, value in chosen.items())


def _setting(run: Run, key: str) -> object:
    # One that came after the first runs is no part of the identity at the value of before.
    return run.settings.get(key, ADDED.get(key))
