"""What became of jobs, from a real sacct: SLURM with a database of its own."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_accounting import absent
from slurm_cluster import Cluster, missing

from mirrorpo.launch.scheduler import BATCHES, Job, jobs

reason = missing() or absent()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(reason is not None, reason=f"NOT TESTED: SLURM's accounting: {reason}"),
    pytest.mark.timeout(180),
]

PROGRAM = "case $SLURM_ARRAY_TASK_ID in 0) exit 0;; 1) exit 3;; 2) kill -9 $$;; *) sleep 60;; esac"


def submitted(cluster: Cluster, sweep: Path, name: str, program: str, cells: list[str]) -> str:
    """A batch as the launcher writes it, with a program of the test's for its jobs."""
    folder = sweep / BATCHES / name
    folder.mkdir(parents=True)
    (folder / "cells.json").write_text(json.dumps({"name": name, "cells": cells}))
    array = [f"--array=0-{len(cells) - 1}"] if len(cells) > 1 else []
    return cluster.run(
        "sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", *array, f"--wrap={program}"
    )


def told(sweep: Path) -> dict[str, Job]:
    return {path.name: job for path, job in jobs(sweep).items()}


def until(found: Callable[[], bool]) -> None:
    end = time.time() + 60
    while not found():
        assert time.time() < end
        time.sleep(0.2)


def test_ended_jobs_are_known_by_sacct_and_a_later_batch_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        cluster = Cluster(Path(folder), cpus=4, accounted=True)
        try:
            monkeypatch.setenv("SLURM_CONF", str(cluster.start().config))
            sweep = tmp_path / "sweep"
            names = [f"cell={index}" for index in range(5)]
            array = submitted(cluster, sweep, "001.sweep.aa", PROGRAM, names)
            until(lambda: len(cluster.run("squeue", "-h", "-r", "-t", "R").splitlines()) == 2)
            cluster.run("scancel", f"{array}_3")
            # SLURM's books lag behind its queue.
            until(lambda: sum(not job.active for job in told(sweep).values()) == 4)
            words = {name: (job.state, job.why) for name, job in told(sweep).items()}
            assert (
                words["cell=0"] == ("COMPLETED", "")
                and words["cell=1"] == ("FAILED", "NonZeroExitCode")
                and words["cell=3"][0] == "CANCELLED"
            )
            assert told(sweep)["cell=4"].active and told(sweep)["cell=4"].id == f"{array}_4"

            again = submitted(cluster, sweep, "002.sweep.bb", "sleep 60", ["cell=1"])
            assert (
                told(sweep)["cell=1"].id == again
                and told(sweep)["cell=1"].active
                and told(sweep)["cell=2"].id == f"{array}_2"
            )
            cluster.run("scancel", again, f"{array}_4")
            until(
                lambda: (
                    "|".join(cluster.run("sacct", "-n", "-X", "-P", "-o", "State").split()).count("CANCELLED")
                    == 3
                )
            )

            # A slurmctld that starts anew remembers no job; accounting does, without reasons.
            cluster.kill_daemon("slurmctld")
            cluster.start_daemon("slurmctld", "-c")
            until(lambda: "idle" in cluster.run("sinfo", "-h", "-o", "%T", check=False))
            assert cluster.run("scontrol", "-o", "show", "job", check=False) in ("", "No jobs in the system")
            assert told(sweep) == {
                "cell=0": Job(f"{array}_0", "COMPLETED", ""),
                "cell=1": Job(again, "CANCELLED", ""),
                "cell=2": Job(f"{array}_2", "FAILED", ""),
                "cell=3": Job(f"{array}_3", "CANCELLED", ""),
                "cell=4": Job(f"{array}_4", "CANCELLED", ""),
            }
        finally:
            cluster.stop()
