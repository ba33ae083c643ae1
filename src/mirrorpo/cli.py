"""`mirrorpo COMMAND`, `python -m mirrorpo COMMAND`: every command of the package under one name."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from mirrorpo import __version__
from mirrorpo.config import paths


@dataclass(frozen=True, slots=True)
class Command:
    """A command, by the module whose `main` reads `sys.argv`; imported only when it is given.

    Attributes:
        module: where `main` is.
        about: one line of help.
        first: arguments that stand before the user's.
    """

    module: str
    about: str
    first: tuple[str, ...] = ()


def _analysis(name: str, about: str) -> Command:
    return Command("analysis.__main__", about, (name,))


COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "mirrorpo.launch.train", "run a cell, a grid (-m) or a sweep (sweep=NAME): Hydra's command line"
    ),
    "explain": Command(
        "mirrorpo.launch.explain", "a cell's loss as an equation with its numbers, what acts, what it costs"
    ),
    "evaluate": Command(
        "mirrorpo.launch.evaluate", "evaluate done runs' start models and checkpoints on further sets"
    ),
    "status": Command("mirrorpo.launch.status", "where each cell of a sweep is; also retry, cancel"),
    "report": _analysis("report", "one HTML page of a sweep, with its tables and figures as files"),
    "export": _analysis("export", "runs, or W&B's, as three Parquet files"),
    "compare": _analysis("compare", "accuracy by arm, differences from the baseline, verdicts"),
    "area": _analysis("area", "area under a training curve by arm, and whether it is as expected"),
    "before-after": _analysis("before_after", "held-out accuracy before and after, of every run"),
    "credit": _analysis("credit", "a run's completions, tokens coloured by weight"),
    "importance": _analysis("importance", "what spans are worth, by kind"),
    "checklist": _analysis("checklist", "a paper's checklist, answered by what a sweep's runs recorded"),
    "archive": _analysis("archive", "all that a sweep's tables need, as one file"),
    "verify": _analysis("verify", "an archive's digests, its tables derived again, and one run"),
    "model-table": Command(
        "mirrorpo.tools.model_table", "in which ways each architecture of transformers can be read, tried"
    ),
    "card-table": Command(
        "mirrorpo.tools.card_table", "what each model needs of a card, and how long 1,000 steps may take"
    ),
    "estimator-table": Command(
        "mirrorpo.tools.estimator_table", "what each divergence's value and gradient are, measured"
    ),
    "tracker": Command(
        "mirrorpo.tools.tracker", "each algorithm, divergence and weighting with its tests and results"
    ),
    "mirror-maps": Command("mirrorpo.tools.plot_mirror_maps", "pictures of mirror maps"),
    "gain": Command(
        "mirrorpo.tools.gain", "what one step gains under each weighting, to first order, before a sweep"
    ),
    "strength": Command(
        "mirrorpo.tools.strength", "the coefficient at which a penalty's gradient is a share of the policy's"
    ),
    "search-report": Command(
        "mirrorpo.tools.search_report", "what a search for a mirror map found, beside its null searches"
    ),
    "span-value": Command(
        "mirrorpo.tools.span_value", "re-roll a run's completions from before and behind its spans"
    ),
}


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mirrorpo COMMAND [ARGUMENTS]   (mirrorpo COMMAND --help tells more)",
            "       mirrorpo --version",
            "",
            *lines,
        ]
    )


def main() -> int | None:
    """The command line; the exit status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"mirrorpo {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # As with `python -m`, a class that a config names may lie in the folder where the command is given. In a
    # clone that is installed as editable, analysis/ lies outside of src/.
    sys.path[:0] = [folder for folder in _import_folders() if folder not in sys.path]
    command = COMMANDS[name]
    # A name that comes first among the arguments is not said twice in the usage line.
    sys.argv = ["mirrorpo" if command.first else f"mirrorpo {name}", *command.first, *arguments]
    return import_module(command.module).main()


def _import_folders() -> list[str]:
    tree = paths.tree()
    return [os.getcwd()] if tree is None else [os.getcwd(), str(tree)]


if __name__ == "__main__":
    sys.exit(main())
