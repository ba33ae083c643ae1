"""Later evaluations of done runs stand in their tables, and change nothing of what the runs made."""

import json
from pathlib import Path

import pytest

from analysis.data.later import with_later_metrics
from analysis.data.runs import from_folders
from analysis.data.schema import rows_table

MADE = [{"step": step, "reward/mean": step / 10, "eval/avg@4": 0.5} for step in (0, 1, 2)]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_later_metrics_join_the_rows_of_their_steps(tmp_path: Path) -> None:
    metrics = rows_table(MADE)
    assert with_later_metrics(metrics, tmp_path) is metrics
    write(tmp_path / "evaluated/far/metrics.jsonl", [{"step": 0, "eval/far/avg@4": 0.25}])
    # A checkpoint of a step without a row, as of a run that was never evaluated before it began.
    later: list[dict[str, object]] = [
        {"step": 2, "eval/near/avg@4": 0.75},
        {"step": 3, "eval/near/avg@4": 1.0},
    ]
    write(tmp_path / "evaluated/near/metrics.jsonl", later)
    joined = with_later_metrics(metrics, tmp_path).to_pydict()
    assert joined == {
        "step": [0, 1, 2, 3],
        "eval/avg@4": [0.5, 0.5, 0.5, None],
        "eval/far/avg@4": [0.25, None, None, None],
        "eval/near/avg@4": [None, None, 0.75, 1.0],
        "reward/mean": [0.0, 0.1, 0.2, None],
    }
    (tmp_path / "evaluated/far/metrics.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1 is damaged"):
        with_later_metrics(metrics, tmp_path)


def test_a_runs_tables_have_them(tmp_path: Path) -> None:
    run = tmp_path / "sweep" / "cell" / "seed=0"
    write(run / "metrics.jsonl", MADE)
    write(run / "manifest.json", [{"state": "done", "config": {"seed": 0, "steps": 2}}])
    write(run / "evaluated/far/metrics.jsonl", [{"step": 2, "eval/far/avg@4": 0.25}])
    (tables,) = from_folders(tmp_path / "sweep")
    assert tables.metrics["eval/far/avg@4"].to_pylist() == [None, None, 0.25]
