"""What `mirrorpo evaluate` added to done runs: further metrics, in the rows of their steps."""

from pathlib import Path

import pyarrow as pa

from analysis.data.schema import JsonObject, rows_table
from mirrorpo.run.folder import EVALUATED, JsonLines


def with_later_metrics(metrics: pa.Table, run: Path) -> pa.Table:
    """A run's metrics with those of its later evaluations; as they are where there is none.

    Args:
        metrics: with the column `step`.
        run: its folder.

    Raises:
        ValueError: naming a file of later metrics that is damaged.
    """
    files = sorted(run.glob(f"{EVALUATED}/*/metrics.jsonl"))
    later = [row for file in files for row in JsonLines(file).rows()]
    if not later:
        return metrics
    rows: dict[int, JsonObject] = {row["step"]: row for row in metrics.to_pylist()}
    for row in later:
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return rows_table([rows[step] for step in sorted(rows)])
