"""The one schema of an export: runs, metrics, questions, wherever they came from.

runs        one row a run: identity, state, provenance
metrics     one row a run and step; a column a metric, float64, null where that step has none
questions   one row a run, evaluated step and question
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mirrorpo.config.identity import digest, identity

VERSION = 1
AXES = ("algo", "divergence", "weighting", "model", "dataset")

# Text columns hold JSON where what they hold is nested; missing is null.
RUNS = pa.schema(
    [
        (
            "run",
            pa.string(),
        ),  # the W&B id, which the config and the sweep's name give; "#2" behind the second run of that id
        ("sweep", pa.string()),
        ("seed", pa.int64()),
        *((axis, pa.string()) for axis in AXES),
        ("settings", pa.string()),  # what differs from the named choices' own settings
        ("state", pa.string()),
        ("error", pa.string()),
        ("steps", pa.int64()),  # configured
        ("last_step", pa.int64()),  # recorded
        ("rows", pa.int64()),  # of metrics
        ("rows_expected", pa.int64()),
        ("not_finite", pa.string()),  # metrics with a NaN or an infinity, and the first step
        ("config", pa.string()),
        ("config_hash", pa.string()),
        ("cell_hash", pa.string()),  # of the config without its seed
        ("commit", pa.string()),
        ("dirty", pa.bool_()),
        ("commits", pa.string()),  # of every launch
        ("codes", pa.string()),  # digests of the code that made its steps, where the run recorded them
        ("versions", pa.string()),
        ("machine", pa.string()),
        ("computed_in", pa.string()),
        ("data", pa.string()),
        ("prompt_hash", pa.string()),
        ("extractor", pa.string()),
        ("mirror_map", pa.string()),
        ("model_commit", pa.string()),
        ("started", pa.string()),
        ("ended", pa.string()),
        ("command", pa.string()),
        ("came_from", pa.string()),  # "folder", "wandb" or "wandb offline"
        ("source", pa.string()),
    ]
)
WHERE_FROM = ("came_from", "source")
QUESTIONS = pa.schema(
    [
        ("run", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int64()),
        ("uid", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("right", pa.bool_()),
        ("strict", pa.bool_()),
        ("flexible", pa.bool_()),
        ("outcome", pa.string()),
        ("tokens", pa.int64()),
        ("truncated", pa.bool_()),
        ("samples", pa.int64()),
        ("samples_right", pa.int64()),
        ("completion", pa.string()),
    ]
)
FREE_KEYS = ("seed",)
# What a question contributes to a metric; of other metrics only the run's mean is known.
PER_QUESTION = {
    "eval/greedy_accuracy": "right",
    "eval/greedy_strict": "strict",
    "eval/greedy_flexible": "flexible",
    "eval/truncated": "truncated",
    "eval/length": "tokens",
    "eval/pass@1": "samples_right",
}


def run_row(
    manifest: Mapping[str, Any], metrics: pa.Table, *, run: str, sweep: str, came_from: str, source: str
) -> dict[str, Any]:
    """One row of `runs`: what a manifest says, and what its metrics hold of what they should."""
    config = manifest.get("config") or {}
    launches = manifest.get("launches") or []
    commits = list(dict.fromkeys(str(launch.get("commit")) for launch in launches)) or (
        [str(manifest["commit"])] if manifest.get("commit") else []
    )
    own = identity(config)
    steps = metrics["step"].to_pylist()
    return {
        "run": run,
        "sweep": config.get("name", sweep),
        "seed": config.get("seed"),
        **{axis: (manifest.get("choices") or {}).get(axis) for axis in AXES},
        "settings": _json(manifest.get("settings")),
        "state": manifest.get("state"),
        "error": manifest.get("error"),
        "steps": config.get("steps"),
        "last_step": max(steps, default=None),
        "rows": len(steps),
        "rows_expected": config["steps"] + (config.get("eval_questions", 0) > 0)
        if "steps" in config
        else None,
        "not_finite": _json(not_finite(metrics)),
        "config": _json(config or None),
        "config_hash": manifest.get("config_hash"),
        "cell_hash": digest({key: value for key, value in own.items() if key not in FREE_KEYS})[:16]
        if own
        else None,
        "commit": manifest.get("commit"),
        "dirty": manifest.get("dirty"),
        "commits": _json(commits),
        "codes": _json(manifest.get("codes")),
        "versions": _json(manifest.get("versions")),
        "machine": _json(manifest.get("machine")),
        "computed_in": manifest.get("computed_in"),
        "data": _json(manifest.get("data")),
        "prompt_hash": (manifest.get("prompt") or {}).get("hash"),
        "extractor": manifest.get("reward_version"),
        "mirror_map": _json(manifest.get("mirror_map")),
        "model_commit": manifest.get("model_commit"),
        "started": manifest.get("started"),
        "ended": manifest.get("ended"),
        "command": _json(manifest.get("command")),
        "came_from": came_from,
        "source": source,
    }


def _json(value: Any) -> str | None:
    return None if value is None or value == {} else json.dumps(value, sort_keys=True)


def not_finite(metrics: pa.Table) -> dict[str, int]:
    """Metrics that are NaN or infinite somewhere, with the first step where."""
    out: dict[str, int] = {}
    for name in metrics.column_names:
        if name == "step":
            continue
        # A null becomes NaN too: something is wrong only where there are more of them than nulls.
        bad = ~np.isfinite(metrics[name].to_numpy())
        if bad.sum() > metrics[name].null_count:
            bad &= metrics[name].is_valid().to_numpy()
            out[name] = metrics["step"].to_pylist()[int(bad.argmax())]
    return out


def metrics_table(table: pa.Table) -> pa.Table:
    """One run's metrics with the schema's types: step, then metrics by name; rows by step, the last row of a
    step where there are two.
    """
    names = sorted(set(table.column_names) - {"step"})
    step = table["step"].cast(pa.int64())
    out = pa.table({"step": step, **{name: table[name].cast(pa.float64()) for name in names}})
    steps = step.to_pylist()
    if any(later <= earlier for earlier, later in pairwise(steps)):
        last = {value: index for index, value in enumerate(steps)}
        out = out.take([last[value] for value in sorted(last)])
    # A column that never holds a number says no more than one that is not there.
    return out.select(["step", *(name for name in names if out[name].null_count < len(out))])


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A run's metrics from rows; values that are no numbers are left out."""
    names = sorted(
        {
            key
            for row in rows
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        - {"step"}
    )
    numbers = {name: pa.array([_number(row.get(name)) for row in rows], pa.float64()) for name in names}
    return metrics_table(pa.table({"step": pa.array([row["step"] for row in rows], pa.int64()), **numbers}))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def empty_metrics() -> pa.Table:
    """The metrics of a run that has none."""
    return pa.table({"step": pa.array([], pa.int64())})


def questions_table(table: pa.Table, step: int) -> pa.Table:
    """One evaluation's rows with the schema's types, all but the run."""
    missing = {
        field.name: pa.nulls(len(table), field.type)
        for field in QUESTIONS
        if field.name not in ("run", "step", *table.column_names)
    }
    columns = {
        field.name: missing.get(field.name) for field in QUESTIONS if field.name not in ("run", "step")
    }
    kept = {
        name: value if value is not None else table[name].cast(QUESTIONS.field(name).type)
        for name, value in columns.items()
    }
    return pa.table({"step": pa.array([step] * len(table), pa.int64()), **kept})


def joined(parts: Iterable[tuple[str, pa.Table]], schema: pa.Schema | None = None) -> pa.Table:
    """The tables of several runs below each other, with the run in front; columns of a missing schema by
    name.
    """
    tables: list[pa.Table] = []
    for run, part in parts:
        index = pa.DictionaryArray.from_arrays(
            pa.array([0] * len(part), pa.int32()), pa.array([run], pa.string())
        )
        tables.append(part.add_column(0, "run", index))
    if schema is not None:
        tables = [schema.empty_table(), *(table.cast(schema) for table in tables)]
    if not tables:
        return pa.table(
            {"run": pa.array([], pa.string()).dictionary_encode(), "step": pa.array([], pa.int64())}
        )
    whole = pa.concat_tables(tables, promote_options="default")
    front = ["run", "step"]
    rest = [name for name in whole.column_names if name not in front]
    return (whole if schema is not None else whole.select([*front, *sorted(rest)])).unify_dictionaries()


def runs_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """All rows of `runs` with the schema's types, in the schema's order of columns."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=RUNS)
