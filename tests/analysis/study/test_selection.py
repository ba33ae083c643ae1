"""Settings chosen on seeds of their own: the rule, what it says of itself, and who misuses it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from cli import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from planted import manifest, metrics, write_run, write_sweep
from scipy import stats

from analysis.data.export import load
from analysis.kit.checklist import checklist
from analysis.report.selection_table import chosen_tables, summary
from analysis.study.chosen_guards import chosen_faults
from analysis.study.guards import Refused
from analysis.study.options import StudyOptions
from analysis.study.selecting import select, write
from analysis.study.selection import Candidate, Choice, choose, imbalance
from analysis.study.study import study
from mirrorpo.config.paths import file_of_sweep, sweeps
from mirrorpo.launch.along import with_along
from mirrorpo.launch.selection import read_selection

OVER = ("beta", "lr")


def candidate(values: Sequence[float], **settings: float) -> Candidate:
    return Candidate(settings=settings, by_seed=dict(enumerate(values)))


def chosen(*values: Sequence[float], higher: bool = True) -> Choice:
    """Of candidates whose beta is 1, 2, ..."""
    candidates = [candidate(entry, beta=float(place + 1)) for place, entry in enumerate(values)]
    return choose("kl", candidates, OVER, higher=higher)


def test_the_highest_mean_wins_and_of_equal_ones_the_smaller_first_setting() -> None:
    inside = chosen((0.1, 0.2), (0.5, 0.4), (0.3, 0.3))
    assert inside.best.settings == {"beta": 2.0} and inside.best.mean == pytest.approx(0.45)
    assert inside.edges == [] and [entry.mean for entry in inside.candidates[1:]] == pytest.approx(
        [0.3, 0.15]
    )
    assert chosen((0.1, 0.2), (0.5, 0.4), higher=False).best.settings == {"beta": 1.0}
    # Equal in another order of summing.
    tied = [candidate((0.1, 0.2, 0.3), beta=2.0, lr=1.0), candidate((0.2, 0.3, 0.1), beta=1.0, lr=3.0)]
    tied += [candidate((0.3, 0.2, 0.1), beta=1.0, lr=2.0), candidate((0.0, 0.0, 0.0), beta=0.5, lr=1.0)]
    choice = choose("kl", tied, OVER)
    assert choice.best.settings == {"beta": 1.0, "lr": 2.0} and len(choice.tied) == 2
    assert any(text.startswith("tied with beta=") for text in choice.remarks)


def test_a_choice_at_the_edge_or_within_noise_says_so() -> None:
    edge = chosen((0.5, 0.5), (0.3, 0.3), (0.1, 0.1))
    assert edge.edges == ["at the edge: beta=1.0 is the least of 3 that were tried"]
    # Seeds shift all candidates alike: nothing is left, and nothing is within noise.
    assert edge.noise == pytest.approx(0.0, abs=1e-12) and edge.near == []
    assert "largest of 2" in chosen((0.1, 0.2), (0.3, 0.4)).edges[0]
    assert chosen((0.1, 0.2)).edges == [] and chosen((0.1, 0.2)).noise is None
    # Residuals of +-0.02 in three rows of two: s^2 = 6 * 0.02^2 / 2 here.
    noisy = chosen((0.52, 0.48), (0.48, 0.52), (0.2, 0.2))
    left = (2 * 0.02**2 * 2) / 2
    assert noisy.noise == pytest.approx(stats.t.ppf(0.975, 2) * (2 * left / 2) ** 0.5)
    assert [entry.settings["beta"] for entry in noisy.near] == [2.0]
    assert "within noise: 1 of the 2 others" in noisy.remarks[-1]
    lone = chosen((0.1,), (0.3,))
    assert lone.noise is None and "not known" in lone.remarks[-1]


def test_candidates_without_a_seed_are_refused_and_unequal_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"kl beta=2.0: no value of seed 1"):
        chosen((0.1, 0.2), (0.3,))
    with pytest.raises(ValueError, match="kl: no candidate"):
        choose("kl", [], OVER)
    none = choose("none", [candidate((0.1, 0.2))], OVER)
    assert imbalance([chosen((0.1, 0.2), (0.1, 0.2)), none]).endswith("none 1; kl 2")
    assert imbalance([none, none]) == ""


def planted_search(root: Path, betas: Mapping[str, Sequence[object]], seeds: Sequence[int]) -> Path:
    """Runs whose reward falls with beta, by arm."""
    for arm, tried in betas.items():
        for place, beta in enumerate(tried):
            for seed in seeds:
                made = manifest(seed, {"divergence": arm}, **{"divergence.beta": beta})
                rows = metrics(4, [0.5, 0.6, 0.7])
                rows = [row | {"reward/mean": 0.5 - 0.1 * place + 0.01 * seed} for row in rows]
                write_run(root / f"{arm},{beta}" / f"seed={seed}", made, rows, {})
    return root


# What planted runs of no answers and no digests cannot say.
ALLOWED = ["answers", "contradiction", "copied", "edited", "nan"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    betas = {"kl": (0.1, 0.2), "probl2": (1.0, 2.0, 3.0)}
    return planted_search(tmp_path_factory.mktemp("search") / "search", betas, (100, 101))


OPTIONS = StudyOptions(metric="auc:reward/mean", allow=ALLOWED)


def test_a_selection_is_recorded_with_all_candidates_and_composed_by_along(
    searched: Path, tmp_path: Path
) -> None:
    made = select(load(str(searched)), ["divergence.beta"], OPTIONS)
    assert [(choice.arm, choice.best.settings) for choice in made.choices] == [
        ("kl", {"divergence.beta": 0.1}),
        ("probl2", {"divergence.beta": 1.0}),
    ]
    path = write(made, str(tmp_path / "mine.yaml"))
    node = yaml.safe_load(path.read_text())
    assert node["hydra"]["sweeper"]["along"] == {
        "divergence=kl": {"divergence.beta": 0.1},
        "divergence=probl2": {"divergence.beta": 1.0},
    }
    record = read_selection(node["selection"])
    assert record["seeds"] == [100, 101] and record["runs"] == 10 and record["metric"] == "auc:reward/mean"
    assert [len(entry["candidates"]) for entry in record["arms"].values()] == [2, 3]
    assert record["rule"].endswith("of equal ones the smaller divergence.beta")
    assert "kl 2; probl2 3" in record["remarks"][0]
    # The same runs give the same bytes; other runs do not overwrite it.
    assert write(made, str(path)).read_text() == path.read_text()
    node["selection"]["seeds"] = [7]
    path.write_text(yaml.safe_dump(node))
    with pytest.raises(ValueError, match="has another selection"):
        write(made, str(path))
    tables = chosen_tables([made.record()])
    assert [table.name for table in tables] == ["chosen", "candidates"] and len(tables[1].rows) == 5


@pytest.mark.parametrize("best", ["1e-3", "5829e10", "null", "a,b", "it's", 1e-05, True, None])
def test_text_and_null_come_back_from_the_file_as_they_were(best: object, tmp_path: Path) -> None:
    export = load(str(planted_search(tmp_path / "search", {"kl": (best, 0.5)}, (100, 101))))
    made = select(export, ["divergence.beta"], OPTIONS)
    (choice,) = made.choices
    assert dict(choice.best.settings) == {"divergence.beta": best}
    # As a sweep composes it, and as its sweeper types what comes along.
    read = OmegaConf.to_container(OmegaConf.load(write(made, str(tmp_path / "mine.yaml"))))
    assert isinstance(read, dict)
    assert read_selection(read["selection"])["arms"] == made.record()["arms"]
    ((_, override),) = with_along(["divergence=kl"], read["hydra"]["sweeper"]["along"])
    assert OverridesParser.create().parse_override(override).value() == best
    texts = [str(cell) for table in chosen_tables([made.record()]) for row in table.rows for cell in row]
    assert not any("None" in text for text in [*texts, str(choice.best), summary(made.record())])
    # Runs of the second sweep have what was chosen.
    again = load(str(planted_search(tmp_path / "second", {"kl": (best,)}, (0,))))
    (run,) = study(again, metric="auc:reward/mean", allow=ALLOWED).design.runs
    assert chosen_faults([made.record()], [run]) == []


def test_true_null_and_a_category_have_no_edge_and_stand_beside_numbers() -> None:
    for values, edges in (
        ((True, False), []),
        (("a", "b"), []),
        ((None, 0.5), []),
        ((None, 0.5, 1.0), []),
        ((0.5, None, 1.0), ["at the edge: beta=0.5 is the least of 2 that were tried"]),
        ((1, True, 2), ["at the edge: beta=1 is the least of 2 that were tried"]),
    ):
        tried = [
            Candidate(settings={"beta": value}, by_seed={0: -place}) for place, value in enumerate(values)
        ]
        choice = choose("kl", tried, ["beta"])
        assert choice.best.settings == {"beta": values[0]} and choice.edges == edges, values


def test_what_cannot_be_chosen_is_refused(searched: Path) -> None:
    export = load(str(searched))
    for over, options, error in (
        ([], OPTIONS, "name the settings"),
        (["divergence.beta"], StudyOptions(metric="drift/kl", allow=ALLOWED), "neither better nor worse"),
        (["divergence.beta"], StudyOptions(allow=ALLOWED), "the sweep's plan names no endpoint"),
        (
            ["lr"],
            StudyOptions(metric="auc:reward/mean", by=["divergence.beta"], allow=ALLOWED),
            "beta varies too",
        ),
    ):
        with pytest.raises(ValueError, match=error):
            select(export, over, options)


def test_a_sweep_on_the_selections_seeds_or_with_other_settings_is_found_out(
    searched: Path, tmp_path: Path
) -> None:
    record = select(load(str(searched)), ["divergence.beta"], OPTIONS).record()
    root = planted_search(tmp_path / "second", {"kl": (0.1,), "probl2": (1.0,)}, (0, 1))
    launch = {"argv": ["train.py"], "cwd": "/", "cells": None, "time": "2026-11-29T00:00:00Z"}
    (root / "launches.json").write_text(json.dumps([{**launch, "selection": record}] * 2))
    made = study(load(str(root)), metric="auc:reward/mean", allow=ALLOWED)
    assert len(made.export.selections) == 1
    entries = {str(item): (str(answer), str(source)) for item, answer, source in checklist(made).rows}
    answer, source = next(entries[item] for item in entries if item.startswith("Hyperparameters"))
    assert "probl2: 3 candidates, divergence.beta of 1, 2, 3; chosen divergence.beta=1; at the edge" in answer
    assert "sweep planted, seeds 100, 101, 10 runs" in answer and "kl 2; probl2 3" in answer
    assert source.startswith("launches.json")
    planted_search(root, {"kl": (0.2,)}, (1, 101))
    with pytest.raises(Refused) as refused:
        study(load(str(root)), metric="auc:reward/mean", allow=[*ALLOWED, "missing", "mixed", "duplicated"])
    text = str(refused.value)
    assert "seed 101) is of a seed that its settings were chosen on (planted)" in text
    assert "does not have what was chosen: divergence.beta 0.2, 0.1 was chosen" in text


def test_without_a_selection_the_checklist_leaves_the_search_to_the_authors(tmp_path: Path) -> None:
    made = study(load(str(write_sweep(tmp_path / "sweep"))))
    answers = {str(item): str(answer) for item, answer, _ in checklist(made).rows}
    assert next(answers[item] for item in answers if item.startswith("Hyperparameters")).endswith("authors")


def test_the_committed_choice_follows_from_the_committed_export_byte_for_byte(tmp_path: Path) -> None:
    export = load(str(ROOT / "docs" / "results" / "tiny_beta_search" / "export"))
    path = write(select(export, ["divergence.beta", "lr"], StudyOptions()), str(tmp_path / "tiny_beta.yaml"))
    assert path.read_text() == (sweeps() / "chosen" / "tiny_beta.yaml").read_text()
    for name in ("tiny_beta", "tiny_matched_drift"):
        defaults = yaml.safe_load(file_of_sweep(name).read_text())["defaults"]
        assert {"/chosen": "tiny_beta"} in defaults


def test_a_value_that_is_no_number_is_a_seed_that_lacks() -> None:
    bad = Candidate(settings={"lr": 1.0}, by_seed={0: 0.9, 1: float("nan")})
    good = Candidate(settings={"lr": 2.0}, by_seed={0: 0.1, 1: 0.2})
    for order in ([bad, good], [good, bad]):
        with pytest.raises(ValueError, match="no value of seed 1"):
            choose("kl", order, ["lr"])
