"""A planted world's knobs, and the start model that they have to have been made with."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from cli import cell_here

from mirrorpo.config.cell import Cell
from mirrorpo.dataset import exploit, ledger
from mirrorpo.dataset.ledger import Ledger
from mirrorpo.launch.equal_arms import refuse_equal_arms
from mirrorpo.launch.plan import Checker, PlannedCell
from mirrorpo.run.manifest import MANIFEST, sealed
from mirrorpo.train.build import Components, build_components, inert, notes

LEDGER = ("model=ledger", "algo=dr_grpo", "divergence=none")


def built(*overrides: str) -> Components:
    return build_components(cell_here(*overrides).config)


def without_effect(*overrides: str) -> list[str]:
    entries = inert(built(*overrides))
    return [name for entry in entries for name in entry.settings if name.startswith("dataset.")]


def grid(*lines: Sequence[str]) -> list[PlannedCell]:
    return [PlannedCell(tuple(line), cell_here(*line), None) for line in lines]


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A model's folder that is not the shipped one; nothing is read of it before a run loads it."""
    (tmp_path / "config.json").write_text("{}")
    return f"model.path={tmp_path}"


@pytest.mark.parametrize(
    "knob",
    ["copies=2", "distance=30", "distractors=8", "letters=4", "choices=10", "data_seed=1"],
)
def test_a_knob_that_the_shipped_ledger_was_not_made_with_is_refused_with_the_command(
    knob: str,
) -> None:
    name = knob.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^dataset\.{knob} with model\.path=mirrorpo:ledger: ") as error:
        built(*LEDGER, f"dataset.{knob}")
    assert f"made with {name}={ledger.SHIPPED.made_with[name]}" in str(error.value)
    assert f"python train.py algo=sft model=ledger_scratch dataset.{knob}`" in str(error.value)


def test_the_shipped_exploit_model_has_its_shares() -> None:
    with pytest.raises(ValueError, match=r"'dataset\.shares=\{right:0\.5,rare:0\.03,exploit:0\.02\}'`"):
        built("model=exploit", "algo=dr_grpo", "dataset.shares.right=0.5")
    built("model=exploit", "algo=dr_grpo", "dataset.letters=4")


def test_the_record_is_what_the_shipped_models_are_made_with() -> None:
    for world in (ledger, exploit):
        shipped = world.SHIPPED
        made = cell_here("algo=sft", f"model={shipped.scratch}").config["dataset"]
        assert {name: made[name] for name in shipped.made_with} == dict(shipped.made_with)
        name = shipped.path.removeprefix("mirrorpo:")
        assert built(f"model={name}", "algo=dr_grpo").dataset, "its own settings are not refused"


def test_the_shipped_ledger_model_writes_what_the_record_says() -> None:
    data = built(*LEDGER).dataset
    assert isinstance(data, Ledger)
    model = built(*LEDGER).model.load(torch.device("cpu"), 0, list)
    prompt = data.load("train")[0]
    text = prompt.question + "\n"
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    out = model.network.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)  # type: ignore[operator]
    written = model.decode(out[0, len(ids) :].tolist())
    lines = re.findall(r"^(\w) (\d) \+ 0 = \2$", written, re.MULTILINE)
    assert [letter for letter, _ in lines] == list("abcdefgh") and len(written.splitlines()) == 9
    assert all(int(digit) in data.options(letter) for letter, digit in lines)


def test_training_on_demonstrations_reads_all_knobs() -> None:
    assert not without_effect("algo=sft", "model=ledger_scratch", "dataset.copies=2", "max_new_tokens=128")
    built("algo=sft", "model=ledger", "dataset.copies=2", "max_new_tokens=128")


def test_arms_that_differ_in_demonstrations_alone_stop_a_grid(own: str) -> None:
    arms = grid(*([*LEDGER, own, f"dataset.copies={copies}"] for copies in (1, 2)))
    with pytest.raises(ValueError, match=r"2 arms are one run by construction.*dataset\.copies"):
        refuse_equal_arms(arms, Checker())
    # A question has another set of options, which rewards and evaluations see.
    assert refuse_equal_arms(grid(*([*LEDGER, own, f"dataset.letters={n}"] for n in (4, 8))), Checker()) == []
    arms = grid(*([*LEDGER, f"model.path={path}", f"dataset.copies={n}"] for n, path in enumerate("ab", 1)))
    assert refuse_equal_arms(arms, Checker()) == [], "each with its own start model"


def test_habits_are_inert_in_a_run_that_samples() -> None:
    habits = "+dataset.habits={careful: 0.5, slip: 0.5}"
    with pytest.raises(ValueError, match=r"dataset\.habits"):
        refuse_equal_arms(grid([], [habits]), Checker())
    assert any("dataset.habits" in note for note in notes(built(habits)))
    assert not any("dataset.habits" in note for note in notes(built()))
    assert not without_effect("algo=sft", "model=tiny_scratch")


def test_right_answers_are_demonstrations_too(own: str) -> None:
    assert "dataset.copies" in without_effect(*LEDGER, own)
    assert not without_effect(*LEDGER, own, "right_answer_questions=4")


def test_a_start_model_of_ones_own_is_compared_with_the_run_that_made_it(tmp_path: Path) -> None:
    cell: Cell = cell_here("algo=sft", "model=ledger_scratch", "dataset.copies=2", "max_new_tokens=128")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    entries = {
        "config": cell.config,
        "choices": dict(cell.choices),
        "config_hash": cell.hash,
        "state": "done",
    }
    (tmp_path / MANIFEST).write_text(json.dumps(sealed(entries)))
    path = f"model.path={tmp_path}"
    found = notes(built(*LEDGER, path))
    assert [note for note in found if "copies" in note or "max_new_tokens" in note] == [
        "dataset.copies=1: the run behind model.path was made with dataset.copies=2; set that, or another "
        "model.path",
        "max_new_tokens=64: the run behind model.path was made with max_new_tokens=128; answers that long "
        "are cut",
    ]
    quiet = notes(built(*LEDGER, path, "dataset.copies=2", "max_new_tokens=128"))
    assert not [note for note in quiet if "copies" in note or "max_new_tokens" in note]
    assert not [note for note in notes(built(*LEDGER)) if "model.path" in note]
