"""What a command line hands on to the cells of a grid: passed on, kept, or refused by name; never dropped."""

from dataclasses import fields
from pathlib import Path

import pytest
from hydra.conf import HydraConf, JobConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mirrorpo.config.override_text import quoted
from mirrorpo.launch.arguments import (
    OF_THE_LAUNCHER,
    PASSED_ON,
    REFUSED,
    config_options,
    for_each_cell,
    quoted_paths,
)


def multirun(*overrides: str, chdir: bool | None = None, folder: str = "outputs/single") -> OmegaConf:
    """The config of a multirun, as far as its launcher reads it."""
    return OmegaConf.create(
        {
            "out": "outputs",
            "name": "single",
            "hydra": {
                "overrides": {"hydra": list(overrides)},
                "job": {"chdir": chdir, "config_name": "train"},
                "sweep": {"dir": folder},
                "runtime": {"config_sources": []},
            },
        }
    )


def test_every_setting_of_hydra_is_passed_on_kept_or_refused() -> None:
    settings = [field.name for field in fields(HydraConf) if field.name not in ("defaults", "job")]
    settings += [f"job.{field.name}" for field in fields(JobConf)] + ["output", "env"]
    for setting in settings:
        override = f"hydra.{setting}=1"
        passed = setting in PASSED_ON
        kept = setting in OF_THE_LAUNCHER
        refused = not passed and not kept
        assert not refused or setting.split(".")[0] in REFUSED, f"nothing is decided for hydra.{setting}"
        for typed in (override, f"+{override}.below", override.replace(".", "/")):
            if refused:
                with pytest.raises(ValueError, match="with -m: ") as error:
                    for_each_cell(multirun(typed))
                assert str(error.value).startswith(typed), typed
            else:
                assert for_each_cell(multirun(typed)) == ([typed] if passed else []), typed


def test_what_a_config_file_says_of_a_cells_folder_is_refused_too() -> None:
    with pytest.raises(ValueError, match=r"hydra\.job\.chdir=true with -m"):
        for_each_cell(multirun(chdir=True))
    with pytest.raises(ValueError, match=r"hydra\.sweep\.dir=elsewhere with -m: .*set out= and name="):
        for_each_cell(multirun(folder="elsewhere"))
    assert for_each_cell(multirun("hydra.job.chdir=false", chdir=False)) == ["hydra.job.chdir=false"]


def test_the_config_files_that_were_read_are_named_to_the_cells() -> None:
    config = multirun()
    assert config_options(config) == []
    config.hydra.job.config_name = "other"
    config.hydra.runtime.config_sources = [
        {"provider": "main", "path": "/mine"},
        {"provider": "command-line", "path": "/extra"},
    ]
    expected = ["--config-path", "/mine", "--config-dir", "/extra", "--config-name", "other"]
    assert config_options(config) == expected


def test_a_folder_that_exists_needs_no_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cell = "o/algo=grpo,divergence=kl/seed=0/policy"
    for name in (cell, "o/plain", "o/it's, {a} \\'place", "o/é", "o/a&b#"):
        (tmp_path / name).mkdir(parents=True)
    parser = OverridesParser.create()
    for name in (cell, f"{tmp_path}/{cell}", "o/it's, {a} \\'place", "o/é", "o/a&b#"):
        (typed,) = quoted_paths([f"model.path={name}"])
        override = parser.parse_override(typed)
        assert override.value() == name and not override.is_sweep_override(), typed
        assert quoted_paths([typed]) == [typed]
    (sweep,) = quoted_paths([f"model.path={cell},o/plain"])
    values = list(parser.parse_override(sweep).sweep_string_iterator())
    assert values == [quoted(cell), "o/plain"]
    as_typed = ["seed=0,1", "model.path=o/plain", f"model.path={cell}/gone", "--config-dir", "x={a: 1}"]
    assert quoted_paths(as_typed) == as_typed
