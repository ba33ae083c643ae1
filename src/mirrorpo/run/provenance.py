"""Which code, packages and machine a run had. Imports no torch."""

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "peft",
    "hydra-core",
    "omegaconf",
    "wandb",
    "math-verify",
    "numpy",
    "mirrorpo",
)

# At the root of a snapshot of the code, which is no git repository: the commit that it was taken from.
SNAPSHOT = ".snapshot.json"

# Another version of one of these may round another way.
NUMERIC = ("torch", "transformers", "tokenizers", "numpy")


def provenance(root: Path) -> dict[str, Any]:
    """Commit, code, package versions, hardware and job, for the manifest.

    `code` is `code_hash(root)`; `commit` and `dirty` are the repository's at `root`, or for a snapshot the
    ones it was taken from; `job` is the SLURM job's id.
    """
    return {
        **taken_from(root),
        "code": code_hash(root),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "host": socket.gethostname(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
        },
        "command": sys.argv,
        "job": job_id(),
        "pid": os.getpid(),
    }


def code_hash(root: Path) -> str:
    """16 hexadecimal digits over the package's Python files, train.py, and the versions of Python and what
    computes.

    Config files are not in it: what they say is in the config's hash.
    """
    files = [root / "train.py", *sorted((root / "src" / "mirrorpo").rglob("*.py"))]
    found = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.exists()
    }
    versions = {"python": platform.python_version(), **{name: _version(name) for name in NUMERIC}}
    return hashlib.sha256(json.dumps([found, versions], sort_keys=True).encode()).hexdigest()[:16]


def taken_from(root: Path) -> dict[str, Any]:
    """The commit behind the code at `root`, and whether files differed from it."""
    snapshot = root / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text())
    return {
        "commit": git(root, "rev-parse", "HEAD"),
        "dirty": bool(git(root, "status", "--porcelain", "--untracked-files=no")),
    }


def job_id() -> str | None:
    """The SLURM job of this process, `12` or `12_3` for a member of an array; None outside of one."""
    array, member = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{member}" if array and member else os.environ.get("SLURM_JOB_ID")


def git(root: Path, *arguments: str, **environment: str) -> str | None:
    """What git prints, stripped; None where it fails or there is no repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
