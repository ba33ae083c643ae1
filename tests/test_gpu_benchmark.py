"""`benchmarks/gpu.py`: its cheapest section on a CPU, and what its table makes of a bound."""

import json
from pathlib import Path

import pytest
from cli import ROOT, run_script

BENCHMARKS = ROOT / "benchmarks"


def test_the_drift_section_runs_on_a_cpu_and_judges_what_is_right_but_no_speed(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    arguments = ["--device", "cpu", "--only", "drift", "--threads", "1", "--out", str(out)]
    result = run_script(BENCHMARKS / "gpu.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "speed" not in result.stderr and "mean nothing" in result.stdout
    table = json.loads(out.read_text())
    verdicts = {line["name"]: line["verdict"] for line in table["lines"]}
    assert sorted(verdicts.values()) == ["-", "pass", "pass", "pass"], verdicts
    assert all(name in result.stdout for name in verdicts)
    assert table["device"] == "cpu" and table["only"] == ["drift"]


def test_a_table_fails_for_what_is_wrong_and_only_when_strict_for_what_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu.table import Line, Table

    lines = {
        "pass": Line(section="s", name="within", value=1.0, most=1.0),
        "FAIL": Line(section="s", name="no number", value=float("nan"), most=1.0),
        "below": Line(section="s", name="slow", value=0.1, least=0.2, speed=True),
        "skipped": Line(section="s", name="absent", note="skipped: it is not here", most=1.0),
        "": Line(section="s", name="a rate", value=3.0),
    }
    for speeds_count, strict, failing in (
        (True, False, {"no number"}),
        (True, True, {"no number", "slow"}),
        (False, True, {"no number"}),
    ):
        table = Table(speeds_count=speeds_count, strict=strict)
        for line in lines.values():
            table.add(line)
        assert {line.name for line in table.failed} == failing, (speeds_count, strict)
        expected = [("-" if word == "below" and not speeds_count else word) for word in lines]
        assert [table.verdict(line) for line in table.lines] == expected
    table.error("t", RuntimeError("out of paper\nand more"))
    assert table.failed[-1].note == "error: RuntimeError: out of paper"
    assert "out of paper" in capsys.readouterr().out
