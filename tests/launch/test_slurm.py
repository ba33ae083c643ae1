"""Sweeps on a real slurmctld and slurmd: jobs timed out, requeued, cancelled and killed, daemons that die,
nothing lost.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli import ROOT, SMALL, TRAIN, environment, folders, manifest, rows, succeeded
from slurm_cluster import LAUNCHER, Cluster, missing, started, status, until

from mirrorpo.launch.status import rows as status_rows

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing() is not None, reason=f"NOT TESTED: sweeps on SLURM: {missing()}"),
    pytest.mark.timeout(900),
]

# Twenty short steps, a checkpoint every second one.
CELL = (
    *SMALL,
    "steps=20",
    "eval_questions=4",
    "eval_sampled_questions=0",
    "checkpoint_every=2",
    "drift_questions=2",
)
# Of each of three arms: four cells are disturbed, and one that runs is left for slurmd to lose sight of.
SEEDS = range(3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started("sweeps on SLURM", cpus=4) as running:
        yield running


@pytest.fixture
def launch(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    monkeypatch.setenv("SLURM_CONF", str(cluster.config))

    def go(*overrides: str, **extra: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(TRAIN), *overrides, f"out={tmp_path / 'out'}"]
        return subprocess.run(
            words,
            cwd=tmp_path,
            env=environment(**extra),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return go


def steps(run: Path) -> int:
    timings = run / "timings.jsonl"
    return timings.read_text().count("\n") - 1 if timings.exists() else -1


def undisturbed(out: Path, *overrides: str) -> None:
    """The cells of the sweep, without a scheduler, a signal or a second process."""
    same = [word for word in overrides if not word.startswith("seed=")]
    arms = itertools.product(("none", "kl", "probl2"), SEEDS)
    jobs = [
        [[*same, f"divergence={divergence}", f"seed={seed}", f"out={out}"], None] for divergence, seed in arms
    ]
    words = [sys.executable, str(ROOT / "tests" / "rank_cells.py"), json.dumps(jobs)]
    result = subprocess.run(
        words, cwd=out.parent, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def asked_to_stop(pid: int) -> bool:
    """Whether a stopped process has SIGUSR2 waiting for it; SLURM may have continued it since, and it is gone
    then.
    """
    file = Path(f"/proc/{pid}/status")
    pending = (
        next((line for line in file.read_text().splitlines() if line.startswith("ShdPnd")), None)
        if file.exists()
        else None
    )
    return pending is None or bool(int(pending.split()[1], 16) & 1 << (signal.SIGUSR2 - 1))


def test_a_sweep_of_nine_under_everything_that_happens_to_jobs_ends_as_if_nothing_had(
    cluster: Cluster, launch, tmp_path: Path
) -> None:
    grid = ("sweep=tiny_divergence", f"seed={','.join(map(str, SEEDS))}", *CELL)
    started = time.time()
    first = launch(*grid, *LAUNCHER, "hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=20")
    succeeded(first, said=["9 cells", "submitted 9 cells as job"])
    sweep = tmp_path / "out" / "tiny_divergence"
    disturbed: dict[str, Path] = {}

    def job(run: Path) -> str:
        return manifest(run)["job"]

    def next_cell(kind: str) -> Path:
        """A running cell that nothing has happened to yet, stopped where it is, so that it cannot end
        first.
        """
        found: list[Path] = []

        def look() -> bool:
            runs = [
                run
                for run in folders(sweep)
                if run not in disturbed.values()
                and manifest(run)["state"] == "running"
                and 1 <= steps(run) <= 10
            ]
            found.extend(runs[:1])
            return bool(found)

        until(look, f"a cell for {kind}")
        disturbed[kind] = found[0]
        os.kill(manifest(found[0])["pid"], signal.SIGSTOP)
        return found[0]

    def go_on(run: Path) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(manifest(run)["pid"], signal.SIGCONT)

    # It stands still until SLURM's own signal ahead of the limit has come.
    timed_out = next_cell("time-out")
    pid = manifest(timed_out)["pid"]
    for kind, *command in (("scontrol requeue", "scontrol", "requeue"), ("scancel", "scancel")):
        run = next_cell(kind)
        cluster.run(*command, job(run))
        go_on(run)
    os.kill(manifest(next_cell("SIGKILL"))["pid"], signal.SIGKILL)
    ended = f"--jobs={job(disturbed['scancel'])},{job(disturbed['SIGKILL'])}"
    until(lambda: not cluster.run("squeue", "-h", ended), "the end of both")
    # slurmctld writes down what it knows every five seconds; killed before, it would have forgotten both and
    # start them again.
    time.sleep(6)
    until(
        lambda: any(manifest(run)["state"] == "running" and run != timed_out for run in folders(sweep)),
        "a job for slurmd to lose sight of",
    )
    for daemon in ("slurmd", "slurmctld"):
        cluster.kill_daemon(daemon)
        cluster.start_daemon(daemon)
    assert len(set(disturbed.values())) == 4

    # A limit for this one alone, so that on a slow machine the others do not spend their turns starting, and
    # far enough ahead for the signal.
    minutes, seconds = cluster.run("squeue", "-h", "-j", job(timed_out), "-o", "%M").split(":")
    cluster.run(
        "scontrol", "update", f"JobId={job(timed_out)}", f"TimeLimit={int(minutes) + 1 + (int(seconds) > 30)}"
    )
    until(lambda: asked_to_stop(pid), "the signal ahead of the time limit", 180)
    go_on(timed_out)
    until(lambda: manifest(timed_out)["state"] == "requeued", "the hand-over")
    cluster.run("scontrol", "update", f"JobId={job(timed_out)}", "TimeLimit=10")

    def empty() -> bool:
        cluster.repair()
        return not cluster.run("squeue", "-h")

    until(empty, "an empty queue", 400)

    shown = {row.cell: row for row in status_rows(sweep)}
    failed = {
        kind: shown[str(run.relative_to(sweep))]
        for kind, run in disturbed.items()
        if kind in ("scancel", "SIGKILL")
    }
    assert [row.state for row in failed.values()] == ["failed"] * 2 and all(
        row.error for row in failed.values()
    )
    assert sum(row.state == "done" for row in shown.values()) == 7, [
        (row.cell, row.state, row.error) for row in shown.values() if row.state != "done"
    ]
    once, again, *_ = manifest(timed_out)["launches"]
    assert once["job"] == again["job"] and again["from_step"] >= 1, (
        "handed over ahead of its limit, and queued again under the same id"
    )
    out = next(sweep.glob(f".slurm/*/{once['job']}_0_log.out")).read_text()
    assert f"stopped by SIGUSR2 after step {again['from_step']}" in out

    second = launch(
        *grid,
        *LAUNCHER,
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.wait=true",
        "hydra.launcher.poll_s=0.5",
    )
    succeeded(second, said=["submitted 2 cells as job"])
    assert second.stdout.count("done already, nothing to do") == 7
    assert {row.state for row in status_rows(sweep)} == {"done"}
    print(
        f"disturbed sweep: {time.time() - started:.0f} s; "
        f"{[(kind, len(manifest(run)['launches'])) for kind, run in disturbed.items()]}"
    )

    undisturbed(tmp_path / "undisturbed", *grid)
    expected = {
        run.relative_to(tmp_path / "undisturbed"): (run / "metrics.jsonl").read_bytes()
        for run in folders(tmp_path / "undisturbed")
    }
    assert len(expected) == 9
    assert {
        run.relative_to(tmp_path / "out"): (run / "metrics.jsonl").read_bytes()
        for run in folders(tmp_path / "out")
    } == expected


def test_bad_cells_are_named_with_their_reasons_and_the_others_finish(launch, tmp_path: Path) -> None:
    # A key that is not there, a dataset that is not there, and a cell that takes more memory than its job
    # has.
    cell = (*(word for word in CELL if not word.startswith("group_size")), "steps=1")
    result = launch(
        "-m",
        "algo.rollout_rule.max_draws=1,1.5",
        "dataset=arithmetic,gsm8k",
        "group_size=4,20000",
        *cell,
        *LAUNCHER,
        "hydra.launcher.mem_gb=1.6",
        "hydra.launcher.wait=true",
        "hydra.launcher.poll_s=0.5",
        MIRRORPO_DATA=str(tmp_path),
    )
    assert result.returncode == 1 and "7 of 8 cells failed" in result.stdout, result.stdout + result.stderr
    _, _, reasons = result.stdout.partition("7 of 8 cells failed:\n")
    failed = dict(
        zip(*[iter(line.strip() for line in reasons.splitlines() if line.strip())] * 2, strict=True)
    )
    assert (
        "max_draws=1.5: give a whole number"
        in failed["algo.rollout_rule.max_draws=1.5 dataset=arithmetic group_size=4"]
    )
    assert "gsm8k/train.jsonl" in failed["algo.rollout_rule.max_draws=1 dataset=gsm8k group_size=4"]
    assert "memory limit" in failed["algo.rollout_rule.max_draws=1 dataset=arithmetic group_size=20000"]
    states = {row.cell.rpartition("=")[0][-9:]: row.state for row in status_rows(tmp_path / "out" / "single")}
    assert sorted(states.values()) == ["done", "failed"]

    shown = status(str(tmp_path / "out" / "single"))
    assert shown.returncode == 1 and "1 failed, 1 done" in shown.stdout and "memory" in shown.stdout


def test_a_sweep_that_is_cancelled_goes_on_where_it_was_with_retry(
    cluster: Cluster, launch, tmp_path: Path
) -> None:
    succeeded(launch("-m", "seed=0,1", *CELL, "steps=60", *LAUNCHER), said=["submitted 2 cells as job"])
    sweep = tmp_path / "out" / "single"
    until(
        lambda: folders(sweep) and all(steps(run) >= 1 for run in folders(sweep)), "both cells to be running"
    )
    again = launch("-m", "seed=0,1", *CELL, "steps=60", *LAUNCHER)
    assert again.stdout.count("is running, left alone") == 2 and "submitted" not in again.stdout
    succeeded(status(str(sweep), "cancel"), said=["seed=0", "seed=1"])
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue")
    assert [row.state for row in status_rows(sweep)] == ["failed"] * 2 and all(
        "CANCELLED" in (row.error or "") for row in status_rows(sweep)
    )
    # SIGTERM came first, and was honoured: a checkpoint of the step that they had reached.
    assert all(list(run.glob("checkpoints/step_*")) for run in folders(sweep))

    for run in folders(sweep)[:1]:
        succeeded(status(str(sweep), "retry"), said=["submitted 2 cells as job"])
        until(lambda: any(row.state == "running" for row in status_rows(sweep)), "a cell to run again")
        until(
            lambda: len(manifest(run)["launches"]) == 2 and "from_step" in manifest(run)["launches"][1],  # noqa: B023
            "it to resume",
        )
        assert manifest(run)["launches"][1]["from_step"] >= 1
    succeeded(status(str(sweep), "cancel"))
    until(lambda: not cluster.run("squeue", "-h"), "an empty queue")


def test_a_changed_tree_is_not_submitted(launch, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{TRAIN.parent}", str(copy)], check=True)
    (copy / "new.py").write_text("")
    words = [
        sys.executable,
        str(copy / "train.py"),
        "-m",
        "seed=0",
        *CELL,
        f"out={tmp_path / 'out'}",
        *LAUNCHER[:-1],
    ]
    result = subprocess.run(
        words,
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 1 and "new.py" in result.stderr and "allow_dirty=true" in result.stderr, (
        result.stdout + result.stderr
    )


def test_preemption_by_a_more_urgent_job_costs_nothing(cluster: Cluster, launch, tmp_path: Path) -> None:
    succeeded(
        launch(
            "-m",
            "seed=0",
            *CELL,
            "steps=30",
            *LAUNCHER,
            "hydra.launcher.partition=debug",
            "hydra.launcher.timeout_min=60",
        )
    )
    sweep = tmp_path / "out" / "single"
    until(lambda: any(steps(run) >= 1 for run in folders(sweep)), "a running cell")
    (run,) = folders(sweep)
    cluster.run(
        "sbatch",
        "--partition=urgent",
        f"--cpus-per-task={cluster.cpus}",
        "--output=/dev/null",
        "--wrap=sleep 2",
    )
    until(lambda: len(manifest(run)["launches"]) == 2, "the cell to start again")
    until(lambda: manifest(run)["state"] == "done", "the cell to be done")
    first, second = manifest(run)["launches"]
    assert first["job"] == second["job"] and second["from_step"] >= 1
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == list(range(31))


def test_a_search_for_a_mirror_map_that_is_killed_in_its_second_generation_ends_the_same(
    cluster: Cluster, launch, tmp_path: Path
) -> None:
    # With a strong penalty, and judged by how far candidates drift, so that candidates differ after two
    # steps.
    search = (
        "-m",
        "hydra/sweeper=es",
        "divergence=neural_mirror",
        "divergence.beta=1",
        *CELL,
        "steps=2",
        "name=search",
        "hydra.sweeper.generations=2",
        "hydra.sweeper.search.pairs=1",
        "hydra.sweeper.fitness=drift/tv",
    )
    jobs = (*LAUNCHER, "hydra.launcher.poll_s=0.5")
    words = [sys.executable, str(TRAIN), *search, *jobs, f"out={tmp_path / 'out'}"]
    killed = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    es = tmp_path / "out" / "search" / "es"
    until(
        lambda: (es / "generation_001.json").exists() and cluster.run("squeue", "-h", "-t", "R"),
        "the second generation's jobs",
    )
    killed.kill()
    killed.wait()
    assert not (es / "result_001.json").exists()
    cluster.run("scancel", *cluster.run("squeue", "-h", "-r", "-o", "%i").split()[:1])

    again = launch(*search, *jobs)
    succeeded(again, said=["generation 1/2", "generation 2/2", "learned map"])
    whole = subprocess.run(
        [sys.executable, str(TRAIN), *search, "hydra.launcher.jobs=2", f"out={tmp_path / 'whole'}"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    succeeded(whole)
    for name in (
        "map.json",
        *(f"{kind}_{number:03d}.json" for kind in ("generation", "result") for number in range(2)),
    ):
        assert (es / name).read_bytes() == (tmp_path / "whole" / "search" / "es" / name).read_bytes(), name
    assert (es / "generation_001.json").read_bytes() != (es / "generation_000.json").read_bytes() and (
        es / "moved.png"
    ).stat().st_size > 10_000

    # The learned map is a divergence like any other.
    learned = launch(
        "divergence=neural_mirror_learned",
        f"divergence.potential.parameters.path={es / 'map.json'}",
        *CELL,
        "steps=1",
    )
    succeeded(learned)


def test_a_cell_of_two_tasks_is_handed_over_as_one_and_ends_as_two_processes_do(
    cluster: Cluster, launch, tmp_path: Path
) -> None:
    succeeded(
        launch("-m", "seed=0", *CELL, "checkpoint_every=100", *LAUNCHER, "hydra.launcher.tasks_per_node=2")
    )
    (run,) = folders(tmp_path / "out")
    until(lambda: steps(run) >= 2, "its second step")
    cluster.run("scancel", "--signal=USR2", manifest(run)["job"])
    until(lambda: manifest(run)["state"] in ("done", "failed"), "its end")
    told = manifest(run)
    assert told["state"] == "done" and len(told["launches"]) == 2, told
    assert [launch["ranks"] for launch in told["launches"]] == [2, 2] and 2 <= told["launches"][1][
        "from_step"
    ] < 40
    assert len({launch["job"] for launch in told["launches"]}) == 1

    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        str(TRAIN),
        "seed=0",
        *CELL,
        f"out={tmp_path / 'whole'}",
    ]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=400)
    (whole,) = folders(tmp_path / "whole")
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
