"""Running `train.py` as a user does, in a process of its own."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from mirrorpo.config.cell import Cell
from mirrorpo.config.compose import cell_of
from mirrorpo.config.schema import register
from mirrorpo.run.folder import run_folders as folders

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "train.py"

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["served"])

# Seconds long: the shipped model, few and short answers.
SMALL = (
    "steps=3",
    "prompts_per_step=3",
    "group_size=4",
    "max_new_tokens=40",
    "eval_max_new_tokens=60",
    "eval_questions=12",
    "eval_sampled_questions=4",
    "eval_every=2",
    "checkpoint_every=1",
    "threads=1",
    "tracking=none",
)


def command(*overrides: str) -> list[str]:
    """The command line of one launch."""
    return [sys.executable, str(TRAIN), *overrides]


def environment(**extra: str) -> dict[str, str]:
    """The tests' environment; without PYTHONPATH, as a user has it."""
    return {**os.environ, "PYTHONPATH": "", **extra}


def train(*overrides: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """One launch, waited for: a process of its own, forked from one that has imported what a run needs.

    Such a process is seconds sooner at work. It has its parent's hash seed, and variables that Python or a
    library reads when it is imported are its parent's too: for those there is `train_in_new_python`.
    """
    return run_script(TRAIN, *overrides, cwd=cwd, **extra)


def run_script(script: Path, *arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """A script of this tree, in a process like that of `train`."""
    argv = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as streams:
        paths = [Path(streams) / name for name in ("stdout", "stderr")]
        process = FORKS.Process(target=_become, args=(argv, cwd, environment(**extra), paths))
        process.start()
        process.join(timeout=280)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(argv, 280)
        stdout, stderr = (path.read_text() for path in paths)
        return subprocess.CompletedProcess(argv, process.exitcode, stdout, stderr)


def _become(argv: list[str], cwd: Path, environ: dict[str, str], streams: Sequence[Path]) -> None:
    """What `python SCRIPT` does, in a process that multiprocessing has forked."""
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = argv
    # The tests' own folders are on no user's path.
    sys.path[:] = [str(ROOT), *(path for path in sys.path if not path.startswith(str(ROOT / "tests")))]
    runpy.run_path(argv[0], run_name="__main__")


def train_in_new_python(*overrides: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """One launch, waited for, that begins with an interpreter."""
    return subprocess.run(
        command(*overrides),
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def folder(root: Path) -> Path:
    """The only run folder below a root."""
    (found,) = folders(root)
    return found


def appeared(root: Path, name: str) -> bool:
    """Whether a file or folder of that name is below a folder that a run is writing to."""
    # Unlike `rglob`, it passes over a folder that is renamed meanwhile.
    return any(name in below or name in files for _, below, files in os.walk(root))


def manifest(run: Path) -> dict:
    """A run's manifest."""
    return json.loads((run / "manifest.json").read_text())


def rows(path: Path) -> list[dict]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole_rows(path: Path) -> list[dict]:
    """The rows of a file that a kill may have cut in the middle of its last line."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def succeeded(result: subprocess.CompletedProcess[str], said: Sequence[str] = ()) -> None:
    """Check the exit status, and words of the output."""
    assert result.returncode == 0, result.stdout + result.stderr
    for words in said:
        assert words in result.stdout, result.stdout


@contextmanager
def composed(*overrides: str) -> Iterator[tuple[DictConfig, Mapping[str, str]]]:
    """The config of a command line and the names it chose, inside Hydra as in a run."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, choices


def cell_here(*overrides: str) -> Cell:
    """The cell of a command line, in this process."""
    with composed(*overrides) as (cfg, choices):
        return cell_of(cfg, choices, overrides=overrides)
