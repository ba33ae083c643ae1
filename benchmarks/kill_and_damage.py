"""Kills at random instants and damage to one random file each: what a relaunch makes of them.

python benchmarks/kill_and_damage.py --rounds 50        a table of outcomes, one line a round with --verbose

Each round starts the same small cell in a fresh folder, sends it a signal at a random instant, damages one
file of its folder and gives the same command again. An outcome is good when metrics, evaluations and policy
are what an undisturbed run has, byte for byte, or when the launch ends with one line that names the file or
its folder. The step that the run went on after must be the last one that all that is whole allows.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirrorpo.launch.train import main as launch
from mirrorpo.run.folder import run_folders

ROOT = Path(__file__).resolve().parents[1]
CELL = (
    "steps=12",
    "prompts_per_step=2",
    "group_size=2",
    "max_new_tokens=12",
    "eval_max_new_tokens=12",
    "eval_questions=4",
    "eval_sampled_questions=2",
    "eval_every=3",
    "checkpoint_every=3",
    "shown_completions=2",
    "threads=1",
    "tracking=none",
)
RESULTS = ("metrics.jsonl", "eval/*", "policy/*")
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP+SIGCONT", "SIGSTOP+SIGCONT+SIGKILL")


def flip(data: bytes, rng: random.Random) -> bytes:
    """One byte is another one."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is gone."""
    return data[: rng.randrange(len(data))]


def pad(data: bytes, rng: random.Random) -> bytes:
    """Zeros behind the end, as after a crash of the machine."""
    return data + b"\0" * rng.randrange(1, 500)


def zero(data: bytes, rng: random.Random) -> bytes:
    """Zeros in place of a stretch."""
    place = rng.randrange(len(data))
    size = min(len(data) - place, rng.randrange(1, 500))
    return data[:place] + b"\0" * size + data[place + size :]


def garble(data: bytes, rng: random.Random) -> bytes:
    """Bytes of no meaning in place of a stretch."""
    place = rng.randrange(len(data))
    size = min(len(data) - place, rng.randrange(1, 100))
    return data[:place] + rng.randbytes(size) + data[place + size :]


DAMAGE: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    function.__name__: function for function in (flip, cut, pad, zero, garble)
}


@dataclass(frozen=True)
class Launch:
    """How a launch ended.

    Attributes:
        status: exit status; negative: the signal.
        errors: what it wrote to the error stream.
    """

    status: int
    errors: str

    @property
    def refusal(self) -> str | None:
        """The one line of a launch that failed; None where it is none."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        return lines[0] if self.status == 1 and len(lines) == 1 and "Traceback" not in self.errors else None


@dataclass(frozen=True)
class Outcome:
    """One round."""

    sent: str
    state: str
    file: str
    damage: str
    launches: int
    verdict: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether it is what was promised."""
        return self.verdict in ("identical", "identical, said so", "refused in one line")


def start(out: Path, errors: Path) -> int:
    """The process id of a launch of the cell; forked, since importing torch would take most of the time."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with errors.open("wb") as file:
            os.dup2(file.fileno(), 2)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 0)
        sys.argv = [str(ROOT / "train.py"), *CELL, f"out={out}"]
        launch()
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            os.write(2, (end.code + "\n").encode())
        status = 1 if isinstance(end.code, str) else int(end.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def ended(pid: int, errors: Path) -> Launch:
    """A launch, waited for."""
    _, status = os.waitpid(pid, 0)
    return Launch(os.waitstatus_to_exitcode(status), errors.read_text(errors="replace"))


def send(pid: int, names: str, rng: random.Random, longest: float) -> None:
    """A signal, or several one after the other, at random instants."""
    for name in names.split("+"):
        time.sleep(rng.uniform(0.2, 1) * longest if name == names.split("+")[0] else 0.3)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        os.kill(pid, signal.Signals[name])


def results(run: Path) -> dict[str, bytes]:
    """What has to be the same."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in RESULTS
        for path in sorted(run.glob(pattern))
    }


def resumable(run: Path, file: Path, before: bytes) -> int:
    """The last step that a run can go on after, given that one file was other bytes before."""
    damaged = file.read_bytes()
    pairs = enumerate(zip(before, damaged, strict=False))
    same = next((place for place, (old, new) in pairs if old != new), min(len(before), len(damaged)))
    best = 0
    for path in (run / "checkpoints").glob("step_*"):
        step = int(path.name.removeprefix("step_"))
        metrics = file != run / "metrics.jsonl" or before[:same].count(b"\n") >= step + 1
        evaluation = file.parent.name != "eval" or int(file.stem.removeprefix("step_")) > step
        if path not in file.parents and metrics and evaluation:
            best = max(best, step)
    return best


