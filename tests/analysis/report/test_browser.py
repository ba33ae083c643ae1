"""The report's pages in a browser: on a phone and a wide screen, light and dark, with hostile answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser
from cli import ROOT
from planted import write_sweep

from analysis.data.export import load
from analysis.report import figures
from analysis.report.credit_page import credit_page
from analysis.report.pages import report
from analysis.study.study import study

EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'> "
LONG = "x" * 400
# Widths of what a page shows that is wider than the screen, tables in their boxes left out.
TOO_WIDE = """
[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll table, #list, select, svg *')
  && one.getBoundingClientRect().width > innerWidth).map((one) => one.outerHTML.slice(0, 80))
"""
LOOK = """
(() => {
  const shown = [...document.querySelectorAll('.plot')].filter((one) => one.offsetParent);
  const [text, line] = ['text', 'path[style*="--arm0"]'].map((one) => shown[0]?.querySelector(one));
  const colour = (one, name) => one && getComputedStyle(one)[name];
  return [getComputedStyle(document.body).backgroundColor, colour(text, 'fill'), colour(line, 'stroke'),
    shown.map((one) => one.className)];
})()
"""
DRAWN = ("differences", "learning_curves")
PAPER = {False: "rgb(255, 255, 255)", True: "rgb(23, 24, 26)"}
INK = {False: "rgb(27, 27, 27)", True: "rgb(230, 230, 230)"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report and a credit page of runs whose questions and answers are markup and long words."""
    root = write_sweep(tmp_path_factory.mktemp("outputs") / "planted", arms=("kl", "probl2"))
    for path in root.rglob("eval/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        changed = (
            row | {name: EVIL + LONG + row[name] for name in ("question", "completion")} for row in rows
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    text = f"a{EVIL}{LONG}"
    row = {
        "uid": "train/1", "question": EVIL + LONG, "gold": "1", "outcome": "right", "reward": 1.0,
        "text": text, "offsets": [[0, 1], [1, len(text)]], "weights": [0.5, 1.5],
        "spans": [{"start": 1, "end": 2, "kind": "calculation", "drop": 0.25}],
    }  # fmt: skip
    run = root / "divergence=probl2" / "seed=0"
    (run / "credit").mkdir()
    (run / "credit" / "step_000004.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        # Two figures stand for all.
        patch.setattr(figures, "FIGURES", {name: figures.FIGURES[name] for name in DRAWN})
        page = report(study(load(str(root))), root / "report", "planted")
    (page.parent / "credit.html").write_text(credit_page(run))
    return page.parent


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def test_pages_fit_a_phone_and_a_wide_screen_in_both_schemes(tab: Browser, folder: Path) -> None:
    pages = ("report.html", "answers.html", "answers.html#mode=training", "credit.html")
    for width in (375, 1280):
        for dark in (False, True):
            tab.view(width, dark=dark)
            for page in (*pages, "tables/statistics_divergence.html"):
                name, _, fragment = page.partition("#")
                tab.open(folder / name, f"#{fragment}")
                if name == "answers.html":
                    tab.until("document.querySelectorAll('#panel article').length > 0")
                shown = tab.value("document.documentElement.scrollWidth"), tab.value(TOO_WIDE)
                assert shown == (width, []), (page, dark)
                paper, text, line, plots = tab.value(LOOK)
                assert paper == PAPER[dark], page
                if name == "report.html":
                    assert (text, line) == (INK[dark], INK[True] if dark else "rgb(0, 0, 0)")
                    kind = "plot column" if width == 375 else "plot page"
                    assert len(plots) == len(DRAWN) and set(plots) == {kind}
    assert tab.value("window.broken") is None and not tab.errors
    assert all(url.startswith("file:") and url.split("#")[0].endswith(".html") for url in tab.requests)


STICKY = """
(() => {
  const box = [...document.querySelectorAll('.scroll')].find((one) => one.scrollWidth > one.clientWidth + 80);
  box.scrollLeft = 80;
  const left = box.getBoundingClientRect().left;
  const names = [...box.querySelectorAll('tbody th[scope=row], thead th:first-child')];
  const covers = (one) => getComputedStyle(one).backgroundColor !== 'rgba(0, 0, 0, 0)';
  return [box.scrollLeft, names.length > 1,
    names.every((one) => Math.abs(one.getBoundingClientRect().left - left) < 1 && covers(one))];
})()
"""
PANELS = """
[...document.querySelectorAll('#learning_curves .plot svg')].filter((one) => one.getClientRects().length)
  .map((one) => one.viewBox.baseVal.width)
"""


def test_the_committed_pages_fit_a_phone_and_a_wide_screen(tab: Browser) -> None:
    for page in (ROOT / "docs" / "results").glob("*/report.html"):
        for width in (375, 1280):
            tab.view(width)
            tab.open(page)
            shown = tab.value("document.documentElement.scrollWidth"), tab.value(TOO_WIDE)
            assert shown == (width, []), page


def test_a_phone_keeps_names_of_rows_and_has_panels_below_each_other(tab: Browser, folder: Path) -> None:
    for width, inches in ((375, 3.3), (1280, 6.9)):
        tab.view(width)
        tab.open(folder / "report.html")
        assert tab.value(PANELS) == [pytest.approx(72 * inches)]
        labels = tab.value("[...document.querySelectorAll('.plot svg')].map((one) => one.ariaLabel)")
        assert len(labels) == 4 and all("probl2" in label.lower() for label in labels)
        if width == 375:
            assert tab.value(STICKY) == [80, True, True]


def test_answers_are_chosen_by_arm_outcome_and_question(tab: Browser, folder: Path) -> None:
    def shown() -> list[str]:
        script = "[...document.querySelectorAll('#panel article header')].map((one) => one.textContent)"
        return tab.value(script)

    def choose(control: str, value: str) -> str:
        event = "input" if control == "search" else "change"
        tab.value(f"{control}.value = '{value}'; {control}.dispatchEvent(new Event('{event}'))")
        return tab.value("document.getElementById('count').textContent")

    tab.view(1280)
    tab.open(folder / "answers.html")
    tab.until("document.querySelectorAll('#panel article').length == 2")
    assert shown() == ["kl, step 4right", "probl2, step 4right"]
    # Of seed 0, kl is right on 24 questions and probl2 on 28.
    assert choose("outcome", "disagree") == "4 of 40 questions"
    tab.until("document.querySelector('#panel h2').textContent == 'q/0024'")
    assert shown() == ["kl, step 4wrong", "probl2, step 4right"]
    assert choose("outcome", "not right") == "16 of 40 questions"
    assert choose("arm", "probl2") == "12 of 40 questions"
    assert choose("outcome", "gained") == "8 of 40 questions"
    assert choose("evaluation", "both") == "8 of 40 questions"
    tab.until("document.querySelectorAll('#panel article').length == 4")
    assert choose("search", "is 21 +") == "1 of 40 questions"
    tab.until("document.querySelector('#panel h2').textContent == 'q/0021'")
    text = tab.value("document.querySelector('#panel pre').textContent")
    assert text == f"{EVIL}{LONG}so #### 21"
    # The address holds the choice.
    address = tab.value("location.hash")
    tab.open(folder / "answers.html", address)
    tab.until("document.querySelectorAll('#panel article').length == 4")
    assert tab.value("document.getElementById('count').textContent") == "1 of 40 questions"
    assert tab.value("window.broken") is None and not tab.errors


def test_answers_and_tokens_are_read_by_keyboard(tab: Browser, folder: Path) -> None:
    tab.view(1280)
    tab.open(folder / "answers.html", "#question=q/0002")
    tab.until("document.querySelector('#panel h2')?.textContent == 'q/0002'")
    tab.value("document.querySelector('#list [aria-current]').focus()")
    tab.press("ArrowDown", 40)
    tab.until("document.querySelector('#panel h2').textContent == 'q/0003'")
    tab.press("Tab", 9)
    tab.press("Enter", 13)
    tab.until("document.querySelector('#panel h2').textContent == 'q/0004'")
    for page in ("answers.html#mode=training", "credit.html"):
        name, _, fragment = page.partition("#")
        tab.open(folder / name, f"#{fragment}")
        tab.until("document.querySelectorAll('.tokens .token').length == 2")
        tab.value("document.querySelector('.tokens').focus()")
        tab.press("ArrowRight", 39)
        tab.press("ArrowRight", 39)
        readout = tab.until("document.getElementById('readout').textContent")
        assert readout.endswith(": weight 1.50; calculation, drop 0.25") and "<script>" in readout, page
