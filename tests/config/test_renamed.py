"""Names that have changed: old ones are read, and no rename makes a run another one."""

from hydra.utils import get_class

from mirrorpo.config.identity import config_hash, differences
from mirrorpo.config.renamed import KEYS, TARGETS, first_named, renamed_arguments, upgraded

OLD = {
    "seed": 1,
    "optimiser": {"_target_": "mirrorpo.optim.AdamW", "betas": [0.9, 0.95]},
    "reward": {"_target_": "mirrorpo.reward.math_answer.MathAnswer"},
}


def test_every_new_name_of_a_class_is_importable_and_no_old_one_leads_to_two() -> None:
    assert all(get_class(new) for new in TARGETS.values())
    assert len(set(TARGETS.values())) == len(TARGETS) and len(set(KEYS.values())) == len(KEYS)


def test_an_old_config_and_its_upgraded_form_are_one_run() -> None:
    assert upgraded(OLD) != OLD
    assert config_hash(OLD) == config_hash(upgraded(OLD)) and differences(OLD, upgraded(OLD)) == {}


def test_upgrading_twice_is_upgrading_once() -> None:
    assert upgraded(upgraded(OLD)) == upgraded(OLD)


def test_hashes_are_over_the_first_names() -> None:
    assert (
        first_named({"optim._target_": "mirrorpo.optim.adamw.AdamW"})[
            next(iter(first_named({"optim._target_": ""})))
        ]
        == "mirrorpo.optim.AdamW"
    )


def test_words_of_the_command_line_keep_what_is_not_renamed() -> None:
    words = ["-m", "--config-dir", "mismatch", "seed=1", "algo.surrogate.high=0.3"]
    assert renamed_arguments(words) == (words, {})
