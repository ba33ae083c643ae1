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
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from mirrorpo.config.paths import command
from mirrorpo.config.values import Config, JsonObject
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.launches import LAUNCHES, commands_for, launchers, launches
from mirrorpo.launch.moved import refuse_copy, refuse_elsewhere
from mirrorpo.launch.program import is_launch
from mirrorpo.launch.scheduler import LOOK_PATIENCE_S, Batch, Job, SchedulerError, cancel, jobs, newest
from mirrorpo.launch.status_table import Row, view
from mirrorpo.launch.sweeps import last_written, own_runs, sweeps
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder, seconds, timestamp
from mirrorpo.run.manifest import RunState, config_fault, read_manifest
from mirrorpo.run.process import parent, started

# Seconds for a controller that does not answer while jobs are cancelled.
CANCEL_PATIENCE_S = 60.0

# Over how many of its last steps a run's speed is taken.
LAST_STEPS = 10

ACTIVE = (RunState.QUEUED, RunState.RUNNING, RunState.REQUEUED)


def rows(sweep: Path) -> list[Row]:
    """Every cell of a sweep, by name.

    Raises:
        SchedulerError: if the sweep has jobs and SLURM does not answer.
    """
    return _rows(sweep, jobs(sweep, patience_s=LOOK_PATIENCE_S), own_runs(sweep))


def rows_or_last_written(
    sweep: Path, runs: Sequence[Path], *, ask: bool = True
) -> tuple[list[Row], str | None]:
    """Cells of a sweep, and why SLURM could not say where its jobs are; None when it could.

    Without SLURM a cell is where its run last wrote that it was.

    Args:
        sweep: its folder.
        runs: those of its runs that are listed.
        ask: false: do not try.
    """
    try:
        if ask:
            return _rows(sweep, jobs(sweep, patience_s=LOOK_PATIENCE_S), runs), None
        problem = "not asked again"
    except SchedulerError as error:
        problem = str(error)
    return _rows(sweep, last_written(sweep), runs), problem


def _rows(sweep: Path, known: Mapping[Path, Job], runs: Sequence[Path]) -> list[Row]:
    submitted = newest(sweep)
    # A name is resolved only where something is known of any.
    real = {path: path.resolve() if known or submitted else path for path in runs}
    return [_row(sweep, RunFolder(path), known.get(real[path]), submitted.get(real[path])) for path in runs]


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
        return RunState.INTERRUPTED, manifest.get("error") or "by Ctrl-C; the same command goes on"
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
    try:
        manifest = read_manifest(folder.manifest_path)
        # One that is gone is made again from what is left of the run.
        finished = folder.finished(manifest=manifest or None)
        state, error = reconcile(manifest, finished, folder.held(), job)
        timings, damaged = folder.timings.last(LAST_STEPS)
    except (RunError, OSError) as fault:
        # The others' rows must not suffer; what is left of it, a launch makes whole again or refuses.
        manifest, timings, damaged = {}, [], False
        state = RunState.RUNNING if folder.held() else RunState.FAILED
        error = f"{fault}; launch again"
    if damaged and not error:
        error = f"{folder.timings.path.name}: line {folder.timings.damaged()[-1]} is damaged"
    if state in (RunState.DONE, RunState.STALE) and manifest.get("launches"):
        # No launch writes it again.
        error = error or config_fault(folder.path, manifest)
    steps = manifest.get("config", {}).get("steps")
    timings = [row for row in timings if row["step"] > 0]
    done = timings[-1]["step"] if timings else 0
    spent = [seconds(row) for row in timings]
    traceback, log = folder.path / "error.txt", None
    if state == RunState.FAILED:
        log = traceback if traceback.exists() else submitted[0].log(submitted[1]) if submitted else None
        # What the run itself could not write down, its job's log may say.
        last_line = _last_line(log) if log is not None and manifest.get("state") != RunState.FAILED else ""
        error = f"{error}: {last_line}" if last_line else error
    left = state == RunState.RUNNING and isinstance(steps, int) and spent
    return Row(
        cell=str(folder.path.relative_to(sweep)),
        state=state,
        step=done,
        steps=steps,
        left_s=sum(spent) / len(spent) * (steps - done) if left else None,
        job=job.id if job else manifest.get("job"),
        error=None if error is None else str(error),
        log=str(log) if log else None,
    )


