"""Tables that people export from W&B by hand: CSV and Parquet files, and folders of them.

runs table      one row a run: the page's "Export CSV", or a data frame of names, settings and summaries
chart           one column a run: a line plot's CSV, `run - metric`
history         one row a step: `run.history()` or `scan_history()`, a file a run or with a column of runs

A runs table beside histories or charts gives their runs' settings and states.
"""

import ast
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from analysis.data.runs import RunTables
from analysis.data.schema import Json, JsonObject
from analysis.data.wandb_runs import STATES, LoggedRun
from mirrorpo.config.identity import flat

FORMS = (
    "run folders (manifest.json), a folder that `export` wrote, W&B's offline files (run-*.wandb), and CSV "
    "or Parquet: a runs table (a row a run, with Name), a line plot (Step, then `run - metric`), or a "
    "history (a row a step, with _step or Step)"
)
SUFFIXES = (".csv", ".parquet")
IDS = ("run_id", "_run_id", "ID", "id")
NAMES = ("Name", "run_name", "name", "run")
STEPS = ("_step", "Step", "step", "train/global_step", "training/global_step", "global_step")
TIMES = ("Relative Time (Process)", "Relative Time (Wall)", "Wall Time", "_timestamp", "_runtime")
# What W&B's page writes of a run beside settings and summary.
PAGE = (
    *IDS,
    *NAMES,
    "State",
    "state",
    "Notes",
    "User",
    "Tags",
    "Created",
    "Runtime",
    "Sweep",
    "Group",
    "Job Type",
    "Hostname",
    "Created Timestamp",
    "Start Time",
    "End Time",
    "Updated",
    "GPU Count",
    "GPU Type",
    "Relative Time (Process)",
    "Commit",
    "GitHub",
)
UNKNOWN = "unknown"
NUMBER = r"[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf(inity)?|nan)"
SEPARATOR = " - "
BOUNDS = ("__MIN", "__MAX")


@dataclass
class TableRun:
    """What tables say of one run.

    Attributes:
        key: its id, or else its name.
        names: what else it is called.
        state: as a manifest names it, or `unknown`.
        config: dotted settings.
        summary: last values.
        rows: of its history, each with its step.
        sources: the files.
    """

    key: str
    names: set[str] = field(default_factory=set)
    state: str = UNKNOWN
    config: JsonObject = field(default_factory=dict)
    summary: JsonObject = field(default_factory=dict)
    rows: dict[int, JsonObject] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)

    def logged(self) -> LoggedRun:
        """The run as W&B's own files would give it."""
        rows = [self.rows[step] for step in sorted(self.rows)]
        if not rows and self.summary:
            # A summary is of the last step, wherever that was.
            last = next((self.summary[name] for name in STEPS if name in self.summary), None)
            last = self.config.get("steps", 0) if last is None else last
            rows = [{**self.summary, "step": int(last)}]
        name = sorted(self.names)[0] if self.names else self.key
        return LoggedRun(
            run_id=self.key,
            name=name,
            rows=rows,
            config=_nested(self.config),
            state=self.state,
            files=None,
            every_step=False,
        )


