"""Tables from runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import load_metrics, load_runs
from analysis.stats import mean_interval


def binomial_error(share: float, n: float) -> float:
    """Standard error of a share of n independent answers.

    Example:
        >>> round(binomial_error(0.6, 500), 4)
        0.0219
    """
    return (share * (1 - share) / n) ** 0.5


def before_after(root: Path, metric: str = "eval/greedy_accuracy") -> pd.DataFrame:
    """Held-out accuracy of every finished run at its first and its last evaluation, in percent.

    The errors are binomial, of one evaluation each; both evaluations ask the same questions, so they
    do not add up to the error of the gain.

    Raises:
        ValueError: if a run below the folder is not done, naming it: a table does not leave out what failed.
    """
    rows: list[dict[str, object]] = []
    for run in _done(root):
        metrics = load_metrics(Path(run["path"]))
        if metric not in metrics or "eval/questions" not in metrics:
            raise ValueError(f"{run['path']} has no {metric}: it was run with eval_questions=0")
        evaluated = metrics[metric].dropna()
        questions = metrics["eval/questions"].dropna().iloc[-1]
        first, last = evaluated.iloc[0], evaluated.iloc[-1]
        rows.append(
            {
                "cell": run["cell"],
                "seed": run["seed"],
                "steps": int(evaluated.index[-1]),
                "questions": int(questions),
                "before": 100 * first,
                "± before": 100 * binomial_error(first, questions),
                "after": 100 * last,
                "± after": 100 * binomial_error(last, questions),
                "gain": 100 * (last - first),
                "commit": str(run["commit"])[:9] + ("+" if run["dirty"] else ""),
            }
        )
    return pd.DataFrame(rows).sort_values(["cell", "seed"], ignore_index=True)


def compare(root: Path, axis: str, baseline: str, metric: str = "eval/greedy_accuracy") -> pd.DataFrame:
    """The last evaluation by the choice on one axis, over seeds, and its difference from the baseline's.

    In percent, with Student's 95% interval; a difference is taken seed by seed, since two runs of one seed
    share their questions and their order.

    Raises:
        ValueError: if a run is not done, two runs share a choice and a seed, or an arm's seeds are not the baseline's.
    """
    arms: dict[str, dict[int, float]] = {}
    for run in _done(root):
        metrics = load_metrics(Path(run["path"]))
        if axis not in run or metric not in metrics:
            raise ValueError(f"{run['path']} has no {axis if axis not in run else metric}: choose another axis, or evaluate")
        seeds = arms.setdefault(run[axis], {})
        if run["seed"] in seeds:
            raise ValueError(f"{axis}={run[axis]}, seed={run['seed']} is there twice below {root}: give a folder in which only {axis} and seed differ")
        seeds[run["seed"]] = 100 * metrics[metric].dropna().iloc[-1]
    if baseline not in arms:
        raise ValueError(f"no run with {axis}={baseline} below {root}: there are {sorted(arms)}")
    uneven = [f"{arm} {sorted(seeds)}" for arm, seeds in arms.items() if seeds.keys() != arms[baseline].keys()]
    if uneven:
        raise ValueError(f"seeds differ from those of {baseline} {sorted(arms[baseline])}: {'; '.join(uneven)}")
    rows: list[dict[str, object]] = []
    for arm, seeds in arms.items():
        gaps = [value - arms[baseline][seed] for seed, value in seeds.items()]
        gap = "" if arm == baseline else str(mean_interval(gaps))
        rows.append({axis: arm, "seeds": len(seeds), metric: str(mean_interval(list(seeds.values()))), f"difference from {baseline}": gap})
    return pd.DataFrame(rows).sort_values(axis, key=lambda names: names.where(names != baseline, ""), ignore_index=True)


def _done(root: Path) -> list[dict[str, Any]]:
    runs = load_runs(root).to_dict("records")
    unfinished = [f"{run['path']} is {run['state']}" for run in runs if run["state"] != "done"]
    if unfinished:
        raise ValueError(f"unfinished runs: {'; '.join(unfinished)}")
    return [{str(key): value for key, value in run.items()} for run in runs]
