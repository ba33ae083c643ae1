"""The README's figure: learning curves of a committed export, mean over seeds with a 95% band.

    python benchmarks/readme_figure.py
    python benchmarks/readme_figure.py --export outputs/SWEEP/export --out curves.svg

It reads `runs.parquet` and `metrics.parquet` of an export and nothing else. The band is Student's interval
of the mean over seeds at a step.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Inches and points; the README shows the figure at full width.
WIDTH, TYPE = 10.5, 9
LOOK = {
    "axes.titlesize": 9.5,
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "legend.fontsize": 8.5,
    "legend.title_fontsize": None,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "mirrorpo",
}
ARMS = ("kl", "none", "probl2", "neural_mirror")
PANELS = (
    ("eval/greedy_accuracy", "held-out accuracy, %", 100.0),
    ("reward/mean", "training reward", 1.0),
    ("drift/kl", "drift KL(policy, start model), nats", 1.0),
)


def draw(export: Path, out: Path) -> None:
    """Draw the arms' curves beside each other and write the figure."""
    from analysis.report.figure_style import band, panels, styled

    runs = pandas.read_parquet(export / "runs.parquet", columns=["run", "divergence"])
    metrics = pandas.read_parquet(
        export / "metrics.parquet", columns=["run", "step", *(metric for metric, _, _ in PANELS)]
    )
    rows = metrics.merge(runs, on="run")
    # The same bytes from the same numbers: no date, and ids from a fixed salt.
    with styled(WIDTH, TYPE), matplotlib.rc_context(LOOK):
        figure, axes = panels(len(PANELS), height=3.0, columns=len(PANELS))
        for axis, (metric, title, scale) in zip(axes, PANELS, strict=True):
            for index, arm in enumerate(ARMS):
                band(axis, rows[rows["divergence"] == arm], metric, arm, index, scale)
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
