"""`python -m mirrorpo.tools.tracker`: each algorithm, divergence and weighting with its tests and results.

A row is a file of conf/. Its tests are those of the modules that it is built from, and those that name it;
its results are the committed ones of docs/results. The commit is the last that changed the file, those
modules or those tests, as git knew it when the page was made: a page cannot hold the commit that it is in.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from mirrorpo.config import paths
from mirrorpo.config.paths import command
from mirrorpo.run.provenance import git
from mirrorpo.tools.marked_page import publish

MARKERS = ("<!-- tracker: made by python -m mirrorpo.tools.tracker -->", "<!-- /tracker -->")
# The config groups, and what the page calls them.
GROUPS: Mapping[str, str] = {"algo": "Algorithms", "divergence": "Divergences", "weighting": "Weightings"}
COLUMNS = ("name", "last change", "tests", "tiny result", "real-model result")
# Models of small worlds, whose results say nothing of a language model.
SMALL = ("tiny", "tiny_scratch", "ledger", "ledger_scratch")
NONE = "none"
NAMED = re.compile(rf"\b(?:{'|'.join(GROUPS)})=\w+|\"\w+\"")
SHOWN = 3
COMMIT = "%h %cs"


@dataclass(frozen=True)
class Tree:
    """A clone.

    Attributes:
        root: its folder.
    """

    root: Path

    @cached_property
    def tests(self) -> Mapping[Path, frozenset[str]]:
        """What each test names: `group=name`, and single words in quotes."""
        # Those of the analysis compare results, of runs that were never trained.
        folder = self.root / "tests"
        paths = sorted(path for path in folder.rglob("test_*.py") if folder / "analysis" not in path.parents)
        return {path: frozenset(NAMED.findall(path.read_text())) for path in paths}

    @cached_property
    def changes(self) -> Mapping[str, Sequence[str]]:
        """The commits that changed each file, the newest first; empty where git does not know them all."""
        if git(self.root, "rev-parse", "--is-shallow-repository") != "false":
            return {}
        log = git(self.root, "log", "--name-only", "--abbrev=9", f"--format=%x00{COMMIT}") or ""
        out: dict[str, list[str]] = {}
        for entry in log.split("\0")[1:]:
            commit, *files = entry.split("\n")
            for file in filter(None, files):
                out.setdefault(file, []).append(commit)
        return out

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The place of each commit in the log, from the newest."""
        log = git(self.root, "log", "--abbrev=9", f"--format={COMMIT}") or ""
        return {commit: place for place, commit in enumerate(log.split("\n"))}

    def names(self, group: str) -> list[str]:
        """The choices of a config group."""
        return sorted(path.stem for path in (self.root / "conf" / group).glob("*.yaml"))


@dataclass(frozen=True)
class Row:
    """A choice of a config group.

    Attributes:
        tree: the clone.
        group: the config group.
        name: of its file.
    """

    tree: Tree
    group: str
    name: str

    @property
    def config(self) -> Path:
        """Its file."""
        return self.tree.root / "conf" / self.group / f"{self.name}.yaml"

    @cached_property
    def modules(self) -> list[Path]:
        """The modules of its classes, those of the file that it begins with among them."""
        source = self.tree.root / "src"
        dotted = dict.fromkeys(target.rpartition(".")[0] for target in _targets(self.config))
        files = (source / f"{module.replace('.', '/')}.py" for module in dotted)
        return [path for path in files if path.is_file()]

    @cached_property
    def tests(self) -> list[Path]:
        """Those of its modules, then those that name it."""
        folder = self.tree.root / "tests"
        beside = [folder / path.parent.name / f"test_{path.stem}.py" for path in self.modules]
        chosen, quoted = f"{self.group}={self.name}", f'"{self.name}"'
        # A short name is a word of many things: in quotes it counts in the tests of its own room.
        long = "_" in self.name
        naming = [
            path
            for path, named in self.tree.tests.items()
            if chosen in named or (quoted in named and (long or path.parent.name == self.group))
        ]
        return list(dict.fromkeys([*(path for path in beside if path in self.tree.tests), *naming]))

    def files(self) -> list[str]:
        """What a change of it is a change of, as git names it."""
        paths = [self.config, *self.modules, *self.tests]
        return [path.relative_to(self.tree.root).as_posix() for path in paths]

    def commits(self) -> set[str]:
        """All that changed it."""
        return {commit for name in self.files() for commit in self.tree.changes.get(name, ())}

    def last_change(self) -> str:
        """The newest commit, with its date."""
        order = self.tree.order
        return min(self.commits(), key=lambda commit: order.get(commit, len(order)), default=NONE)

    def cells(self, results: Sequence["Result"]) -> list[str]:
        """The table's row."""
        shown = [path.relative_to(self.tree.root).as_posix() for path in self.tests]
        more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
        own = [result for result in results if (result.group, result.name) == (self.group, self.name)]
        small = [str(result) for result in own if result.small]
        real = [str(result) for result in own if not result.small]
        return [
            f"`{self.name}`",
            self.last_change(),
            ", ".join([*(f"`{name}`" for name in shown[:SHOWN]), *more]) or NONE,
            "; ".join(small) or NONE,
            "; ".join(real) or NONE,
        ]


