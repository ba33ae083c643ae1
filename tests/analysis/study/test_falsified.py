"""A sweep whose files were falsified has findings, and a clean one has none.

The quick tests take one falsification of four and a few edits; the slow ones all of them, on planted and on
really trained runs, and print what they count (`-s`).
"""

import random
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from cli import ROOT, SMALL, succeeded, train
from falsified import FALSIFICATIONS, Sweep, clean_sweep, edit_a_number, undigested, with_plan

from analysis.data.export import load
from analysis.report.tables import all_tables
from analysis.study.budgets import read_budget
from analysis.study.design import design
from analysis.study.guards import KINDS, Refused, check, findings, notes
from analysis.study.study import METRIC, Study, study

BUDGETS = [read_budget(name) for name in ("tokens_sampled", "device_s")]
# Caught by digests alone: nothing else in a sweep says what these were.
BY_DIGEST = {
    "missing: all answers of all runs",
    "number: reward of a step",
    "number: drift of a step",
    "number: seconds",
    "not what it says: a completion",
    *(name for name in FALSIFICATIONS if name.startswith("digests: ")),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return with_plan(clean_sweep(tmp_path_factory.mktemp("outputs") / "sweep"))


def copied(sweep: Sweep, target: Path) -> Sweep:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(sweep.root, target, ignore=shutil.ignore_patterns("checkpoints", "policy"))
    return Sweep(target)


def found(sweep: Sweep) -> list[str]:
    """The findings of a sweep, or what kept it from being read."""
    try:
        export = load(str(sweep.root))
        return [f"{finding.kind}: {finding.text}" for finding in findings(export, design(export), METRIC)]
    except ValueError as error:
        return [str(error)]


def silent(sweep: Sweep, target: Path, names: list[str]) -> list[str]:
    """The falsifications that are not seen."""
    out: list[str] = []
    for name in names:
        falsified = copied(sweep, target)
        FALSIFICATIONS[name](falsified)
        out += [] if found(falsified) else [name]
    return out


def test_a_clean_sweep_has_none_wherever_it_lies_and_of_whatever_age(clean: Sweep, tmp_path: Path) -> None:
    moved = copied(clean, tmp_path / "elsewhere" / "sweep")
    assert found(moved) == []
    # Checkpoints, the policy and what is shown to a person are nothing that tables are made of.
    (moved.run() / "timings.jsonl").unlink()
    assert found(moved) == [] == found(undigested(moved))


def test_one_falsification_of_four_is_caught(clean: Sweep, tmp_path: Path) -> None:
    assert len(FALSIFICATIONS) >= 54
    assert silent(clean, tmp_path / "sweep", list(FALSIFICATIONS)[::4]) == []


def test_a_file_that_is_gone_or_another_one_is_named_with_its_run_and_the_fix(
    clean: Sweep, tmp_path: Path
) -> None:
    falsified = copied(clean, tmp_path / "sweep")
    FALSIFICATIONS["missing: the last answers of one run"](falsified)
    FALSIFICATIONS["number: seconds"](falsified)
    export = load(str(falsified.root))
    with pytest.raises(Refused) as refused:
        check(export, design(export), METRIC)
    run = f"{falsified.run()} (none, seed 1): "
    again = "copy the run's folder again, or launch the run again"
    lines = [line.strip() for line in str(refused.value).splitlines()]
    assert f"{run}eval/step_000004.jsonl is gone: {again}" in lines
    assert f"{run}timings.jsonl is not what the run wrote: {again}" in lines
    # It can be allowed, and the table's foot says so; the last answers are missed, not those before taken.
    planted = study(export, allow=["edited", "answers"])
    assert [line.split(":")[0] for line in planted.notes] == ["Allowed (answers)", "Allowed (edited)"]
    assert planted.differences()["none"].over == "seeds" and len(notes([])) == 0


def test_a_number_that_is_changed_anywhere_is_seen(clean: Sweep, tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(4):
        falsified = copied(clean, tmp_path / "sweep")
        (falsified.root / "multirun.yaml").unlink()
        assert (what := edit_a_number(falsified, rng)) and found(falsified), what


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_falsification_is_caught_with_digests_and_nearly_every_one_without(
    clean: Sweep, tmp_path: Path
) -> None:
    names = list(FALSIFICATIONS)
    assert silent(clean, tmp_path / "sweep", names) == []
    older = undigested(copied(clean, tmp_path / "older"))
    assert set(silent(older, tmp_path / "sweep", names)) == BY_DIGEST
    print(f"\n{len(names)} of {len(names)} caught, {len(names) - len(BY_DIGEST)} of them without digests")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_runs_that_were_really_trained_every_falsification_is_caught(tmp_path: Path) -> None:
    longer = {"steps": "4", "eval_questions": "20", "eval_sampled_questions": "8"}
    settings = [
        f"{name}={value}" for name, value in (dict(word.split("=") for word in SMALL) | longer).items()
    ]
    for cell in product(("divergence=kl", "divergence=none"), ("seed=0", "seed=1")):
        succeeded(train(*cell, *settings, f"out={tmp_path}", "name=real", cwd=ROOT))
    real = Sweep(tmp_path / "real")
    assert found(real) == []
    assert silent(real, tmp_path / "sweep", list(FALSIFICATIONS)) == []


def cells(made: Study) -> list[list[str]]:
    """What all tables of a sweep say, but for their feet."""
    return [[str(cell) for row in table.rows for cell in row] for table in all_tables(made)]


# 300 edits in all, 100 with each seed, so that they can be run apart.
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_100_edits_of_one_number_that_change_a_table_95_percent_are_caught(
    clean: Sweep, tmp_path: Path, seed: int
) -> None:
    rng, before = random.Random(seed), cells(study(load(str(clean.root)), budgets=BUDGETS))
    edits = changed = caught = 0
    unseen: list[str] = []
    errors: list[str] = []
    while changed < 100:
        falsified = copied(clean, tmp_path / "sweep")
        what = edit_a_number(falsified, rng)
        edits += 1
        try:
            made = study(load(str(falsified.root)), allow=KINDS, budgets=BUDGETS)
            changes = cells(made) != before
        except ValueError as error:
            # There is no table any more, and an error in its place.
            errors.append(f"{what}: {error}")
            continue
        if changes:
            seen = any(note.startswith("Allowed (") for note in made.notes)
            changed, caught = changed + 1, caught + seen
            unseen += [] if seen else [what]
    print(f"\n{edits} edits, {changed} change a table, {caught} of those caught; not: {unseen}")
    print("\n".join(errors))
    assert caught >= 95, unseen


def _bare(sweep: Sweep) -> None:
    for run in sweep.runs:
        shutil.rmtree(run / "eval")


CLEAN: dict[str, dict[str, object]] = {
    "as it is": {},
    "another rate": {"config.lr": 0.01},
    "ended a day later": {"ended": "2026-11-26T10:10:00Z"},
    "on a GPU": {"device": "NVIDIA H100", "computed_in": "bfloat16 on cuda"},
    "in a sandbox": {"sandbox": "bubblewrap"},
    "with questions left out": {"bad_data": {"q/0039": "no gold"}},
    "from the hub": {"model_commit": "c" * 40},
    "with a map": {"mirror_map": {"hash": "1" * 8}},
    "under another name": {"config.name": "other"},
    "other weights": {"parameters": {"all": 7, "trained": 7}},
}
AGES: dict[str, Callable[[Sweep], object]] = {
    "": lambda sweep: None,
    ", undigested": undigested,
    ", bare": _bare,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_clean_sweeps_have_no_finding(tmp_path: Path) -> None:
    for name, changes in CLEAN.items():
        for age, change in AGES.items():
            sweep = clean_sweep(tmp_path / f"{name}{age}" / "sweep", **changes)
            if age == ", bare":
                undigested(sweep)
            change(sweep)
            assert found(sweep) == [], name + age