def _last_line(log: Path) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"{log} cannot be read ({error.strerror})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if "memory limit" in line or "oom" in line.lower() or "DUE TO" in line]
    errors = [line for line in lines if "error:" in line.lower()]
    return (causes or errors or lines or [""])[-1][:300]


# ---------------------------------------------------------------- what is done


def retry(sweep: Path, *, stale: bool) -> int:
    """Launch the failed cells again, with the commands that made them; stale ones from the start.

    Raises:
        LaunchError: if a command would not make them in this folder; nothing is changed then.
    """
    listed = rows(sweep)
    chosen = [row.cell for row in listed if _to_launch(sweep, row.state, stale)]
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
    status, given = 0, commands_for(launches(sweep), chosen)
    if lost := set(chosen).difference(*(cells for _, cells in given)):
        print(f"note: no command of {LAUNCHES} makes {', '.join(sorted(lost))}", file=sys.stderr)
    # Ahead of whatever is changed.
    for launch, _ in given:
        refuse_elsewhere(sweep, launch)
    if stale:
        made = {cell for _, cells in given for cell in cells}
        _set_aside(sweep, [row for row in listed if row.state == RunState.STALE and row.cell in made])
    # Imported here, so that whoever only looks does not wait for Hydra.
    from mirrorpo.config.override_text import quoted

    for launch, cells in given:
        # In a file: a thousand names are more than one argument may be long.
        with tempfile.NamedTemporaryFile("w", dir=sweep, prefix=".only.") as file:
            file.write("".join(f"{cell}\n" for cell in cells))
            file.flush()
            only = f"hydra.launcher.only={quoted(f'@{file.name}')}"
            again = subprocess.run([sys.executable, *launch.argv, only], cwd=launch.cwd, check=False)
        status = max(status, again.returncode)
    return status


def _set_aside(sweep: Path, stale: Sequence[Row]) -> None:
    for row in stale:
        aside = sweep / ".stale" / timestamp() / row.cell
        aside.parent.mkdir(parents=True, exist_ok=True)
        (sweep / row.cell).rename(aside)
        (aside / "manifest.json").rename(aside / "manifest.stale.json")
        print(f"{row.cell}: its {row.step} steps are in {aside}")


def _to_launch(sweep: Path, state: RunState, stale: bool) -> bool:
    if state == RunState.PLANNED:
        # Its job was cancelled while it waited, or it was never begun; unless a launcher is about to.
        return not any(launcher.here for launcher in launchers(sweep))
    return state in (RunState.FAILED, RunState.INTERRUPTED) or (stale and state == RunState.STALE)


