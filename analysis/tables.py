"""Tables from runs."""

from pathlib import Path

import pandas as pd

from analysis.runs import load_metrics, load_runs


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
    runs = load_runs(root)
    unfinished = [f"{run['path']} is {run['state']}" for run in runs.to_dict("records") if run["state"] != "done"]
    if unfinished:
        raise ValueError(f"unfinished runs: {'; '.join(unfinished)}")
    rows: list[dict[str, object]] = []
    for run in runs.to_dict("records"):
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