def play(out: Path, rng: random.Random, reference: Mapping[str, bytes], longest: float) -> Outcome:
    """One round."""
    errors, sent = out / "errors.txt", rng.choice(SIGNALS)
    out.mkdir()
    pid = start(out / "runs", errors)
    send(pid, sent, rng, longest)
    ended(pid, errors)
    runs = run_folders(out / "runs")
    if not runs:
        again = ended(start(out / "runs", errors), errors)
        return judged(out, reference, again, 1, Outcome(sent, "nothing yet", "", "", 0, "", ""), None)
    run = runs[0]
    state = str(json.loads((run / "manifest.json").read_text()).get("state"))
    kept = ("metrics.jsonl", "timings.jsonl", "manifest.json")
    everything = [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size]
    # Half of the time one of the files that a resume reads.
    file = rng.choice([path for path in everything if path.name in kept or rng.random() < 0.2] or everything)
    damage, before = rng.choice(sorted(DAMAGE)), file.read_bytes()
    file.write_bytes(DAMAGE[damage](before, rng))
    expected = resumable(run, file, before)
    known = len(launches(run)) if file.name != "manifest.json" else None
    played = Outcome(sent, state, str(file.relative_to(run)), damage, 0, "", "")
    again = ended(start(out / "runs", errors), errors)
    went = launches(run)
    if again.status == 0 and went and (known is None or len(went) > known):
        step = went[-1].get("from_step")
        if step != expected:
            detail = f"went on after step {step}, not {expected}: {again.errors.strip()}"
            return Outcome(**{**vars(played), "launches": 1, "verdict": "WHOLE STEPS LOST", "detail": detail})
    return judged(out, reference, again, 1, played, run)


def launches(run: Path) -> Sequence[Mapping[str, object]]:
    """Those that the manifest lists."""
    try:
        return json.loads((run / "manifest.json").read_text())["launches"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def judged(
    out: Path, reference: Mapping[str, bytes], last: Launch, count: int, played: Outcome, run: Path | None
) -> Outcome:
    """A round with its verdict."""
    said = last.errors.strip()
    if last.status == 0:
        got = results(run or run_folders(out / "runs")[0])
        other = sorted(name for name in got.keys() | reference.keys() if got.get(name) != reference.get(name))
        verdict = f"DIFFERS IN {other}" if other else "identical, said so" if said else "identical"
    elif last.refusal is not None and run is not None and str(run) in last.refusal:
        verdict = "refused in one line"
    else:
        verdict = f"STATUS {last.status}"
    return Outcome(**{**vars(played), "launches": count, "verdict": verdict, "detail": said})


def table(outcomes: Sequence[Outcome]) -> str:
    """Verdicts by signal, and by what was damaged."""
    verdicts = sorted({outcome.verdict for outcome in outcomes})
    lines = ["| | rounds | " + " | ".join(verdicts) + " |", "|---" * (2 + len(verdicts)) + "|"]
    groups: Sequence[tuple[Callable[[Outcome], str], str]] = (
        (lambda outcome: outcome.sent, ""),
        (lambda outcome: outcome.damage or "none", "damage: "),
        (lambda outcome: outcome.file.split("/")[0] or "none", "file: "),
    )
    for key, title in groups:
        for name in sorted({key(outcome) for outcome in outcomes}):
            counts = Counter(outcome.verdict for outcome in outcomes if key(outcome) == name)
            cells = " | ".join(str(counts[verdict] or "") for verdict in verdicts)
            lines.append(f"| {title}{name} | {counts.total()} | {cells} |")
    counts = Counter(outcome.verdict for outcome in outcomes)
    return "\n".join(
        [*lines, f"| all | {counts.total()} | " + " | ".join(str(counts[v]) for v in verdicts) + " |"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a round did not end as promised."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line a round")
    parser.add_argument("--keep", action="store_true", help="keep the folders of rounds that ended badly")
    args = parser.parse_args(arguments)
    # Loaded before the first fork.
    import mirrorpo.train.trainer  # noqa: F401

    rng, outcomes = random.Random(args.seed), []
    scratch = Path(tempfile.mkdtemp(prefix="kill_and_damage."))
    begun = time.monotonic()
    undisturbed = ended(start(scratch / "reference", scratch / "errors.txt"), scratch / "errors.txt")
    longest = time.monotonic() - begun
    if undisturbed.status != 0:
        sys.exit(f"error: the undisturbed run ended with status {undisturbed.status}: {undisturbed.errors}")
    reference = results(run_folders(scratch / "reference")[0])
    for number in range(args.rounds):
        outcome = play(scratch / str(number), rng, reference, longest)
        outcomes.append(outcome)
        if args.verbose or not outcome.good:
            print(number, *(str(value) for value in vars(outcome).values()), sep="  ", flush=True)
        if outcome.good or not args.keep:
            shutil.rmtree(scratch / str(number))
    print(f"{args.rounds} rounds of a run of {longest:.1f} s\n\n{table(outcomes)}")
    if not args.keep:
        shutil.rmtree(scratch)
    return int(not all(outcome.good for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
