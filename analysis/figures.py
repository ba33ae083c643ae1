"""Figures of a study, as PDF and PNG."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.cells import number
from analysis.courses import DRIFT, late_means
from analysis.panels import COLOURS, MARKERS, band, look, panels, smooth, styled
from analysis.runs import read_rows
from analysis.stats import mean_interval
from analysis.study import Study

Drawing = Callable[[Study], Figure | None]


def learning(study: Study) -> Figure | None:
    """Held-out accuracy and training reward by step."""
    metrics = [study.metric, "reward/mean", "entropy/mean", DRIFT]
    titles = {
        study.metric: "held-out accuracy, %",
        "reward/mean": "training reward",
        "entropy/mean": "entropy, nats",
        DRIFT: "drift from the start model, nats",
    }
    return _by_step(
        study, [metric for metric in metrics if metric in study.export.names], titles, {study.metric: 100.0}
    )


def length(study: Study) -> Figure | None:
    """Tokens of greedy and sampled answers, and how many were cut, by step."""
    metrics = ["eval/length", "completion/length", "eval/truncated", "completion/truncated"]
    titles = {
        "eval/length": "tokens of a greedy answer", "completion/length": "tokens of a sampled answer",
        "eval/truncated": "greedy answers cut, %", "completion/truncated": "sampled answers cut, %",
    }  # fmt: skip
    return _by_step(
        study,
        [one for one in metrics if one in study.export.names],
        titles,
        {"eval/truncated": 100.0, "completion/truncated": 100.0},
    )


def _by_step(
    study: Study, metrics: Sequence[str], titles: Mapping[str, str], scales: Mapping[str, float]
) -> Figure | None:
    if not metrics:
        return None
    curves = study.curve(*metrics)
    blocks = study.design.blocks
    figure, axes = panels(len(metrics) * len(blocks), columns=2)
    for place, (block, metric) in enumerate((block, metric) for block in blocks for metric in metrics):
        axis = axes[place]
        for index, arm in enumerate(study.design.arms):
            mine = curves[(curves["arm"] == arm) & (curves["block"] == block)]
            if not mine.empty:
                band(
                    axis,
                    smooth(mine, metric, int(mine["step"].max())),
                    metric,
                    arm,
                    index,
                    scales.get(metric, 1.0),
                )
        axis.set(title=", ".join(filter(None, (titles[metric], block))), xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(title=study.design.axis)
    return figure


def frontier(study: Study) -> Figure | None:
    """Accuracy against drift: every run's path, its end marked; the mean end of an arm larger."""
    curves = study.curve(study.metric, DRIFT).dropna()
    if curves.empty or not curves[DRIFT].max() > 0:
        return None
    blocks = study.design.blocks
    figure, axes = panels(len(blocks), 5.4, 3.8)
    for axis, block in zip(axes, blocks, strict=True):
        for index, arm in enumerate(study.design.arms):
            mine = curves[(curves["arm"] == arm) & (curves["block"] == block)]
            ends = []
            for _, run in mine.groupby("run"):
                run = run.sort_values("step")
                axis.plot(run[DRIFT], 100 * run[study.metric], alpha=0.3, lw=0.9, **look(index))
                ends.append((run[DRIFT].iloc[-1], 100 * run[study.metric].iloc[-1]))
            if ends:
                x, y = np.array(ends).T
                colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
                axis.scatter(x, y, s=14, color=colour, marker=marker, alpha=0.5, lw=0)
                axis.scatter(
                    x.mean(),
                    y.mean(),
                    s=70,
                    color=colour,
                    marker=marker,
                    edgecolor="white",
                    lw=0.8,
                    label=arm,
                    zorder=3,
                )
        axis.set(
            title=", ".join(filter(None, ("accuracy against drift", block))),
            xlabel="drift/kl, nats",
            ylabel="held-out accuracy, %",
        )
    axes[0].legend(title=study.design.axis)
    return figure


