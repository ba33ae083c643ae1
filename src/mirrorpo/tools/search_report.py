"""What a search for a mirror map found, beside its null searches.

    python -m mirrorpo.tools.search_report outputs/tiny_gbmpo_es outputs/tiny_gbmpo_null [MORE NULLS]

A null search has the same candidates' runs, but each counts for another one's fitness
(hydra.sweeper.shuffled=true), so that it learns nothing: how its fitness rises and how far its map goes,
chance does. The rise is the mean fitness of the last third of generations less that of the first third. The
maps are compared by D(p, q) of a coin beside KL's: 1 in every column is the shape of KL.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirrorpo.config.identity import NOT_IDENTITY
from mirrorpo.config.paths import command
from mirrorpo.divergence.map_scale import MapScale

# What the coins' first sides have under the policy and the anchor.
COINS = ((0.6, 0.5), (0.9, 0.5), (0.3, 0.05), (0.05, 0.3), (0.5, 0.01), (0.99, 0.9))


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A search's files.

    Attributes:
        name: of its folder.
        shuffled: whether it is a null search.
        settings: of the search, those that its null searches share.
        means: fitness of each generation's candidates, in the mean.
        best: of all candidates of each generation, the highest.
        maps: numbers at the start, at the best generation and at the end, by name.
    """

    name: str
    shuffled: bool
    settings: Mapping[str, object]
    means: Sequence[float]
    best: Sequence[float]
    maps: dict[str, Tensor]

    @property
    def rise(self) -> float:
        """Mean fitness of the last third of generations less that of the first."""
        third = math.ceil(len(self.means) / 3)
        return (sum(self.means[-third:]) - sum(self.means[:third])) / third


def read_search(folder: Path) -> Search:
    """The search of a sweep's folder.

    Raises:
        ValueError: if there is none, or its first generation is not done.
    """
    es = folder / "es"
    try:
        settings = json.loads((es / "settings.json").read_text())
        files = sorted(es.glob("result_*.json"))
        results = [json.loads(file.read_text())["candidates"] for file in files]
        maps = {
            name: torch.tensor(json.loads((es / f"{file}.json").read_text()), dtype=torch.float64)
            for name, file in (("start", "map_start"), ("best", "map_best"), ("last", "map"))
        }
        shuffled = bool(settings["shuffled"])
        known = [[row["fitness"] for row in rows if row["fitness"] is not None] for rows in results]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: holds no search of hydra/sweeper=es with a generation done") from error
    return Search(
        name=folder.name,
        shuffled=shuffled,
        settings=_compared(settings),
        means=[sum(values) / len(values) for values in known],
        best=[max(values) for values in known],
        maps=maps,
    )


def shape(numbers: Tensor) -> list[float]:
    """D(p, q) over KL(p, q) at each of `COINS`, 1 at the second."""
    values = [
        MapScale(p=[p, 1 - p], q=[q, 1 - q], value=1.0).divergence(numbers)
        / (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        for p, q in COINS
    ]
    return [value / values[1] for value in values]


def report(searches: Sequence[Search]) -> str:
    """Fitness by generation, the rises, and the shapes, in Markdown."""
    heads = [f"{search.name}{' (null)' if search.shuffled else ''}" for search in searches]
    lines = [f"| generation | {' | '.join(f'{head}: mean | best' for head in heads)} |"]
    lines.append("|" + "---|" * (1 + 2 * len(searches)))
    for number in range(max(len(search.means) for search in searches)):
        cells = [
            f"{search.means[number]:.4f} | {search.best[number]:.4f}" if number < len(search.means) else " | "
            for search in searches
        ]
        lines.append(f"| {number + 1} | {' | '.join(cells)} |")
    lines += ["", "| search | rise of fitness |", "|---|---|"]
    lines += [f"| {head} | {search.rise:+.4f} |" for head, search in zip(heads, searches, strict=True)]
    coins = " | ".join(f"D({p:g}, {q:g})" for p, q in COINS)
    lines += ["", f"| map | {coins} |", "|" + "---|" * (1 + len(COINS))]
    for head, search in zip(heads, searches, strict=True):
        for name, numbers in search.maps.items():
            lines.append(f"| {head}, {name} | {' | '.join(f'{value:.2f}' for value in shape(numbers))} |")
    return "\n".join([*lines, "", verdict(searches)])


def verdict(searches: Sequence[Search]) -> str:
    """How the real search stands among the null ones, in a sentence."""
    real = next((search for search in searches if not search.shuffled), None)
    nulls = [search for search in searches if search.shuffled]
    if real is None or not nulls:
        return (
            "No null search is here: nothing says what of this chance would do (hydra.sweeper.shuffled=true)."
        )
    unlike = [f"{null.name} has {changes}" for null in nulls if (changes := differences(real, null))]
    if unlike:
        return (
            f"Nothing is said of chance, since {real.name} has null searches unlike it: {'; '.join(unlike)}. "
            "Give those that differ from it in hydra.sweeper.shuffled and seeds alone."
        )
    above = sum(search.rise < real.rise for search in nulls)
    return (
        f"{real.name} rose by more than {above} of {len(nulls)} null searches; if it had learned nothing, it "
        f"would rise by more than all of them once in {len(nulls) + 1} times."
    )


def differences(real: Search, null: Search) -> str:
    """In what a null search differs from the real one, beside what it may; empty for one like it."""
    ours = {**real.settings, "generations done": len(real.means)}
    its = {**null.settings, "generations done": len(null.means)}
    return ", ".join(
        f"{key}={its.get(key)} for {ours.get(key)}"
        for key in dict.fromkeys([*ours, *its])
        if ours.get(key) != its.get(key)
    )


def _compared(settings: Mapping[str, Any]) -> dict[str, object]:
    """A search's settings without what tells a null search from a real one: seeds, and where it lies."""
    free = ("seed", *NOT_IDENTITY)
    words = [
        word
        for word in settings.get("overrides", ())
        if not word.startswith(tuple(f"{key}=" for key in free))
    ]
    return {**settings, "overrides": words, "seed": None, "shuffled": None}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report of some searches."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.search_report"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="of sweeps, the search's own and null ones'")
    given = parser.parse_args(arguments)
    try:
        print(report([read_search(folder) for folder in given.folders]))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
