"""Arms, blocks and baselines found in exports."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli import ROOT
from planted import answers, export_of, follow, manifest, metrics, write_run, write_sweep

from analysis.data.export import load
from analysis.data.schema import cell_hash
from analysis.report.display_names import display_names
from analysis.study.design import design, swept_settings
from analysis.study.guards import KINDS, findings, notes_along
from analysis.study.study import METRIC, study

ALL = list(KINDS)
RIGHT = np.array([[True, False], [True, True]])


def test_the_axis_that_varies_makes_the_arms_and_the_other_the_blocks() -> None:
    planned = design(
        export_of({"uniform": RIGHT, "counterfactual": RIGHT}, axis="weighting", model=("tiny", "qwen"))
    )
    assert (planned.axis, planned.baseline, planned.others, planned.blocks) == (
        "weighting",
        "uniform",
        ["model"],
        ["qwen", "tiny"],
    )
    assert planned.arms == ["uniform", "counterfactual"]


def test_another_axis_and_baseline_may_be_named() -> None:
    planned = design(
        export_of({"uniform": RIGHT, "counterfactual": RIGHT}, axis="weighting", model=("tiny", "qwen")),
        axis="model",
        baseline="qwen",
    )
    assert planned.arms == ["qwen", "tiny"] and planned.blocks == ["counterfactual", "uniform"]


def test_kl_is_the_baseline_of_divergences_and_none_where_there_is_no_kl() -> None:
    assert design(export_of({"none": RIGHT, "kl": RIGHT})).baseline == "kl"
    assert design(export_of({"probl2": RIGHT, "none": RIGHT})).baseline == "none"


def test_null_is_named_as_it_is_typed(tmp_path) -> None:
    root = tmp_path / "sweep"
    for model, rank in (("tiny", None), ("qwen", 8)):
        for arm in ("kl", "none"):
            made = manifest(0, {"divergence": arm, "model": model}, **{"model.rank": rank})
            write_run(root / model / arm, made, metrics(4, [0.5, 0.6, 0.7]), {})
    export = load(str(root))
    made = design(export, by=["model.rank"])
    assert made.blocks == ["qwen, model.rank=8", "tiny, model.rank=null"]
    mixed = [str(finding) for finding in findings(export, design(export, axis="divergence"), METRIC)]
    assert not any("None" in text for text in mixed)
    along = replace(made, along={"divergence=kl": {"lr": None}})
    assert notes_along(along) == ["By the sweep's file, divergence=kl comes with lr=null."]


def test_a_choice_with_spaces_in_its_text_has_a_baseline_and_a_place(tmp_path) -> None:
    mapping, other = "{'kind': 'js', 'beta': 0.1}", "{'kind': 'js', 'beta': 0.5}"
    export = export_of({mapping: RIGHT, other: RIGHT})
    # Without a usual baseline it is the first run's, which is the first by name.
    made = design(export)
    assert made.baseline == mapping and made.arms == [mapping, other]
    assert design(export, baseline=other).arms == [other, mapping]
    assert design(export).choices == {mapping: mapping, other: other}
    # A choice of two columns is named by the first too, where that is one arm.
    assert design(export_of({"kl 0.04": RIGHT, "js 0.1": RIGHT})).baseline == "kl 0.04"
    assert design(export_of({"kl 0.04": RIGHT, "js 0.1": RIGHT}), baseline="js").baseline == "js 0.1"
    assert display_names(study(export, allow=ALL)) == {mapping: mapping, other: other}
    # The planned arms are choices, whatever is swept beside them.
    planned = replace(made, planned_arms=[other, mapping])
    assert planned.arms == [mapping, other] and replace(planned, baseline="").arms == [other, mapping]
    assert not [finding for finding in findings(export, planned, METRIC) if "was asked for" in str(finding)]


def test_an_axis_or_a_baseline_that_is_not_there_is_named() -> None:
    export = export_of({"none": RIGHT, "kl": RIGHT})
    with pytest.raises(ValueError, match=r"no run with divergence=tsallis: the arms are \['kl', 'none'\]"):
        design(export, baseline="tsallis")
    with pytest.raises(ValueError, match=r"axis=lr.*--by"):
        design(export, axis="lr")


def test_a_setting_that_no_run_has_makes_no_arms_and_the_known_ones_are_named(tmp_path) -> None:
    export = load(str(write_sweep(tmp_path / "sweep", arms=("kl", "none"))))
    with pytest.raises(
        ValueError, match=r"by=divergence\.bet: no run has .* did you mean divergence\.beta"
    ) as error:
        design(export, by=["divergence.bet"])
    assert "they have algo, " in str(error.value) and ", seed, " in str(error.value)
    # An axis, the seed, and a setting that does not vary are known.
    assert design(export, by=["divergence", "seed", "lr"]).swept == []


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


# The same settings under the names that they had first, and under today's.
FIRST_NAMES = {
    "coefficient": {"_target_": "mirrorpo.coefficient.Fixed", "beta": 0.1},
    "mismatch": {"_target_": "mirrorpo.mismatch.TruncatedImportance", "cap": 2.0},
    "optimiser": {"_target_": "mirrorpo.optim.AdamW", "betas": [0.9, 0.95]},
    "logger": {"_target_": "mirrorpo.tracking.NoTracker"},
    "tile": 512,
}
TODAYS_NAMES = {
    "beta_schedule": {"_target_": "mirrorpo.divergence.beta_schedule.Fixed", "beta": 0.1},
    "importance_correction": {
        "_target_": "mirrorpo.algo.importance_correction.TruncatedImportance",
        "cap": 2.0,
    },
    "optim": {"_target_": "mirrorpo.optim.adamw.AdamW", "betas": [0.9, 0.95]},
    "tracking": {"_target_": "mirrorpo.run.tracking.NoTracker"},
    "logit_chunk": 512,
}


def named_runs(root: Path, beta: float = 0.1) -> Path:
    """A run of an older commit and one of today's, seeds 0 and 1 of one cell, at two strengths of an arm."""
    for seed, names, group in ((0, FIRST_NAMES, "coefficient"), (1, TODAYS_NAMES, "beta_schedule")):
        strength = {**names, group: {**names[group], "beta": beta}}
        changes = {f"config.{key}": value for key, value in strength.items()}
        write_sweep(root / str(beta) / str(seed), arms=("kl",), seeds=(seed,), **changes)
    return root


