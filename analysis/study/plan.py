"""What a sweep planned before it ran, from the record of its launch or from its file.

The node `plan` of `sweeps/sweep/NAME.yaml`; nothing of it is part of a cell:

    plan:
      hypothesis: counterfactual credit finds the line that decides, and learning is faster for it
      metric: auc:reward/mean            # the primary endpoint; left out: the accuracy that verdicts rest on
      primary: [counterfactual > uniform, random_span = uniform]
      margin: 1                          # points within which arms are equal; of other endpoints their unit
      seeds: {planned: 15, looks: [5]}   # or a number
      stop: at the planned seeds, or at a look whose bound is passed

A launch is recorded in `launches.json` beside the cells; where its entry has `plan`, that counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import yaml

from analysis.data.plans import NODE, RecordedPlan
from analysis.data.schema import Json
from analysis.study.statement import Statement, read_statement
from mirrorpo.config.paths import file_of_sweep

# "vs": a difference, either way.
SIGNS = (">", "<", "=", "vs")
KEYS = ("hypothesis", "metric", "primary", "margin", "seeds", "stop")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was to be compared, and when to stop.

    Attributes:
        hypothesis: in a sentence.
        metric: the primary endpoint; "" is the accuracy that verdicts rest on.
        primary: the comparisons whose p-values are one family; all others are exploratory.
        margin: within which arms are equal; None is the default.
        seeds: planned; 0 where the plan does not say.
        looks: numbers of seeds at which the table is looked at before, ascending.
        stop: the rule, in words.
        origin: where it was read.
        recorded: whether a launch recorded it, before or while the runs were made.
    """

    hypothesis: str
    metric: str = ""
    primary: Sequence[Statement] = ()
    margin: float | None = None
    seeds: int = 0
    looks: Sequence[int] = ()
    stop: str = ""
    origin: str = ""
    recorded: bool = False

    @property
    def content(self) -> "Plan":
        """What was planned, wherever it was read."""
        return replace(self, origin="", recorded=False)


def read_plan(node: Json, origin: str, *, recorded: bool = False) -> Plan:
    """A plan of its node.

    Args:
        node: of a sweep's file, or of a launch.
        origin: where it stands, for errors and the report.
        recorded: whether a launch recorded it.

    Raises:
        ValueError: naming the entry that cannot be read, and how it is written.
    """
    for key in node:
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"{origin}: plan.{key}: {meant}a plan has {', '.join(KEYS)}")
    if not node.get("hypothesis"):
        raise ValueError(f"{origin}: plan.hypothesis: say in a sentence what is expected")
    seeds, looks = _seeds(node.get("seeds") or 0, origin)
    margin = node.get("margin")
    if margin is not None and not (isinstance(margin, int | float) and 0 < margin < float("inf")):
        raise ValueError(f"{origin}: plan.margin={margin}: give a number above 0")
    primary = node.get("primary") or ()
    if isinstance(primary, str):
        primary = [primary]
    return Plan(
        hypothesis=" ".join(str(node["hypothesis"]).split()),
        metric=str(node.get("metric") or ""),
        primary=[_comparison(str(text), origin) for text in primary],
        margin=margin,
        seeds=seeds,
        looks=looks,
        stop=" ".join(str(node.get("stop") or "").split()),
        origin=origin,
        recorded=recorded,
    )


def _comparison(text: str, origin: str) -> Statement:
    comparison = read_statement(text, SIGNS)
    if comparison is None:
        raise ValueError(
            f"{origin}: plan.primary={text!r}: write 'ARM > OTHER', with >, <, = (within the margin) or vs"
        )
    return comparison


def _seeds(entry: object, origin: str) -> tuple[int, Sequence[int]]:
    """The planned seeds, and the numbers of seeds at which the table is looked at before."""
    given = dict(entry) if isinstance(entry, Mapping) else {"planned": entry}
    planned, looks = given.pop("planned", 0), given.pop("looks", None) or []
    counts = [planned, *looks] if isinstance(looks, list) else [looks, looks]
    numbers = [count for count in counts if isinstance(count, int) and count >= 0]
    if given or not isinstance(looks, list) or len(numbers) < len(counts):
        raise ValueError(f"{origin}: plan.seeds={entry}: write a number, or {{planned: 15, looks: [5, 10]}}")
    seeds, before = numbers[0], sorted(numbers[1:])
    if before and not 2 <= before[0] <= before[-1] < seeds:
        raise ValueError(
            f"{origin}: plan.seeds.looks={before}: from 2 seeds to below the {seeds} that are planned"
        )
    return seeds, before


def plan_of_file(sweep: str) -> Plan | None:
    """The plan that a sweep's file has now; None where there is no such file, or no plan in it."""
    path = file_of_sweep(sweep)
    if not path.is_file():
        return None
    node = (yaml.safe_load(path.read_text()) or {}).get(NODE)
    return read_plan(node, f"sweeps/sweep/{sweep}.yaml") if node else None


def plan_of(recorded: Sequence[RecordedPlan], sweep_names: Sequence[str]) -> tuple[Plan | None, list[str]]:
    """What was planned for some runs, and what has to be said of it.

    The first plan that a launch recorded counts, if all sweeps have that one. Where none did, the sweep's
    file as it is now is read.

    Args:
        recorded: of the launches of the runs, the first one first.
        sweep_names: what the sweeps of the runs are called, or their files.
    """
    if recorded:
        plans = [
            read_plan(entry["plan"], f"recorded at launch {entry.get('time', '')}".strip(), recorded=True)
            for entry in recorded
        ]
        first: dict[str, Plan] = {}
        for entry, plan in zip(recorded, plans, strict=True):
            first.setdefault(entry["folder"], plan)
        if any(plan.content != plans[0].content for plan in first.values()):
            return None, [
                f"These are sweeps with a plan each ({', '.join(first)}), and none of them is of all runs: "
                "nothing here is planned; look at one sweep at a time."
            ]
        changed = [plan.origin for plan in plans if plan.content != plans[0].content]
        notes = [f"The plan was changed: {', '.join(changed)}. The first one counts."] if changed else []
        return plans[0], notes
    for name in dict.fromkeys(sweep_names):
        plan = plan_of_file(name)
        if plan is not None:
            return plan, [f"The plan is that of {plan.origin} as it is now; it was not recorded at launch."]
    return None, []
