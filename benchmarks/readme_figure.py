"""The README's figure: learning curves of a committed export, mean over seeds with a 95% band.

    python benchmarks/readme_figure.py
    python benchmarks/readme_figure.py --export outputs/SWEEP/export --out curves.svg

It reads `runs.parquet` and `metrics.parquet` of an export and nothing else. The band is Student's interval
of the mean over seeds at a step.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import pandas
from matplotlib import pyplot
from scipy import stats

ROOT = Path(__file__).parents[1]
ARMS = ("kl", "none", "probl2", "neural_mirror")
PANELS = (
    ("eval/greedy_accuracy", "held-out accuracy, %", 100.0),
    ("reward/mean", "training reward", 1.0),
    ("drift/kl", "drift KL(policy, start model), nats", 1.0),
)
# Okabe and Ito's colours, which colour-blind readers tell apart; line styles say the same in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")
STYLES = ("-", "-", "--", ":")
# The same bytes from the same numbers: no date, and ids from a fixed salt.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "mirrorpo",
}


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """The mean of some runs' values and half the width of its 95% interval.

    >>> mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return mean, math.nan
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, float(stats.t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)


def curve(rows: pandas.DataFrame, metric: str, scale: float) -> tuple[list[int], list[float], list[float]]:
    """Steps, means over runs, and half widths, of the steps that have the metric."""
    by_step = [
        (int(step), list(group * scale))
        for step, group in rows.dropna(subset=[metric]).groupby("step")[metric]
    ]
    summary = [mean_and_half_width(values) for _, values in by_step]
    return [step for step, _ in by_step], [mean for mean, _ in summary], [half for _, half in summary]


def draw(export: Path, out: Path) -> None:
    """Draw the arms' curves beside each other and write the figure."""
    runs = pandas.read_parquet(export / "runs.parquet", columns=["run", "divergence"])
    metrics = pandas.read_parquet(
        export / "metrics.parquet", columns=["run", "step", *(p[0] for p in PANELS)]
    )
    rows = metrics.merge(runs, on="run")
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10.5, 3.0), layout="constrained")
        for axis, (metric, title, scale) in zip(axes, PANELS, strict=True):
            for arm, colour, style in zip(ARMS, COLOURS, STYLES, strict=True):
                steps, means, halves = curve(rows[rows["divergence"] == arm], metric, scale)
                axis.plot(steps, means, color=colour, linestyle=style, linewidth=1.6, label=arm)
                low = [mean - half for mean, half in zip(means, halves, strict=True)]
                high = [mean + half for mean, half in zip(means, halves, strict=True)]
                axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.set(title=title, xlabel="step")
        axes[0].legend(title="divergence", loc="lower right")
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
        pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Draw the figure and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--export", type=Path, default=ROOT / "docs" / "results" / "tiny_gbmpo" / "export")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "learning_curves.svg")
    arguments = parser.parse_args(words)
    draw(arguments.export, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
