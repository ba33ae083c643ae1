"""What it takes to submit a sweep of 200 cells, to ask after it, and to launch it again when it is done.

    python benchmarks/sweep.py

Starts a SLURM of its own (apt-get install slurm-wlm) and submits jobs that are held, so that none runs; that
every cell is done is then written into the manifests by hand. Prints seconds, and seconds a cell over Hydra's
own composing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from slurm_cluster import Cluster, missing  # noqa: E402

from mirrorpo.run.folder import RunFolder, RunState  # noqa: E402

ARMS = {
    "algo": "grpo,dr_grpo,dapo,gspo,rloo",
    "divergence": "none,kl,probl2,probl2_exact,neural_mirror,tsallis,itakura_saito,log_l2",
}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="40 arms times this many cells")
    asked = parser.parse_args()
    if missing():
        sys.exit(f"error: {missing()}")
    with tempfile.TemporaryDirectory(prefix="slurm") as cluster, tempfile.TemporaryDirectory() as folder:
        started = Cluster(Path(cluster), cpus=1).start()
        try:
            _measure(Path(folder), asked.seeds, {**os.environ, "SLURM_CONF": str(started.config)}, started)
        finally:
            started.stop()


def _measure(folder: Path, seeds: int, environment: dict[str, str], cluster: Cluster) -> None:
    grid = [f"{axis}={names}" for axis, names in ARMS.items()] + [f"seed=range({seeds})", f"out={folder}"]
    slurm = [
        "hydra/launcher=slurm",
        "+hydra.launcher.lines.hold=null",
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.allow_dirty=true",
    ]
    train = [sys.executable, str(ROOT / "train.py"), "-m", *grid, *slurm]

    def timed(what: str, command: list[str]) -> float:
        start = time.perf_counter()
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        spent = time.perf_counter() - start
        if result.returncode != 0:
            sys.exit(f"{what}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
        print(f"{what:44s} {spent:6.1f} s")
        return spent

    dry = timed("dry run: composed, checked, shown", [*train, "hydra.launcher.dry_run=true"])
    submit = timed("submitted", train)
    cells = [path.parent for path in folder.rglob("manifest.json")]
    print(
        f"{len(cells)} cells; {1000 * dry / len(cells):.0f} ms a cell to compose and check; "
        f"{submit - dry:.1f} s more to "
        f"submit them"
    )
    timed(
        "asked after (python -m mirrorpo.status)",
        [sys.executable, "-m", "mirrorpo.status", str(folder / "single"), "--json"],
    )
    timed("launched again while queued", train)
    cluster.run("scancel", f"--user={os.environ.get('USER', 'root')}")
    while cluster.run("squeue", "-h"):
        time.sleep(0.2)
    for path in cells:
        RunFolder(path).update_manifest(state=RunState.DONE, files={}, ended="by hand")
    timed("launched again when done", train)
    if cluster.run("squeue", "-h"):
        sys.exit("error: the last launch submitted something")


if __name__ == "__main__":
    main()
