"""Explain a cell before it runs: its loss as an equation with its numbers, what acts, what it costs.

    python -m mirrorpo.explain [GROUP=CHOICE ...] [SETTING=VALUE ...]

The command line is that of `train.py`. Nothing is trained and no model is loaded. Equations are those of the
parts' docstrings, with the parts' numbers in place of their names.
"""

import argparse
import os
import sys

# Nothing is fetched to explain a cell.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import open_dict

from mirrorpo.config import paths
from mirrorpo.config.cell import Cell
from mirrorpo.config.compose import cell_of
from mirrorpo.config.renamed import accept_old_names
from mirrorpo.config.schema import resolved
from mirrorpo.config.typed import with_new_keys
from mirrorpo.config.values import Config
from mirrorpo.core.protocols import BoundsRolls, ChoosesTokens, StatesPasses
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.distributed.device import named_device
from mirrorpo.launch.composing import composing, exit_status
from mirrorpo.launch.equal_arms import effective_hash
from mirrorpo.train import equation
from mirrorpo.train.build import Components, build_components, inert, notes
from mirrorpo.train.memory_check import load_of
from mirrorpo.train.memory_plan import GIB, parts, totals
from mirrorpo.train.questions import load_questions
from mirrorpo.train.rescore import Passes

WIDTH = 110
# Groups that say what is trained, on what and where; the others are a method's.
NO_METHOD = ("model", "dataset", "reward", "rollout", "tracking", "optim", "schedule", "sweep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """A command line as a cell and its parts.

    Attributes:
        overrides: the command line.
        cell: what it composes to.
        components: the parts.
        choices: the option of each config group.
    """

    overrides: Sequence[str]
    cell: Cell
    components: Components
    choices: Mapping[str, str]


def composed(overrides: Sequence[str]) -> Composed:
    """A command line's cell, from inside `composing`.

    Raises:
        ValueError: naming the setting that keeps it from being one.
    """
    cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    choices, searchpath = dict(cfg.hydra.runtime.choices), list(cfg.hydra.searchpath)
    with open_dict(cfg):
        del cfg["hydra"]
    cell = cell_of(cfg, choices, overrides=overrides, searchpath=searchpath)
    return Composed(overrides=overrides, cell=cell, components=build_components(cell.config), choices=choices)


def _effective(config: Config) -> str:
    return effective_hash(config, inert(build_components(config)))


def the_loss(cell: Composed) -> list[str]:
    """The loss, and the equation of each of its parts."""
    components = cell.components
    lines = ["Loss of an update, minimised over the trained tokens t of the completions i:", ""]
    lines += [f"    {equation.loss(components)}"]
    lines += [f"    {line}" for line in equation.signed_credit(components)]
    lines += ["", "where", ""]
    for term in equation.terms(components):
        lines += [f"    {line}" for line in term.lines()]
    return lines


def without_effect(cell: Composed) -> list[str]:
    """Settings that do nothing in this cell, and what the parts have to say."""
    lines: list[str] = []
    for entry in inert(cell.components):
        lines += _wrapped(f"{', '.join(entry.settings)}: {entry.reason}. For an effect: {entry.cure}.")
    for note in (*cell.cell.notes, *notes(cell.components)):
        lines += _wrapped(f"note: {note}")
    return ["Without effect here:", *(lines or ["    nothing"])]


def a_step(cell: Composed) -> list[str]:
    """The passes of a step."""
    config, components = cell.cell.config, cell.components
    rows = config["prompts_per_step"] * config["group_size"]
    updates = config["updates_per_rollout"]
    split = updates > 1 and config["update_window"] == "split"
    read_before = components.algo.update_advantage is not None or isinstance(
        components.entropy, ChoosesTokens
    )
    passes = Passes.of(
        components.penalty,
        components.trust_region,
        on_policy=updates == 1,
        updates_read_old=read_before,
    )
    references = sum(part.source == "reference" for part in components.anchor.parts)
    without_gradient = [
        name
        for name, made in (
            ("the old policy", passes.old),
            ("the references" if references > 1 else "the reference", passes.reference),
            ("the old policy beside the anchor", passes.both),
        )
        if made
    ]
    sampled = "samples" if components.rollout.samples else "takes"
    lines = [
        f"{sampled} {config['prompts_per_step']} prompts x {config['group_size']} = {rows} completions of at "
        f"most {config['max_new_tokens']} tokens",
        f"reads them without gradient: {', '.join(without_gradient) or 'not at all'}",
        *(f"weighting: {line}" for line in _weighting_passes(components)),
        *(["reads them without gradient before each update: the policy"] * (read_before and updates > 1)),
        f"learns from them in {updates} update{'s' if updates > 1 else ''}, forward and backward"
        + (", each from its share of the prompts" if split else ""),
        f"{config['steps']} steps: {config['steps'] * rows:,} completions" + _rolls(components, rows),
    ]
    return ["A step:", *(f"    {line}" for line in lines)]


def _rolls(components: Components, rows: int) -> str:
    weighting = components.weighting
    if not isinstance(weighting, BoundsRolls):
        return ""
    return f", and at most {components.config['steps'] * rows * weighting.most_rolls:,} rolls"


def _weighting_passes(components: Components) -> Sequence[str]:
    weighting = components.weighting
    return weighting.passes() if isinstance(weighting, StatesPasses) else ()


def memory(cell: Composed) -> list[str]:
    """What a run holds, by counting."""
    device = named_device(cell.cell.config["device"], ALONE)
    try:
        load = load_of(cell.components, load_questions(cell.components), device, 79 * GIB, 1)
    except (ValueError, OSError) as error:
        return _wrapped(f"Memory: not counted, since {error}", indent="")
    if load is None:
        return ["Memory: not counted, since the model's files are not here"]
    phases = ", ".join(f"{size / GIB:.2f} GiB in {phase}" for phase, size in totals(load).items())
    held = [f"    {part.name}: {part.size / GIB:.3f} GiB" for part in parts(load)]
    return [f"Memory on {device.type}, by counting: {phases}", *held]


def equal_cells(cell: Composed) -> Iterator[str]:
    """Options of one group that make the same run."""
    loader, effective = (
        GlobalHydra.instance().config_loader(),
        effective_hash(cell.cell.config, inert(cell.components)),
    )
    for group, choice in cell.choices.items():
        if group in NO_METHOD or not group.isidentifier():
            continue
        options = [name for name in loader.get_group_options(group) if name != choice]
        for option in options:
            kept = [text for text in cell.overrides if not text.startswith(f"{group}=")]
            try:
                other = resolved(compose("train", overrides=[*kept, f"{group}={option}"]))
                equal = _effective(other) == effective
            except (ValueError, HydraException):
                continue
            if equal:
                yield f"{group}={option}"


def explain(overrides: Sequence[str], *, equal: bool) -> Iterator[str]:
    """The lines of an explanation.

    Args:
        overrides: the command line.
        equal: whether all options of the method's groups are tried.
    """
    with composing():
        cell = composed(overrides)
        yield cell.cell.label
        for section in (the_loss, without_effect, a_step, memory):
            yield ""
            yield from section(cell)
        if equal:
            yield ""
            same = list(equal_cells(cell))
            yield f"The same run, by construction, with: {', '.join(same) or 'no other option of one group'}"


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog=paths.command("mirrorpo.explain"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="SETTING=VALUE", help="as for train.py")
    parser.add_argument(
        "--no-equal", action="store_true", help="do not look for cells that are the same run (seconds less)"
    )
    parser.add_argument("--config-dir", type=Path, help="a folder of your own config files, as for train.py")
    args = parser.parse_intermixed_args(arguments)
    overrides = with_new_keys(accept_old_names(args.overrides))
    if args.config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{args.config_dir.resolve()}]")

    def print_all() -> None:
        for line in explain(overrides, equal=not args.no_equal):
            print(line)

    return exit_status(print_all)


if __name__ == "__main__":
    sys.exit(main())
