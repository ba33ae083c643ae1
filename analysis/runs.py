"""Run folders as data frames."""

import json
from pathlib import Path
from typing import Any

import pandas as pd


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_runs(root: Path) -> pd.DataFrame:
    """One row a run below a folder: its manifest's identity, state and provenance.

    Raises:
        ValueError: if there is no run.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(root.rglob("manifest.json")):
        try:
            manifest = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        provenance = {key: manifest.get(key) for key in ("state", "config_hash", "commit", "dirty", "error")}
        seed = manifest.get("config", {}).get("seed")
        rows.append({"path": str(path.parent), "cell": path.parent.parent.name, "seed": seed, **provenance, **manifest.get("choices", {})})
    if not rows:
        raise ValueError(f"{root}: no run below it (a run is a folder with manifest.json)")
    return pd.DataFrame(rows)


def load_metrics(run: Path) -> pd.DataFrame:
    """A run's metrics, one row a step.

    Raises:
        ValueError: if the run has none.
    """
    if not (run / "metrics.jsonl").exists():
        raise ValueError(f"{run} has no metrics.jsonl: it evaluated and trained nothing")
    return pd.DataFrame(read_rows(run / "metrics.jsonl")).set_index("step")
