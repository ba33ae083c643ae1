"""Choices alone compose to what a command line of them does, without Hydra's own part."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.errors import MissingConfigException

from mirrorpo.config.choices import of_choices
from mirrorpo.config.paths import conf
from mirrorpo.config.schema import register


def test_choices_are_composed_and_every_group_says_its_choice(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("# @package _global_.dataset\nhere: true\n")
    register()
    with initialize_config_dir(str(conf()), version_base="1.3"):
        cfg, chosen = of_choices([("algo", "dapo"), ("divergence", "probl2")])
        assert "hydra" not in cfg and (chosen["algo"], chosen["divergence"]) == ("dapo", "probl2")
        assert chosen["model"] == of_choices([])[1]["model"]
        with pytest.raises(MissingConfigException, match="dataset/mine"):
            of_choices([("dataset", "mine")])
        found, chosen = of_choices([("dataset", "mine")], [f"file://{tmp_path}"])
        assert chosen["dataset"] == "mine" and found.dataset.here is True
