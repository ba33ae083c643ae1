"""Files of rows that are read from their end, and that memory need not hold; the rest: test_folder.py."""

import tracemalloc
from pathlib import Path

from mirrorpo.run.json_lines import JsonLines


def test_the_last_rows_are_those_of_all_rows_however_long_they_are(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "timings.jsonl")
    assert file.last(3) == ([], False)
    for size in (0, 5000, 60_000):
        file.path.write_text("")
        file.extend([{"step": step, "text": "x" * size} for step in range(7)])
        with file.path.open("a") as torn:
            torn.write('{"step": 7')
        for count in (1, 3, 7, 9):
            assert file.last(count) == (file.rows()[-count:], False), (size, count)
    file.path.write_bytes(file.path.read_bytes() + b"\n")
    rows, damaged = file.last(3)
    assert [row["step"] for row in rows] == [5, 6] and damaged and file.damaged() == [8]


def test_reading_and_cutting_hold_no_more_than_a_row(tmp_path: Path) -> None:
    """10^5 steps of sixty quantities are 150 MB of text, and over a gigabyte of objects."""
    file = JsonLines(tmp_path / "metrics.jsonl")
    row = {f"quantity/{number}": number / 7 for number in range(50)}
    file.extend([{"step": step} | row for step in range(2000)])
    size = file.path.stat().st_size
    tracemalloc.start()
    try:
        assert sum(1 for _ in file.stream()) == 2000 and file.cut_after(1000) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in file.stream()) == 1001 and peak < size / 5
