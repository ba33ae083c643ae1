"""Where each arm's curve would end, and how soon it is half way: sigmoids of accuracy against compute."""

from analysis.report.study_table import DASH, EMPTY, block_heading, study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell, number
from analysis.stats.intervals import mean_interval
from analysis.stats.sigmoid import Sigmoid, fit_sigmoid
from analysis.study.endpoint import FEWEST_EVALUATIONS
from analysis.study.study import Study

FLOPS = "budget/flops"
# A curve that has done less of its rise says little of where it ends.
ENOUGH = 0.8


def sigmoids(study: Study) -> tuple[dict[tuple[str, str, int], Sigmoid], str] | None:
    """Fits by block, arm and seed, and what compute was counted in; None of runs with few evaluations."""
    counted = FLOPS if FLOPS in study.export.names else ""
    curves = study.curve(study.metric, *([counted] if counted else []))
    curves = curves.dropna(subset=[study.metric])
    # Before its first step a run has spent nothing.
    curves = curves.assign(
        spent=curves[counted].where(curves["step"] > 0, 0.0) if counted else curves["step"]
    )
    if counted and curves["spent"].isna().any():
        counted, curves = "", curves.assign(spent=curves["step"])
    if curves.empty or curves.groupby("run")["step"].nunique().min() < FEWEST_EVALUATIONS:
        return None
    out: dict[tuple[str, str, int], Sigmoid] = {}
    for (block, arm, seed), rows in curves.groupby(["block", "arm", "seed"]):
        ordered = rows.sort_values("step")
        if int(ordered["step"].iloc[0]) == 0:
            made = fit_sigmoid(ordered["spent"].to_numpy(), ordered[study.metric].to_numpy())
            if made is not None:
                out[str(block), str(arm), int(seed)] = made
    return out, "FLOPs" if counted else "steps"


def sigmoid_table(study: Study) -> Table | None:
    """Asymptote, midpoint and steepness by arm; None where runs have fewer than eight evaluations."""
    fitted = sigmoids(study)
    if fitted is None or not fitted[0]:
        return None
    fits, unit = fitted
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        rows += block_heading(study, block)
        for arm in study.arms(block):
            rows.append(_row(study, fits, arm, block))
    head = [axis, "asymptote, %", f"difference from {base}", f"{unit} at half the rise", "steepness"]
    head += ["rise that is done, %", "residual, points", "seeds fitted"]
    foot = [
        f"R(C) = R0 + (A - R0) / (1 + (Cmid / C)^B), least squares of {study.metric} of each run against the "
        f"{unit} of training, R0 being the start's. Means over seeds with Student's 95% interval. A "
        "description of the course, without verdict.",
        f"Where less than {ENOUGH:.0%} of the rise is done, the asymptote is an extrapolation. A run that "
        "does not rise, or rises as a line does, is not fitted.",
    ]
    return study_table(study, f"sigmoids_by_{axis}", "Where the curves would end", head, rows, foot)


def _row(study: Study, fits: dict[tuple[str, str, int], Sigmoid], arm: str, block: str) -> list[TableCell]:
    base = study.design.baseline
    runs, pair = study.names([arm], block), study.names([arm, base], block)
    seeds = list(study.runs(arm, block))
    made = {seed: fits[block, arm, seed] for seed in seeds if (block, arm, seed) in fits}
    count = TableCell(f"{len(made)} of {len(seeds)}", runs=runs)
    if not made:
        return [TableCell(arm, runs=runs), *[DASH] * 6, count]
    gaps = [
        fit.asymptote - fits[block, base, seed].asymptote
        for seed, fit in made.items()
        if (block, base, seed) in fits
    ]
    gap = (
        EMPTY if arm == base or not gaps else estimate_cell(mean_interval(gaps).scaled(100), pair, sign=True)
    )
    middles = mean_interval([fit.midpoint for fit in made.values()]).estimate
    done = mean_interval([fit.reached for fit in made.values()]).estimate
    residual = mean_interval([fit.residual for fit in made.values()]).estimate
    return [
        TableCell(arm, runs=runs),
        estimate_cell(mean_interval([fit.asymptote for fit in made.values()]).scaled(100), runs),
        gap,
        TableCell(f"{middles:.3g}", runs=runs),
        estimate_cell(mean_interval([fit.exponent for fit in made.values()]), runs),
        TableCell(number(100 * done), "" if done >= ENOUGH else "(extrapolated)", runs=runs),
        TableCell(number(100 * residual), runs=runs),
        count,
    ]
