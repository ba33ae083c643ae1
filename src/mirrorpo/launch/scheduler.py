"""What SLURM knows of a sweep's jobs. Imports no torch.

Each submission of a sweep is a batch: a folder `<sweep>/.slurm/<batch>/` whose `cells.json` is written before
anything is submitted, and a job array whose name is the batch's alone. A job is found by that name, so a
launcher that dies at any instant loses no job and submits none twice.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCHES = ".slurm"
GONE = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


class SchedulerError(ValueError):
    """SLURM does not answer, or not what was asked."""


@dataclass(frozen=True, slots=True)
class Job:
    """A member of a batch's array, as SLURM names it.

    Attributes:
        id: `12_3`, or `12` where the batch is one cell.
        state: SLURM's word, such as PENDING, RUNNING, TIMEOUT.
        why: SLURM's reason for it; empty when it gives none.
    """

    id: str
    state: str
    why: str

    @property
    def active(self) -> bool:
        """Whether it runs or will."""
        return self.state not in GONE


@dataclass(frozen=True, slots=True)
class Batch:
    """One submission.

    Attributes:
        folder: of its log files and of `cells.json`.
        name: of its job.
        cells: run folders relative to the sweep's, in the array's order.
    """

    folder: Path
    name: str
    cells: Sequence[str]

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.folder.parent.parent

    def log(self, index: int) -> Path | None:
        """The newest error log of a member; None before it started."""
        pattern = (
            re.compile(rf"\d+_{index}_0_log\.err") if len(self.cells) > 1 else re.compile(r"\d+_0_log\.err")
        )
        logs = [path for path in self.folder.glob("*_log.err") if pattern.fullmatch(path.name)]
        return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def batches(sweep: Path) -> list[Batch]:
    """A sweep's submissions, oldest first."""
    out = []
    for file in sorted(sweep.glob(f"{BATCHES}/*/cells.json")):
        entry = json.loads(file.read_text())
        out.append(Batch(file.parent, entry["name"], entry["cells"]))
    return out


def newest(sweep: Path) -> dict[Path, tuple[Batch, int]]:
    """Each run folder's last submission, and its place in it."""
    return {
        (batch.sweep / cell).resolve(): (batch, index)
        for batch in batches(sweep)
        for index, cell in enumerate(batch.cells)
    }


def jobs(sweep: Path) -> dict[Path, Job]:
    """Each run folder's job: an active one where there is one, else the last that SLURM still knows of.

    Empty for a sweep that was never submitted. Ended jobs come from what slurmctld still remembers
    (MinJobAge), and beyond that from sacct.

    Raises:
        SchedulerError: if the queue cannot be read.
    """
    known = {batch.name: batch for batch in batches(sweep)}
    if not known:
        return {}
    active = _queue(known)
    return {
        **(_ended(known) if len(active) < sum(len(batch.cells) for batch in known.values()) else {}),
        **active,
    }


def _queue(known: Mapping[str, Batch]) -> dict[Path, Job]:
    """Jobs in the queue, by the run folder they are for."""
    text = _output_of(
        "squeue", "-h", "-r", "--states=all", f"--name={','.join(known)}", "-o", "%j|%F|%K|%T|%r"
    )
    rows = [line.split("|", 4) for line in text.splitlines()]
    return _placed(
        known,
        [(name, array, member, state, why) for name, array, member, state, why in rows if state not in GONE],
    )


def _ended(known: Mapping[str, Batch]) -> dict[Path, Job]:
    """Jobs that left the queue; nothing where nobody remembers."""
    # Accounting lags behind, so what slurmctld still remembers has the last word.
    return _placed(known, [*_accounted(known), *_remembered(known)])


def _accounted(known: Mapping[str, Batch]) -> list[tuple[str, str, str, str, str]]:
    try:
        text = _output_of(
            "sacct",
            "-n",
            "-X",
            "-P",
            "-S",
            "now-60days",
            f"--name={','.join(known)}",
            "-o",
            "JobName,JobID,State",
        )
    except SchedulerError:
        # No accounting here.
        return []
    rows = [line.split("|") for line in text.splitlines()]
    return [
        (name, job.partition("_")[0], job.partition("_")[2], state.split()[0], "")
        for name, job, state in rows
    ]


def _remembered(known: Mapping[str, Batch]) -> list[tuple[str, str, str, str, str]]:
    try:
        text = _output_of("scontrol", "-o", "show", "job")
    except SchedulerError:
        return []
    out = []
    for line in text.splitlines():
        entry = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if entry.get("JobName") in known:
            array = entry.get("ArrayJobId", entry["JobId"])
            out.append(
                (
                    entry["JobName"],
                    array,
                    entry.get("ArrayTaskId", ""),
                    entry["JobState"],
                    entry.get("Reason", ""),
                )
            )
    return out


def _placed(known: Mapping[str, Batch], rows: Sequence[tuple[str, str, str, str, str]]) -> dict[Path, Job]:
    # Oldest batch first, so that a later one's word stands.
    order = {name: place for place, name in enumerate(known)}
    out: dict[Path, Job] = {}
    for name, array, member, state, why in sorted(rows, key=lambda row: order.get(row[0], -1)):
        index = int(member) if member.isdigit() else 0
        if (
            name in known
            and index < len(known[name].cells)
            and (member.isdigit() or len(known[name].cells) == 1)
        ):
            reason = "" if why in ("None", "(null)") else why
            out[(known[name].sweep / known[name].cells[index]).resolve()] = Job(
                f"{array}_{member}" if member.isdigit() else array, state, reason
            )
    return out


def cancel(ids: Sequence[str]) -> None:
    """Have SLURM end jobs."""
    if ids:
        _output_of("scancel", *ids)


def largest_array() -> int:
    """How many members an array may have here."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _output_of("scontrol", "show", "config"), re.MULTILINE)
    return int(match.group(1)) - 1 if match else 1000


def _output_of(command: str, *arguments: str) -> str:
    if shutil.which(command) is None:
        raise SchedulerError(
            f"there is no {command} on this machine: log in to the cluster, or use hydra/launcher=local"
        )
    try:
        result = subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{command} did not answer within 60 s: is slurmctld up?") from error
    if result.returncode != 0:
        raise SchedulerError(
            f"{command} failed: {result.stderr.strip() or f'exit status {result.returncode}'}"
        )
    return result.stdout
