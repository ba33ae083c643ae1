"""What an archive holds: the files that tables are made of, digests, and the tables themselves.

Unpacked it is a folder that every command of `analysis` reads, and beside the runs

    archive/archive.json      how the tables were made, and sha256 and size of every other file
    archive/tables/           each table as Markdown and as JSON with the runs behind every cell
    archive/checklist.md      a paper's checklist

Nothing in it depends on when or where it was made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from analysis.data.export import ABOUT, FILES, commit, is_export, load
from analysis.data.runs import manifests
from analysis.kit.checklist import checklist
from analysis.report.render import markdown
from analysis.report.table_cells import Table
from analysis.report.tables import all_tables
from analysis.study.options import StudyOptions
from analysis.study.study import Study
from mirrorpo import __version__

BESIDE = "archive"
CONTENTS = f"{BESIDE}/archive.json"
TABLES = f"{BESIDE}/tables"
CHECKLIST = f"{BESIDE}/checklist.md"
# Of a run: single files, and folders with all that is in them; `POLICY` where weights are wanted.
OF_A_RUN = (
    *("manifest.json", "config.yaml", "prompt.txt", "metrics.jsonl", "timings.jsonl"),
    "credit.jsonl",
    "credit_truth.jsonl",
)
FOLDERS_OF_A_RUN = ("eval", "evaluated", "credit")
POLICY = "policy"
# Of a sweep, wherever they lie in it.
OF_A_SWEEP = ("launches.json", "multirun.yaml", "settings.txt")
# Whose versions decide what a table says, beside this package's.
PACKAGES = ("numpy", "pandas", "pyarrow", "scipy")


def archived_files(root: Path, *, weights: bool = False) -> dict[str, Path]:
    """The files of a sweep that tables are made of, by their name in the archive.

    Args:
        root: a folder of run folders, or one that `export` wrote.
        weights: each run's policy too.

    Raises:
        ValueError: if there is no run.
    """
    if is_export(root):
        paths = [root / ABOUT, *(root / f"{name}.parquet" for name in FILES)]
        return {path.name: path for path in paths}
    runs = [path.parent for path in manifests(root)]
    if not runs:
        raise ValueError(f"{root}: no run below it (a run is a folder with manifest.json)")
    paths = [path for run in runs for path in _of_run(run, weights=weights)]
    paths += [path for name in OF_A_SWEEP for path in root.rglob(name) if not _hidden(path, root)]
    named = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: named[name] for name in sorted(named) if not name.startswith(f"{BESIDE}/")}


def _of_run(run: Path, *, weights: bool) -> Iterator[Path]:
    yield from (path for name in OF_A_RUN if (path := run / name).is_file())
    for name in (*FOLDERS_OF_A_RUN, *([POLICY] if weights else [])):
        yield from (path for path in (run / name).rglob("*") if path.is_file() and not _hidden(path, run))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def derived(root: Path, options: StudyOptions) -> tuple[Study, dict[str, str]]:
    """The study of a sweep's files, and its tables and checklist as texts by their name in the archive.

    Raises:
        ValueError: if a guard forbids the tables.
    """
    made = options.of(load(str(root)))
    texts = {CHECKLIST: markdown(_anywhere(checklist(made), root), trace=False)}
    for table in all_tables(made):
        anywhere = _anywhere(table, root)
        texts |= {
            f"{TABLES}/{table.name}.md": markdown(anywhere),
            f"{TABLES}/{table.name}.json": anywhere.traced(),
        }
    return made, texts


def _anywhere(table: Table, root: Path) -> Table:
    """A table without the place where its runs lay when it was made."""
    lies = f"{root}/"
    return replace(
        table,
        rows=[[replace(cell, text=cell.text.replace(lies, "")) for cell in row] for row in table.rows],
        notes=[note.replace(lies, "") for note in table.notes],
        sources={
            run: replace(source, place=source.place.replace(lies, ""))
            for run, source in table.sources.items()
        },
    )


def made_by() -> Mapping[str, str | None]:
    """What makes tables here: commit and versions."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"commit": commit(), "mirrorpo": __version__, **versions}
