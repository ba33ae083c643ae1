"""A run folder that was made before modules and settings were renamed is the same run today.

`made_at_47d2e08` holds a small random model, a run of it that commit 47d2e08 began and stopped on request
after step 2 of 4, and the metrics of the same run undisturbed.
"""

import json
import shutil
from pathlib import Path

import pytest
from cli import ROOT, folder, manifest, rows, succeeded, train

from mirrorpo.config.renamed import renamed_arguments

MADE = Path(__file__).parent / "made_at_47d2e08"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(MADE / "runs", tmp_path / "runs")
    return folder(tmp_path / "runs")


def typed(run: Path, root: Path) -> list[str]:
    """The command that began the run, with another root folder."""
    words = manifest(run)["command"][1:]
    return [word for word in words if not word.startswith("out=")] + [f"out={root}"]


@pytest.mark.parametrize("names", ["old", "new"])
def test_it_resumes_to_the_numbers_of_an_undisturbed_run(old: Path, tmp_path: Path, names: str) -> None:
    before, begun = manifest(old), (old / "metrics.jsonl").read_bytes()
    command = typed(old, tmp_path / "runs")
    renamed, notes = renamed_arguments(command)
    assert set(notes) == {"coefficient", "optimiser", "tile", "logger"}
    # The model's path is relative to the repository's root.
    result = train(*(command if names == "old" else renamed), cwd=ROOT)
    succeeded(result)
    assert [f"{name} is called {new} now" in result.stderr for name, new in notes.items()] == [
        names == "old"
    ] * 4

    assert folder(tmp_path / "runs") == old
    after = manifest(old)
    assert after["config_hash"] == before["config_hash"] and after["wandb_id"] == before["wandb_id"]
    assert [launch["from_step"] for launch in after["launches"]] == [0, 2]
    # Its steps are of two versions of the code, and it says so.
    assert after["state"] == "stale" and "2 versions" in after["error"]
    assert (old / "metrics.jsonl").read_bytes().startswith(begun)
    undisturbed = [json.loads(line) for line in (MADE / "undisturbed_metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(rows(old / "metrics.jsonl"), undisturbed, strict=True):
        # What is measured today and was not then, of samples that are the same.
        assert theirs.keys() <= ours.keys()
        assert all(name.startswith("eval/") for name in ours.keys() - theirs.keys())
        # Byte for byte on the processor that made it; another one may round another way.
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_another_setting_is_another_run_under_either_name(old: Path, tmp_path: Path) -> None:
    command = [word for word in typed(old, tmp_path / "runs") if not word.startswith("tile=")]
    result = train(*command, "logit_chunk=32", "hydra.launcher.dry_run=true", "-m", cwd=ROOT)
    assert "1 of 1 cells would run" in result.stdout and " go on " not in result.stdout, result.stdout
