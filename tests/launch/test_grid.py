"""The grid of a command line: what its sweeper makes of a sweep file, and what it refuses."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mirrorpo.launch.errors import LaunchError
from mirrorpo.launch.grid import GridSweeper


def grid(*words: str, params: dict | None = None, along: dict | None = None) -> GridSweeper:
    """A sweeper that has read its command line."""
    made = GridSweeper(max_batch_size=None, params=params, along=along)
    parsed = OverridesParser.create().parse_overrides([*made._parse_config(), *words])
    made.overrides = made.split_arguments(parsed, None)
    return made


def test_null_in_params_is_null() -> None:
    made = grid("seed=0,1", params={"anchor": None})
    assert made.get_job_batch() == [["anchor=null", "seed=0"], ["anchor=null", "seed=1"]]


def test_an_interval_is_named_in_a_line() -> None:
    for words, params in ((("lr=interval(0,1)",), None), ((), {"lr": "interval(0,1)"})):
        with pytest.raises(LaunchError, match=r"lr=interval\(0,1\): a grid takes no interval"):
            grid(*words, params=params)


def test_a_choice_that_no_cell_has_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    along = {"divergence=k1": {"divergence.beta": 0.1}, "divergence=kl": {"divergence.beta": 0.2}}
    cells = grid("divergence=none,kl", along=along).get_job_batch()
    assert cells == [["divergence=none"], ["divergence=kl", "divergence.beta=0.2"]]
    said = "note: hydra.sweeper.along: no cell of the grid is given divergence=k1\n"
    assert capsys.readouterr().out == said


def test_a_choice_without_settings_is_refused() -> None:
    with pytest.raises(LaunchError, match="divergence=kl: None: give each choice its settings"):
        grid(along={"divergence=kl": None})
