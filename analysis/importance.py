"""What spans are worth: drops against success rates that were re-rolled, from `python -m
mirrorpo.tools.span_value`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs import read_rows
from analysis.stats import Interval, cluster_bootstrap

Rows = Sequence[dict[str, Any]]
DROPS = ("answer", "downstream", "direct")
MEASURES = (*DROPS, "effect", "size")


def load_truth(run: Path) -> list[list[dict[str, Any]]]:
    """The measured spans of a run, those of one completion together, with `effect`, the change in the success
    rate, and its `size`.

    A span that the policy wrote changes its success by nothing in the mean, whatever it is worth: what was
    sampled right and what was sampled wrong cancel. How much a span decides is the size, to which rolls add
    noise.

    Raises:
        ValueError: if the run was not measured, or by a version that did not take all drops, or no completion
            had a span.
    """
    path = run / "credit_truth.jsonl"
    if not path.exists():
        raise ValueError(
            f"{run} has no credit_truth.jsonl: run python -m mirrorpo.tools.span_value {run} first"
        )
    completions: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(path):
        if lacking := [name for name in DROPS if name not in row]:
            raise ValueError(
                f"{path} has no {', '.join(lacking)} drop, it is of an older version: run python -m "
                f"mirrorpo.tools.span_value "
                f"{run} again"
            )
        completions.setdefault(row["uid"], []).append(
            row | {"effect": row["after"] - row["before"], "size": abs(row["after"] - row["before"])}
        )
    if not completions:
        raise ValueError(f"{path} holds no span: no completion had a calculation and an answer")
    return list(completions.values())


def by_kind(run: Path) -> pd.DataFrame:
    """Mean of each measure over the spans of each kind, and how many of them are distractors (a drop below
    -0.01 nats: smaller ones say nothing).

    Drops in nats, effect as a change of the success rate, all with 95% intervals over completions.
    """
    completions = load_truth(run)
    kinds = sorted({row["kind"] for rows in completions for row in rows})
    table: list[dict[str, Any]] = []
    for kind in kinds:
        mine = [[row for row in rows if row["kind"] == kind] for rows in completions]
        places: list[tuple[str, Callable[[Rows], Rows]]] = [("all", lambda rows: rows)]
        if kind == "calculation":
            places += [
                ("not last", lambda rows: [row for row in rows if not row["last"]]),
                ("last", lambda rows: [row for row in rows if row["last"]]),
            ]
        for place, chosen in places:
            clusters = [kept for rows in mine if (kept := chosen(rows))]
            if not clusters:
                continue
            row: dict[str, Any] = {"kind": kind, "place": place, "spans": sum(map(len, clusters))}
            row |= {
                name: cluster_bootstrap([[span[name] for span in rows] for rows in clusters], _pooled)
                for name in MEASURES
            }
            row |= {
                f"{name} < -0.01": cluster_bootstrap(
                    [[span[name] < -0.01 for span in rows] for rows in clusters], _pooled
                )
                for name in DROPS
            }
            table.append(row)
    return pd.DataFrame(table)


def agreement(run: Path) -> pd.DataFrame:
    """What each measure puts first, with 95% intervals over completions.

    `calculation first`: the share of pairs, one calculation and one piece of scaffolding of the same
    completion, in which the calculation measures more (ties half); 0.5 is no preference.
    `rank with answer`, `rank with effect`, `rank with size`: Kendall's tau-b between the measure and the
    answer's drop, the re-rolled effect, or its size, inside a completion, mean over the completions in which
    both vary.
    """
    completions = load_truth(run)
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        pairs = [pair for spans in completions if (pair := _pairs(spans, name))]
        rows.append(
            {
                "measure": name,
                "calculation first": cluster_bootstrap(pairs, _pooled) if pairs else "no pair",
                "pairs": sum(map(len, pairs)),
                "rank with answer": _rank(completions, name, "answer"),
                "rank with effect": _rank(completions, name, "effect"),
                "rank with size": _rank(completions, name, "size"),
            }
        )
    return pd.DataFrame(rows)


def _pooled(clusters: Sequence[Sequence[float]]) -> float:
    return float(np.mean([value for values in clusters for value in values]))


def _pairs(spans: Rows, name: str) -> list[float]:
    calculations = [row[name] for row in spans if row["kind"] == "calculation"]
    others = [row[name] for row in spans if row["kind"] != "calculation"]
    return [0.5 if one == other else float(one > other) for one in calculations for other in others]


def _rank(completions: Sequence[Rows], name: str, truth: str) -> Interval | str:
    taus = [_tau([row[name] for row in spans], [row[truth] for row in spans]) for spans in completions]
    known = [[tau] for tau in taus if not np.isnan(tau)]
    return cluster_bootstrap(known, _pooled) if known else "no variation"


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    varies = len(set(one)) > 1 and len(set(other)) > 1
    found: Any = stats.kendalltau(one, other) if varies else None
    return float(found.statistic) if varies else float("nan")


def importance(run: Path) -> str:
    """Both tables as text."""
    tables = [
        frame.map(lambda value: str(value) if isinstance(value, Interval) else value)
        for frame in (by_kind(run), agreement(run))
    ]
    return "\n\n".join(frame.to_string(index=False) for frame in tables)
