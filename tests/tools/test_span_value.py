"""The command on a real run."""

import json
import sys
from pathlib import Path

import pytest
from cli import SMALL, folder, rows, succeeded, train

from mirrorpo.tools.span_value import main


def test_the_command_writes_one_row_a_span_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(
        train(*SMALL, "steps=1", "max_new_tokens=100", "eval_questions=0", f"out={tmp_path}", cwd=tmp_path)
    )
    run = folder(tmp_path)
    monkeypatch.setattr(sys, "argv", ["credit_truth", str(run), "--completions", "4", "--rolls", "2"])
    main()
    found = rows(run / "credit_truth.jsonl")
    assert {row["kind"] for row in found} == {"calculation", "scaffolding"} and len(
        {row["uid"] for row in found}
    ) > 1
    assert all(0 <= row[place] <= 1 for row in found for place in ("before", "after"))
    assert all(
        row["direct"] != row["answer"] for row in found if row["kind"] == "calculation" and row["last"]
    )
    assert all(
        row["downstream"] > row["answer"] - 1e-3
        for row in found
        if row["kind"] == "calculation" and row["position"] == 1
    )
    assert json.loads((run / "manifest.json").read_text())["state"] == "done"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["credit_truth", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no finished run"):
        main()