def table_files(path: Path) -> list[Path]:
    """The CSV and Parquet files that a path names or holds."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def from_tables(path: Path, *, columns: Json) -> Iterator[RunTables]:
    """Every run that the tables of a file or a folder hold.

    Args:
        path: a table, or a folder of tables.
        columns: what a map says of them; what it names as a metric is one though its name has no "/".

    Raises:
        ValueError: if no table is one of a known form, naming what is; if a chart's points are means of
            several runs; if two runs cannot be told apart.
    """
    runs: dict[str, TableRun] = {}
    metrics = [*columns.get("metrics", {}).values(), columns.get("step", "")]
    # Runs tables first: they say which names belong to which id.
    tables = [(file, _read(file)) for file in table_files(path)]
    parsed = [(file, table, _form(table)) for file, table in tables]
    for form in (_runs_table, _chart, _history):
        for file, table, its_form in parsed:
            if its_form is form:
                form(table, file, runs, metrics)
    refused = [str(file) for file, _, its_form in parsed if its_form is None]
    if not runs:
        none = f"{', '.join(refused[:3])} is none of them" if refused else "there is no file of them"
        raise ValueError(f"{path}: no run in it: {none}. What is read: {FORMS}")
    for run in runs.values():
        source = str(run.sources[0])
        yield run.logged().tables("wandb table", source, sweep=path.stem, columns=columns, questions=False)


@dataclass(frozen=True)
class _Table:
    header: Sequence[str]
    rows: Sequence[Json]


# Takes a table's runs up: the table, its file, the runs so far, columns that are metrics.
Form = Callable[[_Table, Path, dict[str, TableRun], Sequence[str]], None]


def _read(file: Path) -> _Table:
    try:
        if file.suffix.lower() == ".parquet":
            table = parquet.read_table(file)
            return _Table(table.column_names, [_present(row) for row in table.to_pylist()])
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey="", restval="")
            header = list(reader.fieldnames or [])
            rows = [
                _present({key: text if key in (*IDS, *NAMES) else _number(text) for key, text in row.items()})
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{file}: cannot be read as a table ({error})") from error
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise ValueError(
            f"{file}: the column {twice[0]!r} is there twice, as of two runs of one name: name them apart on "
            "W&B, or export their histories by id"
        )
    return _Table(header, rows)


def _number(text: object) -> object:
    # pandas rounds the last digit of some numbers; float() does not.
    if not isinstance(text, str) or not re.fullmatch(NUMBER, text, re.IGNORECASE):
        return text
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _present(row: Json) -> JsonObject:
    return {
        key: value
        for key, value in row.items()
        # A data frame's index has no name.
        if key and value is not None and value != "" and not (isinstance(value, float) and value != value)
    }


def _form(table: _Table) -> Form | None:
    header = table.header
    if not header or not table.rows:
        return None
    if len(header) > 1 and all(SEPARATOR in name for name in header[1:]):
        return _chart
    run = _first(header, (*IDS, *NAMES))
    runs = [row.get(run) for row in table.rows] if run else []
    several = run is not None and len(set(runs)) < len(runs)
    if {"config", "summary"} <= set(header) or (run and not several and not _history_of_one(header)):
        return _runs_table
    return _history if _first(header, STEPS) else None


def _history_of_one(header: Sequence[str]) -> bool:
    # The single row of a run's history has no settings beside it.
    return "_step" in header and "_timestamp" in header and not {"State", "state"} & set(header)


def _first(names: Sequence[str], candidates: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _runs_table(table: _Table, file: Path, runs: dict[str, TableRun], metrics: Sequence[str]) -> None:
    by_id, by_name = _first(table.header, IDS), _first(table.header, NAMES)
    for index, row in enumerate(table.rows):
        name = str(row.get(by_name or "", ""))
        key = str(row.get(by_id or "", "") or name or f"{file.stem}#{index}")
        if key in runs:
            raise ValueError(
                f"{file}: two runs are called {key!r}: name them apart on W&B, or export the table with "
                "their ids"
            )
        run = runs[key] = TableRun(key, names={name} if name else set(), sources=[file])
        state = row.get(_first(table.header, ("State", "state")) or "", UNKNOWN)
        run.state = STATES.get(str(state).lower(), str(state).lower())
        if {"config", "summary"} <= set(table.header):
            run.config = flat(_dict(row.get("config"), file))
            run.summary = flat(_dict(row.get("summary"), file))
            continue
        for column, value in row.items():
            if column in PAGE or column.startswith("Unnamed:"):
                continue
            bare = re.sub(r"^(config|summary)[./]", "", column)
            is_metric = "/" in bare or bare in metrics or bare in STEPS or column.startswith("summary.")
            if is_metric and isinstance(value, int | float):
                run.summary[bare] = value
            elif not bare.startswith("_"):
                run.config[bare] = _typed(value)


def _chart(table: _Table, file: Path, runs: dict[str, TableRun], metrics: Sequence[str]) -> None:
    axis = table.header[0]
    if axis in TIMES:
        raise ValueError(
            f"{file}: its x axis is {axis}: export the chart with Step, or a step of yours, as x"
        )
    for column in table.header[1:]:
        if column.endswith(BOUNDS):
            continue
        name, metric = column.rsplit(SEPARATOR, 1)
        run = _run(runs, name, file)
        for row in table.rows:
            if column not in row:
                continue
            if any(row.get(column + bound, row[column]) != row[column] for bound in BOUNDS):
                raise ValueError(
                    f"{file}: the points of {name!r} are means of several (its {BOUNDS[0]} and {BOUNDS[1]} "
                    "differ): take grouping and smoothing off, or export the history"
                )
            step = int(row[axis])
            run.rows.setdefault(step, {"step": step})[metric] = row[column]


def _history(table: _Table, file: Path, runs: dict[str, TableRun], metrics: Sequence[str]) -> None:
    step_column, by_run = _first(table.header, STEPS) or "", _first(table.header, (*IDS, *NAMES)) or ""
    for row in table.rows:
        if step_column not in row:
            continue
        run = _run(runs, str(row.get(by_run, "")) or _run_of_file(file), file)
        step = int(row[step_column])
        # The name "step" is the row's own.
        outside = ("step", step_column, by_run)
        run.rows.setdefault(step, {"step": step}).update(
            {
                key: value
                for key, value in row.items()
                if isinstance(value, int | float)
                and not isinstance(value, bool)
                and not key.startswith(("_", "Unnamed:"))
                and key not in outside
            }
        )


def _run_of_file(file: Path) -> str:
    # W&B's artifact of a history is a folder with the run's id in its name.
    for part in reversed(file.parts[-3:]):
        if match := re.fullmatch(r"run-(\w+)-history.*", part):
            return match[1]
    return file.stem


def _run(runs: dict[str, TableRun], name: str, file: Path) -> TableRun:
    if name in runs:
        called = [runs[name]]
    else:
        called = [run for run in runs.values() if _plain(name) in map(_plain, run.names)]
    if len(called) > 1:
        raise ValueError(
            f"{file}: {len(called)} runs are called {name!r}: name them apart on W&B, or export histories "
            "by id"
        )
    run = called[0] if called else runs.setdefault(name, TableRun(name, names={name}))
    if file not in run.sources:
        run.sources.append(file)
    return run


def _plain(name: str) -> str:
    # As a file may be called after a run.
    return re.sub(r"[^\w=.,-]", "_", name)


def _dict(text: object, file: Path) -> Json:
    # A dictionary as pandas writes it, or as JSON.
    if isinstance(text, dict):
        return text
    for read in (_literal, json.loads):
        try:
            value = read(str(text))
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, dict):
            return value
    raise ValueError(f"{file}: a config or summary is no dictionary: {str(text)[:60]!r}")


def _literal(text: str) -> object:
    # NaN and infinities are names to Python; the first is no value, the others are kept.
    tree = _Numbers().visit(ast.parse(text, mode="eval"))
    return ast.literal_eval(tree)


class _Numbers(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        values = {"nan": None, "inf": float("inf")}
        return ast.copy_location(ast.Constant(values[node.id]), node) if node.id in values else node


def _typed(value: object) -> object:
    # A setting as the page writes it: JSON where it is JSON.
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)


def _nested(settings: Json) -> JsonObject:
    out: JsonObject = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        target = out
        for part in path:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            target = inner
        else:
            target[last] = value
            continue
        out[key] = value
    return out
