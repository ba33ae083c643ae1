"""Two stages: a sweep that settings are chosen on, and one that composes them and keeps off its seeds."""

import json
from pathlib import Path

import pytest
import yaml
from cli import cell_here, succeeded, train

from analysis.data.export import load
from analysis.study.options import StudyOptions
from analysis.study.selecting import select, write
from analysis.study.study import study
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.launches import launches, record_launch
from mirrorpo.launch.registration import Registration
from mirrorpo.launch.selection import read_selection, seed_error, signed

RECORD = signed({"sweep": "search", "seeds": [100, 101], "arms": {}})


def test_a_record_is_read_as_it_was_written_and_keeps_its_seeds_to_itself() -> None:
    assert read_selection(RECORD) == RECORD and signed(RECORD) == RECORD
    for edited in ({**RECORD, "seeds": [7]}, {**RECORD, "rule": "mine"}, {"sweep": "search"}):
        with pytest.raises(LaunchError, match="not as it was written"):
            read_selection(edited)
    with pytest.raises(LaunchError, match="selection=mine: compose a file"):
        read_selection("mine")
    error = seed_error(100, RECORD)
    assert error is not None and error.startswith(
        "seed=100: settings were chosen on it (search, seeds 100, 101)"
    )
    assert seed_error(0, RECORD) is None


def test_a_launch_keeps_how_settings_were_chosen(tmp_path: Path) -> None:
    first, second = (
        Registration(selection=RECORD),
        Registration(selection=signed({**RECORD, "rule": "other"})),
    )
    for registered in (first, second, second):
        record_launch(tmp_path, ["train.py"], ["1"], registered)
    assert [launch.registered for launch in launches(tmp_path)] == [first, second]


SMALL = (
    *("model=tiny", "algo=dr_grpo", "steps=2", "prompts_per_step=2", "group_size=2", "max_new_tokens=24"),
    *("eval_questions=0", "eval_sampled_questions=0", "drift_questions=0", "threads=1", "tracking=none"),
)
SEARCH = {
    "name": "search",
    "plan": {"hypothesis": "less is more", "metric": "auc:reward/mean"},
    "hydra": {
        "mode": "MULTIRUN",
        "sweeper": {
            "params": {"seed": "100,101", "divergence": "none,kl_k3"},
            "along": {"divergence=kl_k3": {"divergence.beta": "0.01,0.1"}},
        },
    },
}
SECOND = {
    "defaults": [{"/chosen": "mine"}],
    "name": "second",
    "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"divergence": "none,kl_k3", "seed": "0,100"}}},
}


@pytest.mark.slow
def test_a_second_sweep_gets_what_the_first_one_chose_and_refuses_its_seeds(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    for name, node in (("search", SEARCH), ("second", SECOND)):
        text = "# @package _global_\n" + yaml.safe_dump(node, sort_keys=False)
        (tmp_path / "sweep" / f"{name}.yaml").write_text(text)
    words = (*SMALL, f"out={tmp_path}/outputs", "--config-dir", str(tmp_path))
    succeeded(train("sweep=search", *words, cwd=tmp_path))
    # The tree that is tested may be dirty.
    options = StudyOptions(allow=["dirty", "provenance"])
    made = select(load(str(tmp_path / "outputs" / "search")), ["divergence.beta"], options)
    assert {choice.arm: len(choice.candidates) for choice in made.choices} == {"none": 1, "kl_k3": 2}
    write(made, str(tmp_path / "chosen" / "mine.yaml"))
    beta = made.record()["arms"]["kl_k3"]["chosen"]["divergence.beta"]
    done = train("sweep=second", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("settings were chosen on it (search, seeds 100, 101)") == 2
    launch = json.loads((tmp_path / "outputs" / "second" / "launches.json").read_text())[0]
    assert launch["selection"] == made.record()
    second = study(
        load(str(tmp_path / "outputs" / "second")),
        metric="auc:reward/mean",
        allow=["dirty", "provenance", "missing", "unfinished"],
    )
    betas = {run.arm: run.settings.get("divergence.beta") for run in second.design.runs}
    assert betas == {"none": None, "kl_k3": beta} and {run.seed for run in second.design.runs} == {0}
    # How a setting was chosen is no part of the cell.
    plain, recorded = (cell_here("divergence=kl_k3", *more) for more in ([], ["selection={a: 1}"]))
    assert plain.hash == recorded.hash and "selection" not in recorded.config
