import pytest
from hydra import initialize_config_dir

from mirrorpo.config.paths import conf
from mirrorpo.config.schema import register
from mirrorpo.tools.cells import composed, listed, or_exit, without

TYPED = ["model=ledger", "divergence=kl,probl2", "divergence.beta=0.5"]


def test_overrides_are_parted_by_the_setting_and_not_by_what_begins_like_it() -> None:
    assert listed(TYPED, "divergence") == ["kl", "probl2"] and listed(TYPED, "divergence.beta") == ["0.5"]
    assert listed(TYPED, "diver") == [] == listed(TYPED, "reward")
    assert without(TYPED, "divergence", "model") == ["divergence.beta=0.5"]


def test_a_cell_is_composed_quiet_and_a_choice_counts_over_what_was_typed() -> None:
    register()
    with initialize_config_dir(str(conf()), version_base="1.3"):
        config = composed(["model=ledger", "algo=dr_grpo", "steps=3"], "steps=4")
    assert (config["steps"], config["drift_questions"], config["progress"]) == (4, 0, False)


def test_what_is_refused_ends_in_a_line() -> None:
    def refused() -> None:
        raise ValueError("beta=-1:\n  give a positive one")

    with pytest.raises(SystemExit, match=r"^error: beta=-1: give a positive one$"):
        or_exit(refused)
