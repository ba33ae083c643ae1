"""The cell that a launcher planned and the cell that its process composes are one, or nothing runs."""

import json
from pathlib import Path

import pytest
from cli import ROOT, SMALL, cell_here, folder, manifest, train

from mirrorpo.launch.planned import Planned
from mirrorpo.run.folder import RunFolder

SHORT = (*SMALL, "steps=0", "eval_questions=2", "eval_sampled_questions=0", "drift_questions=0")


def test_another_cell_is_refused_with_the_settings_that_differ(tmp_path: Path) -> None:
    there, here = (cell_here(f"out={tmp_path}", f"divergence={name}") for name in ("probl2", "kl"))
    RunFolder(there.folder).plan(there)
    planned, rest = Planned.taken_from(["seed=0", Planned.of(there).argument])
    assert planned == Planned.of(there) and rest == ["seed=0"]
    planned.refuse_other(there)
    with pytest.raises(ValueError, match="another cell than its launcher planned") as error:
        planned.refuse_other(here)
    assert "divergence.beta: " in str(error.value) and "folder: " in str(error.value)
    assert Planned.taken_from(["seed=0"]) == (None, ["seed=0"])


@pytest.mark.slow
def test_a_cell_composes_what_its_launcher_did(tmp_path: Path) -> None:
    """With another primary config, a search path and an environment of its own, all typed with -m."""
    primary = tmp_path / "extra" / "other.yaml"
    group = tmp_path / "more" / "divergence" / "mine.yaml"
    for path in (primary, group):
        path.parent.mkdir(parents=True)
    primary.write_text("defaults:\n  - train\n  - _self_\ntemperature: 0.5\n")
    group.write_text((ROOT / "conf" / "divergence" / "probl2.yaml").read_text())
    result = train(
        "--config-dir",
        "extra",
        "-cn",
        "other",
        "-m",
        "seed=0",
        "divergence=mine",
        f"hydra.searchpath=[file://{tmp_path}/more]",
        "+hydra.job.env_set.MY_NAME=named",
        "name=${oc.env:MY_NAME}",
        *SHORT,
        "out=out",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    run = folder(tmp_path / "out")
    entry = manifest(run)
    assert entry["state"] == "done" and run.parents[1].name == "named"
    assert entry["config"]["temperature"] == 0.5 and entry["choices"]["divergence"] == "mine"
    # A launcher that planned something else: the run is not touched.
    there = json.dumps(entry)
    argument = f"--planned={'0' * 16},{run}"
    refused = train(argument, *SHORT, f"out={tmp_path / 'refused'}", cwd=tmp_path)
    assert refused.returncode == 1 and "another cell than its launcher planned" in refused.stderr
    assert json.dumps(manifest(run)) == there and not (tmp_path / "refused").exists()