def test_runs_whose_configs_name_settings_differently_are_one_cell(tmp_path: Path) -> None:
    export = load(str(named_runs(tmp_path)))
    old, new = export.records
    assert "optimiser" in json.loads(old["config"]) and "optim" in json.loads(new["config"])
    assert old["cell_hash"] == new["cell_hash"]
    runs = study(export).design.runs
    assert [run.arm for run in runs] == ["kl", "kl"]
    assert dict(runs[0].settings) | {"seed": 1} == dict(runs[1].settings)
    assert runs[0].settings["optim._target_"] == "mirrorpo.optim.adamw.AdamW"


@pytest.mark.parametrize("group", ["coefficient", "beta_schedule"])
def test_a_setting_makes_arms_under_either_name(tmp_path: Path, group: str) -> None:
    for beta in (0.1, 0.2):
        named_runs(tmp_path, beta)
    arms = ["kl beta_schedule.beta=0.1", "kl beta_schedule.beta=0.2"]
    assert study(load(str(tmp_path)), by=[f"{group}.beta"], baseline=arms[0]).design.arms == arms
    (tmp_path / "multirun.yaml").write_text(
        f"hydra: {{overrides: {{task: ['{group}.beta=0.1,0.2']}}, sweeper: {{params: null}}}}"
    )
    assert study(load(str(tmp_path)), baseline=arms[0]).design.arms == arms


def test_cells_of_a_committed_export_have_the_hashes_that_they_had() -> None:
    records = load(str(ROOT / "docs" / "results" / "tiny_gbmpo" / "export")).records
    assert any("optimiser" in json.loads(row["config"]) for row in records)
    for row in records:
        assert cell_hash(json.loads(row["config"])) == row["cell_hash"], row["source"]


def test_swept_groups_and_settings_that_identity_leaves_out_make_arms(tmp_path) -> None:
    target = "mirrorpo.algo.importance_correction."
    for correction, name in (("none", "NoCorrection"), ("icepop", "BoundedImportance")):
        for lag in (0, 4):
            made = manifest(
                0,
                command=["train.py", f"importance_correction={correction}", f"rollout.lag={lag}"],
                **{
                    "config.importance_correction": {"_target_": target + name},
                    "config.rollout": {"lag": lag},
                },
            )
            given = {4: answers([True, False])}
            write_run(tmp_path / f"{correction}{lag}", made, follow(metrics(4, [0.5, 0.5]), given), given)
    export = load(str(tmp_path))
    swept = ["rollout.lag", "importance_correction"]
    assert sorted(design(export, by=swept).arms) == [
        f"kl rollout.lag={lag} importance_correction={name}" for lag in (0, 4) for name in ("icepop", "none")
    ]

    # Settings of one choice have to agree; those of two differ, as they should.
    def mixed(by: list[str]) -> list[str]:
        all_kinds = findings(export, design(export, by=by), METRIC)
        return [finding.text for finding in all_kinds if finding.kind == "mixed"]

    assert not mixed(swept)
    assert any("importance_correction" in text for text in mixed(["rollout.lag"]))


def test_an_export_of_no_run_says_so(tmp_path: Path) -> None:
    empty = load(str(write_sweep(tmp_path / "sweep")))
    with pytest.raises(ValueError, match="there is no run in it"):
        design(replace(empty, runs=empty.runs[:0]))
