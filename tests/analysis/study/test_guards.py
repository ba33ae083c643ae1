"""Each guard, tripped by one planted fault in a sweep that is otherwise clean."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import answers, write_sweep

from analysis.data.export import Export, load
from analysis.study.design import design
from analysis.study.guards import KINDS, Refused, check, findings, listed, notes
from analysis.study.study import METRIC

ARM, SEED = "divergence=none", "seed=1"


def edit(run: Path, **changes: Any) -> None:
    """Change a manifest; a key with a dot is one of its config."""
    path = run / "manifest.json"
    made = json.loads(path.read_text())
    for key, value in changes.items():
        target = made
        *groups, name = key.split(".")
        for group in groups:
            target = target[group]
        target[name] = value
    path.write_text(json.dumps(made))


def cut(run: Path, last: int) -> None:
    path = run / "metrics.jsonl"
    path.write_text(
        "".join(line + "\n" for line in path.read_text().splitlines() if json.loads(line)["step"] <= last)
    )


def replace(run: Path, name: str, old: str, new: str) -> None:
    (run / name).write_text((run / name).read_text().replace(old, new))


def other_questions(run: Path) -> None:
    rows = [row | {"uid": row["uid"].replace("q/", "z/")} for row in answers([True] * 40)]
    (run / "eval" / "step_000004.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def chosen_on_its_seed(run: Path) -> None:
    """A launch whose settings were chosen on the seed of this run."""
    selection = {
        "sweep": "search",
        "seeds": [1],
        "axis": "divergence",
        "over": ["lr"],
        "arms": {},
        "sha256": "x",
    }
    (run.parents[1] / "launches.json").write_text(
        json.dumps([{"argv": ["train.py"], "cwd": "/", "cells": None, "selection": selection}])
    )


FAULTS: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("missing", "a seed", shutil.rmtree, r"divergence=none has no seed 1"),
    (
        "unfinished",
        "failed",
        lambda run: edit(run, state="failed", error="NotFinite: step 3"),
        r"seed=1 .* is failed: NotFinite: step 3",
    ),
    ("unfinished", "running", lambda run: edit(run, state="running"), "is running"),
    ("unfinished", "short", lambda run: cut(run, 3), "has rows up to step 3 of 4"),
    (
        "unfinished",
        "a row lost",
        lambda run: replace(run, "metrics.jsonl", '{"step": 2', '{"step": 1'),
        "has 4 rows for 5 steps",
    ),
    (
        "duplicated",
        "a copied run",
        lambda run: shutil.copytree(run, run.parents[1] / "copy" / "seed=1"),
        r"copy/seed=1 .* and .*seed=1",
    ),
    (
        "stale",
        "marked",
        lambda run: edit(run, state="stale", error="two versions of the code"),
        "is stale: two versions",
    ),
    (
        "stale",
        "another commit",
        lambda run: edit(run, launches=[{"commit": "beef" * 10}]),
        r"beefbeefb in 1 runs",
    ),
    (
        "stale",
        "resumed with another",
        lambda run: edit(run, launches=[{"commit": "a" * 40}, {"commit": "b" * 40}]),
        "resumed with other code: a{9}, b{9}",
    ),
    (
        "mixed",
        "a run-level setting",
        lambda run: edit(run, **{"config.lr": 0.01}),
        r"lr is .*0\.01 in 1 runs .*--by lr",
    ),
    (
        "mixed",
        "a setting of the axis within an arm",
        lambda run: edit(run, **{"config.divergence.beta": 9.0}),
        r"divergence\.beta is .*9 in 1 runs",
    ),
    (
        "chosen",
        "a seed",
        chosen_on_its_seed,
        r"seed 1\) is of a seed that its settings were chosen on \(search",
    ),
    ("prompt", "another rendering", lambda run: edit(run, **{"prompt.hash": "other"}), "other in 1 runs"),
    (
        "extractor",
        "another version",
        lambda run: edit(run, reward_version="math_answer/2"),
        "math_answer/2 in 1 runs",
    ),
    ("data", "another file", lambda run: edit(run, data={"validation": "x"}), "in 1 runs"),
    ("data", "other questions asked", other_questions, "set 1 of 40 questions in 1 runs"),
    (
        "answers",
        "another mean",
        lambda run: replace(run, "eval/step_000004.jsonl", '"right": true', '"right": false'),
        r"is 0\.7250, its answers have 0\.0",
    ),
    (
        "nan",
        "a NaN",
        lambda run: replace(run, "metrics.jsonl", '"entropy/mean": 0.2', '"entropy/mean": NaN'),
        r"not finite at .*entropy/mean.*1",
    ),
    (
        "nan",
        "no last evaluation",
        lambda run: replace(run, "metrics.jsonl", '"eval/greedy_accuracy": 0.725', '"eval/x": 0.7'),
        "no eval/greedy_acc.* step 4",
    ),
    (
        "copied",
        "one run's numbers in training under two seeds",
        lambda run: [
            replace(
                path, "metrics.jsonl", '"entropy/mean"', '"loss/value": 1.5, "grad/norm": 2.5, "entropy/mean"'
            )
            for path in run.parents[1].glob("*/seed=*")
            if path.parent == run.parent
        ],
        r"seed 0\) and .*seed 1\) have the same metrics: one run under two seeds",
    ),
    (
        "environment",
        "another device",
        lambda run: [
            edit(path, device="cpu" if path != run else "NVIDIA H100")
            for path in run.parents[1].glob("*/seed=*")
        ],
        r"device: .*NVIDIA H100 in 1 runs",
    ),
    (
        "edited",
        "a config's hash",
        lambda run: edit(run, config_hash="0" * 16),
        "is not the one that its conf",
    ),
    (
        "contradiction",
        "a command that says another seed",
        lambda run: edit(run, command=["train.py", "seed=5"]),
        r"its command says seed=5, and its config seed=1",
    ),
    ("dirty", "changed code", lambda run: edit(run, dirty=True), "differs from commit c0ffeec0f"),
    ("provenance", "no prompt hash", lambda run: edit(run, prompt={}), "does not say its prompt_hash"),
]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


def checked(root: Path, *allow: str) -> tuple[Any, Any]:
    export = load(str(root))
    return check(export, design(export), METRIC, allow)


def test_a_clean_sweep_has_no_findings(sweep: Path) -> None:
    used, allowed = checked(sweep)
    assert not allowed and len(used.runs) == 4


@pytest.mark.parametrize(
    ("kind", "what", "fault", "text"), FAULTS, ids=[f"{kind}: {what}" for kind, what, _, _ in FAULTS]
)
def test_a_guard_trips_names_the_run_and_can_be_allowed(
    sweep: Path, kind: str, what: str, fault: Callable[[Path], Any], text: str
) -> None:
    fault(sweep / ARM / SEED)
    export = load(str(sweep))
    with pytest.raises(Refused, match=text) as refused:
        check(export, design(export), METRIC)
    (listed_kinds,) = re.findall(r"--allow ([a-z,]+):", str(refused.value))
    kinds = listed_kinds.split(",")
    assert kind in kinds and KINDS[kind] in str(refused.value)
    _, allowed = check(export, design(export), METRIC, kinds)
    assert any(line.startswith(f"Allowed ({kind})") for line in notes(allowed))


INPUTS = {
    "code mine": "1" * 16,
    "dataset train": "2" * 16,
    "model.path/model.safetensors": "3" * 16,
    "divergence.potential.path": "4" * 16,
    "prompts": "5" * 16,
}


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "prompts"])
@pytest.mark.parametrize("value", ["9" * 16, None], ids=["another", "absent"])
def test_a_seed_that_was_made_of_something_else_is_not_pooled(
    sweep: Path, name: str, value: str | None
) -> None:
    for path in sweep.rglob("manifest.json"):
        edit(path.parent, inputs=INPUTS)
    assert not checked(sweep)[1]
    other = {**INPUTS, name: value} if value else {key: INPUTS[key] for key in INPUTS if key != name}
    edit(sweep / ARM / SEED, inputs=other)
    if value is None and name.startswith("dataset"):
        assert not checked(sweep)[1], "another split is no other content"
        return
    with pytest.raises(Refused, match=rf"stale .*\n.*{name} is .*{value or 'absent'} in 1 runs"):
        checked(sweep)


def test_arms_may_use_other_code_and_old_runs_say_nothing(sweep: Path) -> None:
    for path in sweep.rglob("manifest.json"):
        if ARM in str(path):
            edit(path.parent, inputs=INPUTS | {"code other": "6" * 16})
        elif SEED in str(path):
            edit(path.parent, inputs=INPUTS)
    assert not checked(sweep)[1]


def test_every_guard_is_tripped_by_a_fault_here() -> None:
    assert {kind for kind, _, _, _ in FAULTS} == set(KINDS)


def test_all_findings_are_listed_at_once(sweep: Path) -> None:
    edit(sweep / ARM / SEED, state="failed", error="x", dirty=True)
    shutil.rmtree(sweep / ARM / "seed=0")
    with pytest.raises(Refused) as refused:
        checked(sweep, "dirty")
    assert (
        "missing (" in str(refused.value)
        and "unfinished (" in str(refused.value)
        and "dirty (" not in str(refused.value)
    )


def test_an_allowed_unfinished_run_is_left_out_and_of_a_duplicated_cell_the_newest_is_kept(
    sweep: Path,
) -> None:
    edit(sweep / ARM / SEED, state="failed")
    used, _ = checked(sweep, "unfinished")
    assert len(used.runs) == 3 and not any(run.row["state"] == "failed" for run in used.runs)
    shutil.copytree(sweep / ARM / "seed=0", sweep / "copy" / "seed=0")
    edit(sweep / "copy" / "seed=0", ended="2027-01-01T00:00:00Z")
    used, _ = checked(sweep, "unfinished", "duplicated")
    kept = [run.row["source"] for run in used.runs if run.arm == "none"]
    assert len(kept) == 1 and kept[0].endswith("copy/seed=0")


def test_nothing_left_is_an_error_whatever_is_allowed(sweep: Path) -> None:
    for path in sweep.rglob("manifest.json"):
        edit(path.parent, state="running")
    with pytest.raises(Refused, match="no run is left"):
        checked(sweep, *KINDS)


def test_a_guard_that_does_not_exist_cannot_be_allowed(sweep: Path) -> None:
    with pytest.raises(ValueError, match=r"allow=everything: the guards are missing, unfinished"):
        checked(sweep, "everything")


def test_seeds_and_arms_that_the_command_names_are_missed(sweep: Path) -> None:
    (sweep / "multirun.yaml").write_text(
        "hydra: {overrides: {task: ['divergence=kl,none,probl2', 'seed=range(3)']}, "
        "sweeper: {params: {lr: '0.1,0.2', seed: '0,1'}}}"
    )
    with pytest.raises(
        Refused, match=r"divergence=kl has no seed 2(.|\n)*divergence=probl2 was asked for and has no run"
    ):
        checked(sweep)


def test_a_long_list_is_cut_and_counted(sweep: Path) -> None:
    export = load(str(sweep))
    dirty = findings(_dirty(export), design(_dirty(export)), METRIC)
    many = [finding for finding in dirty for _ in range(5)]
    assert "and 8 more" in listed(many)


def _dirty(export: Export) -> Export:
    import pyarrow as pa

    column = export.runs.schema.get_field_index("dirty")
    return Export(
        export.runs.set_column(column, "dirty", pa.array([True] * 4)),
        export.metrics,
        export.questions,
        export.about,
    )


SETS = {"svamp": {"reward_version": "math_answer/1", "prompt": {"hash": "1" * 8}}}


def test_another_set_is_the_same_in_all_runs_of_a_model(sweep: Path) -> None:
    rendered = INPUTS | {"prompts svamp": "7" * 16, "dataset svamp/test": "8" * 16}
    for path in sweep.rglob("manifest.json"):
        edit(path.parent, eval_sets=SETS, inputs=rendered)
    assert not checked(sweep)[1]
    run = sweep / ARM / SEED
    for kind, text, change in (
        (
            "prompt",
            "svamp: prompt .* 2 in 1",
            {"eval_sets": {"svamp": SETS["svamp"] | {"prompt": {"hash": "2"}}}},
        ),
        (
            "extractor",
            "svamp: extractor .* x in 1",
            {"eval_sets": {"svamp": SETS["svamp"] | {"reward_version": "x"}}},
        ),
        ("stale", "dataset svamp/test is .*9+ in 1", {"inputs": rendered | {"dataset svamp/test": "9" * 16}}),
    ):
        edit(run, **change)
        with pytest.raises(Refused, match=rf"{kind} \((.|\n)*{text}"):
            checked(sweep)
        edit(run, eval_sets=SETS, inputs=rendered)
    # Another model renders the same questions into other prompts.
    for path in sweep.rglob("manifest.json"):
        if ARM in str(path):
            edit(path.parent, **{"choices.model": "other", "inputs": rendered | {"prompts svamp": "6" * 16}})
            edit(path.parent, eval_sets={"svamp": SETS["svamp"] | {"prompt": {"hash": "6" * 8}}})
    export = load(str(sweep))
    kinds = {finding.kind for finding in findings(export, design(export), METRIC)}
    assert not kinds & {"stale", "prompt", "extractor"}
