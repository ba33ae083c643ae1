"""The cost card: what each arm took, in all and a seed."""

from collections.abc import Mapping, Sequence

from analysis.data.runs import DEVICE_SECONDS, ENERGY
from analysis.report.budget_table import amounts
from analysis.report.study_table import DASH, block_heading, study_table
from analysis.report.table_cells import Table, TableCell, number
from analysis.study.comparison import UNDECIDED
from analysis.study.study import Study

HOUR, KWH = 3600.0, 3.6e6
# What a step adds up to, by metric, and its head; each is the mean of an arm's seeds.
A_SEED: Mapping[str, str] = {
    "budget/tokens_sampled": "tokens sampled a seed",
    "budget/tokens_trained": "tokens trained a seed",
    "budget/flops": "FLOPs a seed",
}
NAME = "cost"
FOOT = (
    "Up to the last step of the runs that tables use: sampling, scoring, weighting and updates. Not in it: "
    "evaluations, loading, steps that were lost to a kill and taken again, and runs that were left out. A "
    "device hour is an hour of a GPU, or of the processor of a run without one.",
    "Energy is what the machine's own counters told while steps were taken (RAPL of processors, NVML of "
    "GPUs), other programs' on the same parts included; a dash: no counter could be read.",
    "To decide: the seeds that the arm's verdict asks for, and their device hours.",
)


def cost(study: Study) -> Table | None:
    """Device hours, tokens, FLOPs and energy by arm; None where no run says what it spent."""
    names = [DEVICE_SECONDS, ENERGY, *A_SEED]
    curves = study.export.metric(*names)
    if curves.empty:
        return None
    last = curves.sort_values("step").groupby("run")[names].last()
    spent = {str(run): {name: float(row[name]) for name in names} for run, row in last.iterrows()}
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        rows += block_heading(study, block)
        rows += [_row(study, spent, arm, block) for arm in study.arms(block)]
    head = [study.design.axis, "runs", "device hours", "hours a seed", *A_SEED.values()]
    head += ["energy, kWh", "kWh a seed", "to decide"]
    return study_table(study, NAME, "Cost by arm", head, rows, FOOT)


def _row(study: Study, spent: Mapping[str, Mapping[str, float]], arm: str, block: str) -> list[TableCell]:
    runs = study.names([arm], block)
    values = {name: _known(spent, runs, name) for name in (DEVICE_SECONDS, ENERGY, *A_SEED)}
    hours = [value / HOUR for value in values[DEVICE_SECONDS]]
    energy = [value / KWH for value in values[ENERGY]]
    means = {name: [sum(values[name]) / len(values[name])] if values[name] else [] for name in A_SEED}
    return [
        TableCell(arm, runs=runs),
        TableCell(str(len(runs)), runs=runs),
        _total(hours, len(runs), runs),
        _mean(hours, runs),
        *(TableCell(amounts(means[name]), runs=runs) for name in A_SEED),
        _total(energy, len(runs), runs),
        _mean(energy, runs),
        _to_decide(study, arm, block, hours),
    ]


def _known(spent: Mapping[str, Mapping[str, float]], runs: Sequence[str], name: str) -> list[float]:
    values = [spent[run][name] for run in runs if run in spent]
    return [value for value in values if value == value]


def _total(values: Sequence[float], runs: int, names: Sequence[str]) -> TableCell:
    if not values:
        return DASH
    missing = f"(of {len(values)} runs)" if len(values) < runs else ""
    return TableCell(_amount(sum(values)), missing, runs=tuple(names))


def _mean(values: Sequence[float], names: Sequence[str]) -> TableCell:
    return TableCell(_amount(sum(values) / len(values)), runs=tuple(names)) if values else DASH


def _amount(value: float) -> str:
    """Two digits at least, as small sweeps take minutes.

    Example:
        >>> _amount(0.001234), _amount(12.345), _amount(0)
        ('0.0012', '12.3', '0')
    """
    return number(value) if value >= 10 else f"{value:.2g}"


def _to_decide(study: Study, arm: str, block: str, hours: Sequence[float]) -> TableCell:
    difference = study.differences(block).get(arm)
    verdict = difference.verdict() if difference is not None else ""
    if not verdict.startswith(UNDECIDED):
        return TableCell("")
    wanted = verdict.removeprefix(UNDECIDED).strip(" ()")
    seeds = wanted.removesuffix(" seeds").replace(",", "")
    detail = f"({_amount(int(seeds) * sum(hours) / len(hours))} h)" if seeds.isdigit() and hours else ""
    return TableCell(wanted, detail, runs=study.names([arm, study.design.baseline], block))
