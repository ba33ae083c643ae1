"""The table of cells, on terminals of any width."""

from pathlib import Path

from mirrorpo.launch.status_table import Row, table
from mirrorpo.run.manifest import RunState


def test_two_thousand_cells_are_a_table_that_a_narrow_terminal_folds() -> None:
    reason = "its process is gone (killed?); launch again to go on"
    cells = [
        Row(f"arm,lr={number}/seed=0", RunState.FAILED, number, 2000, None, None, reason, None)
        for number in range(2000)
    ]
    for width in (80, 300):
        heading, body = table(Path("out/grid"), cells, width)
        lines = body.plain.splitlines()
        assert heading.startswith("out/grid: 2000 failed") and lines[0].split()[:3] == [
            "cell",
            "state",
            "step",
        ]
        assert max(map(len, lines)) <= width and (len(lines) == 2001) == (width == 300)
        assert "".join(body.plain.split()).count(f"{1999}/2000") == 1
    assert lines[-1].split()[:3] == ["lr=1999", "failed", "1999/2000"] and lines[-1].endswith("to go on")
