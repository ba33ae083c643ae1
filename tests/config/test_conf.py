"""Every config file composes, and every sweep expands."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from cli import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mirrorpo.config.identity import flat
from mirrorpo.config.schema import check, register, resolved

CONF = ROOT / "conf"
GROUPS = (
    "algo",
    "divergence",
    "weighting",
    "model",
    "dataset",
    "reward",
    "rollout",
    "optim",
    "schedule",
    "tracking",
    "importance_correction",
)


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


# No choice of one of these changes what another of them may be, so that one cell holds a choice of each.
APART = ("divergence", "reward", "importance_correction", "optim", "schedule", "tracking")


def choices() -> list[tuple[str, ...]]:
    """Command lines in which every file of the groups is chosen."""
    files = {
        group: [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))] for group in GROUPS
    }
    together = zip_longest(*(files[group] for group in APART))
    return [
        *(tuple(choice for choice in cell if choice) for cell in together),
        *((choice,) for group in GROUPS if group not in APART for choice in files[group]),
    ]


@pytest.mark.parametrize("choice", choices(), ids=" ".join)
def test_every_choice_composes_to_a_checked_cell(choice: tuple[str, ...]) -> None:
    from mirrorpo.train.build import build_components

    # A model without training has nothing to reinforce; its recipe is that of algo=sft. An oracle needs a
    # dataset that says what decides.
    needs = {
        "model=tiny_scratch": ["algo=sft"],
        "model=ledger_scratch": ["algo=sft"],
        "model=exploit_scratch": ["algo=sft"],
        "weighting=oracle": ["model=ledger"],
    }
    cfg = composed(*choice, *(need for name in choice for need in needs.get(name, [])))
    check(cfg)
    build_components(resolved(cfg))


def test_typing_nothing_gives_the_tiny_model_on_arithmetic_and_a_model_alone_gives_the_papers_cell() -> None:
    tiny, papers = composed(), composed("model=qwen")
    assert (tiny.model.path, tiny.dataset._target_.rsplit(".", 1)[1], tiny.steps) == (
        "mirrorpo:tiny",
        "Arithmetic",
        40,
    )
    assert (papers.model.path, papers.dataset._target_.rsplit(".", 1)[1], papers.steps) == (
        "Qwen/Qwen3-1.7B",
        "Gsm8k",
        1000,
    )
    assert (
        papers.schedule.shape == "cosine"
        and papers.max_new_tokens == 256
        and papers.eval_max_new_tokens == 256
    )


def test_an_explicit_dataset_wins_over_the_models_own() -> None:
    assert composed("dataset=gsm8k").dataset._target_.endswith("Gsm8k")
    assert composed("model=qwen", "dataset=arithmetic").dataset._target_.endswith("Arithmetic")


def test_smollm2_brings_its_questions_and_its_verifier_and_a_typed_choice_wins_over_both() -> None:
    alone, typed = (
        composed("model=smollm2"),
        composed("model=smollm2", "dataset=arithmetic", "reward=math_answer"),
    )
    assert (alone.dataset._target_.rsplit(".", 1)[1], alone.reward.extraction, alone.steps) == (
        "ChainSum",
        "flexible",
        30,
    )
    assert (typed.dataset._target_.rsplit(".", 1)[1], typed.reward.extraction, typed.steps) == (
        "Arithmetic",
        "strict",
        40,
    )


def test_what_is_typed_wins_over_the_recipe() -> None:
    assert composed("lr=0.125").lr == 0.125
    assert composed("model=qwen", "schedule.warmup=0.5").schedule.warmup == 0.5


def test_kl_is_another_name_for_kl_k3() -> None:
    assert composed("divergence=kl").divergence == composed("divergence=kl_k3").divergence


def test_supervised_fine_tuning_samples_nothing_in_training_and_is_evaluated_by_sampling() -> None:
    cfg = composed("algo=sft", "model=tiny_scratch")
    assert cfg.rollout._target_.endswith("Demonstrations") and cfg.eval_rollout._target_.endswith("Native")
    assert cfg.divergence._target_.endswith("NoDivergence") and cfg.optim._target_.endswith("Muon")


def test_adapters_are_a_choice_of_every_pretrained_model() -> None:
    assert composed("model=llama", "lora@model.lora=r16").model.lora.rank == 16


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sweeps" / "sweep").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_sweep_is_named_after_its_file_says_its_command_and_varies_something(path: Path) -> None:
    text = path.read_text()
    sweep = yaml.safe_load(text)
    search = path.stem.endswith("_es")
    # A learned map's cells stand beside the others of its table.
    assert sweep["name"] == path.stem.removesuffix("_learned")
    assert f"python train.py {'hydra/sweeper=es ' if search else ''}sweep={path.stem}" in text and (
        "Claim under test" in text or "No claim" in text
    )
    assert sweep["hydra"]["mode"] == "MULTIRUN"
    for key, values in sweep["hydra"].get("sweeper", {}).get("params", {}).items():
        if (CONF / key).is_dir():
            for value in str(values).split(","):
                assert (CONF / key / f"{value}.yaml").exists(), f"{key}={value}"


def test_the_difference_between_grpo_and_dapo_is_the_difference_between_the_papers() -> None:
    grpo, dapo = (flat(OmegaConf.to_container(composed(f"algo={name}").algo)) for name in ("grpo", "dapo"))  # type: ignore[arg-type]
    assert {key: (grpo[key], dapo[key]) for key in grpo if grpo[key] != dapo[key]} == {
        "surrogate.high": (0.2, 0.28),
        "aggregate._target_": ("mirrorpo.algo.aggregate.SequenceMean", "mirrorpo.algo.aggregate.TokenMean"),
        "rollout_rule.dynamic_sampling": (False, True),
        "rollout_rule.max_draws": (1, 3),
        "rollout_rule.overlong_buffer": (0.0, 0.2),
        "rollout_rule.overlong_penalty": (0.0, 1.0),
    }


@pytest.mark.parametrize("folder", ["conf", "sweeps"])
def test_no_word_of_yaml_is_read_as_a_boolean(folder: str) -> None:
    # YAML 1.1 reads these as true and false where they stand without quotes, a key too.
    words = ("on", "off", "yes", "no", "y", "n")
    found = [
        f"{path.relative_to(ROOT)}:{token.start_mark.line + 1}: {token.value}"
        for path in sorted((ROOT / folder).rglob("*.yaml"))
        for token in yaml.scan(path.read_text())
        if isinstance(token, yaml.ScalarToken) and token.plain and token.value.lower() in words
    ]
    assert not found


@pytest.mark.parametrize("folder", ["conf", "sweeps"])
def test_a_list_of_words_holds_strings_only(folder: str) -> None:
    def lists(node: object) -> Iterator[list[object]]:
        if isinstance(node, dict):
            yield from (found for item in node.values() for found in lists(item))
        if isinstance(node, list):
            yield node
            yield from (found for item in node for found in lists(item))

    for path in sorted((ROOT / folder).rglob("*.yaml")):
        for found in lists(OmegaConf.to_container(OmegaConf.load(path))):
            plain = [item for item in found if not isinstance(item, dict | list)]
            kinds = {isinstance(item, str) for item in plain}
            assert len(kinds) < 2, f"{path}: {plain}"
