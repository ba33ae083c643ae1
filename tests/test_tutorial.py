"""docs/tutorial.md is run from top to bottom, in an empty folder, as its reader would.

A block with a title becomes the file of that name, ```bash blocks are run one after another in one shell, and
each line of a ```text block has to stand in what the block before it printed.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli import ROOT, environment

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
MARK = "@@@ block"
# What pip puts on the path where the package is installed. Tables are refused for runs of a tree with
# uncommitted changes, as the tests' may be.
SHIM = f"""#!/bin/sh
case $1 in report) set -- "$@" --allow dirty ;; esac
exec "{sys.executable}" -m mirrorpo "$@"
"""


def blocks() -> list[tuple[str, str, str]]:
    """Language, title and text of each block, in order."""
    return [match.groups("") for match in FENCE.finditer((ROOT / "docs" / "tutorial.md").read_text())]


def script(parts: list[tuple[str, str, str]]) -> str:
    """A shell script that writes the files and runs the commands, a mark before each block."""
    lines = ["set -euo pipefail"]
    for number, (language, title, text) in enumerate(parts):
        lines.append(f"echo '{MARK} {number}'")
        if title:
            lines.append(f"cat > '{title}' <<'END OF BLOCK'\n{text}END OF BLOCK")
        elif language == "bash":
            lines.append(text)
    return "\n".join(lines)


def printed(output: str, number: int) -> str:
    """What a block printed, with single spaces."""
    return " ".join(output.partition(f"{MARK} {number}\n")[2].partition(MARK)[0].split())


# 46 s of processor; on a machine that does much else, minutes.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_block_of_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    programs, paper = tmp_path / "bin", tmp_path / "my_paper"
    programs.mkdir()
    paper.mkdir()
    for name, text in {"mirrorpo": SHIM, "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    parts = blocks()
    result = subprocess.run(
        ["bash", "-c", script(parts)],
        cwd=paper,
        env=environment(PATH=f"{programs}:/usr/local/bin:/usr/bin:/bin"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    ran = 0
    for number, (language, title, text) in enumerate(parts):
        if language == "bash":
            ran = number
        # What stands before the first command shows the folder.
        if language == "text" and not title and ran:
            for line in text.splitlines():
                assert " ".join(line.split()) in printed(result.stdout, ran), (
                    line,
                    printed(result.stdout, ran),
                )
    assert (paper / "outputs" / "shop" / "report" / "report.html").is_file()
    assert (paper / "outputs" / "shop" / "export" / "metrics.parquet").is_file()