def cancel_all(sweep: Path) -> int:
    """Stop what runs or waits; each cell keeps its last checkpoint, and a later launch goes on from there.

    Raises:
        LaunchError: if launchers and jobs that are noted here are of the folder that this one is a copy of.
    """
    refuse_copy(sweep)
    stopped, problems, active, stopping = [], [], {}, set[int]()
    runs = own_runs(sweep)
    try:
        names = {path.resolve(): str(path.relative_to(sweep)) for path in runs}
        known = jobs(sweep, patience_s=CANCEL_PATIENCE_S)
        active = {path: job for path, job in known.items() if job.active}
        cancel([job.id for job in active.values()], patience_s=CANCEL_PATIENCE_S)
        stopped += [names.get(path, str(path)) for path in active]
    except SchedulerError as error:
        problems.append(f"jobs on SLURM may go on: {error}")
    for launcher in launchers(sweep):
        if launcher.here and _is_launch(launcher.pid, launcher.start):
            os.kill(launcher.pid, signal.SIGTERM)
            stopping.add(launcher.pid)
            stopped.append(f"the launcher, process {launcher.pid}")
        elif launcher.host != socket.gethostname():
            problems.append(
                f"a launcher may run on {launcher.host}, process {launcher.pid}: give the command there, or "
                f"remove {launcher.file} if it does not"
            )
    for path in runs:
        folder, manifest = RunFolder(path), _readable(RunFolder(path))
        of_a_job = path.resolve() in active or (problems and manifest.get("job"))
        if (
            folder.held()
            and not of_a_job
            and manifest.get("machine", {}).get("host") == socket.gethostname()
            and _is_launch(manifest["pid"], manifest.get("pid_start"))
            # Its launcher passes the signal on; a second one would end the run without a checkpoint.
            and parent(manifest["pid"]) not in stopping
        ):
            os.kill(manifest["pid"], signal.SIGTERM)
            stopped.append(str(path.relative_to(sweep)))
    print("\n".join(["cancelled:", *stopped]) if stopped else "nothing to cancel")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _readable(folder: RunFolder) -> JsonObject:
    # Whoever runs in a folder whose manifest says nothing is left alone.
    try:
        return folder.manifest()
    except RunError:
        return {}


def _is_launch(pid: int, start: str | None) -> bool:
    # Process ids are used again: it is the one that was written down if it was started then, and what was
    # written down before that was is at least a launch.
    file = Path(f"/proc/{pid}/cmdline")
    if start is not None and started(pid) != start:
        return False
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
    root = args.sweep.resolve()
    try:
        known = sweeps(root)
        if not known:
            raise RunError(f"{args.sweep} holds no cell; give a sweep's folder, such as outputs/single")
        if args.action == "show":
            return _show(root, watch=args.watch, as_json=args.json)
        sweep = root if root in known else next(iter(known))
        if sweep != root and (len(known) > 1 or sweep in root.parents):
            names = ", ".join(map(str, known))
            raise RunError(f"{args.sweep} is no sweep's folder; to {args.action}, give one: {names}")
        return retry(sweep, stale=args.stale) if args.action == "retry" else cancel_all(sweep)
    except (RunError, LaunchError, SchedulerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _listed(root: Path) -> tuple[dict[Path, list[Row]], str | None]:
    """The rows of each sweep at, above or below a folder; and why SLURM could not say where its jobs are."""
    known, problem = sweeps(root), None
    if root in known:
        # Without those of another sweep whose name begins with its own.
        below = sorted(run for runs in known.values() for run in runs)
        known = {root: [run for run in below if root not in run.parents[1].parents]}
    out: dict[Path, list[Row]] = {}
    # An arm's folder, or a run's, shows what is below it.
    for sweep, runs in known.items():
        out[sweep], silence = rows_or_last_written(sweep, runs, ask=problem is None)
        problem = problem or silence
    return out, problem


def _show(root: Path, *, watch: bool, as_json: bool) -> int:
    listed, problem = _listed(root)
    if problem and not watch:
        print(f"note: {problem}; states are those that the runs last wrote down", file=sys.stderr)
    if as_json:
        entries = [
            dataclasses.asdict(row) | ({} if len(listed) == 1 else {"sweep": os.path.relpath(sweep, root)})
            for sweep, sweep_rows in listed.items()
            for row in sweep_rows
        ]
        print(json.dumps(entries, indent=2))
    elif watch:
        with Live(Group(*view(root, listed, problem, Console().width)), refresh_per_second=1) as live:
            while any(row.state in ACTIVE for sweep_rows in listed.values() for row in sweep_rows):
                time.sleep(2)
                listed, problem = _listed(root)
                live.update(Group(*view(root, listed, problem, Console().width)))
    else:
        console = Console(highlight=False)
        heading, body = view(root, listed, None, console.width)
        console.print(heading, markup=False, soft_wrap=True)
        console.print(body, soft_wrap=True)
    return int(any(row.state == RunState.FAILED for sweep_rows in listed.values() for row in sweep_rows))


if __name__ == "__main__":
    sys.exit(main())
