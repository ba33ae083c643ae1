"""A search for a mirror map as Hydra drives it, its candidates' runs written in place of trained."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from omegaconf import OmegaConf

from mirrorpo.config.cell import Cell
from mirrorpo.config.override_text import quoted
from mirrorpo.config.schema import register
from mirrorpo.launch.errors import CellsFailed, LaunchError
from mirrorpo.launch.evolution_sweeper import EvolutionSweeper
from mirrorpo.launch.plan import Composer
from mirrorpo.run.folder import RunFolder

# What a candidate's run logs: the rows of metrics.jsonl, by its number.
Logged = Callable[[int], Sequence[Mapping[str, float]]]
SMALL = ("hydra.sweeper.generations=1", "hydra.sweeper.search.pairs=2")


def rises(number: int) -> list[dict[str, float]]:
    return [{"reward/mean": 0.1 * number}]


class Pretended:
    """A launcher that writes what a run would have logged."""

    dry_run = False

    def __init__(self, compose: Composer, logged: Logged) -> None:
        self.compose, self.logged = compose, logged
        self.cells: list[Cell] = []

    def launch(self, grid: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        for number, overrides in enumerate(grid):
            planned = self.compose(overrides)
            assert planned.cell is not None, planned.error
            self.cells.append(planned.cell)
            folder = RunFolder(planned.cell.folder)
            folder.plan(planned.cell)
            folder.update_manifest(state="done", files={})
            for row in self.logged(number):
                folder.metrics.append({"step": 1, **row})


@contextmanager
def search(
    out: Path, *typed: str, logged: Logged = rises
) -> Iterator[tuple[Callable[[], object], Pretended]]:
    """What begins a search of some overrides, and its launcher."""
    words = ["hydra/sweeper=es", *SMALL, *typed, f"out={quoted(str(out))}"]
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", words, return_hydra_config=True)
        config.hydra.sweep.dir = str(out / config.name)
        settings = OmegaConf.to_container(config.hydra.sweeper)
        assert isinstance(settings, dict)
        del settings["_target_"]
        made = EvolutionSweeper(**settings)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks=None)  # type: ignore[arg-type]
        made.config, made._context = config, context
        launcher = Pretended(Composer(context, config), logged)
        made.launcher = launcher  # type: ignore[assignment]
        yield lambda: made.sweep(words), launcher


def results(out: Path) -> list[dict]:
    return json.loads((out / "single" / "es" / "result_000.json").read_text())["candidates"]


def test_candidates_are_judged_by_validation_whatever_a_sweeps_file_says(tmp_path: Path) -> None:
    typed = ("sweep=gbmpo_gsm8k", "hydra.sweeper.params=null", "model=tiny")
    with search(tmp_path, *typed) as (begin, _), pytest.raises(LaunchError, match="eval_split=test: a map"):
        begin()
    with search(tmp_path, *typed, "eval_split=validation") as (begin, launcher):
        begin()
    assert [cell.config["eval_split"] for cell in launcher.cells] == ["validation"] * 4


def test_an_evaluation_set_of_test_questions_is_no_fitness_either(tmp_path: Path) -> None:
    sets = "eval_datasets=[{other:{dataset:arithmetic,eval_split:test}}]"
    typed = ("hydra.sweeper.fitness=area:eval/other/greedy_accuracy", sets)
    with (
        search(tmp_path, *typed) as (begin, _),
        pytest.raises(LaunchError, match="eval_datasets: other has eval_split=test: a map chosen"),
    ):
        begin()


def test_candidates_are_made_in_a_folder_of_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a=1, é([{'#&"
    with search(out) as (begin, launcher):
        begin()
    assert len(launcher.cells) == 4 and [row["fitness"] for row in results(out)] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )
    said = capsys.readouterr().out.splitlines()[-2]
    # What it says to type next is one word to a shell.
    typed = shlex.split(said.partition("; ")[2])[-1]
    assert Path(typed.partition("=")[2]) == out / "single" / "es" / "map.json"


def test_a_folder_that_cannot_be_made_is_named_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with search(tmp_path / "file") as (begin, _), pytest.raises(LaunchError, match="out: cannot write to"):
        begin()


def test_a_dry_run_of_candidates_that_are_refused_fails(tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CellsFailed({"0": "refused"}, 4)

    with search(tmp_path) as (begin, launcher), pytest.raises(CellsFailed):
        launcher.dry_run, launcher.launch = True, refuse  # type: ignore[method-assign]
        begin()


def test_a_candidate_without_the_quantity_does_not_count_and_all_of_them_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = "hydra.sweeper.fitness=last2:reward/mean"

    def logged(number: int) -> list[dict[str, float]]:
        return [{"reward/mean": 1.0}, {"train/loss": 0.0} if number == 0 else {"reward/mean": 0.5}]

    with search(tmp_path, fitness, logged=logged) as (begin, _):
        begin()
    assert [row["fitness"] for row in results(tmp_path)] == [None, 0.75, 0.75, 0.75]
    assert "a candidate does not count: hydra.sweeper.fitness=last2:" in capsys.readouterr().out
    wrong = "hydra.sweeper.fitness=reward/maen"
    with (
        search(tmp_path / "wrong", wrong) as (begin, _),
        pytest.raises(LaunchError, match="no such quantity"),
    ):
        begin()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hydra.sweeper.search.sigma=null", r"hydra.sweeper.search=.*'sigma': None"),
        ("+hydra.sweeper.search.candidates=4", "unexpected keyword argument 'candidates'; give"),
        ("hydra.sweeper.generations=1.5", "hydra.sweeper.generations=1.5: give"),
        ("hydra.sweeper.fitness=null", "hydra.sweeper.fitness=None: name a quantity"),
        ("+hydra.sweeper.along={seed:1}", "hydra.sweeper.along=.*a search has no grid"),
        ("eval_split=test", "use validation"),
        ("eval_questions=0 hydra.sweeper.fitness=eval/greedy_accuracy", "set how many"),
        ("hydra.sweeper.search.rule=published", "shaping=ranks: rule=published has raw"),
    ],
)
def test_settings_that_a_search_cannot_use_are_named_in_a_line(tmp_path: Path, typed: str, said: str) -> None:
    with pytest.raises(LaunchError, match=said) as error, search(tmp_path, *typed.split()) as (begin, _):
        begin()
    assert "\n" not in str(error.value)
