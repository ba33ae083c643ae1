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

from mirrorpo import __version__
from mirrorpo.config import paths
from mirrorpo.config.values import JsonObject
from mirrorpo.run.process import started

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "peft",
    "vllm",
    "hydra-core",
    "omegaconf",
    "wandb",
    "math-verify",
    "numpy",
)

# At the root of code that is no git repository, a snapshot or an installed package: its commit.
SNAPSHOT = ".snapshot.json"

# Another version of one of these may round another way.
NUMERIC = ("torch", "transformers", "tokenizers", "numpy")


def provenance(root: Path) -> JsonObject:
    """Commit, code, package versions, hardware and job, for the manifest.

    Args:
        root: the clone or snapshot that the code is in, or the folder of the installed package.

    Returns:
        `code` is `code_hash(root)`; `commit` and `dirty` are the repository's at `root`, or the ones that a
        snapshot was taken from and a package was built from; `job` is the SLURM job's id.
    """
    return {
        **taken_from(root),
        "code": code_hash(root),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "mirrorpo": __version__,
        },
        "machine": {
            "host": socket.gethostname(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
        },
        "command": sys.argv,
        "job": job_id(),
        "pid": os.getpid(),
        "pid_start": started(os.getpid()),
    }


def code_hash(root: Path) -> str:
    """16 hexadecimal digits over the package's Python files, and the versions of Python and what computes.

    The same for a clone and for what is installed from it. Config files are not in it: what they say is in
    the config's hash.
    """
    package = root if root == paths.PACKAGE else root / "src" / "mirrorpo"
    files = {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(package.rglob("*.py"))
    }
    versions = {"python": platform.python_version(), **{name: _version(name) for name in NUMERIC}}
    return hashlib.sha256(json.dumps([files, versions], sort_keys=True).encode()).hexdigest()[:16]


def taken_from(root: Path) -> JsonObject:
    """The commit behind the code at `root`, and whether files differed from it."""
    snapshot = root / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text())
    if root == paths.PACKAGE:
        # An environment may lie in a repository of something else.
        return {"commit": None, "dirty": False}
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
