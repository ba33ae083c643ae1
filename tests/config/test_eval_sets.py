"""What the names of `eval_datasets` compose to, what they make of a run's identity, and what is refused."""

from collections.abc import Mapping
from typing import Any

import pytest
from cli import cell_here

from mirrorpo.config.identity import identity, in_a_run

ARITHMETIC = "arithmetic_test:{dataset:arithmetic,eval_split:test}"


def sets(*overrides: str) -> Mapping[str, Any]:
    return cell_here(*overrides).config.get("eval_sets", {})


def test_a_run_without_sets_is_the_run_that_it_was() -> None:
    plain = cell_here()
    assert plain.config["eval_datasets"] == [] and "eval_sets" not in plain.config
    assert "settings=" not in plain.label
    assert not any(name.startswith("eval_datasets") for name in identity(plain.config))


def test_a_set_is_what_its_dataset_composes_to_with_its_recipe_and_reward() -> None:
    made = sets("eval_datasets=[gsm8k,mbpp]", "reward.extraction=flexible")
    for name in ("gsm8k", "mbpp"):
        alone = cell_here(f"dataset={name}").config
        assert {key: alone[key] for key in made[name]} == dict(made[name]), name
    assert made["mbpp"]["reward"]["_target_"].endswith("CodeTests")
    # A model that chooses a reward chooses it where the dataset does not.
    small = sets("model=smollm2", "eval_datasets=[gsm8k,mbpp]")
    assert small["gsm8k"]["reward"]["extraction"] == "flexible"
    assert small["mbpp"]["reward"]["_target_"].endswith("CodeTests")


def test_what_the_run_sets_of_the_evaluation_holds_for_all_and_a_sets_own_settings_for_it() -> None:
    made = sets(
        "eval_samples=8", "eval_temperature=0.3", "max_new_tokens=40",
        "eval_datasets=[gsm8k,{math500:{eval_samples:2,dataset.system:x}},{" + ARITHMETIC + "}]",
    )  # fmt: skip
    assert [made[name]["eval_samples"] for name in made] == [8, 2, 8]
    assert [made[name]["eval_temperature"] for name in made] == [0.3, 0.3, 0.3]
    # Interpolated of the run's own, so the recipe's of the others.
    assert [made[name]["eval_max_new_tokens"] for name in made] == [256, 2048, 128]
    assert made["math500"]["dataset"]["system"] == "x"
    assert made["arithmetic_test"]["eval_split"] == "test"
    # A value that is the recipe's is set all the same where it is typed.
    assert sets("eval_samples=4", "eval_datasets=[humaneval]")["humaneval"]["eval_samples"] == 4
    assert sets("eval_datasets=[humaneval]")["humaneval"]["eval_samples"] == 10


def test_sets_are_part_of_a_runs_identity_and_where_their_files_are_is_not() -> None:
    plain, one, other = (
        cell_here(*overrides)
        for overrides in ((), ("eval_datasets=[gsm8k]",), ("eval_datasets=[{gsm8k:{eval_questions:3}}]",))
    )
    assert len({made.hash for made in (plain, one, other)}) == 3
    assert len({made.label for made in (plain, one, other)}) == 3
    assert dict(one.settings) == {"eval_datasets": ["gsm8k"]}
    moved = dict(one.config)
    for key, value in (("root", "/elsewhere"), ("revision", "abc")):
        node = moved["eval_sets"]["gsm8k"]
        changed = {**moved, "eval_sets": {"gsm8k": {**node, "dataset": {**node["dataset"], key: value}}}}
        assert (identity(changed) == identity(one.config)) == (key == "root"), key
    assert in_a_run("eval_sets.mbpp.reward.workers") == "reward.workers"


def test_all_and_null_are_one_setting() -> None:
    everything, null = (cell_here(f"eval_sampled_questions={word}") for word in ("all", "null"))
    assert everything.hash == null.hash and everything.label == null.label
    assert null.config["eval_sampled_questions"] == "all"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ("eval_datasets=gsm8k", "eval_datasets=gsm8k: give a list of datasets"),
        ("eval_datasets=[gsmk]", "eval_datasets: there is no dataset gsmk; the nearest are gsm8k"),
        ("eval_datasets=[gsm8k,gsm8k]", "eval_datasets: gsm8k stands there twice"),
        ("eval_datasets=[a/b]", "eval_datasets: a/b: give a name"),
        ("eval_datasets=[part]", "eval_datasets: part: give a name"),
        ("eval_datasets=[{gsm8k:{eval_qestions:3}}]", "gsm8k.eval_qestions: a set has dataset"),
        ("eval_datasets=[{gsm8k:{dataset.foo:1}}]", "eval_datasets: gsm8k: Key 'foo' is not in struct"),
        ("eval_datasets=[{gsm8k:{eval_questions:0}}]", "gsm8k.eval_questions=0: needs at least 1"),
        ("eval_datasets=[{gsm8k:{eval_split:dev}}]", "gsm8k.eval_split=dev: choose one of validation, test"),
        ("eval_datasets=[{gsm8k:{reward:none}}]", "eval_datasets: Could not find 'reward/none'"),
        ("eval_datasets=[{gsm8k:{eval_temperature:0}}]", "gsm8k.eval_temperature=0.0: samples at"),
        ("eval_sampled_questions=some", "eval_sampled_questions=some: give a number, or all"),
        ("eval_sampled_questions=-1", "eval_sampled_questions=-1: needs at least 0"),
    ],
)  # fmt: skip
def test_what_is_no_set_is_refused_when_it_is_composed(overrides: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        cell_here(overrides)
    assert reason in str(error.value)
