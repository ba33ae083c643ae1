"""`python -m mirrorpo.status SWEEP`: where each cell of a sweep is, and what to do about it. Imports no
torch.

Truth is the manifests and the scheduler, reconciled; nothing is remembered elsewhere.
"""

import argparse
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from mirrorpo.config.paths import command
from mirrorpo.config.values import Config, JsonObject
from mirrorpo.launch.cell_settings import settings_of, told_apart
from mirrorpo.launch.program import is_launch
from mirrorpo.launch.scheduler import Batch, Job, SchedulerError, cancel, jobs, newest
from mirrorpo.run.folder import RunError, RunFolder, RunState, run_folders, timestamp, write_atomic

LAUNCHES = "launches.json"
COLOURS = {
    RunState.DONE: "green",
    RunState.RUNNING: "cyan",
    RunState.FAILED: "red",
    RunState.STALE: "magenta",
    RunState.REQUEUED: "yellow",
    RunState.INTERRUPTED: "yellow",
    RunState.QUEUED: "yellow",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One cell.

    Attributes:
        cell: its folder below the sweep's.
        state: where it is.
        step: the last step on disk.
        steps: of how many.
        left_s: estimated seconds to its end while it runs.
        job: SLURM's id of its last job.
        error: why it failed or is stale.
        log: the file that has the whole story of a failure.
    """

    cell: str
    state: RunState
    step: int
    steps: int | None
    left_s: float | None
    job: str | None
    error: str | None
    log: str | None


def rows(sweep: Path) -> list[Row]:
    """Every cell of a sweep, by name.

    Raises:
        SchedulerError: if the sweep has jobs and SLURM does not answer.
    """
    known, submitted = jobs(sweep), newest(sweep)
    return [_row(sweep, RunFolder(path), known.get(path), submitted.get(path)) for path in run_folders(sweep)]


def reconcile(manifest: Config, finished: bool, held: bool, job: Job | None) -> tuple[RunState, str | None]:
    """A cell's state and reason, from its manifest, whether its files are all there, whether a process holds
    it, and its job.
    """
    written = RunState(manifest.get("state", RunState.PLANNED))
    begun = bool(manifest.get("launches"))
    if finished:
        return written, manifest.get("error")
    if job is not None and job.active and not held:
        # COMPLETING and the like: about to leave, or to be queued again.
        waits = job.state != "RUNNING"
        return (
            RunState.REQUEUED if begun else RunState.QUEUED
        ) if waits else RunState.RUNNING, job.why if waits and job.why else None
    if held:
        return RunState.RUNNING, None
    if written in (RunState.DONE, RunState.STALE):
        return (
            RunState.FAILED,
            "files that it had when it ended are missing or cut; launch again to make them",
        )
    if written == RunState.FAILED:
        return RunState.FAILED, manifest.get("error")
    if written == RunState.INTERRUPTED:
        return RunState.INTERRUPTED, "by Ctrl-C; the same command goes on"
    if job is not None:
        went = f"its job is {job.state}{f' ({job.why})' if job.why else ''}"
        return RunState.FAILED, went if begun else f"{went}, before it began"
    if written == RunState.PLANNED or (written == RunState.QUEUED and not begun):
        return RunState.PLANNED, None
    if manifest.get("job"):
        return RunState.FAILED, "its job has left the queue and nobody remembers why"
    return RunState.FAILED, "stopped; launch again to go on" if manifest.get(
        "ended"
    ) else "its process is gone (killed?); launch again to go on"


def _row(sweep: Path, folder: RunFolder, job: Job | None, submitted: tuple[Batch, int] | None) -> Row:
    manifest = folder.manifest()
    state, error = reconcile(manifest, folder.finished(), folder.held(), job)
    steps = manifest.get("config", {}).get("steps")
    timings = [row for row in folder.timings.rows() if row["step"] > 0]
    done = timings[-1]["step"] if timings else 0
    spent = [row.get("seconds", 0.0) + row.get("eval_s", 0.0) for row in timings[-10:]]
    traceback, log = folder.path / "error.txt", None
    if state == RunState.FAILED:
        log = traceback if traceback.exists() else submitted[0].log(submitted[1]) if submitted else None
        # What the run itself could not write down, its job's log may say.
        last_line = _last_line(log) if log is not None and manifest.get("state") != RunState.FAILED else ""
        error = f"{error}: {last_line}" if last_line else error
    return Row(
        cell=str(folder.path.relative_to(sweep)),
        state=state,
        step=done,
        steps=steps,
        left_s=sum(spent) / len(spent) * (steps - done)
        if state == RunState.RUNNING and steps and spent
        else None,
        job=job.id if job else manifest.get("job"),
        error=error,
        log=str(log) if log else None,
    )


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    causes = [line for line in lines if "memory limit" in line or "oom" in line.lower() or "DUE TO" in line]
    errors = [line for line in lines if "error:" in line.lower()]
    return (causes or errors or lines or [""])[-1][:300]


# ---------------------------------------------------------------- what is shown


def table(sweep: Path, listed: Sequence[Row]) -> tuple[str, Table]:
    """What all rows share, and the rows, for a terminal."""
    counts = Counter(row.state for row in listed)
    shared, labels = shortened([row.cell for row in listed])
    of_all, others = told_apart([settings_of(sweep / row.cell) for row in listed])
    cells = [" ".join([label, *settings]) for label, settings in zip(labels, others, strict=True)]
    shared = "\n".join(filter(None, (shared, " ".join(of_all))))
    summary = ", ".join(f"{counts[state]} {state}" for state in RunState if counts[state])
    out = Table(box=None)
    for name in ("cell", "state", "step", "left", "job", "reason"):
        out.add_column(name, overflow="fold", no_wrap=name not in ("cell", "reason"))
    for cell, row in zip(cells, listed, strict=True):
        colour = COLOURS.get(row.state, "")
        state = f"[{colour}]{row.state}[/]" if colour else str(row.state)
        out.add_row(
            cell,
            state,
            f"{row.step}/{row.steps or '?'}",
            duration(row.left_s),
            row.job or "",
            row.error or "",
        )
    return f"{sweep}: {summary}" + (f"\n{shared}" if shared else ""), out


def shortened(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What all labels share, and each without it.

    >>> shortened(["algo=grpo,divergence=kl/seed=0", "algo=grpo,divergence=none/seed=0"])
    ('algo=grpo seed=0', ['divergence=kl', 'divergence=none'])
    """
    parted = [label.replace("/", ",").split(",") for label in labels]
    shared = (
        [part for part in parted[0] if len(labels) > 1 and all(part in other for other in parted)]
        if parted
        else []
    )
    return " ".join(shared), [
        " ".join(part for part in parts if part not in shared) or label
        for parts, label in zip(parted, labels, strict=True)
    ]


def duration(seconds: float | None) -> str:
    """For people.

    >>> duration(None), duration(42), duration(3 * 3600 + 240)
    ('', '42 s', '3 h 04')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{rest} s"
        if not minutes
        else f"{minutes} min"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d}"
    )


# ---------------------------------------------------------------- what is done


def record_launch(sweep: Path, argv: Sequence[str]) -> None:
    """Enter a command of this sweep, so that `retry` can give it again and `cancel` can stop it."""
    kept = [entry for entry in launches(sweep) if entry["argv"] != list(argv)]
    entry = {
        "argv": list(argv),
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": timestamp(),
    }
    sweep.mkdir(parents=True, exist_ok=True)
    write_atomic(sweep / LAUNCHES, json.dumps([*kept, entry], indent=2) + "\n")


def launches(sweep: Path) -> list[JsonObject]:
    """The distinct commands that made this sweep, the last one given at the end."""
    file = sweep / LAUNCHES
    return json.loads(file.read_text()) if file.exists() else []


def retry(sweep: Path, *, stale: bool) -> int:
    """Launch the failed cells again, with the commands that made them; stale ones from the start."""
    listed = rows(sweep)
    if stale:
        for row in listed:
            if row.state == RunState.STALE:
                aside = sweep / ".stale" / timestamp() / row.cell
                aside.parent.mkdir(parents=True, exist_ok=True)
                (sweep / row.cell).rename(aside)
                (aside / "manifest.json").rename(aside / "manifest.stale.json")
                print(f"{row.cell}: its {row.step} steps are in {aside}")
    again = (RunState.FAILED, RunState.INTERRUPTED, *([RunState.STALE] if stale else []))
    chosen = [row for row in listed if row.state in again]
    if not chosen:
        print(
            "nothing to do: no cell failed" + ("" if stale else "; --stale also starts the stale ones anew")
        )
        return 0
    if not launches(sweep):
        print(
            f"error: {sweep} has no {LAUNCHES}: launch its command again, finished cells are skipped",
            file=sys.stderr,
        )
        return 1
    only = "hydra.launcher.only=[" + ",".join(f"'{row.cell}'" for row in chosen) + "]"
    status = 0
    for entry in launches(sweep):
        status = max(
            status,
            subprocess.run([sys.executable, *entry["argv"], only], cwd=entry["cwd"], check=False).returncode,
        )
    return status


def cancel_all(sweep: Path) -> int:
    """Stop what runs or waits; each cell keeps its last checkpoint, and a later launch goes on from there."""
    active = {path: job for path, job in jobs(sweep).items() if job.active}
    cancel([job.id for job in active.values()])
    stopped = [*(str(path.relative_to(sweep)) for path in active)]
    for entry in launches(sweep):
        if entry["host"] == socket.gethostname() and _is_launch(entry["pid"]):
            # The launcher passes it on to its cells.
            os.kill(entry["pid"], signal.SIGTERM)
            stopped.append(f"the launcher, process {entry['pid']}")
    for path in run_folders(sweep):
        folder, manifest = RunFolder(path), RunFolder(path).manifest()
        if (
            folder.held()
            and path not in active
            and manifest.get("machine", {}).get("host") == socket.gethostname()
            and _is_launch(manifest["pid"])
        ):
            os.kill(manifest["pid"], signal.SIGTERM)
            stopped.append(str(path.relative_to(sweep)))
    print("\n".join(["cancelled:", *stopped]) if stopped else "nothing to cancel")
    return 0


def _is_launch(pid: int) -> bool:
    # Process ids are used again; only a launch is ours to stop.
    file = Path(f"/proc/{pid}/cmdline")
    return file.exists() and is_launch(file.read_text(errors="replace").split("\0"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a cell failed."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.status"), description="Where each cell of a sweep is."
    )
    parser.add_argument("sweep", type=Path, help="the sweep's folder, outputs/NAME")
    parser.add_argument("action", nargs="?", choices=("show", "retry", "cancel"), default="show")
    parser.add_argument("--watch", action="store_true", help="until everything has ended")
    parser.add_argument("--json", action="store_true", help="one object a cell")
    parser.add_argument(
        "--stale",
        action="store_true",
        help="with retry: also start cells anew whose steps are of more than one code",
    )
    args = parser.parse_args(arguments)
    sweep = args.sweep.resolve()
    try:
        if not sweep.is_dir() or not run_folders(sweep):
            raise RunError(f"{args.sweep} holds no cell; give a sweep's folder, such as outputs/single")
        if args.action == "retry":
            return retry(sweep, stale=args.stale)
        if args.action == "cancel":
            return cancel_all(sweep)
        return _show(sweep, watch=args.watch, as_json=args.json)
    except (RunError, SchedulerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _show(sweep: Path, *, watch: bool, as_json: bool) -> int:
    listed = rows(sweep)
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in listed], indent=2))
    elif watch:
        with Live(Group(*table(sweep, listed)), refresh_per_second=1) as live:
            while any(row.state in (RunState.QUEUED, RunState.RUNNING, RunState.REQUEUED) for row in listed):
                time.sleep(2)
                listed = rows(sweep)
                live.update(Group(*table(sweep, listed)))
    else:
        heading, body = table(sweep, listed)
        console = Console(highlight=False)
        console.print(heading, markup=False, soft_wrap=True)
        console.print(body)
    return int(any(row.state == RunState.FAILED for row in listed))


if __name__ == "__main__":
    sys.exit(main())
