"""Who holds a folder, also where the file system has no locks. `test_folder.py` has the kernel's."""

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mirrorpo.run import lock
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder

# Another process in whose file system nothing can be locked.
UNLOCKED = """
    import errno, fcntl, sys
    from pathlib import Path
    def unsupported(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = unsupported
    from mirrorpo.run.folder import RunFolder
    with RunFolder(Path(sys.argv[1])).locked():
        print("runs", flush=True)
        sys.stdin.read()
"""


def fails(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_run_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in lock.NO_LOCKS:
        caplog.clear()
        fails(monkeypatch, number)
        run = RunFolder(tmp_path / str(number))
        with run.locked():
            assert run.held()
        texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(texts) == 1 and "this file system has no locks" in texts[0], (number, texts)


def test_a_lock_that_is_held_is_held_whatever_its_error_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.EWOULDBLOCK, errno.EACCES):
        fails(monkeypatch, number)
        with pytest.raises(RunError, match="another process"), RunFolder(tmp_path).locked():
            pass
        assert RunFolder(tmp_path).held(), number


def test_a_lock_that_fails_otherwise_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, errno.EBADF)
    with pytest.raises(RunError, match="out: cannot lock"), RunFolder(tmp_path).locked():
        pass
    assert not RunFolder(tmp_path).held()


def test_without_locks_a_second_process_on_this_machine_is_refused_while_the_first_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, errno.ENOSYS)
    run, command = RunFolder(tmp_path), [sys.executable, "-c", textwrap.dedent(UNLOCKED), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "runs\n"
        assert run.held()
        with pytest.raises(RunError, match="another process"), run.locked():
            pass
        process.kill()
    assert not run.held()
    with run.locked():
        pass


def test_a_process_id_that_is_somebody_elses_now_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, errno.ENOSYS)
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    others = [
        here | {"started": "1"},
        here | {"host": "elsewhere", "started": "1"},
        {},
        [],
        here | {"pid": "x", "started": "1"},
    ]
    for content in others:
        (tmp_path / ".lock").write_text(json.dumps(content))
        assert not RunFolder(tmp_path).held(), content
