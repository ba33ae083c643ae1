"""How long a checkpoint holds a run up, written in place and in the background.

    python benchmarks/checkpoint.py --model 25m --rounds 5

Weights and Adam's averages of a model (benchmarks/update.py) are saved into a folder below `--out`.
`blocked`: until `save` returns, by the clock and of this process's processors. `written`: until the
checkpoint counts. `update`: one update alone, and one that begins while a checkpoint is written. Medians;
arms take turns.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from timing import Seconds, timed, typical
from update import PROMPTS, built, rollout, update

from mirrorpo.config.schema import register
from mirrorpo.distributed.device import prepare
from mirrorpo.run.background import Background
from mirrorpo.run.checkpoint import save

ARMS = ("in place", "in the background")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(PROMPTS), default="25m")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints of each arm (5)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()), help="a folder of the disk")
    args = parser.parse_args()
    prepare(threads=args.threads, deterministic=True)
    register()
    learner = built(args.model)
    batch = rollout(learner, 1, 4, 47, 62, ragged=False)
    update(learner, batch)
    state = {
        "weights": dict(learner.policy.network.named_parameters()),
        "optimiser": learner.optimiser.state_dict(),
    }
    folder = Path(tempfile.mkdtemp(dir=args.out)) / "checkpoints"
    blocked: dict[str, list[Seconds]] = {arm: [] for arm in ARMS}
    written: dict[str, list[Seconds]] = {arm: [] for arm in ARMS}
    updates: dict[str, list[Seconds]] = {"alone": [], "while one is written": []}
    background = Background()
    try:
        for step in range(args.rounds):
            for number, arm in enumerate(ARMS):
                later = background if arm == ARMS[1] else None
                with timed(written[arm]):
                    with timed(blocked[arm]):
                        save(folder, 2 * step + number, state, keep=1, background=later)
                    background.wait()
            with timed(updates["alone"]):
                update(learner, batch)
            save(folder, 2 * step + 1, state, keep=1, background=background)
            with timed(updates["while one is written"]):
                update(learner, batch)
            background.wait()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder.parent)
    print(f"{args.model}, {size / 2**20:.0f} MiB, {args.threads} thread(s), torch {torch.__version__}")
    print(f"{'':>22}{'clock, s':>10}{'processor, s':>14}")
    for name, times in (
        *((f"blocked, {arm}", blocked[arm]) for arm in ARMS),
        *((f"written, {arm}", written[arm]) for arm in ARMS),
        *((f"update, {how}", seconds) for how, seconds in updates.items()),
    ):
        print(f"{name:>30}{typical(times).wall:10.2f}{typical(times).processor:12.2f}")


if __name__ == "__main__":
    main()
