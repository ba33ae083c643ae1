"""Names under which LaTeX tables and figures print arms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli import ROOT
from planted import export_of

from analysis.report.display_names import SETTINGS, display_names, displayed
from analysis.study.study import Study, study


def made_of(arms: tuple[str, ...]) -> Study:
    return study(
        export_of(dict.fromkeys(arms, np.array([[True, False]])), axis="weighting"), allow=["copied"]
    )


def test_every_name_in_conf_is_of_a_choice_there_is() -> None:
    names = yaml.safe_load((ROOT / "conf" / "display.yaml").read_text())
    for axis, choices in names.items():
        known = {path.stem for path in (ROOT / "conf" / axis).glob("*.yaml")}
        assert axis == SETTINGS or set(choices) <= known, set(choices) - known
        assert len(set(choices.values())) == len(choices), axis


def test_names_are_no_part_of_a_cell() -> None:
    assert "display" not in (ROOT / "conf" / "train.yaml").read_text()


def test_a_name_that_is_missing_is_what_was_typed_and_names_of_ones_own_go_first(tmp_path: Path) -> None:
    made = made_of(("uniform", "counterfactual_downstream", "my_weighting"))
    assert list(display_names(made).values()) == ["uniform", "downstream", "my weighting"]
    mine = tmp_path / "names.yaml"
    mine.write_text("weighting: {my_weighting: ours, uniform: none}")
    assert list(display_names(made, mine).values()) == ["none", "downstream", "ours"]
    for text in ("[1]", "weighting: x", "{"):
        mine.write_text(text)
        with pytest.raises(ValueError, match=r"^names=.*names\.yaml: "):
            display_names(made, mine)


def test_arms_of_settings_are_named_by_choice_and_setting() -> None:
    made = made_of(("uniform", "entropy"))
    runs = [replace(run, arm=f"{run.arm} divergence.beta=0.1 lr=1e-5") for run in made.design.runs]
    design = replace(made.design, runs=runs, baseline=runs[0].arm)
    names = display_names(replace(made, design=design))
    assert names["uniform divergence.beta=0.1 lr=1e-5"] == "uniform, β = 0.1, learning rate = 1e-5"


def test_names_stand_where_arms_do_and_nowhere_else() -> None:
    names = {"kl": "KL", "kl beta=0.1": "KL, β = 0.1", "none": "no penalty"}
    for text, shown in (
        ("kl", "KL"),
        ("difference from kl, first", "difference from KL, first"),
        ("difference from kl beta=0.1", "difference from KL, β = 0.1"),
        ("qwen, none", "qwen, no penalty"),
        ("kl_exact", "kl_exact"),
        ("there is none", "there is none"),
    ):
        assert displayed(text, names) == shown
