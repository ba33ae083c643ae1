"""What was planned stands beside what was run, and a file that was edited since is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from falsified import clean_sweep

from analysis.data.export import load
from analysis.report.planned_table import file_line, planned
from analysis.report.sections import question
from analysis.study.study import study
from mirrorpo.config import paths
from mirrorpo.config.identity import digest
from mirrorpo.run.disk import file_digest

PLAN = {
    "hypothesis": "no regulariser is better",
    "primary": ["none > kl", "probl2 > kl"],
    "margin": 1,
    "seeds": {"planned": 5},
    "stop": "at five seeds",
}
# The planted runs began at this minute.
BEFORE, AFTER = "2026-11-25T09:59:00Z", "2026-11-25T10:00:30Z"


def launched(root: Path, *entries: Mapping[str, Any]) -> None:
    """The record of some launches."""

    def digested(entry):
        return {**entry, "plan_sha256": digest({"plan": entry["plan"]})} if "plan" in entry else entry

    (root / "launches.json").write_text(
        json.dumps(
            [{"argv": ["train.py"], "cwd": "/", "cells": None, **digested(entry)} for entry in entries]
        )
    )


def test_what_was_planned_stands_beside_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = clean_sweep(tmp_path / "sweep").root
    sweeps = tmp_path / "sweeps" / "sweep"
    sweeps.mkdir(parents=True)
    monkeypatch.setattr(paths, "sweeps", lambda: sweeps.parent)
    file = sweeps / "mine.yaml"
    file.write_text(json.dumps({"plan": PLAN}))
    known = {"sweep": "mine", "sweep_sha256": file_digest(file)}
    first = {"first": BEFORE, "time": AFTER, "plan": PLAN, **known}
    launched(root, first)
    made = study(load(str(root)))
    table = planned(made)
    assert table is not None
    cells = {str(row[0]): (str(row[1]), str(row[2])) for row in table.rows}
    assert cells["recorded"] == (
        f"at {BEFORE}, sha256 {digest({'plan': PLAN})[:12]}",
        "all 4 runs began after it",
    )
    assert cells["hypothesis"][0] == PLAN["hypothesis"] and cells["comparisons"][1] == "not run: probl2 > kl"
    assert cells["arms"] == ("kl, none, probl2", "planned and not run: probl2")
    assert cells["seeds"] == ("5", "2: fewer than planned")
    assert cells["settings"][1].startswith("typed beside it: divergence=kl,none")
    assert file_line(made) == "sweeps/sweep/mine.yaml is as it was at the first launch"
    assert "sweep&#x27;s file" in question(made)
    # Edited since: in a comment, and in the plan.
    file.write_text(json.dumps({"plan": PLAN, "steps": 4}))
    assert file_line(made).endswith("was edited after the first launch; its plan is the same")
    file.write_text(json.dumps({"plan": {**PLAN, "margin": 2}}))
    assert file_line(made).endswith("its plan is another one now")
    file.write_text(json.dumps({"plan": {"margin": 2}}))
    assert "its plan cannot be read now" in file_line(made)
    file.unlink()
    assert "is not here to be compared" in file_line(made)
    # Recorded when runs had begun, changed later, and an arm that nobody had planned.
    late = {**first, "first": AFTER, "plan": {**PLAN, "primary": ["kl > none"], "seeds": 2}}
    launched(root, {"time": BEFORE}, late, {**late, "first": "2026-11-26T00:00:00Z", "plan": PLAN})
    table = planned(study(load(str(root))))
    assert table is not None
    cells = {str(row[0]): (str(row[1]), str(row[2])) for row in table.rows}
    assert (
        cells["recorded"][1] == "4 of 4 runs had begun before; the plan was changed at 2026-11-26T00:00:00Z"
    )
    assert cells["seeds"] == ("2", "2") and cells["comparisons"][1] == "all of them"


@pytest.mark.slow
def test_without_a_plan_there_is_no_table_and_an_unrecorded_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = clean_sweep(tmp_path / "sweep").root
    monkeypatch.setattr(paths, "sweeps", lambda: tmp_path)
    made = study(load(str(root)))
    assert planned(made) is None and file_line(made) == ""
    (tmp_path / "sweep").joinpath("planted.yaml").write_text(json.dumps({"plan": PLAN}))
    made = study(load(str(root)))
    table = planned(made)
    assert table is not None and file_line(made) == ""
    assert str(table.rows[0][1]) == "no: the plan is that of the sweep's file as it is now"
