"""`-h`, and what is said of a name that is not there."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from cli import ROOT, cell_here, composed, train
from hydra.errors import HydraException

from mirrorpo.config import paths
from mirrorpo.config.schema import TrainConfig
from mirrorpo.launch.errors import composition_error
from mirrorpo.launch.help import choices, groups, known, no_such, run_level, text


def test_every_setting_and_every_choice_is_in_the_help_with_its_comment() -> None:
    help_text = text([])
    words = set(help_text.replace(",", " ").split())
    for group in groups():
        assert {group, *choices(group)} <= words, group
    listed = {setting.name: setting for setting in run_level()}
    own = {field.name for field in fields(TrainConfig)} - set(groups()) - {"eval_rollout"}
    assert own <= set(listed)
    assert all(setting.comment or setting.value.startswith("${") for setting in listed.values())
    assert all(len(line) <= 110 for line in help_text.splitlines())


def test_help_on_a_name_is_its_line_its_choices_or_its_file() -> None:
    assert text(["steps"]).splitlines()[0].startswith("  steps ???") and "40 in recipe arithmetic" in text(
        ["steps"]
    )
    assert "adamw" in text(["optim"]) and "Loshchilov" in text(["optim"])
    assert text(["optim=muon"]) == (paths.conf() / "optim" / "muon.yaml").read_text().rstrip()
    assert "divergence=kl_exact" in text(["divergence.beta"]) and "0.04" in text(["divergence.beta"])
    assert "did you mean steps" in text(["stesp"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("stesp", "steps"),
        ("divergance", "divergence"),
        ("divergence.bta", "divergence.beta"),
        ("algo.surrogat.low", "algo.surrogate.low"),
        ("modle.path", "model.path"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    assert f"did you mean {meant}" in no_such(name)
    assert meant in known(name)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stesp=3", "there is no setting 'stesp'; did you mean steps? python train.py -h lists them"),
        (
            "optim=adam",
            "optim=adam: there is no such choice; did you mean adamw? The choices are adamw, muon",
        ),
        (
            "divergence=none divergence.placement=reward",
            "divergence.placement: divergence=none has no such setting; it is one of "
            "divergence=alpha, alpha_corrected, alpha_exact, chi2_exact and N more",
        ),
        (
            "algo=sft divergence.beta=0.1",
            "divergence.beta: divergence=none has no such setting; it is one of "
            "divergence=alpha, alpha_corrected, alpha_exact, chi2_exact and N more",
        ),
        (
            "anchor.decay=0.5",
            "anchor.decay: no anchor is chosen; it is a setting of anchor=ema",
        ),
        (
            "algo.update_advantage.tau=0.5",
            "algo.update_advantage.tau: the algo that is chosen has no such setting; it is one of "
            "algo=mirror_descent",
        ),
        ("shaping=public", "shaping: the group is chosen for a place; give shaping@reward.shaping=CHOICE"),
        ("lr=abc", "lr=abc: Value 'abc' of type 'str' could not be converted to Float"),
    ],
)
def test_what_hydra_cannot_compose_is_a_line(override: str, line: str) -> None:
    with pytest.raises(HydraException) as error, composed(*override.split()):
        pass
    assert re.sub(r"and \d+ more", "and N more", composition_error(error.value) or "") == line


def test_a_setting_that_is_taken_out_is_named() -> None:
    with pytest.raises(ValueError, match="~steps: a run needs this setting"):
        cell_here("~steps")


def test_the_command_line_says_it_in_a_line() -> None:
    result = train("stesp=3", cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no setting 'stesp'") and result.stderr.count("\n") == 1
    result = train("-m", "optim=adam,muom", "hydra.launcher.dry_run=true", cwd=ROOT)
    assert "did you mean adamw" in result.stdout and "did you mean muon" in result.stdout
    assert train("-h", "steps", cwd=ROOT).stdout.startswith("  steps ")


def test_help_imports_no_torch() -> None:
    code = "import sys, mirrorpo.launch.help as h; h.text([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
