"""What this machine has; a test that needs more says so, and a sandbox that is broken where there is enough
does not.
"""

import subprocess

import pytest

from mirrorpo.reward.sandbox.lock import has_seccomp, landlock_version


def bubblewrap() -> bool:
    try:
        return (
            subprocess.run(
                ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], check=False, capture_output=True
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


LACKING = {
    "bubblewrap": "" if has_seccomp() and bubblewrap() else "no seccomp, no bwrap, or no user namespaces",
    "landlock": ""
    if has_seccomp() and landlock_version()
    else f"seccomp: {has_seccomp()}, landlock: {landlock_version()}",
}


def needs(kind: str) -> None:
    if LACKING[kind]:
        pytest.skip(f"NOT TESTED: programs behind {kind}, which this machine lacks ({LACKING[kind]})")


def needs_any() -> None:
    if all(LACKING.values()):
        pytest.skip(f"NOT TESTED: model-written programs; this machine can keep none in ({LACKING})")
