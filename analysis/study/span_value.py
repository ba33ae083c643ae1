"""What spans are worth: drops beside re-rolled success rates, which `mirrorpo.tools.span_value` measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.data.runs import read_rows
from analysis.data.schema import Json
from analysis.stats.bootstrap import cluster_bootstrap
from analysis.stats.intervals import Interval

FILE = "credit_truth.jsonl"
# A drop below it is a distractor's; smaller ones, in nats, say nothing.
DISTRACTOR = -0.01
# A measured span: its kind, drops and success rates.
Span = Json
Spans = Sequence[Span]
DROPS = ("answer", "downstream", "direct")
MEASURES = (*DROPS, "effect", "size")


def load_truth(run: Path) -> list[list[Span]]:
    """The measured spans of a run, those of one completion together.

    Each has `effect`, the change in the success rate, and its `size`. A span that the policy wrote changes
    its success by nothing in the mean, whatever it is worth: what was sampled right and what was sampled
    wrong cancel. How much a span decides is the size, to which rolls add noise.

    Raises:
        ValueError: if the run was not measured, or by a version that did not take all drops, or no completion
            had a span.
    """
    path = run / FILE
    again = f"run python -m mirrorpo.tools.span_value {run}"
    if not path.exists():
        raise ValueError(f"{run} has no {FILE}: {again} first")
    completions: dict[str, list[Span]] = {}
    for row in read_rows(path):
        if lacking := [name for name in DROPS if name not in row]:
            raise ValueError(
                f"{path} has no {', '.join(lacking)} drop, it is of an older version: {again} again"
            )
        effect = row["after"] - row["before"]
        completions.setdefault(row["uid"], []).append({**row, "effect": effect, "size": abs(effect)})
    if not completions:
        raise ValueError(f"{path} holds no span: no completion had a calculation and an answer")
    return list(completions.values())


def by_kind(run: Path) -> pd.DataFrame:
    """Mean of each measure over the spans of each kind, and how many of them are distractors.

    Drops in nats, effect as a change of the success rate, all with 95% intervals over completions.
    """
    completions = load_truth(run)
    kinds = sorted({span["kind"] for spans in completions for span in spans})
    table: list[dict[str, object]] = []
    for kind in kinds:
        positions: dict[str, Callable[[Span], bool]] = {"all": lambda span: True}
        if kind == "calculation":
            positions |= {"not last": lambda span: not span["last"], "last": lambda span: span["last"]}
        for position, chosen in positions.items():
            of_kind = [
                [span for span in spans if span["kind"] == kind and chosen(span)] for spans in completions
            ]
            if clusters := [spans for spans in of_kind if spans]:
                table.append({"kind": kind, "place": position, **_kind_means(clusters)})
    return pd.DataFrame(table)


def _kind_means(clusters: Sequence[Spans]) -> dict[str, object]:
    """How many spans there are, the mean of each measure, and the share of distractors by each drop."""
    means = {
        name: cluster_bootstrap([[span[name] for span in spans] for spans in clusters], _pooled)
        for name in MEASURES
    }
    distractors = {
        f"{name} < {DISTRACTOR}": cluster_bootstrap(
            [[span[name] < DISTRACTOR for span in spans] for spans in clusters], _pooled
        )
        for name in DROPS
    }
    return {"spans": sum(map(len, clusters)), **means, **distractors}


def agreement(run: Path) -> pd.DataFrame:
    """What each measure puts first, with 95% intervals over completions.

    `calculation first`: the share of pairs, one calculation and one piece of scaffolding of the same
    completion, in which the calculation measures more (ties half); 0.5 is no preference.
    `rank with answer`, `rank with effect`, `rank with size`: Kendall's tau-b between the measure and the
    answer's drop, the re-rolled effect, or its size, inside a completion, mean over the completions in which
    both vary.
    """
    completions = load_truth(run)
    rows: list[dict[str, object]] = []
    for name in MEASURES:
        pairs = [wins for spans in completions if (wins := _wins(spans, name))]
        rows.append(
            {
                "measure": name,
                "calculation first": cluster_bootstrap(pairs, _pooled) if pairs else "no pair",
                "pairs": sum(map(len, pairs)),
                **{
                    f"rank with {other}": _rank(completions, name, other)
                    for other in ("answer", "effect", "size")
                },
            }
        )
    return pd.DataFrame(rows)


def _pooled(clusters: Sequence[Sequence[float]]) -> float:
    return float(np.mean([value for values in clusters for value in values]))


def _wins(spans: Spans, name: str) -> list[float]:
    """1 for every calculation that measures more than a span that is none, 0.5 for ties, else 0."""
    calculations = [span[name] for span in spans if span["kind"] == "calculation"]
    others = [span[name] for span in spans if span["kind"] != "calculation"]
    return [
        0.5 if calculation == other else float(calculation > other)
        for calculation in calculations
        for other in others
    ]


def _rank(completions: Sequence[Spans], name: str, truth: str) -> Interval | str:
    taus = [_tau([span[name] for span in spans], [span[truth] for span in spans]) for spans in completions]
    known = [[tau] for tau in taus if not np.isnan(tau)]
    return cluster_bootstrap(known, _pooled) if known else "no variation"


def _tau(measure: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b; NaN where either does not vary."""
    # An import of a third of a second, for re-rolled runs alone.
    from scipy import stats

    if len(set(measure)) < 2 or len(set(truth)) < 2:
        return float("nan")
    return float(np.asarray(stats.kendalltau(measure, truth))[0])


def importance(run: Path) -> str:
    """Both tables as text."""
    tables = [
        frame.map(lambda value: str(value) if isinstance(value, Interval) else value)
        for frame in (by_kind(run), agreement(run))
    ]
    return "\n\n".join(frame.to_string(index=False) for frame in tables)
