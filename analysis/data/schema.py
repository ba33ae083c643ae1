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

from analysis.data.manifest_faults import manifest_faults
from mirrorpo.config.identity import digest, identity
from mirrorpo.config.renamed import first_named

# A JSON object that somebody else's code or an older commit wrote, to read and to fill: its fields are what
# they are.
Json = Mapping[str, Any]
JsonObject = dict[str, Any]
VERSION = 3
# Versions whose columns are all here; what they lack is null.
READABLE = (1, 2, VERSION)
AXES = ("algo", "divergence", "weighting", "model", "dataset")

# Text columns hold JSON where what they hold is nested; missing is null.
RUNS = pa.schema(
    [
        # The W&B id, of the config, the sweep's name and the attempt; "#2" behind the second run of that id.
        ("run", pa.string()),
        ("sweep", pa.string()),
        ("seed", pa.int64()),
        *((axis, pa.string()) for axis in AXES),
        ("settings", pa.string()),  # what differs from the settings of the named choices
        ("state", pa.string()),
        ("error", pa.string()),
        ("steps", pa.int64()),  # configured
        ("last_step", pa.int64()),  # recorded
        ("rows", pa.int64()),  # of metrics
        ("rows_expected", pa.int64()),
        ("not_finite", pa.string()),  # metrics with a NaN or an infinity, and the first step
        ("config", pa.string()),
        ("config_hash", pa.string()),
        ("cell_hash", pa.string()),  # of the config without its seed, over the names that settings had first
        ("commit", pa.string()),
        ("dirty", pa.bool_()),
        ("commits", pa.string()),  # of every launch
        ("codes", pa.string()),  # digests of the code that made its steps, where the run recorded them
        ("inputs", pa.string()),  # hashes of data, weights, outside code and prompts, where it recorded them
        ("versions", pa.string()),
        ("machine", pa.string()),
        ("device", pa.string()),
        ("computed_in", pa.string()),
        ("sandbox", pa.string()),
        ("parameters", pa.string()),  # how many, and how many are trained
        ("data", pa.string()),
        ("bad_data", pa.string()),  # uids of questions that were left out, with the reason
        ("prompt_hash", pa.string()),
        ("extractor", pa.string()),
        ("mirror_map", pa.string()),
        ("model_commit", pa.string()),
        ("started", pa.string()),
        ("ended", pa.string()),
        ("attempt", pa.string()),  # of which, the config and the sweep's name the W&B id is
        ("command", pa.string()),
        ("sets", pa.string()),  # prompts, extractor and more of each evaluation set beside its own
        ("faults", pa.string()),  # what contradicted its files and its manifest when it was read
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
        # Of the sampled answers: the share of right ones among the most frequent, how many differ, and sums.
        ("majority_right", pa.float64()),
        ("distinct", pa.int64()),
        (
            "right_counts",
            pa.list_(pa.int64()),
        ),  # how many samples give each right answer, where these are listed
        ("sampled_tokens", pa.int64()),
        ("sampled_truncated", pa.int64()),
        ("set", pa.string()),  # the evaluation set; null for the run's own
    ]
)
FREE_KEYS = ("seed",)
# Of a manifest: columns as they stand there, and columns that hold it as JSON.
COPIED = (
    "state",
    "error",
    "config_hash",
    "commit",
    "dirty",
    "device",
    "computed_in",
    "model_commit",
    "started",
    "ended",
    "attempt",
)
COPIED_AS_JSON = (
    "settings",
    "codes",
    "inputs",
    "versions",
    "machine",
    "data",
    "bad_data",
    "mirror_map",
    "sandbox",
    "parameters",
    "command",
)


def run_row(
    manifest: Json, metrics: pa.Table, *, run: str, sweep: str, came_from: str, source: str
) -> JsonObject:
    """One row of `runs`: what a manifest says, and what its metrics hold of what they should.

    Args:
        manifest: of a run of any age; its config may have settings under the names that they had first.
        metrics: of that run, with the schema's types.
        run: its id in the export.
        sweep: what the sweep is called where the config does not say.
        came_from: "folder", "wandb" or "wandb offline".
        source: where it is.
    """
    config, choices = manifest.get("config") or {}, manifest.get("choices") or {}
    steps = metrics["step"].to_pylist()
    expected = None
    if "steps" in config:
        expected = config["steps"] + (config.get("eval_questions", 0) > 0)
    return {
        **{name: manifest.get(name) for name in COPIED},
        **{name: _json(manifest.get(name)) for name in COPIED_AS_JSON},
        **{axis: choices.get(axis) for axis in AXES},
        "run": run,
        "sweep": config.get("name", sweep),
        "seed": config.get("seed"),
        "steps": config.get("steps"),
        "last_step": max(steps, default=None),
        "rows": len(steps),
        "rows_expected": expected,
        "not_finite": _json(not_finite(metrics)),
        "config": _json(config or None),
        "cell_hash": cell_hash(config),
        "commits": _json(_commits(manifest)),
        "prompt_hash": (manifest.get("prompt") or {}).get("hash"),
        "extractor": manifest.get("reward_version"),
        "sets": _json({name: of_set(record) for name, record in (manifest.get("eval_sets") or {}).items()}),
        "faults": _json(manifest_faults(manifest) or None),
        "came_from": came_from,
        "source": source,
    }


