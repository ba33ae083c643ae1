"""How long a large sweep takes to export and to tabulate, and how much memory.

python benchmarks/analysis.py                          # 1,000 runs x 1,000 steps x 50 metrics
python benchmarks/analysis.py --runs 100 --keep /tmp/sweep

Writes the run folders first (not timed), then times `export` and `compare` in a fresh process.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"runs": 1000, "steps": 1000, "metrics": 50, "questions": 20}
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def make(root: Path, runs: int, steps: int, metrics: int, questions: int) -> None:
    """Folders of finished runs: arms of ten seeds, an evaluation every tenth of the steps."""
    from planted import answers, manifest, write_run

    rng = np.random.default_rng(0)
    for index in range(runs):
        arm, seed = divmod(index, 10)
        values = rng.random((steps + 1, metrics - 3))
        right = rng.random(questions) < 0.7
        names = [f"room/quantity_{column:02d}" for column in range(metrics - 3)]
        rows: list[dict[str, float]] = []
        for step in range(steps + 1):
            rows.append({"step": step, **dict(zip(names, map(float, values[step]), strict=True))})
            if step % (steps // 10) == 0:
                accuracy = float(right.mean()) * step / steps
                rows[-1] |= {"eval/greedy_accuracy": accuracy, "eval/questions": 1.0 * questions}
                rows[-1]["drift/kl"] = step / steps
        made = manifest(seed, {"divergence": f"d{arm:03d}"}, **{"config.steps": steps})
        write_run(root / f"divergence=d{arm:03d}" / f"seed={seed}", made, rows, {steps: answers(right)})


def measure(root: Path) -> None:
    """Export and tabulate; the seconds of each, and the peak of resident memory."""
    from analysis.data.export import load
    from analysis.report.accuracy_tables import accuracy
    from analysis.report.render import to_text
    from analysis.study.study import study

    began = time.perf_counter()
    load(str(root)).write(root / "export")
    exported = time.perf_counter()
    table = accuracy(study(load(str(root / "export")), baseline="d000"))
    done = time.perf_counter()
    print(to_text(table)[:400])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{len(table.rows)} arms: export {exported - began:.1f} s, "
        f"read and tabulate {done - exported:.1f} s, together {done - began:.1f} s"
    )
    print(f"processor {usage.ru_utime + usage.ru_stime:.1f} s, peak {usage.ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    """Make the folders here, measure in a fresh process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", type=Path, help="folder for the runs; used as it is where it exists")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure)
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder) / "sweep"
        if not root.exists():
            make(root, args.runs, args.steps, args.metrics, args.questions)
        size = sum(path.stat().st_size for path in root.rglob("metrics.jsonl")) / 2**30
        sizes = {name: getattr(args, name) for name in SIZES}
        print(json.dumps(sizes), f"{size:.2f} GiB of metrics.jsonl")
        sys.stdout.flush()
        return subprocess.run([sys.executable, __file__, "--measure", str(root)], check=True) and None


if __name__ == "__main__":
    main()
