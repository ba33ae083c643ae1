"""How settings of a sweep were chosen, as its launches recorded it (`mirrorpo.launch.selection`)."""

from pathlib import Path
from typing import TypedDict, cast

from analysis.data.schema import Json
from mirrorpo.launch.launches import LAUNCHES, launches


class RecordedCandidate(TypedDict):
    """Settings that were tried for an arm.

    Attributes:
        settings: by dotted key.
        values: of the metric, in the order of the seeds.
    """

    settings: Json
    values: list[float]


class RecordedArm(TypedDict):
    """What an arm got, and what it was chosen from.

    Attributes:
        chosen: settings by dotted key.
        candidates: the best first.
        remarks: what has to be said of the choice.
    """

    chosen: Json
    candidates: list[RecordedCandidate]
    remarks: list[str]


class RecordedSelection(TypedDict):
    """One selection.

    Attributes:
        sweep: that the candidates were run in.
        setting: of all its runs: algo, model, dataset, steps.
        commits: of their code.
        runs: how many.
        runs_sha256: of their ids, config hashes, seeds and values.
        axis: whose choices are the arms.
        over: the settings that were chosen, as dotted keys.
        metric: that was compared.
        rule: by which it was chosen.
        seeds: that it was chosen on.
        remarks: what has to be said of all arms together.
        arms: by choice on the axis.
        sha256: of all of this.
    """

    sweep: str
    setting: Json
    commits: list[str]
    runs: int
    runs_sha256: str
    axis: str
    over: list[str]
    metric: str
    rule: str
    seeds: list[int]
    remarks: list[str]
    arms: dict[str, RecordedArm]
    sha256: str


def recorded_selections(root: Path) -> list[RecordedSelection]:
    """The selections that launches at and below a folder recorded, each once."""
    recorded = [
        cast("RecordedSelection", launch.registered.selection)
        for folder in sorted(path.parent for path in root.rglob(LAUNCHES))
        for launch in launches(folder)
        if launch.registered.selection
    ]
    return list({selection["sha256"]: selection for selection in recorded}.values())
