"""What SLURM knows of a sweep's jobs. Imports no torch.

Each submission of a sweep is a batch: a folder `<sweep>/.slurm/<batch>/` whose `cells.json` is written before
anything is submitted, and a job array whose name is the batch's alone. A job is found by that name, so a
launcher that dies at any instant loses no job and submits none twice.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirrorpo.run.slurm_command import (
    SchedulerError,
    SchedulerRefused,
    completed,
    output,
    reason,
)

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

# Seconds for a controller that does not answer: while somebody looks on, and before a launcher gives up.
LOOK_PATIENCE_S = 10.0
LAUNCH_PATIENCE_S = 600.0

# Names and job ids that go into one command.
AT_ONCE = 500

# What SLURM writes for the member of a record that is of no member alone.
REST = "4294967294"

# Letters that stand for themselves in every command of SLURM's: `--name=` splits at commas, records at spaces
# and at `|`.
UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


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
        number: how many the sweep had before it; 0 for those of a version that did not count.
    """

    folder: Path
    name: str
    cells: Sequence[str]
    number: int = 0

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
        # By the job's number: the file server's clock may be another one.
        return max(logs, key=lambda path: int(path.name.partition("_")[0]), default=None)


def job_name(sweep: Path, suffix: str) -> str:
    """The name of a batch's job: the sweep's, in letters that SLURM takes as they are, and a suffix.

    >>> job_name(Path("outputs/a,b c|d"), "1f")
    'a-b-c-d.1f'
    """
    return f"{UNSAFE.sub('-', sweep.name)[:64]}.{suffix}"


def batches(sweep: Path) -> list[Batch]:
    """A sweep's submissions, oldest first."""
    out = []
    for file in sorted(sweep.glob(f"{BATCHES}/*/cells.json")):
        entry = json.loads(file.read_text())
        out.append(Batch(file.parent, entry["name"], entry["cells"], entry.get("number", 0)))
    # Two launchers' clocks may differ; the number was given under the sweep's lock.
    return sorted(out, key=lambda batch: batch.number)


def newest(sweep: Path) -> dict[Path, tuple[Batch, int]]:
    """Each run folder's last submission, and its place in it."""
    return {
        (batch.sweep / cell).resolve(): (batch, index)
        for batch in batches(sweep)
        for index, cell in enumerate(batch.cells)
    }


def jobs(sweep: Path, *, patience_s: float = LAUNCH_PATIENCE_S) -> dict[Path, Job]:
    """Each run folder's job: an active one where there is one, else the last that SLURM still knows of.

    Empty for a sweep that was never submitted. Ended jobs come from what slurmctld still remembers
    (MinJobAge), and beyond that from sacct.

    Args:
        sweep: its folder.
        patience_s: seconds for a controller that does not answer.

    Raises:
        SchedulerError: if the queue cannot be read.
    """
    known = {batch.name: batch for batch in batches(sweep)}
    if not known:
        return {}
    active = _queue(known, patience_s)
    complete = len(active) >= sum(len(batch.cells) for batch in known.values())
    return {**({} if complete else _ended(known, patience_s)), **active}


@dataclass(frozen=True, slots=True)
class _Record:
    """What SLURM says of a job, an array, or some of its members; `members` as SLURM writes them."""

    name: str
    array: str
    members: str
    state: str
    why: str


def _queue(known: Mapping[str, Batch], patience_s: float) -> dict[Path, Job]:
    """Jobs in the queue, by the run folder they are for."""
    listed = [
        _Record(*line.split("|", 4))
        for names in _some_names(known)
        for line in output(
            "squeue", "-h", "-r", "--states=all", *names, "-o", "%j|%F|%K|%T|%r", patience_s=patience_s
        ).splitlines()
        if line.count("|") >= 4
    ]
    return _by_folder(known, [record for record in listed if record.state not in GONE])


def _some_names(known: Mapping[str, Batch]) -> Iterator[list[str]]:
    """The options that choose the batches' jobs, for one command after the other."""
    safe = [name for name in known if not UNSAFE.search(name)]
    for start in range(0, len(safe), AT_ONCE):
        yield [f"--name={','.join(safe[start : start + AT_ONCE])}"]
    if len(safe) < len(known):
        # Of a version that let such names through: looked up among all jobs.
        yield []


def _ended(known: Mapping[str, Batch], patience_s: float) -> dict[Path, Job]:
    """Jobs that left the queue; nothing where nobody remembers."""
    # Accounting lags behind, so what slurmctld still remembers has the last word.
    return _by_folder(known, [*_accounted(known, patience_s), *_remembered(known, patience_s)])


