"""The plans that launches of a sweep recorded."""

from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from analysis.data.schema import Json
from mirrorpo.config.identity import digest
from mirrorpo.launch.launches import LAUNCHES, Launch, launches

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
    for folder in sorted(path.parent for path in root.rglob(LAUNCHES)):
        for launch in sorted(launches(folder), key=_first):
            entries = launch.registered.entries()
            if entries.get(NODE):
                recorded = RecordedPlan(
                    folder=str(folder), time=_first(launch), plan=cast("Json", entries[NODE])
                )
                for name in ("plan_sha256", "sweep", "sweep_sha256"):
                    if name in entries:
                        recorded[name] = str(entries[name])
                out.append(recorded)
    return out


def plan_faults(plans: Iterable[RecordedPlan]) -> list[str]:
    """A readable line for each plan that is not the one its launch gave a digest of."""
    return [
        f"{Path(entry['folder']) / LAUNCHES}: the plan of {entry.get('time') or 'a launch'} is not what was "
        "recorded then, by its sha256: take the file from a copy"
        for entry in plans
        if digest({NODE: entry["plan"]}) != entry.get("plan_sha256")
    ]


def _first(launch: Launch) -> str:
    """When a command was first given under its plan; of an older version the last time."""
    return launch.first or launch.time
