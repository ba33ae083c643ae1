"""The cost card: totals and means a seed, energy where it was recorded, and what a verdict would cost."""

import json
import math
from pathlib import Path

from falsified import clean_sweep

from analysis.data.export import load
from analysis.report.cost_table import cost
from analysis.study.study import study


def test_the_card_has_totals_and_means_and_energy_where_it_was_recorded(tmp_path: Path) -> None:
    sweep = clean_sweep(tmp_path / "sweep")
    for run in sweep.runs:
        rows = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
        rows = [row | {"budget/device_s": 1800.0 * row["step"]} for row in rows]
        if "divergence=none" in run.parent.name:
            # One of the arm's two runs was metered.
            joules = 3.6e6 if run.name == "seed=1" else math.nan
            rows = [row | ({"budget/energy_j": joules} if joules == joules else {}) for row in rows]
        (run / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = cost(study(load(str(sweep.root)), allow=["edited"]))
    assert table is not None
    cells = {str(row[0]): dict(zip(table.head, map(str, row), strict=True)) for row in table.rows}
    none, base = cells["none"], cells["kl"]
    steps = float(base["hours a seed"]) * 2
    assert float(base["device hours"]) == steps and base["runs"] == "2"
    assert (none["energy, kWh"], none["kWh a seed"]) == ("1 (of 1 runs)", "1")
    assert (base["energy, kWh"], base["kWh a seed"]) == ("—", "—")
    assert base["to decide"] == "" and ("seeds" in none["to decide"] or none["to decide"] == "")
