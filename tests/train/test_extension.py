"""A done run goes on to more steps, byte for byte as the longer run from the start, or says why not."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli import FEW_PROBLEMS, SMALL, cell_here, manifest, rows

from mirrorpo.config.cell import Cell
from mirrorpo.launch.train import _train
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.preemption import StopRequest
from mirrorpo.run.siblings import shorter_run_note
from mirrorpo.train.build import build_components
from mirrorpo.train.extension import extend, extendable

TINY = (
    *SMALL,
    *FEW_PROBLEMS,
    "prompts_per_step=2",
    "max_new_tokens=16",
    "eval_max_new_tokens=16",
    "eval_every=3",
    "eval_questions=3",
    "eval_sampled_questions=2",
    "drift_questions=2",
    "drift_every=3",
    "contamination_questions=2",
    "progress=false",
)


def run(*overrides: str) -> Cell:
    """Train a cell, as a process of its own would."""
    cell = cell_here(*TINY, *overrides)
    _train(cell, RunFolder(cell.folder), StopRequest())
    return cell


def files(cell: Cell) -> Mapping[str, bytes]:
    """What a run measured."""
    names = ["metrics.jsonl", *(f"eval/{path.name}" for path in (cell.folder / "eval").glob("*"))]
    return {name: (cell.folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cell]:
    out = tmp_path_factory.mktemp("extended")
    return out, run("steps=2", f"out={out}")


def test_an_extended_run_is_the_longer_run(short: tuple[Path, Cell], tmp_path: Path) -> None:
    out, first = short
    before = files(first)
    # Step 2 is the last of two, and not evaluated in the middle of four.
    longer = run("steps=4", f"out={out}", "extend=true")
    whole = run("steps=4", f"out={tmp_path}")
    assert files(longer) == files(whole) and longer.hash == whole.hash and longer.label == whole.label
    assert files(first) == before
    assert {"eval/step_000002.jsonl", "eval/contamination.jsonl"} < before.keys()
    # Measured at every third step, and where accuracy is: at the last of two, not in the middle of four.
    for cell, measured in ((first, [0, 2]), (longer, [0, 3, 4])):
        lines = rows(cell.folder / "metrics.jsonl")
        assert [row["step"] for row in lines if "drift/kl" in row] == measured, cell.folder
    entry, source = manifest(longer.folder), manifest(first.folder)
    assert entry["state"] == "done" and len(entry["launches"]) == 2
    assert entry["extended_from"] == {
        "folder": str(first.folder),
        "steps": 2,
        "config_hash": source["config_hash"],
        "wandb_id": source["wandb_id"],
    }
    # Three attempts, of which two are of one config.
    ids = {manifest(cell.folder)["wandb_id"] for cell in (first, longer, whole)}
    assert len(ids) == 3
    # Given again, it is an ordinary finished run.
    assert RunFolder(longer.folder).finished()
    extend(longer, build_components(longer.config))
    assert rows(longer.folder / "metrics.jsonl")[-1]["step"] == 4


def test_a_longer_run_beside_a_done_one_says_so(short: tuple[Path, Cell]) -> None:
    out, _ = short
    (note,) = shorter_run_note(cell_here(*TINY, "steps=3", f"out={out}"))
    assert "steps=3 starts at step 0" in note and "2 steps" in note and "extend=true" in note
    for other in ("steps=1", "lr=0.1", "seed=1", "extend=true"):
        assert shorter_run_note(cell_here(*TINY, "steps=3", f"out={out}", other)) == [], other


def test_what_is_no_beginning_of_the_longer_run_is_refused(short: tuple[Path, Cell]) -> None:
    out, first = short

    def refusal(*overrides: str) -> str:
        cell = cell_here(*TINY, "steps=3", f"out={out}", "extend=true", *overrides)
        with pytest.raises(ValueError, match="extend=true: ") as error:
            extend(cell, build_components(cell.config))
        assert not cell.folder.exists()
        return str(error.value)

    assert "no done run that differs" in refusal("lr=0.1")
    # The same run, had its rate fallen over its length.
    cell = cell_here(*TINY, "steps=3", f"out={out}", "extend=true")
    falling = build_components(cell_here("schedule=linear").config)
    with pytest.raises(ValueError, match=r"factor at update 2 is 0\.5 in 2 steps .* and 0\.66"):
        extendable(cell, falling)
    aside = first.folder / "aside"
    (first.folder / "checkpoints").rename(aside)
    assert "no checkpoint of its last step, 2" in refusal()
    aside.rename(first.folder / "checkpoints")


def test_a_run_that_is_refused_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    for refused in ("device=cuda:63", "algo.surrogate.low=7"):
        with pytest.raises(ValueError, match=r"."):
            run("steps=1", f"out={tmp_path / 'out'}", refused)
        assert not list(tmp_path.rglob("seed=*")), refused


def test_a_second_attempt_has_another_id_and_a_resumed_one_the_same(
    short: tuple[Path, Cell], tmp_path: Path
) -> None:
    elsewhere = run("steps=1", f"out={tmp_path}")
    entry = manifest(elsewhere.folder)
    again = cell_here(*TINY, "steps=1", f"out={tmp_path / 'b'}")
    assert again.hash == elsewhere.hash
    # A kill before the last step: the manifest says nothing of files, and a checkpoint is there.
    path = elsewhere.folder / "manifest.json"
    path.write_text(json.dumps({**entry, "state": "running"}))
    _train(elsewhere, RunFolder(elsewhere.folder), StopRequest())
    assert manifest(elsewhere.folder)["wandb_id"] == entry["wandb_id"]
    # Its checkpoints are gone: it starts anew, and a server would keep the old numbers of an old id.
    for checkpoint in (elsewhere.folder / "checkpoints").iterdir():
        (checkpoint / "state.pt").unlink()
    path.write_text(json.dumps({**entry, "state": "running"}))
    _train(elsewhere, RunFolder(elsewhere.folder), StopRequest())
    after = manifest(elsewhere.folder)
    assert after["wandb_id"] != entry["wandb_id"] and after["attempt"] != entry["attempt"]
