"""What a sweep planned beside what was run of it, and what was run that nobody had planned."""

from collections.abc import Sequence

from analysis.data.plans import RecordedPlan
from analysis.report.study_table import study_table
from analysis.report.table_cells import Table, TableCell
from analysis.study.plan import Plan, plan_of_file, read_plan
from analysis.study.study import Study
from mirrorpo.config.paths import file_of_sweep
from mirrorpo.run.disk import file_digest

NAME = "planned"
HEAD = ("", "planned", "run")
DIGITS = 12
FOOT = (
    "The plan is the node `plan` of the sweep's file, which each launch records in launches.json before its "
    "cells start. Comparisons that it does not name are exploratory, whatever they show.",
)
# Words of a command that choose cells or say where they run, and are no departure from a sweep's file.
NO_SETTING = ("sweep=", "seed=", "out=", "tracking=", "hydra", "progress=", "plan", "+plan")


def planned(study: Study) -> Table | None:
    """The table; None where nothing was planned."""
    plan = study.plan
    if plan is None:
        return None
    entries = [
        ("recorded", _recorded(study), _begun_before(study)),
        ("hypothesis", plan.hypothesis, ""),
        ("endpoint", str(study.planned_endpoint or plan.metric), "any other is exploratory"),
        ("comparisons", "; ".join(map(str, plan.primary)), _comparisons(study, plan)),
        ("arms", ", ".join(_arms(plan)), _other_arms(study, plan)),
        ("seeds", str(plan.seeds or "not said"), _seeds(study, plan)),
        ("settings", "those of the sweep's file", _typed(study)),
        ("stopping rule", plan.stop or "not said", "whether it was kept, no file says" if plan.stop else ""),
    ]
    rows = [[TableCell(item), TableCell(text), TableCell(run)] for item, text, run in entries]
    return study_table(study, NAME, "Planned and not planned", HEAD, rows, FOOT)


def file_line(study: Study) -> str:
    """Whether the sweep's file is what it was at the first launch that recorded a plan; "" without one.

    It is read where it lies now, so that it is of a page and of no archive.
    """
    first = _first(study)
    sweep = first.get("sweep") if first is not None else None
    if first is None or sweep is None:
        return ""
    path, name = file_of_sweep(sweep), f"sweeps/sweep/{sweep}.yaml"
    if not path.is_file():
        return f"{name} is not here to be compared with the one that was launched"
    if file_digest(path) == first.get("sweep_sha256"):
        return f"{name} is as it was at the first launch"
    try:
        now = plan_of_file(sweep)
    except ValueError as error:
        return f"{name} was edited after the first launch, and its plan cannot be read now ({error})"
    same = now is not None and now.content == read_plan(first["plan"], "launch").content
    return (
        f"{name} was edited after the first launch; its plan is {'the same' if same else 'another one now'}"
    )


def _first(study: Study) -> RecordedPlan | None:
    """The launch whose plan counts."""
    plans = study.export.plans
    return plans[0] if plans and study.plan is not None and study.plan.recorded else None


def _recorded(study: Study) -> str:
    first = _first(study)
    if first is None:
        return "no: the plan is that of the sweep's file as it is now"
    digest = str(first.get("plan_sha256") or "")[:DIGITS]
    return f"at {first.get('time') or 'an unknown time'}{f', sha256 {digest}' if digest else ''}"


def _begun_before(study: Study) -> str:
    """Runs that were begun before the plan was recorded, and plans that came later."""
    first = _first(study)
    if first is None:
        return "before or after it: not known"
    time = str(first.get("time") or "")
    runs = study.design.runs
    early = sum(bool(run.row["started"]) and str(run.row["started"]) < time for run in runs)
    begun = (
        f"{early} of {len(runs)} runs had begun before" if early else f"all {len(runs)} runs began after it"
    )
    changed = [str(entry.get("time")) for entry in study.export.plans if entry["plan"] != first["plan"]]
    return "; ".join([begun, *([f"the plan was changed at {', '.join(changed)}"] if changed else [])])


def _comparisons(study: Study, plan: Plan) -> str:
    missing = [str(result.comparison) for result in study.primary if result.difference is None]
    if missing:
        return f"not run: {'; '.join(dict.fromkeys(missing))}"
    return "all of them" if plan.primary else ""


def _arms(plan: Plan) -> list[str]:
    names = [name for comparison in plan.primary for name in (comparison.other, comparison.arm)]
    return list(dict.fromkeys(names))


def _other_arms(study: Study, plan: Plan) -> str:
    wanted = _arms(plan)
    extra = [arm for arm in study.design.arms if arm not in wanted]
    lacking = [arm for arm in wanted if arm not in study.design.arms]
    parts = [f"not planned: {', '.join(extra)}"] if extra and wanted else []
    parts += [f"planned and not run: {', '.join(lacking)}"] if lacking else []
    return "; ".join(parts) or "those"


def _seeds(study: Study, plan: Plan) -> str:
    counts = sorted(
        {len(study.runs(arm, block)) for block in study.design.blocks for arm in study.arms(block)}
    )
    run = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if not plan.seeds:
        return run
    if counts[0] < plan.seeds:
        return f"{run}: fewer than planned"
    return (
        f"{run}: more than planned, of which verdicts use the first {plan.seeds}"
        if counts[-1] > plan.seeds
        else run
    )


def _typed(study: Study) -> str:
    words: Sequence[str] = [
        word
        for command in study.export.commands
        for word in command["typed"]
        if not word.startswith(NO_SETTING)
    ]
    return f"typed beside it: {' '.join(dict.fromkeys(words))}" if words else "those"
