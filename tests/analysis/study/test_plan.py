"""Plans of sweeps: read from files and launches, and no part of any cell."""

import json
from pathlib import Path

import pytest
import yaml
from cli import cell_here

from analysis.data.plans import recorded_plans
from analysis.study.plan import plan_of, plan_of_file, read_plan
from mirrorpo.config.paths import file_of_sweep, sweeps

NODE = {
    "hypothesis": "a\n  beats b",
    "metric": "auc:reward/mean",
    "primary": ["a placement=loss > b", "c vs b"],
    "margin": 0.5,
    "seeds": {"planned": 15, "looks": [10, 5]},
    "stop": "at fifteen seeds",
}
PLANNED = ("tiny_credit", "ledger_credit", "tiny_placement", "tiny_staleness", "credit_gsm8k")


def test_a_plan_is_read_as_it_is_written() -> None:
    plan = read_plan(NODE, "here")
    assert plan.hypothesis == "a beats b" and plan.seeds == 15 and list(plan.looks) == [5, 10]
    assert [(entry.arm, entry.sign, entry.other) for entry in plan.primary] == [
        ("a placement=loss", ">", "b"),
        ("c", "vs", "b"),
    ]
    assert read_plan({"hypothesis": "x", "seeds": 3}, "here").seeds == 3


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"hypothesis": ""}, "plan.hypothesis"),
        ({"primry": ["a > b"]}, "plan.primry: did you mean primary"),
        ({"primary": ["a >> b"]}, "write 'ARM > OTHER'"),
        ({"margin": -1}, "plan.margin=-1: give a number above 0"),
        ({"seeds": {"planned": 5, "looks": [5]}}, r"looks=\[5\]: from 2 seeds to below the 5"),
        ({"seeds": {"plan": 5}}, "write a number, or"),
        ({"seeds": "five"}, "write a number, or"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_way_to_write_it(change: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read_plan({**NODE, **change}, "here")


def test_the_first_plan_that_a_launch_recorded_counts(tmp_path: Path) -> None:
    entries = [
        {"argv": [], "cwd": "", "time": "2026-11-28T20:00:00Z", "cells": []},
        {"argv": [], "cwd": "", "time": "2026-11-28T22:00:00Z", "plan": {**NODE, "margin": 2}},
        {"argv": [], "cwd": "", "time": "2026-11-28T21:00:00Z", "plan": NODE},
    ]
    (tmp_path / "launches.json").write_text(json.dumps(entries))
    plan, notes = plan_of(recorded_plans(tmp_path), ["tiny_credit"])
    assert plan is not None and plan.recorded and plan.margin == 0.5
    assert notes == ["The plan was changed: recorded at launch 2026-11-28T22:00:00Z. The first one counts."]
    later, notes = plan_of([], ["no_such_sweep", "tiny_credit"])
    assert later is not None and not later.recorded and "not recorded at launch" in notes[0]
    assert plan_of([], ["gbmpo_mbpp_es"]) == (None, [])


def test_every_shipped_plan_can_be_read() -> None:
    plans = {
        path.stem: plan_of_file(path.stem)
        for path in (sweeps() / "sweep").glob("*.yaml")
        if "plan" in yaml.safe_load(path.read_text())
    }
    assert set(PLANNED) <= set(plans)
    for name, plan in plans.items():
        assert plan is not None and plan.primary and plan.seeds and plan.stop, name


def test_a_plan_is_no_part_of_a_cell() -> None:
    for name in ("tiny_credit", "tiny_staleness"):
        assert yaml.safe_load(file_of_sweep(name).read_text())["plan"]
        ours, other = (cell_here(f"sweep={name}", *more) for more in ((), ("plan=null",)))
        assert "plan" not in ours.config and ours.config == other.config
        assert (ours.hash, ours.folder) == (other.hash, other.folder)


def test_a_single_comparison_may_stand_without_a_list() -> None:
    plan = read_plan({"hypothesis": "x", "primary": "counterfactual > uniform"}, "here")
    assert [(entry.arm, entry.sign, entry.other) for entry in plan.primary] == [
        ("counterfactual", ">", "uniform")
    ]
    with pytest.raises(ValueError, match=r"plan\.margin=inf"):
        read_plan({"hypothesis": "x", "margin": float("inf")}, "here")


def test_the_plan_of_one_sweep_is_not_anothers() -> None:
    ours, other = ({**NODE, "hypothesis": text} for text in ("a", "b"))
    plan, notes = plan_of([{"folder": "out/a", "plan": ours}, {"folder": "out/b", "plan": other}], [])
    assert plan is None and "a plan each (out/a, out/b)" in notes[0]
    plan, notes = plan_of([{"folder": "out/a", "plan": ours}, {"folder": "out/b", "plan": ours}], [])
    assert plan is not None and plan.hypothesis == "a" and notes == []
