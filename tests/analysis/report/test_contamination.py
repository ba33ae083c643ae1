"""The report's line on questions that the start model knows by heart."""

import json
from pathlib import Path

from planted import write_sweep

from analysis.data.export import load
from analysis.report.caveats import caveats
from analysis.study.study import study


def test_a_screen_is_a_line_of_the_report_and_no_screen_is_none(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "sweep")
    assert "verbatim" not in "\n".join(caveats(study(load(str(root)))))
    for index, path in enumerate(sorted(root.rglob("metrics.jsonl"))):
        first, *others = path.read_text().splitlines(keepends=True)
        screened = {"exact": 0.5 + 0.02 * index, "overlap": 0.75, "questions": 30.0}
        named = {f"contamination/{name}": value for name, value in screened.items()}
        path.write_text("".join([json.dumps(json.loads(first) | named) + "\n", *others]))
    (line,) = [text for text in caveats(study(load(str(root)))) if "verbatim" in text]
    assert line.startswith(
        "Given the first 60% of each of 30 questions of arithmetic, tiny as it was before training completes "
        "53.0% verbatim; 75.0% of the rest's characters"
    )