def of_set(record: Json) -> JsonObject:
    """What a run's or a later evaluation's record of a set says that tables depend on.

    Settings and content of a set that is the run's own stand in its config and its inputs.
    """
    hashed = {
        name: digest(record[key])[:16]
        for name, key in (("settings", "settings"), ("content", "inputs"))
        if record.get(key)
    }
    return {
        "prompt": (record.get("prompt") or {}).get("hash"),
        "extractor": record.get("reward_version"),
        **hashed,
    }


def cell_hash(config: Json) -> str | None:
    """16 hexadecimal digits over a config's identity without its seed; None where there is no config.

    Like the hash of a config it is over the names that settings had first, so that a rename moves no run into
    another cell.
    """
    settings = {key: value for key, value in identity(config).items() if key not in FREE_KEYS}
    return digest(first_named(settings))[:16] if settings else None


def _commits(manifest: Json) -> list[str]:
    """The commits of every launch, each once; of a run that recorded no launch its own."""
    launches = manifest.get("launches") or []
    commits = list(dict.fromkeys(str(launch.get("commit")) for launch in launches))
    return commits or ([str(manifest["commit"])] if manifest.get("commit") else [])


def _json(value: object) -> str | None:
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
    """One run's metrics with the schema's types: step, then metrics by name, a row a step.

    Where a step has two rows the last one counts. A column that never holds a number is left out.
    """
    names = sorted(set(table.column_names) - {"step"})
    step = table["step"].cast(pa.int64())
    out = pa.table({"step": step, **{name: table[name].cast(pa.float64()) for name in names}})
    steps = step.to_pylist()
    if any(later <= earlier for earlier, later in pairwise(steps)):
        last = {value: index for index, value in enumerate(steps)}
        out = out.take([last[value] for value in sorted(last)])
    return out.select(["step", *(name for name in names if out[name].null_count < len(out))])


def rows_table(rows: Sequence[Json]) -> pa.Table:
    """A run's metrics from rows; values that are no numbers are left out."""
    names = sorted(
        {key for row in rows for key, value in row.items() if _number(value) is not None} - {"step"}
    )
    numbers = {name: pa.array([_number(row.get(name)) for row in rows], pa.float64()) for name in names}
    return metrics_table(pa.table({"step": pa.array([row["step"] for row in rows], pa.int64()), **numbers}))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def empty_metrics() -> pa.Table:
    """The metrics of a run that has none."""
    return pa.table({"step": pa.array([], pa.int64())})


def questions_table(table: pa.Table, step: int, of_set: str = "") -> pa.Table:
    """One evaluation's rows with the schema's types, all but the run; columns that they lack are null.

    Args:
        table: the rows.
        step: that was evaluated.
        of_set: the evaluation set; "" is the run's own.
    """
    given = {"step": pa.array([step] * len(table), pa.int64())}
    given |= {name: table[name] for name in table.column_names if name not in ("step", "set")}
    if of_set:
        given["set"] = pa.array([of_set] * len(table), pa.string())
    return with_columns(pa.table(given), [field for field in QUESTIONS if field.name != "run"])


def with_columns(table: pa.Table, fields: Iterable[pa.Field]) -> pa.Table:
    """A table with just these columns, in their order and of their types; those that it lacks are null."""
    return pa.table(
        {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in fields
        }
    )


def joined(tables: Iterable[tuple[str, pa.Table]], schema: pa.Schema | None = None) -> pa.Table:
    """The tables of several runs below each other, with the run in front.

    Args:
        tables: each run's id and its table.
        schema: of the result; without one its columns are those of all runs, by name.
    """
    labelled: list[pa.Table] = []
    for run, table in tables:
        index = pa.DictionaryArray.from_arrays(
            pa.array([0] * len(table), pa.int32()), pa.array([run], pa.string())
        )
        labelled.append(table.add_column(0, "run", index))
    if schema is not None:
        labelled = [schema.empty_table(), *(table.cast(schema) for table in labelled)]
    if not labelled:
        return pa.table(
            {"run": pa.array([], pa.string()).dictionary_encode(), "step": pa.array([], pa.int64())}
        )
    out = pa.concat_tables(labelled, promote_options="default")
    if schema is None:
        front = ["run", "step"]
        out = out.select([*front, *sorted(name for name in out.column_names if name not in front)])
    return out.unify_dictionaries()


def runs_table(rows: Sequence[Json]) -> pa.Table:
    """All rows of `runs` with the schema's types, in the schema's order of columns."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=RUNS)
