"""The README's figure: training curves of both planted worlds, mean over seeds with a 95% band.

    python benchmarks/readme_figure.py

It reads `runs.parquet` and `metrics.parquet` of two committed exports and nothing else. The band is Student's
interval of the mean over seeds, of the mean over the steps of a window.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "docs" / "results"

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


@dataclass(frozen=True)
class Panel:
    """A world's curves.

    Attributes:
        sweep: folder of docs/results.
        axis: the column of `runs` that the arms are choices of.
        arms: the arms, and where each was predicted to end, if it was.
        metric: what is drawn.
        title: of the panel.
        window: steps that a point is the mean of.
        legend: where there is room for it.
        only: text that a run's command has to hold.
    """

    sweep: str
    axis: str
    arms: dict[str, float | None]
    metric: str
    title: str
    window: int
    legend: str
    only: str = ""


PANELS = (
    Panel(
        "ledger_credit",
        "weighting",
        dict.fromkeys(
            ("oracle", "counterfactual_sharp", "uniform", "counterfactual_permuted_sharp"),
        ),
        "reward/mean",
        "Which tokens: training reward, one line of eight decides",
        5,
        "lower right",
    ),
    Panel(
        "exploit_divergence",
        "divergence",
        {"probl2_exact": 0.588, "kl_exact": 0.433, "kl_forward_exact": 0.164, "none": 0.0},
        "reward/gold",
        "Which divergence: gold reward while a proxy is trained on",
        10,
        "upper right",
        only="reward=exploit_common",
    ),
)


def rows_of(panel: Panel) -> pandas.DataFrame:
    """Windowed means of a panel's metric, a row for each run and window, with the run's arm."""
    export = RESULTS / panel.sweep / "export"
    runs = pandas.read_parquet(export / "runs.parquet", columns=["run", panel.axis, "command"])
    runs = runs[runs["command"].str.contains(panel.only, regex=False)]
    metrics = pandas.read_parquet(export / "metrics.parquet", columns=["run", "step", panel.metric])
    rows = metrics.dropna().merge(runs, on="run")
    # The step at which a window ends.
    rows["step"] = (rows["step"] - 1) // panel.window * panel.window + panel.window
    return rows.groupby(["run", panel.axis, "step"], as_index=False)[panel.metric].mean()


def draw(out: Path) -> None:
    """Draw the worlds beside each other and write the figure."""
    from analysis.report.figure_style import band, panels, styled

    # The same bytes from the same numbers: no date, and ids from a fixed salt.
    with styled(WIDTH, TYPE), matplotlib.rc_context(LOOK):
        figure, axes = panels(len(PANELS), height=3.2, columns=len(PANELS))
        for axis, panel in zip(axes, PANELS, strict=True):
            rows = rows_of(panel)
            for index, (arm, predicted) in enumerate(panel.arms.items()):
                band(axis, rows[rows[panel.axis] == arm], panel.metric, arm, index, 1.0)
                if predicted is not None:
                    colour = axis.get_lines()[-1].get_color()
                    axis.axhline(predicted, color=colour, linestyle=":", linewidth=1.0, zorder=1)
            axis.set(title=panel.title, xlabel="step", ylim=(-0.02, 1.0))
            axis.legend(title=panel.axis, loc=panel.legend)
        figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
        pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    """Draw the figure and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "learning_curves.svg")
    arguments = parser.parse_args(words)
    draw(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
