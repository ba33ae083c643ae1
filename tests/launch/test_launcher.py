"""A multirun on this machine: a process a cell, every failure named, nothing done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cli import (
    FEW_PROBLEMS,
    SMALL,
    appeared,
    cell_here,
    command,
    environment,
    folder,
    folders,
    launched,
    manifest,
    rows,
    succeeded,
    train,
)

from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.fitness import NoFitness, fitness_of
from mirrorpo.launch.local import LocalLauncher
from mirrorpo.launch.plan import PlannedCell
from mirrorpo.run.folder import RunFolder

TWO_STEPS = (*SMALL, *FEW_PROBLEMS, "steps=2", "eval_questions=0", "drift_questions=0")


def test_a_grid_runs_some_cells_at_a_time_and_typed_again_leaves_what_is_done_and_resumes_what_is_damaged(
    tmp_path: Path,
) -> None:
    grid = ("-m", *TWO_STEPS, f"out={tmp_path}")
    first = train(*grid, "divergence=probl2,kl", "hydra.launcher.jobs=2", cwd=tmp_path)
    succeeded(first, said=["2 cells"])
    # Both had begun before one had ended.
    events = [line.rpartition(": ")[2] for line in first.stdout.splitlines() if line.startswith("[")]
    assert events[:2] == ["started", "started"] and len(events) == 4
    assert all(event.startswith("done after") for event in events[2:])
    runs = folders(tmp_path)
    assert [manifest(run)["state"] for run in runs] == ["done", "done"]
    assert len({manifest(run)["config_hash"] for run in runs}) == 2
    assert all("step 2/2" in (run / "log.txt").read_text() for run in runs)
    before = {run: (run / "metrics.jsonl").read_bytes() for run in runs}

    state = runs[1] / "checkpoints" / "step_000002" / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    # With a cell more, since a cell that is alone has a new interpreter.
    again = train(*grid, "divergence=probl2,kl,none", cwd=tmp_path)
    succeeded(again, said=["resuming after step 1 of 2"])
    assert again.stdout.count("done already, nothing to do") == 1 and again.stdout.count("resuming") == 1
    assert [len(manifest(run)["launches"]) for run in folders(tmp_path)] == [1, 1, 2]
    assert {run: (run / "metrics.jsonl").read_bytes() for run in runs} == before


def test_cells_that_fail_do_not_stop_the_others_and_each_is_named_with_its_reason(tmp_path: Path) -> None:
    # One cannot be composed, three cannot be built, one breaks in training.
    grid = ("algo.rollout_rule.max_draws=1,2", "lr=0.0005,1e30,abc", "max_grad_norm=0")
    # Of the default problems, some of which the model gets right: it breaks where there is much to learn.
    result = train("-m", *grid, *SMALL, "steps=2", "eval_questions=0", f"out={tmp_path}", cwd=tmp_path)
    assert result.returncode == 1
    assert "5 of 6 cells failed" in result.stdout
    assert "lr=abc: Value 'abc' of type 'str' could not be converted to Float" in result.stdout
    assert "max_draws=2 has no effect without dynamic_sampling" in result.stdout
    assert "NotFinite" in result.stdout and "error.txt" in result.stdout
    states = sorted(manifest(run)["state"] for run in folders(tmp_path))
    assert states == ["done", "failed"]


@pytest.mark.slow
def test_the_same_command_in_a_second_terminal_leaves_alone_what_runs(tmp_path: Path) -> None:
    grid = command("-m", "seed=0,1", *SMALL, "steps=4", f"out={tmp_path}")
    both = [
        subprocess.Popen(grid, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert "another process runs it, left alone" in "".join(printed), printed
    assert [manifest(run)["state"] for run in folders(tmp_path)] == ["done"] * 2
    assert [len(manifest(run)["launches"]) for run in folders(tmp_path)] == [1, 1]


def test_a_reason_is_of_this_launch_whatever_the_file_servers_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(cell_here(f"out={tmp_path}").folder)
    planned = PlannedCell((), cell_here(f"out={tmp_path}"), None)
    launcher = LocalLauncher(jobs=1, gpus=[], preload=True, only=None, dry_run=False, fitness=None)
    monkeypatch.setattr(launcher, "arguments_of", lambda _: [])
    script = tmp_path / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    old = {"state": "failed", "error": "an old reason", "ended": "t", "launches": [{}]}
    new = {"state": "failed", "error": "NotFinite: now", "ended": "t", "launches": [{}, {}]}
    for after, clock, reason in ((new, 0, "NotFinite: now"), (old, time.time() + 3600, "exit status 1")):
        folder.update_manifest(**old)
        script.write_text(
            f"import json, os, pathlib, sys\nfile = {str(folder.manifest_path)!r}\n"
            f"pathlib.Path(file).write_text({json.dumps(after)!r})\nos.utime(file, ({clock}, {clock}))\n"
            "sys.exit(1)\n"
        )
        assert (launcher._run(planned, None) or "").startswith(reason)


def test_cells_return_their_fitness_to_the_sweeper(tmp_path: Path) -> None:
    launcher = LocalLauncher(
        jobs=1, gpus=[], preload=True, only=None, dry_run=False, fitness="eval/greedy_accuracy"
    )
    returned = partial(launcher._job_return, ["seed=0"], PlannedCell((), cell_here(f"out={tmp_path}"), None))
    folder = RunFolder(cell_here(f"out={tmp_path}").folder)
    for failure, reason in ((None, "is not done"), ("NotFinite", "NotFinite")):
        out = returned(failure)
        with pytest.raises(LaunchError, match=reason):
            _ = out.return_value
    folder.update_manifest(state="done", files={})
    # The others of a search go on: it fails where its value is read.
    lacking = returned(None)
    with pytest.raises(
        LaunchError, match=r"hydra\.launcher\.fitness=eval/greedy_accuracy: .* no such quantity"
    ):
        _ = lacking.return_value
    for row in ({"eval/greedy_accuracy": 0.25}, {"train/loss": 1.0}, {"eval/greedy_accuracy": 0.5}):
        folder.metrics.append({"step": 1, **row})
    assert returned(None).return_value == 0.5
    assert returned(None).working_dir == str(folder.path)


def test_a_fitness_is_the_last_value_or_a_mean_of_all_or_of_the_last(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.update_manifest(state="done", files={})
    for value in (0.5, 1.0, 0.0, 0.5):
        folder.metrics.append({"reward/gold": value})
    keys = {"reward/gold": 0.5, "area:reward/gold": 0.5, "last3:reward/gold": 0.5, "last2:reward/gold": 0.25}
    assert {key: fitness_of(folder, key, "fitness") for key in keys} == keys
    with pytest.raises(LaunchError, match=r"fitness=last5:reward/gold: .* has 4 values of it; take fewer"):
        fitness_of(folder, "last5:reward/gold", "fitness")
    # The last step's was NaN, which no row has.
    folder.metrics.append({"train/loss": 1.0})
    with pytest.raises(NoFitness, match=r"fitness=reward/gold: .* has none in its last row"):
        fitness_of(folder, "reward/gold", "fitness")
    assert fitness_of(folder, "area:reward/gold", "fitness") == 0.5


def test_cells_can_be_chosen_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "only"
    file.write_text("arm/seed=0\narm/seed=1\n")
    launcher = LocalLauncher(jobs=1, gpus=[], preload=True, only=f"@{file}", dry_run=False, fitness=None)
    assert launcher.only == {"arm/seed=0", "arm/seed=1"}
    for only, reason in (("arm", "give a list of cells, or @FILE"), ("@nowhere", "No such file")):
        with pytest.raises(LaunchError, match=reason):
            LocalLauncher(jobs=1, gpus=[], preload=True, only=only, dry_run=False, fitness=None)


def test_a_cell_that_another_process_holds_is_refused_alone_and_left_alone_in_a_grid(
    tmp_path: Path,
) -> None:
    cell = (*SMALL, "steps=60", "eval_questions=0", f"out={tmp_path}")
    busy = launched(*cell, cwd=tmp_path)
    try:
        while busy.poll() is None and not appeared(tmp_path, "metrics.jsonl"):
            time.sleep(0.02)
        # It holds its folder while it is stopped, and leaves the others the processor.
        busy.send_signal(signal.SIGSTOP)
        alone = train(*cell, cwd=tmp_path)
        assert alone.returncode == 1 and "is being run by another process" in alone.stderr
        in_grid = train("-m", "seed=0", *cell, cwd=tmp_path)
        succeeded(in_grid, said=["another process runs it, left alone"])
    finally:
        busy.kill()
        busy.wait()


def interrupted(tmp_path: Path, times: int, *overrides: str) -> tuple[int, str, str]:
    """A grid that is sent Ctrl-C as a terminal does, to the cell too, after its first step; how it ends."""
    grid = ("-m", "seed=0,1", *SMALL, "steps=5000", "eval_questions=0", "checkpoint_every=5000", *overrides)
    process = launched(*grid, f"out={tmp_path}", cwd=tmp_path, leads=True)
    while process.poll() is None and not any(
        '"step": 1,' in path.read_text() for path in tmp_path.rglob("timings.jsonl")
    ):
        time.sleep(0.02)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.01)
    output, errors = process.communicate(timeout=120)
    assert process.returncode is not None
    return process.returncode, output, errors


def test_ctrl_c_ends_the_cell_that_runs_at_its_step_and_starts_no_other(tmp_path: Path) -> None:
    status, output, errors = interrupted(tmp_path, 1)
    first, second = folders(tmp_path)
    assert status == 130 and "2 of 2 cells are not done" in output and "Traceback" not in errors, errors
    assert [manifest(run)["state"] for run in (first, second)] == ["interrupted", "planned"]
    step = rows(first / "metrics.jsonl")[-1]["step"]
    assert (first / f"checkpoints/step_{step:06d}").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_cells_at_once(tmp_path: Path) -> None:
    status, _, errors = interrupted(tmp_path, 2, "hydra.launcher.jobs=2")
    assert status == 130 and "Traceback" not in errors, errors
    # One of them may not have begun, or have ended its step between the two.
    entries = [manifest(run) for run in folders(tmp_path)]
    assert any("second Ctrl-C" in (entry["error"] or "") for entry in entries), entries


@pytest.mark.slow
def test_a_sweep_file_is_found_from_anywhere_and_can_be_narrowed_and_the_same_cell_twice_runs_once(
    tmp_path: Path,
) -> None:
    sweep = ("sweep=tiny_divergence", *TWO_STEPS, "steps=0", f"out={tmp_path}")
    planned = train(*sweep, "seed=7", "hydra.launcher.dry_run=true", cwd=tmp_path, COLUMNS="200")
    succeeded(planned, said=["3 of 3 cells would run"])
    cells = [line.split()[0] for line in planned.stdout.splitlines() if line.startswith(" divergence=")]
    assert sorted(cells) == ["divergence=kl", "divergence=none", "divergence=probl2"], planned.stdout

    succeeded(train(*sweep, "seed=7,7", "divergence=kl", cwd=tmp_path), said=["2 cells"])
    run = folder(tmp_path)
    assert run.name == "seed=7" and run.parent.parent.name == "tiny_divergence"
    assert manifest(run)["choices"]["divergence"] == "kl" and len(manifest(run)["launches"]) == 1


def test_each_of_the_cells_that_run_at_once_has_its_own_device(tmp_path: Path) -> None:
    grid = (
        "-m",
        "seed=0,1",
        *TWO_STEPS,
        "steps=0",
        f"out={tmp_path}",
        "hydra.launcher.jobs=2",
        "hydra.launcher.gpus=[5]",
    )
    result = train(*grid, cwd=tmp_path)
    assert result.returncode == 1 and "hydra.launcher.gpus=[5]" in result.stderr


def test_a_dry_run_shows_every_cell_and_leaves_nothing_behind(tmp_path: Path) -> None:
    out = f"out={tmp_path / 'out'}"
    grid = ("-m", "algo=grpo,nope", *TWO_STEPS, out, "hydra.launcher.dry_run=true")
    result = train(*grid, cwd=tmp_path, COLUMNS="200")
    estimate = "1 of 2 cells would run; no finished sibling to estimate from"
    assert result.returncode == 1 and estimate in result.stdout
    assert "be refused: algo=nope: there is no such choice" in result.stdout
    assert not (tmp_path / "out").exists()

    cell = cell_here(*TWO_STEPS, out)
    run = RunFolder(cell.folder)
    run.plan(cell)
    run.update_manifest(state="done", ended="t", files={})
    run.timings.append({"step": 1, "seconds": 72.0})
    again = train("-m", "seed=0,1", *grid[2:], cwd=tmp_path, COLUMNS="200")
    estimate = "1 of 2 cells would run; about 0.02 hours for 1 of them, by finished siblings"
    assert again.returncode == 0 and estimate in again.stdout and "done already" in again.stdout


def test_cells_keep_the_order_of_the_grid_though_arms_are_composed_apart(tmp_path: Path) -> None:
    # The seed varies slowest here, so every arm's cells lie apart.
    grid = (
        "-m",
        "seed=0,1",
        "divergence=kl,none,probl2",
        *TWO_STEPS,
        f"out={tmp_path}",
        "hydra.launcher.dry_run=true",
    )
    result = train(*grid, cwd=tmp_path, COLUMNS="200")
    shown = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(" seed=")]
    assert shown == [
        [f"seed={seed}", f"divergence={name}"] for seed in (0, 1) for name in ("kl", "none", "probl2")
    ], result.stdout


def test_only_the_cells_that_are_asked_for_are_launched(tmp_path: Path) -> None:
    grid = ("-m", "seed=0,1", *TWO_STEPS, "steps=0", f"out={tmp_path}")
    cell = "algo=grpo,divergence=kl,weighting=uniform,model=tiny,dataset=arithmetic"
    result = train(
        *grid,
        "hydra.launcher.dry_run=true",
        f"hydra.launcher.only=['{cell}/seed=1']",
        cwd=tmp_path,
        COLUMNS="300",
    )
    # The cell's folder has a hash of the settings that make it small, so this one is no cell of the grid.
    assert "0 of 2 cells would run" in result.stdout


def test_a_search_has_no_grid_and_a_grid_no_generations(tmp_path: Path) -> None:
    search = ("-m", "hydra/sweeper=es", *SMALL, "steps=2", f"out={tmp_path}")
    result = train(*search, "seed=0,1", cwd=tmp_path)
    assert result.returncode == 1 and "seed=0,1: a search has no grid" in result.stderr
    dry = ("divergence=neural_mirror", "hydra.sweeper.search.pairs=2", "hydra.launcher.dry_run=true")
    succeeded(train(*search, *dry, cwd=tmp_path), said=["4 of 4 cells would run", "first of 15"])
    assert not folders(tmp_path) and not list(tmp_path.rglob("es"))
    result = train(
        "-m", "seed=0", "+hydra.sweeper.generations=3", *TWO_STEPS, f"out={tmp_path}", cwd=tmp_path
    )
    assert result.returncode == 1 and "add hydra/sweeper=es" in result.stderr


def test_processes_of_a_job_without_a_gpu_each_are_refused(tmp_path: Path) -> None:
    result = train(
        "-m",
        "seed=0",
        *SMALL,
        "hydra/launcher=slurm",
        "hydra.launcher.tasks_per_node=2",
        f"out={tmp_path}",
        cwd=tmp_path,
    )
    assert result.returncode == 1 and "set hydra.launcher.gpus_per_node=2" in result.stderr