def _targets(path: Path) -> Iterator[str]:
    """The classes that a config file names, and those of the files of its group that it begins with."""
    config = yaml.safe_load(path.read_text()) or {}
    for entry in config.get("defaults") or ():
        if isinstance(entry, str) and (beside := path.with_name(f"{entry}.yaml")).is_file():
            yield from _targets(beside)
    yield from _named(config)


def _named(config: object) -> Iterator[str]:
    if isinstance(config, list):
        for item in config:
            yield from _named(item)
    elif isinstance(config, dict):
        if isinstance(target := config.get("_target_"), str):
            yield target
        for value in config.values():
            yield from _named(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a committed result says of a choice.

    Attributes:
        group, name: the choice.
        text: the number, or how many runs.
        folder: of the result.
        link: from docs/ to the table or the report.
        small: whether the model is one of a small world.
    """

    group: str
    name: str
    text: str
    folder: str
    link: str
    small: bool

    def __str__(self) -> str:
        return f"{self.text} ([{self.folder}]({self.link}))"


def results(tree: Tree) -> list[Result]:
    """What docs/results says of every choice: a number where a table compares it, else that it was used."""
    out: list[Result] = []
    for folder in sorted((tree.root / "docs" / "results").glob("*/")):
        runs, small = _runs(folder), _is_small(tree, folder)
        compared: list[Result] = []
        for table in sorted([*folder.glob("tables/accuracy_by_*.md"), *folder.glob("tables/area*.md")]):
            compared += _compared(table, small) if "_from_" not in table.stem else []
        out += compared
        told = {(result.group, result.name) for result in compared}
        out += [
            Result(
                group=group,
                name=name,
                text=f"{count} runs",
                folder=folder.name,
                link=_page(folder),
                small=small,
            )
            for (group, name), count in runs.items()
            if (group, name) not in told
        ]
    return out


def _compared(table: Path, small: bool) -> Iterator[Result]:
    """The rows of a Markdown table whose first column is a config group."""
    lines = [
        line.strip("| ").split(" | ") for line in table.read_text().splitlines() if line.startswith("| ")
    ]
    if not lines or lines[0][0] not in GROUPS:
        return
    what = lines[0][1].removesuffix(", %")
    percent = "%" * (what != lines[0][1])
    folder = table.parents[1]
    for name, value, *_ in lines[1:]:
        estimate, space, interval = value.partition(" ")
        text = f"{what} {estimate}{percent}{space}{interval}"
        yield Result(
            group=lines[0][0],
            name=name,
            text=text,
            folder=folder.name,
            link=_link(folder, f"tables/{table.name}"),
            small=small,
        )


def _page(folder: Path) -> str:
    """The report of a result; of one without, the page of all results."""
    return _link(folder, "report.html") if (folder / "report.html").is_file() else "results/README.md"


def _link(folder: Path, name: str) -> str:
    return f"results/{folder.name}/{name}"


def _runs(folder: Path) -> Mapping[tuple[str, str], int]:
    """How many runs of a result's export there are by choice."""
    path = folder / "export" / "runs.parquet"
    if not path.is_file():
        return {}
    from pyarrow import parquet

    out: dict[tuple[str, str], int] = {}
    for row in parquet.read_table(path, columns=list(GROUPS)).to_pylist():
        for group, name in row.items():
            out[group, str(name)] = out.get((group, str(name)), 0) + 1
    return out


def _is_small(tree: Tree, folder: Path) -> bool:
    path = folder / "export" / "runs.parquet"
    if path.is_file():
        from pyarrow import parquet

        models = set(parquet.read_table(path, columns=["model"])["model"].to_pylist())
    else:
        sweep = tree.root / "sweeps" / "sweep" / f"{folder.name}.yaml"
        models = set(re.findall(r"/model: (\w+)", sweep.read_text())) if sweep.is_file() else set()
    return models <= set(SMALL)


def rows(tree: Tree) -> dict[str, list[list[str]]]:
    """The rows of each group's table."""
    known = results(tree)
    return {group: [Row(tree, group, name).cells(known) for name in tree.names(group)] for group in GROUPS}


def page(tree: Tree) -> str:
    """The tables, one a group, under a line that counts them.

    Raises:
        ValueError: if git does not know all commits.
    """
    if not tree.changes:
        raise ValueError(
            f"{tree.root}: git does not know every commit here, so none is the last: fetch them all "
            "(git fetch --unshallow)"
        )
    parts: list[str] = []
    for group, made in rows(tree).items():
        counts = {column: sum(row[place] != NONE for row in made) for place, column in enumerate(COLUMNS)}
        parts += [f"## {GROUPS[group]}", ""]
        parts += [
            f"{len(made)} of `conf/{group}/`: {counts['tests']} with tests, {counts['tiny result']} with a "
            f"committed tiny result, {counts['real-model result']} with one of a real model.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---" * len(COLUMNS) + "|",
            *("| " + " | ".join(row) + " |" for row in made),
            "",
        ]
    return "\n".join(parts).rstrip()


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog=command("mirrorpo.tools.tracker"), description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write it between the page's markers")
    args = parser.parse_args()
    root = paths.tree()
    if root is None:
        sys.exit("error: the tracker is made in a clone, from its tests and its commits")
    try:
        publish(page(Tree(root)), args.write, MARKERS)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
