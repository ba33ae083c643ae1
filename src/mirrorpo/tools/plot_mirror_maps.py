"""Pictures of mirror maps: h, h' and D(p, q) of configured divergences beside KL and L2.

    python -m mirrorpo.tools.plot_mirror_maps neural_mirror tsallis
    python -m mirrorpo.tools.plot_mirror_maps neural_mirror --out maps.pdf
    python -m mirrorpo.tools.plot_mirror_maps neural_mirror --out maps.json     # the curves as numbers

Names are files of conf/divergence; a setting with "=" applies to all of them. Left, the potential h and
its mirror map h', less an affine part that no divergence sees and over h''(1/2), so that shapes can be
compared where sizes differ by powers of ten. Right, the divergence as it is configured, at its own size:
of a coin, (p, 1 - p) against (q, 1 - q), where it reads the vocabulary, else at the sampled token.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from mirrorpo.config.paths import command
from mirrorpo.core.protocols import Divergence
from mirrorpo.divergence.neural_mirror import GivenParameters, NeuralMirror
from mirrorpo.divergence.potentials import HasPotential
from mirrorpo.tools.mirror_map_curves import (
    ANCHORS,
    P,
    configured,
    curves,
    numbers,
    shape,
)

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(divergences: Mapping[str, Divergence], out: Path) -> None:
    """The four panels, into one file."""
    p = P
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for index, (name, divergence) in enumerate(divergences.items()):
        # Okabe and Ito's colours, told apart by colour-blind readers; line styles for print.
        line = {
            "label": name,
            "color": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"][index % 7],
            "ls": styles[index % 4],
        }
        if isinstance(divergence, HasPotential):
            h, slope = shape(divergence.potential, p)
            axes[0][0].plot(p, h.detach(), **line)
            axes[1][0].plot(p, slope.detach(), **line)
        for axis, q in zip((axes[0][1], axes[1][1]), ANCHORS, strict=True):
            axis.plot(p, curves(divergence, p, q).detach(), **line)
    titles = ("h, scaled to h''(1/2) = 1", f"D(p, {ANCHORS[0]})", "h', scaled alike", f"D(p, {ANCHORS[1]})")
    for axis, title, low in zip(axes.flat, titles, (None, 1e-7, -6.0, 1e-7), strict=True):
        axis.set(title=title, xlabel="p")
        if title.startswith("D"):
            axis.set_yscale("log")
        axis.set_ylim(bottom=low, top=1.0 if title.startswith("h'") else None)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(out, dpi=150)


def draw_search(numbers: Sequence[Tensor], fitness: Sequence[Sequence[float | None]], out: Path) -> None:
    """How a search moved its map: h and h' of each generation's mean, and its candidates' fitness, into one
    file.

    Args:
        numbers: the map's 380 numbers, at the start and after each generation.
        fitness: of each generation's candidates; None for one that failed.
        out: png, pdf or svg.
    """
    p = torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    colours = matplotlib.colormaps["viridis"]
    for index, values in enumerate(numbers):
        h, slope = shape(NeuralMirror(parameters=GivenParameters(values)), p)
        label = {0: "start", len(numbers) - 1: f"after generation {len(numbers) - 2}"}.get(index)
        line = {
            "color": colours(0.9 * index / max(len(numbers) - 1, 1)),
            "lw": 2 if label else 0.8,
            "label": label,
        }
        left.plot(p, h.detach(), **line)
        middle.plot(p, slope.detach(), **line)
    for generation, values in enumerate(fitness):
        known = [value for value in values if value is not None]
        right.scatter([generation] * len(known), known, s=14, color="#0072B2", alpha=0.6)
        if known:
            right.scatter([generation], [sum(known) / len(known)], marker="_", s=300, color="#D55E00")
    left.set(title="h, scaled to h''(1/2) = 1", xlabel="p")
    middle.set(title="h', scaled alike", xlabel="p", ylim=(-6, 1))
    right.set(title="fitness of candidates, and their mean", xlabel="generation")
    for axis in (left, middle):
        axis.legend(fontsize=8)
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Draw the divergences that the command line names."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.plot_mirror_maps"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", help="files of conf/divergence, and settings as on train.py's command line"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("mirror_maps.png"), help="png, pdf or svg; json for the numbers"
    )
    args = parser.parse_intermixed_args()
    try:
        divergences = configured(args.names)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.out.suffix == ".json":
        args.out.write_text(json.dumps(numbers(divergences)))
    else:
        draw(divergences, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
