"""The plans that launches of a sweep recorded."""

import json
from pathlib import Path
from typing import NotRequired, TypedDict

from analysis.data.schema import Json

LAUNCHES = "launches.json"
# Of a launch's entry, and of a sweep's file.
NODE = "plan"


class RecordedPlan(TypedDict):
    """A plan as a launch recorded it.

    Attributes:
        folder: of the sweep.
        time: of the launch.
        plan: the node.
        plan_sha256: of the node.
        sweep: the name of the sweep's file, where the command named one.
        sweep_sha256: of that file.
    """

    folder: str
    time: NotRequired[str]
    plan: Json
    plan_sha256: NotRequired[str]
    sweep: NotRequired[str]
    sweep_sha256: NotRequired[str]


def recorded_plans(root: Path) -> list[RecordedPlan]:
    """The plans that launches recorded at and below a folder, by sweep, the first launch of each first."""
    out: list[RecordedPlan] = []
    for path in sorted(root.rglob(LAUNCHES)):
        entries: list[Json] = json.loads(path.read_text())
        for entry in sorted(entries, key=_first):
            if entry.get(NODE):
                recorded = RecordedPlan(folder=str(path.parent), time=_first(entry), plan=entry[NODE])
                for name in ("plan_sha256", "sweep", "sweep_sha256"):
                    if name in entry:
                        recorded[name] = entry[name]
                out.append(recorded)
    return out


def _first(entry: Json) -> str:
    """When a command was first given under its plan; of an older version the last time."""
    return str(entry.get("first") or entry.get("time") or "")
