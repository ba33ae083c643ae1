"""Arms, blocks and baselines found in exports."""

import numpy as np
import pytest
from planted import export_of, write_sweep

from analysis.data.export import load
from analysis.study.design import design, swept_settings
from analysis.study.study import study

RIGHT = np.array([[True, False], [True, True]])


def test_the_axis_that_varies_makes_the_arms_and_the_other_the_blocks() -> None:
    found = design(
        export_of({"uniform": RIGHT, "counterfactual": RIGHT}, axis="weighting", model=("tiny", "qwen"))
    )
    assert (found.axis, found.baseline, found.others, found.blocks) == (
        "weighting",
        "uniform",
        ["model"],
        ["qwen", "tiny"],
    )
    assert found.arms == ["uniform", "counterfactual"]


def test_another_axis_and_baseline_may_be_named() -> None:
    found = design(
        export_of({"uniform": RIGHT, "counterfactual": RIGHT}, axis="weighting", model=("tiny", "qwen")),
        axis="model",
        baseline="qwen",
    )
    assert found.arms == ["qwen", "tiny"] and found.blocks == ["counterfactual", "uniform"]


def test_kl_is_the_baseline_of_divergences_and_none_where_there_is_no_kl() -> None:
    assert design(export_of({"none": RIGHT, "kl": RIGHT})).baseline == "kl"
    assert design(export_of({"probl2": RIGHT, "none": RIGHT})).baseline == "none"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"baseline": "tsallis"}, r"no run with divergence=tsallis: the arms are \['kl', 'none'\]"),
        ({"axis": "lr"}, "--by"),
    ],
)
def test_what_is_not_there_is_named(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        design(export_of({"none": RIGHT, "kl": RIGHT}), **options)


def test_a_swept_setting_makes_arms_from_the_sweeps_own_command_or_by_name(tmp_path) -> None:
    for name, beta in (("a", 0.1), ("b", 1.0)):
        write_sweep(tmp_path / "sweep" / name, arms=("kl",), **{"divergence.beta": beta})
    with pytest.raises(ValueError, match=r"divergence\.beta"):
        study(load(str(tmp_path / "sweep")))
    by_name = study(load(str(tmp_path / "sweep")), by=["divergence.beta"]).design
    (tmp_path / "sweep" / "multirun.yaml").write_text(
        "hydra: {overrides: {task: ['divergence.beta=0.1,1']}, sweeper: {params: null}}"
    )
    by_command = study(load(str(tmp_path / "sweep"))).design
    assert by_name.arms == by_command.arms == ["kl beta=0.1", "kl beta=1"]
    assert by_name.baseline == "kl beta=0.1"
    assert study(load(str(tmp_path / "sweep")), baseline="kl beta=1").design.arms[0] == "kl beta=1"


def test_values_of_a_command_line() -> None:
    assert swept_settings(["a=1", "b=x,y", "seed=range(2,4)", "+c=choice(1,2)", "d=[1,2]", "nonsense"]) == {
        "b": ["x", "y"],
        "seed": ["2", "3"],
        "c": ["1", "2"],
    }
