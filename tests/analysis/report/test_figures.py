"""Figures draw the numbers that the tables print."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from planted import answers, export_of, follow, manifest, metrics, write_run, write_sweep

from analysis.data.export import load
from analysis.report import figures
from analysis.report.alt_text import alt_text
from analysis.report.curve_figures import accuracy_differences, learning, length, reward_differences
from analysis.report.figure_style import COLOURS, look, styled
from analysis.report.figures import forest, frontier, mirror_maps, spans, weights
from analysis.report.inline_svg import inline_svg
from analysis.stats.intervals import mean_interval
from analysis.study.study import Study, study
from mirrorpo.run.folder import RunFolder


@pytest.fixture(autouse=True)
def style() -> Any:
    with styled():
        yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = write_sweep(tmp_path_factory.mktemp("s") / "sweep", arms=("kl", "probl2", "none"), seeds=(0, 1, 2))
    return study(load(str(root)))


def lines(figure: Figure | None, axis: int = 0) -> dict[str, Any]:
    assert figure is not None
    return {str(line.get_label()): line.get_xydata() for line in figure.axes[axis].get_lines()}


def test_learning_curves_are_means_over_seeds(sweep: Study) -> None:
    drawn = lines(learning(sweep))
    # Accuracies of probl2's seeds end at 28, 29 and 30 of 40.
    np.testing.assert_allclose(drawn["probl2"], [[0, 50], [2, 55], [4, 72.5]])
    assert set(drawn) == {"kl", "probl2", "none"}


def test_curves_of_several_arms_have_no_bands_that_hide_each_other_and_no_flat_panel(sweep: Study) -> None:
    figure = learning(sweep)
    assert figure is not None and not any(axis.collections for axis in figure.axes)
    # Entropy is 0.2 throughout; lengths are 50 and cut answers 1% at every evaluation.
    titles = [axis.get_title("left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["held-out accuracy, %", "training reward", "drift from the start model, nats"]
    lengths = length(sweep)
    assert lengths is not None
    assert [axis.get_title("left") for axis in lengths.axes] == ["tokens of a sampled answer"]


def test_differences_over_steps_are_paired_and_have_a_panel_and_a_band_each(sweep: Study) -> None:
    figure = accuracy_differences(sweep, {"kl": "KL", "probl2": "ProbL2"})
    assert figure is not None and figure.get_suptitle() == "held-out accuracy, difference from KL, points"
    drawn = {axis.get_title("left"): axis for axis in figure.axes}
    assert set(drawn) == {"ProbL2", "none"}
    gaps = [100 * (sweep.scores("none")[seed] - sweep.scores("kl")[seed]) for seed in range(3)]
    for name, value in (("ProbL2", 10.0), ("none", 20.0)):
        curve = next(line for line in drawn[name].get_lines() if line.get_label() == name)
        np.testing.assert_allclose(curve.get_xydata(), [[0, 0], [2, 0], [4, value]], atol=1e-9)
        assert len(drawn[name].collections) == 1
    (band,) = drawn["none"].collections
    heights = band.get_paths()[0].vertices[:, 1]
    interval = mean_interval(gaps)
    assert (heights.min(), heights.max()) == pytest.approx((min(0, interval.low), interval.high))
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    # Rewards are the same in all arms here: nothing to see.
    assert reward_differences(sweep) is None


def test_arms_that_are_one_run_share_a_panel_and_few_evaluations_make_none(tmp_path: Path) -> None:
    for arm, right in (("kl", 20), ("none", 24), ("probl2", 24)):
        for seed in range(2):
            counts = {0: 20, 2: right + seed, 4: right + 2 * seed}
            given = {step: answers([index < count for index in range(40)]) for step, count in counts.items()}
            made, rows = manifest(seed, {"divergence": arm}), follow(metrics(4, [0.5] * 3), given)
            write_run(tmp_path / arm / f"seed={seed}", made, rows, given)
    figure = accuracy_differences(study(load(str(tmp_path))))
    assert figure is not None and [axis.get_title("left") for axis in figure.axes] == ["none and probl2"]
    right = np.array([[True, False, True], [True, True, False]])
    assert accuracy_differences(study(export_of({"kl": right, "none": ~right}))) is None


def test_an_alt_text_says_what_is_drawn(sweep: Study) -> None:
    names = {"probl2": "ProbL2"}
    curves, differences = (drawing(sweep, names) for drawing in (learning, forest))
    assert curves is not None and differences is not None
    text = alt_text("Means over seeds.", curves)
    assert text.startswith("Means over seeds. held-out accuracy, % over step: kl from 50 to 62.5; ")
    assert "ProbL2 from 50 to 72.5" in text and "drift from the start model, nats over step" in text
    told = alt_text("Differences.", differences)
    assert "difference from kl, points: none +20.0; ProbL2 +10.0." in told


def test_the_forest_draws_every_difference_with_its_interval(sweep: Study) -> None:
    figure = forest(sweep)
    assert figure is not None
    drawn = [line.get_xdata() for line in figure.axes[0].get_lines()]
    for difference in sweep.differences().values():
        interval = difference.interval.scaled(100)
        assert any(np.allclose(x, [interval.low, interval.high]) for x in drawn if len(x) == 2)
        assert any(np.allclose(x, [interval.estimate]) for x in drawn if len(x) == 1)


def test_the_frontier_has_a_path_a_run(sweep: Study) -> None:
    figure = frontier(sweep)
    assert figure is not None and len(figure.axes[0].get_lines()) == 9


def test_every_block_has_its_panels() -> None:
    right = np.array([[True, False, True], [True, True, False]])
    planted = study(
        export_of({"uniform": right, "counterfactual": ~right}, axis="weighting", model=("tiny", "qwen"))
    )
    # Of each block accuracy, reward and drift: entropy does not move.
    for drawing, count in ((learning, 6), (forest, 2), (frontier, 2)):
        figure = drawing(planted)
        assert figure is not None and sum(axis.get_visible() for axis in figure.axes) == count


def test_an_arm_looks_the_same_in_every_figure_and_no_two_alike() -> None:
    looks = [tuple(look(index).values()) for index in range(8)]
    assert len(set(map(str, looks))) == 8 and look(8) == look(0) and len(set(COLOURS)) == 8


def test_spans_and_weights_are_of_the_last_quarter(tmp_path: Path) -> None:
    for seed in range(2):
        rows = metrics(8, [0.5, 0.6, 0.7])
        for row in rows[1:]:
            row |= {
                "credit/drop_calculation": float(row["step"] > 6) * (3 + seed),
                "credit/tokens_calculation": 0.4,
                "credit/gradient_calculation": 0.6,
            }
        run = write_run(tmp_path / "a" / f"seed={seed}", manifest(seed, **{"config.steps": 8}), rows, {})
        for step, weight in ((1, 9.0), (2, 9.0), (3, 9.0), (8, 0.5)):
            RunFolder(run).credit.append({"step": step, "weights": [weight, 1.5]})
    planted = study(load(str(tmp_path)))
    drops, drawn = spans(planted), weights(planted)
    assert drops is not None and drops.axes[0].patches[0].get_height() == pytest.approx(3.5)
    assert drawn is not None and drawn.axes[0].get_xlim()[1] < 2


def test_without_scores_weights_or_torch_there_is_no_such_figure(
    sweep: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures.sys, "executable", "false")
    assert spans(sweep) is None and weights(sweep) is None and mirror_maps(sweep) is None
    assert "note: no mirror maps: no reason given" in capsys.readouterr().err


def test_mirror_maps_are_asked_for_as_the_runs_configured_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[list[str]] = []
    curve = {"h": [0.1, 0.2], "slope": None, "D": [[1.0, 2.0], [3.0, 4.0]]}

    def curves(requests: Any) -> list[dict[str, Any]]:
        requested.extend(map(list, requests))
        by_name = [{name: curve for name in request if "=" not in name} for request in requests]
        return [{"p": [0.1, 0.9], "anchors": [0.5, 0.05], "curves": each} for each in by_name]

    monkeypatch.setattr(figures, "map_curves", curves)
    write_sweep(tmp_path, arms=("kl", "none"), seeds=(0,))
    given = dict.fromkeys((0, 2, 4), answers([True] * 20 + [False] * 20))
    write_run(
        tmp_path / "p" / "seed=0",
        manifest(
            0,
            {"divergence": "probl2"},
            settings={"divergence.beta": 2.0, "steps": 4},
            **{"divergence.beta": 2.0},
        ),
        follow(metrics(4, [0.5, 0.5]), given),
        given,
    )
    figure = mirror_maps(study(load(str(tmp_path))))
    assert requested == [["kl"], ["probl2", "divergence.beta=2.0"]]
    assert figure is not None and lines(figure, 1).keys() == {"kl, β 0.04", "probl2, β 2"}


def test_figures_hold_in_print_and_are_the_same_bytes_each_time(
    sweep: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", {"differences": figures.FIGURES["differences"]})
    draws: list[object] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, to: (draws.append(to), draw(figure, to)))
    # The second a column wide alone.
    drawn = [
        figures.draw(sweep, tmp_path / name, {"kl": "KL"}, widths)["differences"]
        for name, widths in (("first", ["column", "page"]), ("second", ["column"]))
    ]
    forms = [f"differences{width}.{form}" for width in ("", "_column") for form in ("pdf", "svg")]
    assert {path.name for path in (tmp_path / "first").iterdir()} == {*forms, "differences.png"}
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == forms[2:]
    for name in forms[2:]:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert drawn[0] == drawn[1]
    # Each form once: five of the first; two of the second, and the page's SVG.
    assert len(draws) == 5 + 3
    for name, shown, inches in (
        ("differences", drawn[0].page, 6.9),
        ("differences_column", drawn[0].column, 3.3),
    ):
        svg = (tmp_path / "first" / f"{name}.svg").read_text()
        pdf = (tmp_path / "first" / f"{name}.pdf").read_bytes()
        assert svg == shown
        width = re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)
        assert width is not None and float(width[1]) == pytest.approx(72 * inches)
        # Letters are text, none below seven points.
        assert min(float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)) >= 7
        assert "difference from KL, points</text>" in svg and "<dc:date>" not in svg
        assert f"/MediaBox [ 0 0 {72 * inches:g} ".encode() in pdf and b"/FontFile2" in pdf
        assert b"/CreationDate" not in pdf
        assert f"<dc:description>{drawn[0].alt}</dc:description>" in svg and "none +20.0" in drawn[0].alt


def test_a_figure_in_a_page_has_the_pages_colours_and_type_and_ids_of_its_own(
    sweep: Study, tmp_path: Path
) -> None:
    figure = forest(sweep)
    assert figure is not None
    figure.savefig(tmp_path / "f.svg")
    made = inline_svg((tmp_path / "f.svg").read_text(), "mine", "what <it> is")
    assert made.startswith('<svg viewBox="0 0 496.8 ') and "what &lt;it&gt; is" in made
    assert not re.findall(r"#[0-9a-f]{6}|font-family|<style|<metadata|https?:", made)
    ids = re.findall(r'\bid="([^"]*)"', made)
    assert len(ids) == len(set(ids)) and all(name.startswith("mine-") for name in ids)
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', made)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }
    assert "var(--arm1)" in made
