"""What a config is refused for, and what makes two configs the same run."""

import copy
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli import cell_here, composed
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from mirrorpo.config import identity
from mirrorpo.config.cell import AXES, cell
from mirrorpo.config.identity import config_hash, differences, flat
from mirrorpo.config.schema import TrainConfig, check, resolved

# Written out again: what changes no number in metrics.jsonl.
NOT_IDENTITY = (
    r"out|name|tracking\..*|progress|checkpoint_(every|minutes|async)|keep_checkpoints|shown_completions|dataset\.root|"
    r"sandbox|reward\.sandbox|reward\.workers|extend|allow_equal_arms"
)


@cache
def _config(*overrides: str) -> DictConfig:
    with composed(*overrides) as (cfg, _):
        return cfg


def config(*overrides: str, **changes: Any) -> DictConfig:
    """A copy of a composed config with some top-level settings replaced."""
    cfg = copy.deepcopy(_config(*overrides))
    for key, value in changes.items():
        cfg[key] = value
    return cfg


cell_for = cache(cell_here)


# Refusals


def test_the_default_cell_is_accepted() -> None:
    check(config())


@pytest.mark.parametrize("knob", [field.name for field in fields(TrainConfig) if field.type is int])
def test_every_whole_number_is_refused_when_negative(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"^{knob}=-1: needs at least [01]$"):
        check(config(**{knob: -1}))


POSITIVE = (
    "prompts_per_step",
    "group_size",
    "updates_per_rollout",
    "max_new_tokens",
    "threads",
    "tokens_per_micro_batch",
    "tokens_per_call",
    "logit_chunk",
    "eval_max_new_tokens",
    "keep_checkpoints",
)


@pytest.mark.parametrize("knob", POSITIVE)
def test_zero_of_what_a_run_needs_is_refused(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"^{knob}=0: needs at least 1$"):
        check(config(**{knob: 0}))


@pytest.mark.parametrize(
    "knob",
    [
        "seed",
        "steps",
        "eval_every",
        "eval_questions",
        "eval_sampled_questions",
        "eval_samples",
        "shown_completions",
    ],
)
def test_zero_of_what_a_run_can_do_without_is_accepted(knob: str) -> None:
    check(config(**{knob: 0}))


