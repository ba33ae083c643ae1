"""The forecast of a search: pure shapes in their order, a search that arrives, a null one that does not."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from cli import ROOT, folders, manifest, rows, succeeded, train

from mirrorpo.divergence.map_scale import MapScale
from mirrorpo.divergence.neural_mirror import RandomParameters
from mirrorpo.launch.evolution import Evolution
from mirrorpo.launch.evolution_sweeper import CmaSweeper
from mirrorpo.launch.search_forecast import Forecaster, main, pure_shapes, table
from mirrorpo.tools.fixed_points import World

SWEEPER = yaml.safe_load((ROOT / "sweeps" / "sweep" / "exploit_es.yaml").read_text())["hydra"]["sweeper"]
RULES = yaml.safe_load((ROOT / "conf" / "hydra" / "sweeper" / "es.yaml").read_text())["search"]
# A question of the exploit world, as the shipped model answers it.
NAMES = ["right", "rare", "exploit", "common", *["other"] * 6]
WORLD = World(
    start=torch.tensor([SWEEPER["scale"]["q"]], dtype=torch.float64),
    proxy=torch.tensor([[1.0, 1.0, 0.0, 2.0, *[0.0] * 6]], dtype=torch.float64),
    gold=torch.tensor([[1.0, 1.0, 0.0, 0.0, *[0.0] * 6]], dtype=torch.float64),
    names=[NAMES],
)
FORECASTER = Forecaster(world=WORLD, beta=3.0 * 8 / 7, scale=MapScale(**SWEEPER["scale"]))


def test_the_shapes_of_one_strength_stand_in_the_order_that_the_sweeps_file_says() -> None:
    gold = {name: round(FORECASTER.gold(numbers), 2) for name, numbers in pure_shapes().items()}
    assert gold == {"log p": 0.46, "p": 0.5, "exp(8 p)": 0.54, "p^3": 0.62, "p^2": 0.66}


def test_the_search_of_the_sweeps_file_arrives_and_its_null_search_does_not() -> None:
    rules = Evolution(**{**RULES, **SWEEPER["search"]})
    start = RandomParameters(seed=42, signed=False, **SWEEPER["start"]).values
    real, null = (
        FORECASTER.search(rules, start, 4, deviation=0.01, shuffled=shuffled) for shuffled in (False, True)
    )
    assert real[0] == null[0] == pytest.approx(0.54, abs=0.005)
    assert real[-1] > 0.6 and null[-1] < 0.56
    assert table({"real": real[:2]}).splitlines()[0] == "| search | start | 1 |"


def test_cma_is_forecast_by_its_own_rules() -> None:
    pytest.importorskip("cma", reason="the package cma is not installed: pip install 'mirrorpo[cma]'")
    settings = yaml.safe_load((ROOT / "conf" / "hydra" / "sweeper" / "cma.yaml").read_text())
    start = RandomParameters(seed=42, signed=False, **SWEEPER["start"]).values
    real, null = (
        FORECASTER.search(CmaSweeper.rules_of(settings["search"]), start, 4, deviation=0.0, shuffled=shuffled)
        for shuffled in (False, True)
    )
    assert real[0] == null[0] == pytest.approx(0.54, abs=0.005)
    assert real[-1] > null[-1] and real[-1] > real[0]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["hydra/sweeper=grid"], "GridSweeper: it is no search; use hydra/sweeper=es or cma"),
        (["hydra/sweeper=cma"], "hydra.sweeper.search=.* unexpected keyword argument 'pairs'"),
    ],
)
def test_what_is_no_search_is_named_in_a_line(typed: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said) as end:
        main(["sweep=exploit_es", *typed])
    assert "\n" not in str(end.value)


@pytest.mark.slow
def test_a_search_runs_on_the_log_probability_of_right_answers(tmp_path: Path) -> None:
    search = ("hydra/sweeper=es", "sweep=exploit_es", "hydra.sweeper.generations=2", f"out={tmp_path}")
    more = ("hydra.sweeper.search.pairs=1", "steps=3", "right_answer_questions=32")
    fitness = "hydra.sweeper.fitness=eval/right_answer_log_prob"
    succeeded(train(*search, *more, fitness, cwd=tmp_path))
    es = tmp_path / "exploit_es" / "es"
    results = [json.loads((es / f"result_{number:03d}.json").read_text()) for number in range(2)]
    values = [row["fitness"] for result in results for row in result["candidates"]]
    last = [rows(run / "metrics.jsonl")[-1]["eval/right_answer_log_prob"] for run in folders(tmp_path)]
    assert sorted(values) == sorted(last) and len(set(values)) == 4 and max(values) < 0
    assert all(manifest(run)["state"] == "done" for run in folders(tmp_path))
    scale = MapScale(**SWEEPER["scale"])
    for name in ("map_start", "map", "map_best"):
        numbers = torch.tensor(json.loads((es / f"{name}.json").read_text()), dtype=torch.float64)
        assert scale.divergence(numbers) == pytest.approx(0.31223)


@pytest.mark.slow
def test_the_command_prints_the_search_beside_its_null_search(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep=exploit_es", "hydra.sweeper.generations=1", "--seeds", "1"])
    out = capsys.readouterr().out
    assert "| seed 1 | 0.537 |" in out and "| null, seed 1 | 0.537 |" in out and "p^2" in out
    with pytest.raises(SystemExit, match="SampledBregman: the closed form is of"):
        main(["model=exploit", "algo=dr_grpo", "reward=exploit_common"])
