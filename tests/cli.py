"""Running `train.py` as a user does, in a process of its own."""

import atexit
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from mirrorpo.config.cell import Cell
from mirrorpo.config.compose import cell_of
from mirrorpo.config.schema import register
from mirrorpo.launch.fork_server import Request
from mirrorpo.launch.forked import Child, ForkServer
from mirrorpo.run.folder import run_folders as folders

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "train.py"

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

# Of the default data set, where no test reads which problems there are.
FEW_PROBLEMS = ("dataset.train_size=40", "dataset.validation_size=8", "dataset.test_size=8")


def command(*overrides: str) -> list[str]:
    """The command line of one launch."""
    return [sys.executable, str(TRAIN), *overrides]


def environment(**extra: str) -> dict[str, str]:
    """The tests' environment; without PYTHONPATH, as a user has it."""
    return {**os.environ, "PYTHONPATH": "", **extra}


@cache
def server() -> ForkServer:
    """The process that launches are forked from; it ends with this one."""
    server = ForkServer.begun([str(ROOT / "tests" / "served.py")], room=3000)
    atexit.register(server.close)
    return server


class Launch(Child):
    """A launch that runs, as `subprocess.Popen` has it; what it prints is in files without a name.

    Args:
        script: of this tree.
        arguments: its own.
        cwd: where it is given.
        leads: whether it leads a process group, as what a terminal starts does.
        extra: variables of its environment.
    """

    def __init__(
        self, script: Path, *arguments: str, cwd: Path, leads: bool = False, extra: Mapping[str, str]
    ) -> None:
        self.args = [str(script), *arguments]
        self._files = [os.memfd_create("printed") for _ in range(2)]
        self._printed: list[str] = []
        words = (str(cwd), "leads" if leads else "", *self.args)
        pid = server().fork(Request(words, environment(**extra)), *self._files)
        assert pid is not None, "the tests' server cannot fork"
        super().__init__(pid)

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        status = super().wait()
        for file in self._files:
            with open(file) as text:
                text.seek(0)
                self._printed.append(text.read())
        self._files.clear()
        return status

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        ended = self.returncode is None and os.waitid(
            os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG
        )
        return self.wait() if ended else self.returncode

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(9)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it has printed when it has ended, stdout and stderr; after the timeout it is killed."""
        end = os.pidfd_open(self.pid)
        ended, _, _ = select.select([end], [], [], timeout)
        os.close(end)
        if not ended:
            self.kill()
        self.wait()
        out, err = self._printed
        if not ended:
            raise subprocess.TimeoutExpired(self.args, timeout, out, err)
        return out, err

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Wait for it."""
        out, err = self.communicate(timeout=280)
        assert self.returncode is not None
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


def launched(*overrides: str, cwd: Path, leads: bool = False, **extra: str) -> Launch:
    """One launch that runs on; see `train`."""
    return Launch(TRAIN, *overrides, cwd=cwd, leads=leads, extra=extra)


def train(*overrides: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """One launch, waited for: a process of its own, forked from one that has imported what a run needs.

    Such a process is seconds sooner at work. It has its parent's hash seed, and variables that Python or a
    library reads when it is imported are its parent's too: for those there is `train_in_new_python`.
    """
    return launched(*overrides, cwd=cwd, **extra).completed()


def run_script(script: Path, *arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """A script of this tree, in a process like that of `train`."""
    return Launch(script, *arguments, cwd=cwd, extra=extra).completed()


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