def _accounted(known: Mapping[str, Batch], patience_s: float) -> list[_Record]:
    # It only adds to what slurmctld says: a database that is down must not hold up the rest.
    patience_s = min(patience_s, LOOK_PATIENCE_S)
    columns = ("-n", "-X", "-P", "-S", "now-60days", "-o", "JobName,JobID,State")
    try:
        text = "".join(
            output("sacct", *columns, *names, patience_s=patience_s) for names in _some_names(known)
        )
    except SchedulerError:
        # No accounting here.
        return []
    out = []
    for line in text.splitlines():
        name, job, state = line.rsplit("|", 2)
        array, _, members = job.partition("_")
        out.append(_Record(name, array, members, state.split()[0], ""))
    return out


def _remembered(known: Mapping[str, Batch], patience_s: float) -> list[_Record]:
    try:
        text = output("scontrol", "-o", "show", "job", patience_s=patience_s)
    except SchedulerRefused:
        return []
    out = []
    for line in text.splitlines():
        entry = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if entry.get("JobName") in known:
            array = entry.get("ArrayJobId", entry["JobId"])
            members, state = entry.get("ArrayTaskId", ""), entry["JobState"]
            out.append(_Record(entry["JobName"], array, members, state, entry.get("Reason", "")))
    return out


def members_of(text: str, count: int) -> Sequence[int]:
    """The members of an array that a record is about.

    Members that wait, or were cancelled while they waited, share a record.

    Args:
        text: SLURM's `3`, `[0-2,7%4]` or `0-6:2`; its largest number for all without a record of their own;
            empty, or `N/A`, for what is no array.
        count: members that the array has.

    >>> [members_of(text, 8) for text in ("3", "[0-2,7%4]", "0-6:2", "9")]
    [[3], [0, 1, 2, 7], [0, 2, 4, 6], []]
    >>> members_of("", 1), members_of("N/A", 1), members_of("", 8), members_of(REST, 3)
    ([0], [0], [], [0, 1, 2])
    """
    if text == REST:
        return [*range(count)]
    out = []
    for first, last, stride in re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", text.partition("%")[0]):
        out += range(int(first), int(last or first) + 1, int(stride or 1))
    if not out and count == 1:
        return [0]
    return [member for member in out if member < count]


def _by_folder(known: Mapping[str, Batch], records: Sequence[_Record]) -> dict[Path, Job]:
    # Oldest batch first, so that a later one's word stands.
    order = {name: place for place, name in enumerate(known)}
    out: dict[Path, Job] = {}
    for record in sorted(records, key=lambda record: (order.get(record.name, -1), record.members != REST)):
        if record.name not in known:
            continue
        batch = known[record.name]
        why = "" if record.why in ("None", "(null)") else record.why
        for member in members_of(record.members, len(batch.cells)):
            array = len(batch.cells) > 1 or record.members.isdigit()
            name = f"{record.array}_{member}" if array else record.array
            out[(batch.sweep / batch.cells[member]).resolve()] = Job(name, record.state, why)
    return out


def submit(command: Sequence[str], name: str, *, patience_s: float) -> str:
    """Submit a job, once: after a try that got no answer it is first looked for by its name.

    Args:
        command: sbatch and its arguments.
        name: of the job, and of no other.
        patience_s: seconds for a controller that does not answer.

    Returns:
        Its id.

    Raises:
        SchedulerRefused: if it was not submitted, with SLURM's reason.
        SchedulerSilent: if nobody knows whether it was; it can be found by its name later.
    """
    tries = 0

    def submitted_already() -> str | None:
        nonlocal tries
        tries += 1
        ids = named(name, patience_s=patience_s)
        return f"Submitted batch job {ids[0]}" if ids else None

    result = completed(*command, patience_s=patience_s, before_retry=submitted_already)
    if result.returncode != 0:
        raise SchedulerRefused(command[0], reason(result))
    match = re.search(r"job (\d+)", result.stdout)
    if match is None:
        raise SchedulerError(f"{command[0]} printed no job's number: {result.stdout.strip()!r}")
    # A request that was thought lost may have been behind the one that was answered.
    if tries and (others := [job for job in named(name, patience_s=patience_s) if job != match.group(1)]):
        cancel(others, patience_s=patience_s)
    return match.group(1)


def named(name: str, *, patience_s: float) -> list[str]:
    """The ids of the jobs of that name that wait or run, the oldest first; an array has one.

    Raises:
        SchedulerError: if the queue cannot be read.
    """
    listed = output("squeue", "-h", f"--name={name}", "-o", "%F", patience_s=patience_s).split()
    return sorted(set(listed), key=int)


def cancel(ids: Sequence[str], *, patience_s: float = LAUNCH_PATIENCE_S) -> None:
    """Have SLURM end jobs."""
    for start in range(0, len(ids), AT_ONCE):
        output("scancel", *ids[start : start + AT_ONCE], patience_s=patience_s)


def largest_array(*, patience_s: float = LAUNCH_PATIENCE_S) -> int:
    """How many members an array may have here."""
    config = output("scontrol", "show", "config", patience_s=patience_s)
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(match.group(1)) - 1) if match else 1000