@pytest.mark.parametrize(
    ("knob", "choices"),
    [
        ("update_window", "whole, split"),
        ("data_order", "shuffled, sequential, informative"),
        ("eval_split", "validation, test"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(knob: str, choices: str) -> None:
    with pytest.raises(ValueError, match=f"^{knob}=other: choose one of {choices}$"):
        check(config(**{knob: "other"}))


def test_validation_is_chosen_as_well_as_test() -> None:
    for split in ("validation", "test"):
        check(config(eval_split=split))


@pytest.mark.parametrize(("knob", "value"), [("lr", -1e-4), ("temperature", 0.0), ("temperature", -1.0)])
def test_a_negative_learning_rate_or_a_temperature_of_zero_is_refused(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{knob}={value}.*not negative.*above 0"):
        check(config(**{knob: value}))


def test_a_negative_gradient_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_grad_norm=-1"):
        check(config(max_grad_norm=-1.0))


@pytest.mark.parametrize("knob", ["lr", "temperature"])
def test_nan_is_refused(knob: str) -> None:
    with pytest.raises(ValueError, match=f"{knob}=nan"):
        check(config(**{knob: float("nan")}))


def test_updates_that_do_not_share_the_groups_evenly_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"updates_per_rollout=3 does not divide prompts_per_step=16: .*update_window=split"
    ):
        check(config(update_window="split", updates_per_rollout=3))


@pytest.mark.parametrize(
    "changes",
    [
        {"update_window": "split", "updates_per_rollout": 4},
        {"update_window": "whole", "updates_per_rollout": 3},
    ],
)
def test_updates_that_divide_the_groups_or_see_all_of_them_are_accepted(changes: Mapping[str, Any]) -> None:
    check(config(**changes))


def test_sampling_for_pass_at_k_at_temperature_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval_temperature=0.0: .*set eval_samples=0"):
        check(config(eval_temperature=0.0))


def test_an_evaluation_without_samples_needs_no_temperature() -> None:
    check(config(eval_temperature=0.0, eval_samples=0))


def test_an_added_key_is_refused_with_the_keys_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown settings \['foo'\]: .*'group_size'"):
        check(config("+foo=1"))


def test_a_misspelt_key_fails_at_compose() -> None:
    with pytest.raises(ConfigCompositionException, match="stepps"):
        config("stepps=3")


@pytest.mark.parametrize("override", ["steps=many", "steps=1.5", "lr=fast", "deterministic=3x"])
def test_a_value_of_the_wrong_type_fails_at_compose(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override):
        config(override)


def test_settings_that_no_recipe_sets_are_all_listed() -> None:
    with pytest.raises(ValueError, match=r"no recipe sets \['lr', 'steps'\] .*conf/recipe/<dataset>.yaml"):
        check(config(steps="???", lr="???"))


def test_a_missing_key_inside_a_group_is_listed_with_its_group() -> None:
    cfg = config()
    cfg.divergence.beta = "???"
    with pytest.raises(ValueError, match=r"\['divergence.beta'\]"):
        check(cfg)


def test_an_interpolation_that_leads_nowhere_is_a_value_error() -> None:
    cfg = config()
    cfg.dataset.data_seed = "${no_such_setting}"
    with pytest.raises(ValueError, match=r"cannot be resolved.*no_such_setting"):
        resolved(cfg)


def test_a_resolved_config_has_no_interpolation_left() -> None:
    assert resolved(config("algo=dr_grpo", max_new_tokens=77))["algo"]["aggregate"]["length"] == 77


# Identity


def backwards(data: Any) -> Any:
    return {key: backwards(data[key]) for key in reversed(data)} if isinstance(data, dict) else data


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    data = resolved(config())
    assert list(backwards(data)) != list(data)
    assert config_hash(backwards(data)) == config_hash(data)


def test_the_hash_is_sixteen_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", config_hash(resolved(config())))


@pytest.mark.parametrize("overrides", [(), ("dataset=gsm8k",)], ids=str)
def test_the_hash_changes_with_every_key_but_the_plumbing(overrides: Sequence[str]) -> None:
    data = resolved(config(*overrides))
    for key in flat(data):
        changed = OmegaConf.create(data)
        OmegaConf.update(changed, key, "something else")
        same = config_hash(OmegaConf.to_container(changed)) == config_hash(data)  # type: ignore[arg-type]
        assert same == bool(re.fullmatch(NOT_IDENTITY, key)), key


def test_a_key_that_only_begins_like_plumbing_is_not_plumbing() -> None:
    assert config_hash({"name": "a"}) == config_hash({"name": "b"})
    assert config_hash({"names": "a"}) != config_hash({"names": "b"})


@pytest.mark.parametrize(
    ("override", "same"),
    [("algo.surrogate.low=0", "algo.surrogate.low=0.0"), ("divergence.beta=1", "divergence.beta=1.0")],
)
def test_a_number_written_without_its_point_is_the_same_number(override: str, same: str) -> None:
    assert cell_for(override).hash == cell_for(same).hash


@pytest.mark.parametrize(
    ("one", "other"),
    [({"algo": {"a": True}}, {"algo": {"a": 1}}), ({"algo": {"a": None, "b": 1}}, {"algo": {"b": 1}})],
)
def test_configs_have_the_same_hash_if_they_have_no_difference(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    assert (config_hash(one) == config_hash(other)) == (differences(one, other) == {})


def test_differences_are_dotted_keys_with_both_values() -> None:
    one = {"algo": {"low": 0.2, "high": 0.2}, "seed": 1}
    other = {"algo": {"low": 0.1, "high": 0.2}, "seed": 2}
    assert differences(one, other) == {"algo.low": (0.2, 0.1), "seed": (1, 2)}


def test_a_key_that_only_one_config_has_differs_from_none() -> None:
    assert differences({"steps": 3}, {"logit_chunk": 4}) == {"steps": (3, None), "logit_chunk": (None, 4)}


def test_a_config_has_no_difference_to_itself() -> None:
    data = resolved(config())
    assert differences(data, backwards(data)) == {}


def test_plumbing_is_no_difference() -> None:
    assert (
        differences(
            {"out": "a", "tracking": {"mode": "auto"}, "progress": True},
            {"out": "b", "tracking": {"mode": "online"}, "progress": False},
        )
        == {}
    )


def test_flat_joins_keys_with_dots_at_every_depth() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None}) == {"a.b.c": 1, "a.d": [2, 3], "e": None}


def test_flat_keeps_a_group_that_is_empty() -> None:
    assert flat({"dataset": {"habits": {}}}) == {"dataset.habits": {}}


# Cells


def test_a_cell_of_named_choices_alone_has_no_settings_in_its_label() -> None:
    assert cell_for().label == "algo=grpo,divergence=kl,weighting=uniform,model=tiny,dataset=arithmetic"


def test_the_label_names_the_choice_on_every_axis() -> None:
    label = cell_for("algo=dapo", "divergence=probl2", "model=qwen", "dataset=gsm8k").label
    assert label == "algo=dapo,divergence=probl2,weighting=uniform,model=qwen,dataset=gsm8k"
    assert [part.split("=")[0] for part in label.split(",")] == list(AXES)


@pytest.mark.parametrize(
    "override", ["lr=1e-3", "divergence.beta=0.1", "schedule=linear", "max_new_tokens=64", "eval_every=1"]
)
def test_a_setting_beyond_the_axes_puts_a_hash_in_the_label(override: str) -> None:
    assert re.fullmatch(r".*,dataset=arithmetic,settings=[0-9a-f]{8}", cell_for(override).label)


@pytest.mark.parametrize(
    "override", ["lr=0.0005", "updates_per_rollout=1", "divergence.beta=0.04", "schedule=constant"]
)
def test_a_setting_that_repeats_what_holds_anyway_does_not(override: str) -> None:
    assert cell_for(override).label == cell_for().label


@pytest.mark.parametrize(
    "override",
    [
        "name=table_1",
        "out=elsewhere",
        "tracking=none",
        "progress=false",
        "checkpoint_every=1",
        "shown_completions=0",
    ],
)
def test_plumbing_changes_neither_label_nor_hash(override: str) -> None:
    assert (cell_for(override).label, cell_for(override).hash) == (cell_for().label, cell_for().hash)


def test_the_seed_is_not_a_setting() -> None:
    assert cell_for("seed=7").settings == {}
    assert cell_for("seed=7", "lr=0.01").label == cell_for("lr=0.01").label


def test_seeds_of_a_cell_have_hashes_of_their_own() -> None:
    assert cell_for("seed=7").hash != cell_for().hash


def test_the_settings_are_what_was_given_beyond_the_choices() -> None:
    assert cell_for("lr=0.01", "algo.surrogate.high=0.3").settings == {"lr": 0.01, "algo.surrogate.high": 0.3}


def test_the_order_of_overrides_does_not_matter() -> None:
    assert cell_for("lr=0.01", "steps=3") == cell_for("steps=3", "lr=0.01")


def test_other_settings_have_another_label() -> None:
    assert len({cell_for(override).label for override in ("lr=0.01", "lr=0.02", "steps=3")}) == 3


def test_the_folder_is_out_name_label_and_seed() -> None:
    one = cell_for("out=root/of", "name=table_1", "seed=3")
    assert one.folder == Path("root/of") / "table_1" / one.label / "seed=3"


def test_a_cell_is_refused_for_what_check_refuses() -> None:
    with pytest.raises(ValueError, match="group_size=0"):
        cell_for("group_size=0")


def test_a_recipe_is_part_of_the_choices_that_bring_it() -> None:
    assert cell_for("model=tiny_scratch", "algo=sft").settings == {}


def test_settings_are_counted_from_the_baseline_that_is_given() -> None:
    data = resolved(config())
    one = cell(config(steps=3), dict.fromkeys(AXES, "any"), data)
    assert one.settings == {"steps": 3}


# Imports


@pytest.mark.parametrize("module", ["config.schema", "config.compose", "run.folder", "launch.status"])
def test_it_imports_no_torch(module: str) -> None:
    code = f"import sys, mirrorpo.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_launchers_are_there_without_submitit_which_only_slurm_needs() -> None:
    code = "import sys, hydra_plugins.mirrorpo; sys.exit('submitit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_how_programs_are_kept_in_is_no_part_of_a_runs_identity() -> None:
    assert (
        cell_for("dataset=mbpp").hash == cell_for("dataset=mbpp", "sandbox=unsafe", "reward.workers=9").hash
    )
    with pytest.raises(ValueError, match="sandbox=open: choose one of required, unsafe"):
        check(_config("sandbox=open"))


def test_a_setting_that_came_later_leaves_the_hash_of_the_runs_before_it() -> None:
    before = {"lr": 0.1, "schedule": {"peak": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "ADDED", {"warmth": 1, "schedule.shape": "flat"})
        same = {"lr": 0.1, "warmth": 1, "schedule": {"peak": 2, "shape": "flat"}}
        assert config_hash(same) == config_hash(before)
        assert differences(same, before) == {}
        assert differences({**same, "warmth": 2}, before) == {"warmth": (2, None)}
    settings = flat(resolved(config()))
    assert all(settings[key] == value for key, value in identity.ADDED.items() if key in settings)
