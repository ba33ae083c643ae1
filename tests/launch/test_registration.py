"""What a sweep planned is recorded when it is launched, stays when it is changed, and is of no cell."""

import json
from pathlib import Path

import pytest
from cli import ROOT, cell_here
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mirrorpo.config.identity import digest
from mirrorpo.config.schema import register
from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.launches import LAUNCHES, commands_for, launches, record_launch
from mirrorpo.launch.registration import NOTHING, Registration, registration
from mirrorpo.run.disk import file_digest

PLAN = {"hypothesis": "it is better", "seeds": {"planned": 5}}


def of_command(*overrides: str) -> Registration:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
        return registration(config)


@pytest.mark.slow
def test_a_sweeps_plan_is_read_with_digests_and_no_cell_has_it() -> None:
    registered = of_command("sweep=tiny_credit")
    assert registered.sweep == "tiny_credit" and isinstance(registered.plan, dict)
    assert registered.sweep_sha256 == file_digest(ROOT / "sweeps" / "sweep" / "tiny_credit.yaml")
    # What the command line changes is recorded as it was launched.
    other = of_command("sweep=tiny_credit", "plan.seeds.planned=7")
    assert other.plan_sha256 != registered.plan_sha256 and other.sweep_sha256 == registered.sweep_sha256
    assert of_command() == NOTHING and NOTHING.entries() == {}
    plain, replanned = cell_here("sweep=tiny_credit"), cell_here("sweep=tiny_credit", "plan.margin=2")
    assert plain.hash == replanned.hash and plain.folder == replanned.folder
    assert "plan" not in plain.config and "plan" not in plain.settings
    broken = OmegaConf.create({"plan": {"margin": "${nothing}"}, "hydra": {"runtime": {"choices": {}}}})
    with pytest.raises(LaunchError, match=r"^plan: .*nothing"):
        registration(broken)


def test_a_plan_of_numbered_keys_is_the_same_plan_when_it_is_launched_again(tmp_path: Path) -> None:
    nodes = {"plan": {"looks": {2: 0.5, 10: 0.05}}, "hydra": {"runtime": {"choices": {}}}}
    for _ in range(2):
        registered = registration(OmegaConf.create(nodes))
        record_launch(tmp_path, ["train.py", "a"], ["1"], registered)
    (launch,) = launches(tmp_path)
    assert launch.registered == registered and launch.registered.plan == {"looks": {"2": 0.5, "10": 0.05}}
    assert registered.plan_sha256 == digest({"plan": launch.registered.plan})


def test_a_launch_keeps_what_was_planned_at_first_though_the_same_command_is_given_again(
    tmp_path: Path,
) -> None:
    first, second = (
        Registration(plan=PLAN | {"margin": margin}, plan_sha256=str(margin), sweep="s", sweep_sha256="f")
        for margin in (1, 2)
    )
    for registered in (first, second, second):
        record_launch(tmp_path, ["train.py", "a"], ["1"], registered)
    assert [launch.registered for launch in launches(tmp_path)] == [first, second]
    entries = json.loads((tmp_path / LAUNCHES).read_text())
    assert [entry["plan"]["margin"] for entry in entries] == [1, 2]
    # Given again with the same plan, the time is the last one and the first one stays known.
    entries[1] |= {"first": "2026-01-01T00:00:00Z", "time": "2026-01-01T00:00:00Z"}
    (tmp_path / LAUNCHES).write_text(json.dumps(entries))
    record_launch(tmp_path, ["train.py", "a"], ["1", "2"], second)
    kept = launches(tmp_path)[-1]
    assert (kept.first, kept.time > kept.first) == ("2026-01-01T00:00:00Z", True)
    # A cell is made again by the last command that makes it.
    assert [launch.registered for launch, _ in commands_for(launches(tmp_path), ["1"])] == [second]
    # Without a plan the file is what it was.
    record_launch(tmp_path / "none", ["train.py"], ["1"])
    assert json.loads((tmp_path / "none" / LAUNCHES).read_text())[0].keys() == {
        "argv", "cwd", "time", "cells", "first", "folder",
    }  # fmt: skip
