"""Which process is meant."""

import os
import subprocess
import sys
import time

from mirrorpo.run.process import parent, started


def test_a_process_is_known_by_its_start_and_not_by_its_id_alone() -> None:
    here = started(os.getpid())
    assert here is not None and here == started(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert started(child.pid) not in (None, here) and parent(child.pid) == os.getpid()
        child.kill()
        end = time.monotonic() + 30
        while started(child.pid) is not None:
            # Killed, and not waited for: a zombie.
            assert time.monotonic() < end
    assert started(child.pid) is None and parent(child.pid) is None
