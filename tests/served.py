"""The process that the tests' launches are forked from, as a local multirun's cells are from theirs.

`served.py --cells-of=FD`; the arguments of a launch are its folder, whether it leads a process group, a
script of this tree, and the script's own arguments.
"""

import atexit
import os
import runpy
import socket
import sys
import threading
from pathlib import Path

from cli import cell_here
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parsed import drawn_once, load_once

from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.launch import fork_server, forked
from mirrorpo.launch.fork_server import channel_in, serve

ROOT = Path(__file__).resolve().parents[1]


def become(cwd: str, leads: str, script: str, *arguments: str) -> None:
    """What `python SCRIPT ARGUMENTS` does, in a process that was forked."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    if leads == "leads":
        os.setpgid(0, 0)
    # The tests' own folders are on no user's path, where the launch does not name them.
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    others = [path for path in sys.path if not path.startswith(str(ROOT / "tests"))]
    sys.path[:] = [str(ROOT), *named, *others]
    sys.argv = [script, *arguments]
    if "-m" in arguments:
        keep_server(script)
    run_to_end(script)


def run_to_end(script: str) -> None:
    """Run it, and end as Python does, but without taking apart what was imported: that touches every page
    that is the server's too, and takes half a second.
    """
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    # Waits for threads and for what they hand out work to, then calls the hooks.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def keep_server(script: str) -> None:
    """A multirun's own server is forked now, from a process that has composed nothing yet."""
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        ours.close()
        with open(os.devnull, "r+") as nothing:
            for descriptor in (1, 2):
                os.dup2(nothing.fileno(), descriptor)
        sys.argv = [script, *serve(theirs)]
        run_to_end(script)
    theirs.close()
    kept = [forked.ForkServer(ours, forked.Child(pid))]
    new = forked.ForkServer.begun
    forked.ForkServer.begun = lambda command, room: kept.pop() if kept else new(command, room)


def read_beforehand() -> None:
    """Parse conf/ and draw the problems of the default cell, which most launches would read again."""
    OmegaConf.load = load_once
    Arithmetic.load = drawn_once(Arithmetic.load)
    dataset = instantiate(cell_here().config["dataset"], _convert_="all")
    for split in ("train", "validation"):
        dataset.load(split)


if __name__ == "__main__":
    # What imports for itself, since a file has changed since the server did, starts here again.
    fork_server.program = lambda: [__file__]
    channel = channel_in(sys.argv[1:])
    if channel is not None:
        read_beforehand()
    become(*(sys.argv[1:] if channel is None else serve(channel)))