def forest(study: Study) -> Figure | None:
    """Differences from the baseline with their intervals, arm by arm; a filled mark is a verdict, an open one
    is not.
    """
    blocks = [block for block in study.design.blocks if len(study.arms(block)) > 1]
    if not blocks:
        return None
    figure, axes = panels(len(blocks), 5.4, 0.75 + 0.34 * len(study.design.arms))
    for axis, block in zip(axes, blocks, strict=True):
        found = study.differences(block)
        for place, (arm, one) in enumerate(found.items()):
            interval, index = one.interval.scaled(100), study.design.arms.index(arm)
            told = one.verdict() in ("better", "worse")
            colour = COLOURS[index % len(COLOURS)]
            if np.isfinite(interval.low):
                axis.plot([interval.low, interval.high], [place, place], color=colour, lw=2)
            axis.plot(
                interval.estimate,
                place,
                MARKERS[index % len(MARKERS)],
                color=colour,
                mfc=colour if told else "white",
                ms=7,
            )
            label = number(interval.estimate, 1, True)
            axis.annotate(
                label,
                (interval.estimate, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.axvline(0, color="#555", lw=0.9)
        axis.set_yticks(range(len(found)), list(found))
        axis.set_ylim(len(found) - 0.4, -0.7)
        axis.set(title=", ".join(filter(None, (f"difference from {study.design.baseline}, points", block))))
        axis.grid(axis="y", visible=False)
    return figure


def spans(study: Study) -> Figure | None:
    """Importance by kind of span: mean drop, and share of tokens beside share of gradient."""
    kinds = [
        name.removeprefix("credit/drop_") for name in study.export.names if name.startswith("credit/drop_")
    ]
    if not kinds:
        return None
    names = [f"credit/{what}_{kind}" for kind in kinds for what in ("drop", "tokens", "gradient")]
    late = late_means(study.curve(*names), names)
    arms = [arm for arm in study.design.arms if late[late["arm"] == arm][names].notna().any(axis=None)]
    if not arms:
        return None
    figure, axes = panels(2, 4.8, 3.2)
    width = 0.8 / len(arms)
    for index, arm in enumerate(arms):
        colour = COLOURS[study.design.arms.index(arm) % len(COLOURS)]
        mine = late[late["arm"] == arm]
        place = np.arange(len(kinds)) + (index - (len(arms) - 1) / 2) * width
        for axis, what, scale in ((axes[0], "drop", 1), (axes[1], "gradient", 100)):
            values = [mine[f"credit/{what}_{kind}"].dropna() * scale for kind in kinds]
            found = [
                mean_interval(list(value)) if len(value) else mean_interval([float("nan")])
                for value in values
            ]
            error = [
                [one.estimate - one.low if np.isfinite(one.low) else 0 for one in found],
                [one.high - one.estimate if np.isfinite(one.high) else 0 for one in found],
            ]
            axis.bar(
                place,
                [one.estimate for one in found],
                width * 0.92,
                color=colour,
                alpha=0.8,
                label=arm,
                yerr=error,
                error_kw={"lw": 1, "ecolor": "#333"},
            )
        tokens = [100 * mine[f"credit/tokens_{kind}"].mean() for kind in kinds]
        axes[1].scatter(place, tokens, marker="_", s=900 * width, color="white", lw=3, zorder=3)
        axes[1].scatter(
            place,
            tokens,
            marker="_",
            s=700 * width,
            color="#222",
            lw=1.6,
            zorder=4,
            label="share of tokens" if index == len(arms) - 1 else None,
        )
    for axis, title in zip(
        axes, ("mean drop when hidden, nats", "share of the policy gradient, %"), strict=True
    ):
        axis.set_xticks(range(len(kinds)), kinds)
        axis.set(title=title)
        axis.grid(axis="x", visible=False)
    axes[1].legend()
    return figure


def weights(study: Study) -> Figure | None:
    """Token weights in the last quarter of the steps, from the run folders; None where they are not at hand."""
    shown = {
        arm: values for arm in study.design.arms if len(values := _weights(study, arm)) and np.ptp(values) > 0
    }
    if not shown:
        return None
    low = min(float(np.quantile(values, 0.001)) for values in shown.values())
    top = max(float(np.quantile(values, 0.999)) for values in shown.values())
    figure, axes = panels(len(shown), 3.9, 2.3, columns=3)
    for axis, (arm, values) in zip(axes, shown.items(), strict=True):
        colour = look(study.design.arms.index(arm))["color"]
        axis.hist(
            np.clip(values, low, top),
            bins=np.linspace(low, top, 41),
            weights=np.full(len(values), 100 / len(values)),
            color=colour,
            alpha=0.85,
        )
        axis.axvline(1, color="#555", lw=0.9)
        axis.set(title=arm, xlabel="token weight")
    axes[0].set(ylabel="tokens, %")
    for axis in axes[1:]:
        axis.sharey(axes[0])
    return figure


def _weights(study: Study, arm: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: list[float] = []
    for run in study.design.runs:
        paths = sorted((Path(run.row["source"]) / "credit").glob("step_*.jsonl")) if run.arm == arm else []
        for path in paths[-max(1, len(paths) // 4) :]:
            values += [weight for row in read_rows(path) for weight in row["weights"]]
    return np.array(values)


def mirror_maps(study: Study) -> Figure | None:
    """The mirror maps of the study's divergences, each as its runs configured it; None where torch is not at
    hand.
    """
    arms = {arm: next(run for run in study.design.runs if run.arm == arm) for arm in study.design.arms}
    arms = {arm: run for arm, run in arms.items() if run.row["divergence"] not in (None, "none")}
    if study.design.axis != "divergence" or not arms:
        return None
    asked: dict[tuple[str, ...], list[str]] = {}
    for arm, run in arms.items():
        changed = {
            key: value
            for key, value in json.loads(run.row["settings"] or "{}").items()
            if key.startswith("divergence.")
        }
        asked.setdefault(tuple(f"{key}={value}" for key, value in changed.items()), []).append(arm)
    found: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for settings, mine in asked.items():
        drawn = map_curves([*(str(arms[arm].row["divergence"]) for arm in mine), *settings])
        data = drawn or data
        found |= {arm: drawn["curves"][str(arms[arm].row["divergence"])] for arm in mine if drawn}
    if not found:
        return None
    figure, axes = panels(4, 4.6, 3.0)
    beside = {
        name: curve
        for name, curve in data["curves"].items()
        if name in ("kl_exact", "probl2_exact") and name not in found
    }
    for arm, curve in {**beside, **found}.items():
        style = (
            look(study.design.arms.index(arm))
            if arm in found
            else {"color": "#999", "lw": 1, "ls": ":" if arm == "kl_exact" else "-"}
        )
        for axis, key in ((axes[0], "h"), (axes[2], "slope")):
            if curve[key] is not None:
                axis.plot(data["p"], curve[key], label=arm, **style)
        for axis, values in zip((axes[1], axes[3]), curve["D"], strict=True):
            if arm in found:
                axis.plot(
                    data["p"], values, label=f"{arm}, β {arms[arm].settings.get('divergence.beta')}", **style
                )
    axes[0].set(title="potential h, scaled to h''(1/2) = 1", ylim=(0, 0.3))
    axes[2].set(title="mirror map h', scaled alike", xlabel="p", ylim=(-3, 1))
    for axis, anchor in zip((axes[1], axes[3]), data["anchors"], strict=True):
        axis.set(title=f"D(p, {anchor}), at its own size", yscale="log", ylim=(1e-7, None))
    axes[3].set(xlabel="p")
    axes[0].legend()
    axes[1].legend()
    return figure


def map_curves(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Numbers from `python -m mirrorpo.tools.plot_mirror_maps`, in a process of its own since it needs torch;
    None if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "maps.json"
        command = [sys.executable, "-m", "mirrorpo.tools.plot_mirror_maps", *arguments, "--out", str(target)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            print(
                f"note: no mirror maps of {' '.join(arguments)}: "
                f"{(ran.stderr.strip().splitlines() or ['no reason given'])[-1]}",
                file=sys.stderr,
            )
            return None
        return json.loads(target.read_text())


ALL: Mapping[str, tuple[Drawing, str]] = {
    "differences": (
        forest,
        (
            "Differences from the baseline in points, 95% intervals; a filled mark can be told from zero "
            "after "
            "Holm's correction, an open one "
            "cannot."
        ),
    ),
    "learning_curves": (
        learning,
        (
            "Mean over seeds with Student's 95% interval; training metrics averaged over windows of a "
            "fortieth "
            "of the run."
        ),
    ),
    "frontier": (
        frontier,
        "Each run's path over its evaluations; small marks are the ends of runs, large ones the arms' means.",
    ),
    "length": (
        length,
        (
            "Tokens of answers and the share that the length cap cut, mean over seeds with Student's 95% "
            "interval."
        ),
    ),
    "mirror_maps": (
        mirror_maps,
        "Potentials, mirror maps, and divergences at their own size, as these runs configured them.",
    ),
    "importance": (
        spans,
        (
            "Mean over seeds of the last quarter's steps, with Student's 95% interval; the bar in the right "
            "panel is the share of tokens."
        ),
    ),
    "weights": (
        weights,
        (
            "Token weights of the shown completions in the last quarter of the steps; they have mean one in "
            "each "
            "completion."
        ),
    ),
}


def draw(study: Study, folder: Path) -> dict[str, tuple[Path, str]]:
    """Every figure that the study has the numbers for, as PDF and PNG; the PNG's path and its caption by
    name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out: dict[str, tuple[Path, str]] = {}
    with styled():
        for name, (drawing, caption) in ALL.items():
            figure = drawing(study)
            if figure is not None:
                # Without a date two reports of the same runs are the same file.
                figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
                figure.savefig(folder / f"{name}.png")
                pyplot.close(figure)
                out[name] = (folder / f"{name}.png", caption)
    return out
