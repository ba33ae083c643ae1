"""The credit page from a run folder made by hand."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.data.shown_completions import shown_completions, shown_steps
from analysis.report.credit_page import credit_page, kind, shade, tokens
from mirrorpo.run.folder import RunFolder


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.open = "", []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page: str) -> Text:
    parser = Text()
    parser.feed(page)
    return parser


def test_the_text_stands_once_whatever_tokens_share_its_characters_and_markup_in_it_is_text():
    # The euro sign was written by three tokens.
    out = tokens(
        "a <€> b",
        [(0, 2), (2, 3), (3, 4), (3, 4), (3, 4), (4, 7), (7, 7)],
        [1.0] * 7,
        [{"start": 0, "end": 2, "kind": "calculation", "drop": 1.5}],
    )
    assert read(out).text == "a <€> b"
    assert "<€>" not in out and out.count("calculation, drop 1.50") == 2


def test_a_weight_of_one_has_no_colour_and_the_two_sides_have_different_ones():
    shown = [(kind(weight), float(shade(weight).split(":")[1])) for weight in (0.0, 0.5, 1.0, 1.5, 2.0, 9.0)]
    assert [strength for _, strength in shown] == [1.0, 0.5, 0.0, 0.5, 1.0, 1.0]
    assert shown[0][0] == shown[1][0] == "token down" and shown[3][0] == shown[5][0] == "token up"


def write_run(run: Path, metrics: dict, *, old: bool = False) -> None:
    """A run folder; `old`: with a file of completions for each step, as version 0.1.0 had it."""
    (run / "credit" if old else run).mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_text(json.dumps({"choices": {"weighting": "<b>"}, "commit": "abc"}))
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step} | metrics) + "\n" for step in range(5))
    )
    row = {
        "uid": "q",
        "question": "1 < 2?",
        "gold": "2",
        "outcome": "right",
        "reward": None,
        "text": "so 2",
        "offsets": [[0, 3], [3, 4]],
        "weights": [0.5, 1.5],
    }
    for step in (1, 4):
        if old:
            (run / "credit" / f"step_{step:06d}.jsonl").write_text(json.dumps(row | {"spans": []}) + "\n")
        else:
            RunFolder(run).credit.append({"step": step} | row | {"spans": []})


def test_the_page_of_a_run_with_a_file_a_step_is_the_same_also_when_it_went_on(tmp_path: Path) -> None:
    runs = [tmp_path / name / "run" for name in ("new", "old", "went on")]
    for run in runs:
        write_run(run, {"loss": 1.0}, old=run != runs[0])
    late = runs[2] / "credit" / "step_000004.jsonl"
    RunFolder(runs[2]).credit.append({"step": 4} | json.loads(late.read_text()))
    late.unlink()
    pages = {credit_page(run).replace(str(run), "") for run in runs}
    assert len(pages) == 1 and "step 1</b>" in pages.pop()
    with RunFolder(runs[0]).credit.path.open("a") as file:
        file.write('{"step": 5, "uid')
    assert shown_steps(runs[0]) == [1, 4]
    with RunFolder(runs[0]).credit.path.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"credit\.jsonl has a line that is not JSON"):
        list(shown_completions(runs[0], [5]))


def test_the_page_shows_every_steps_completions_the_newest_open_and_the_summary(tmp_path: Path):
    write_run(tmp_path, {"weight/effective_tokens": 0.9, "credit/position_1": 3.0})
    page = credit_page(tmp_path)
    parsed = read(page)
    assert "weighting=<b>" in parsed.text and "1 < 2?" in parsed.text and "no verdict" in parsed.text
    assert page.count("<details open>") == 1 and page.index("step 4") < page.index("step 1")
    assert "credit/position_1" in page and "3.000" in page
    assert not re.search(r"https?://|src=|url\(", page), "it needs no network"


def test_a_run_that_scored_nothing_says_so_and_one_without_weights_is_refused(tmp_path: Path):
    write_run(tmp_path / "run", {"weight/effective_tokens": 1.0})
    assert "No span was scored" in credit_page(tmp_path / "run")
    with pytest.raises(ValueError, match="shown_completions"):
        credit_page(tmp_path)
