"""The report: one page that needs nothing, with question, answers and doubts; and the command line."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli import ROOT
from planted import export_of, write_sweep

from analysis.__main__ import main
from analysis.data.export import load
from analysis.report import figures
from analysis.report.caveats import caveats
from analysis.report.pages import report
from analysis.report.sample_answers import samples
from analysis.report.strata_table import strata_tables, why_no_strata
from analysis.study import strata
from analysis.study.study import study

TYPED = (
    "hydra: {overrides: {task: ['sweep=tiny_divergence', 'divergence=kl,probl2', 'seed=0,1,2']}, "
    "sweeper: {params: null}}"
)
SHOWN = (
    "Claim under test: the divergence changes what GRPO learns",
    "kl (baseline), probl2",
    "<b>probl2</b>: +10.0 points [",
    "<b class='better'>better</b> than kl, with 3 seeds",
    "git checkout c0ffee",
    "python train.py -m sweep=tiny_divergence divergence=kl,probl2 seed=0,1,2",
    "python -m analysis report",
    "Gold: ",
    "torch",
)
MORE = ("accuracy_differences", "frontier", "length", "weights")
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = write_sweep(tmp_path_factory.mktemp("outputs") / "planted", arms=("kl", "probl2"), seeds=(0, 1, 2))
    (root / "multirun.yaml").write_text(TYPED)
    for seed in range(3):
        folder = root / "divergence=probl2" / f"seed={seed}" / "credit"
        folder.mkdir()
        row = {"uid": "t", "question": "1?", "gold": "1", "outcome": "right", "reward": 1.0, "spans": []}
        shown = {"text": "one", "offsets": [[0, 1], [1, 2], [2, 3]], "weights": [0.5, 1.0, 1.5]}
        (folder / "step_000004.jsonl").write_text(json.dumps(row | shown) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        # Torch, in a process of its own, takes ten seconds to draw maps; test_mirror_maps has them.
        patch.setattr(figures, "map_curves", lambda requests: [None] * len(requests))
        patch.setattr(sys, "argv", ["analysis", "report", str(root)])
        written = report(study(load(str(root))), root / "report", "planted")
    return written, written.read_text()


def test_the_page_holds_all_it_shows(page: tuple[Path, str]) -> None:
    _, text = page
    # Parts of an SVG refer to each other.
    assert not re.findall(r"<(?:link|script|iframe|img)|@import|url\((?!#)|https?://|src=", text)
    assert text.count("<svg ") == 2 * 6
    # Beside the page lies that of all answers.
    assert not re.findall(r"href='(?!#|answers\.html)", text)


def test_the_page_has_the_question_the_findings_and_how_to_make_it_again(page: tuple[Path, str]) -> None:
    assert [text for text in SHOWN if text not in page[1]] == []


def test_every_link_has_its_target(page: tuple[Path, str]) -> None:
    _, text = page
    targets = set(re.findall(r"id='([^']+)'", text))
    assert {link for link in re.findall(r"href='#([^']+)'", text)} <= targets


def test_tables_and_figures_lie_beside_it_in_every_form(page: tuple[Path, str]) -> None:
    folder = page[0].parent
    names = {path.stem for path in (folder / "tables").iterdir()}
    assert {"accuracy_by_divergence", "papers_divergence", "before_after"} <= names
    assert {path.suffix for path in (folder / "tables").glob("before_after.*")} == {
        ".tex",
        ".md",
        ".html",
        ".json",
    }
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"differences", "learning_curves", *MORE} == drawn
    for name in drawn:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(PNG) and (
            folder / "figures" / f"{name}.pdf"
        ).read_bytes().startswith(b"%PDF")


def test_answers_are_chosen_where_arms_disagree(page: tuple[Path, str]) -> None:
    # Of seed 0, questions 24 to 27 are right under probl2 alone.
    _, text = page
    shown = re.findall(r"<h3><a [^>]*>q/(\d+)</a></h3>", text)
    assert shown[:3] == ["0024", "0025", "0026"] and len(shown) == 5
    # Two answers where they disagree, one where both said the same.
    assert text.count("class='answer right'") + text.count("class='answer wrong'") == 3 * 2 + 2


def test_what_runs_wrote_is_text_and_not_markup(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "sweep")
    for path in root.rglob("eval/*.jsonl"):
        path.write_text(path.read_text().replace("so ####", "<script>alert(1)</script>"))
    assert "&lt;script&gt;" in samples(study(load(str(root)))) and "<script>" not in samples(
        study(load(str(root)))
    )


def test_caveats_are_those_of_the_runs() -> None:
    same = np.array([[True, False, True]] * 2)
    export = export_of({"kl": same, "none": same, "probl2": ~same}, dirty=True)
    text = "\n".join(caveats(study(export, allow=["dirty"])))
    expected = (
        "Allowed (dirty)",
        "kl and none gave the same verdict",
        "There are 2 seeds",
        "over 3 questions",
        "stands in for",
        "One update per rollout",
        "validation",
    )
    assert [sentence for sentence in expected if sentence not in text] == []
    assert "probl2 gave" not in text


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
    main()


def test_the_command_line_exports_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "outputs" / "mine")
    run(monkeypatch, "export", "mine")
    assert (
        "4 runs, 20 rows of" in capsys.readouterr().out
        and (tmp_path / "outputs" / "mine" / "export" / "metrics.parquet").exists()
    )
    run(monkeypatch, "compare", "outputs/mine/export", "--format", "latex", "--baseline", "none")
    assert r"\begin{table*}" in capsys.readouterr().out
    latex = ("--format", "latex", "--width", "column", "--columns", "accuracy,verdict")
    run(monkeypatch, "compare", "mine", *latex)
    printed = capsys.readouterr().out
    assert r"\begin{table}[t]" in printed and "divergence & accuracy, \\% & verdict" in printed
    run(monkeypatch, "before_after", "mine")
    assert capsys.readouterr().out.startswith("Every run before and after")


def test_what_is_refused_is_an_error_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sweep(tmp_path / "mine")
    for option, value, error in (
        ("--allow", "x", "allow=x"),
        ("--filters", "{", "filters={: not JSON"),
        ("--axis", "lr", "axis=lr"),
        ("--baseline", "tsallis", "no run with divergence=tsallis"),
        ("--columns", "x", "columns=x: of accuracy_by_divergence no column begins so"),
        ("--names", "x", "names=x: names are of LaTeX and of figures; add --format latex"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(monkeypatch, "compare", str(root), option, value)
        assert str(exit_.value.code).startswith(f"error: {error}") and "\n" not in str(exit_.value.code)


def damaged_launches(root: Path) -> str:
    (root / "launches.json").write_text('["a"]')
    return f"error: {root / 'launches.json'}: is not what a launcher wrote"


def cut_launches(root: Path) -> str:
    (root / "launches.json").write_text('[{"argv":')
    return f"error: {root / 'launches.json'}: is not what a launcher wrote"


def damaged_multirun(root: Path) -> str:
    (root / "multirun.yaml").write_text(":\n -:[")
    return f"error: {root / 'multirun.yaml'}: is not what Hydra wrote"


@pytest.mark.parametrize("damage", [damaged_launches, cut_launches, damaged_multirun])
def test_a_damaged_record_of_launches_is_named(
    damage: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sweep(tmp_path / "mine")
    error = damage(root)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "compare", str(root))
    assert str(exit_.value.code).startswith(error) and "\n" not in str(exit_.value.code)


def test_a_seed_that_is_no_number_and_an_answer_without_a_question_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sweep(tmp_path / "mine")
    first, second = sorted(root.rglob("manifest.json"))[:2]
    made = json.loads(first.read_text())
    made["config"]["seed"] = "x"
    first.write_text(json.dumps(made))
    file = sorted((second.parent / "eval").glob("*.jsonl"))[-1]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["uid"] = None
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "compare", str(root))
    said = str(exit_.value.code)
    assert "its config has seed='x', which is no whole number" in said and "different questions" in said


def test_no_strata_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sweep(tmp_path / "mine")
    made = study(load(str(root)))
    monkeypatch.setattr(strata, "FEWEST_QUESTIONS", 1000)
    assert not strata_tables(made) and "no two of them have" in why_no_strata(made)


def test_a_guard_ends_the_command_with_its_list(tmp_path: Path) -> None:
    root = write_sweep(tmp_path / "mine", state="failed")
    ran = subprocess.run(
        [sys.executable, "-m", "analysis", "report", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        ran.returncode == 1
        and ran.stderr.startswith("error: 4 findings forbid this table:")
        and "--allow unfinished" in ran.stderr
    )
