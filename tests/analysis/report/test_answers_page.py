"""The page of all answers: what it holds, and that what a model wrote stays text."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from planted import answers, manifest, metrics, write_run, write_sweep

from analysis.data.export import Export, load
from analysis.report import answers_data
from analysis.report.answers_page import answers_page, link
from analysis.study.study import study
from mirrorpo.run.folder import RunFolder

EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
ARMS = ("kl", "probl2")


class Scripts(HTMLParser):
    """The script elements of a page, and its other tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        else:
            self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    @property
    def packed(self) -> list[str]:
        return [text for attrs, text in self.scripts if attrs.get("type") == "text/plain"]

    @property
    def index(self) -> Any:
        return json.loads(next(text for attrs, text in self.scripts if attrs.get("id") == "index"))

    def block(self, name: str) -> Any:
        packed = next(text for attrs, text in self.scripts if attrs.get("id") == name)
        return json.loads(zlib.decompress(base64.b64decode(packed)))


def write_credit(run: Path, steps: range) -> None:
    row = {
        "uid": "train/1", "question": EVIL, "gold": "€", "outcome": "no_answer", "reward": None,
        "text": f"€ {EVIL}", "offsets": [[0, 1], [0, 1], [1, 2], [2, 2 + len(EVIL)]],
        "weights": [0.5, 0.25, 1.0, 1.23456],
        "spans": [{"start": 3, "end": 4, "kind": "calculation", "drop": 1.5}],
    }  # fmt: skip
    for step in steps:
        RunFolder(run).credit.append({"step": step} | row | {"uid": f"train/{step}"})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms and seeds whose answers and questions are markup; one run kept its tokens."""
    root = write_sweep(tmp_path_factory.mktemp("outputs") / "evil", arms=ARMS)
    for path in root.rglob("eval/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for index, row in enumerate(rows):
            row["question"] += f" {EVIL}"
            row["completion"] = f"{path.parts[-4]} {row['uid']} {EVIL}" + "x" * (20_000 if index == 7 else 0)
            row["truncated"] = index == 7
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_credit(root / "divergence=probl2" / "seed=1", range(1, 11))
    return root


def page_of(source: Path | Export) -> Scripts:
    export = source if isinstance(source, Export) else load(str(source))
    page = answers_page(study(export, allow=["answers"]), "evil <b>")
    assert page is not None
    return Scripts(page)


def test_verdicts_lengths_and_texts_are_those_of_the_first_and_the_last_evaluation(sweep: Path) -> None:
    page = page_of(sweep)
    index, block = page.index, page.block("answers-0")
    assert [(run["arm"], run["seed"]) for run in index["runs"]] == [
        (arm, seed) for arm in ARMS for seed in (0, 1)
    ]
    assert index["questions"]["uid"][7] == "q/0007" and index["full"] == 40 and index["starts"] == [0]
    for order, run in enumerate(index["runs"]):
        first, last = run["evaluations"]
        assert (first["step"], last["step"]) == (0, 4)
        right = [index["outcomes"][ord(letter) - ord("A")] == "right" for letter in last["verdicts"]]
        assert sum(right) == 24 + 4 * (order // 2) + order % 2
        assert last["tokens"][:3] == [20, 21, 22] and last["cut"].count("1") == 1 and last["cut"][7] == "1"
        texts = [block["texts"][block["answers"][3][order][which]] for which in (0, 1)]
        assert texts == [f"divergence={run['arm']} q/0003 {EVIL}"] * 2
    long = block["texts"][block["answers"][7][0][0]]
    assert "characters left out" in long and len(long) < 12_100


def test_what_a_model_wrote_can_neither_end_a_script_nor_start_one(sweep: Path) -> None:
    page = page_of(sweep)
    data = [attrs.get("id") for attrs, _ in page.scripts if attrs]
    assert data == ["index", "shown-3", "answers-0"]
    code = [text for attrs, text in page.scripts if not attrs]
    assert len(code) == 2 and not any("broken" in text for text in code)
    assert not [tag for tag, attrs in page.tags if {"src", "onerror"} & attrs.keys() or tag == "img"]
    # A browser runs these two and nothing else, and loads nothing.
    allowed = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert allowed is not None and allowed.startswith("default-src 'none'")
    for text in code:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in allowed


def test_training_completions_are_there_token_by_token(sweep: Path) -> None:
    page = page_of(sweep)
    shown = page.index["shown"]
    # Six of the ten steps, the first and the last among them.
    assert [row[1] for row in shown["rows"]] == [1, 3, 5, 6, 8, 10]
    run, step, uid, letter, reward, place = shown["rows"][-1]
    assert (page.index["runs"][run]["arm"], step, reward, place) == ("probl2", 10, None, 5)
    assert shown["uid"][uid] == "train/10" and shown["question"][uid] == EVIL
    assert page.index["outcomes"][ord(letter) - ord("A")] == "no answer"
    kept = page.block("shown-3")[place]
    assert kept == {
        "pieces": ["€", "", " ", EVIL],
        "weights": [0.5, 0.25, 1.0, 1.235],
        "spans": [[3, 4, "calculation", 1.5]],
    }


def test_a_question_that_a_run_lacks_is_a_dash(tmp_path: Path) -> None:
    for seed in range(2):
        made = manifest(seed, **{"config.eval_questions": 3 - seed})
        rows = metrics(4, [1.0, 1.0, 1.0], questions=3 - seed)
        write_run(tmp_path / f"seed={seed}", made, rows, {4: answers([True] * (3 - seed))})
    page = answers_page(study(load(str(tmp_path)), allow=["mixed", "data", "answers"]), "x")
    assert page is not None
    (first,), (second,) = (run["evaluations"] for run in Scripts(page).index["runs"])
    assert (first["verdicts"], second["verdicts"]) == ("AAA", "AA-")
    assert Scripts(page).block("answers-0")["answers"][2][1] == [-1]
    assert "2 runs, last evaluation" in page and "no token weights" in page


def test_questions_of_several_evaluation_sets_are_told_apart(tmp_path: Path) -> None:
    for seed in range(2):
        rows = metrics(4, [1.0, 1.0, 1.0], questions=2)
        made = manifest(seed, **{"config.eval_questions": 2})
        write_run(tmp_path / f"seed={seed}", made, rows, {4: answers([True] * 2)})
    export = load(str(tmp_path))
    table = export.questions
    table = table.drop_columns("set") if "set" in table.column_names else table
    again = table.set_column(table.column_names.index("right"), "right", pa.array([False] * len(table)))
    tables = [(table, pa.nulls(len(table), pa.string())), (again, pa.array(["svamp"] * len(table)))]
    both = pa.concat_tables([rows.append_column("set", column) for rows, column in tables])
    index = page_of(replace(export, questions=both)).index
    assert index["questions"]["uid"] == ["q/0000", "q/0001", "svamp: q/0000", "svamp: q/0001"]
    assert [run["evaluations"][0]["verdicts"] for run in index["runs"]] == ["AABB"] * 2


def test_a_page_that_is_full_says_so_and_keeps_all_verdicts(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_data, "BLOCK", 4000)
    full = page_of(sweep)
    assert full.index["full"] == 40 and len(full.index["starts"]) > 3
    assert full.block("answers-1")["answers"]
    monkeypatch.setattr(answers_data, "MOST_BYTES", sum(map(len, full.packed)) - 1)
    cut = page_of(sweep)
    assert 0 < cut.index["full"] < 40
    assert all(len(run["evaluations"][-1]["verdicts"]) == 40 for run in cut.index["runs"])


def test_an_address_names_a_question() -> None:
    assert link("a b&c", 3) == "answers.html#seed=3&amp;question=a+b%26c"
    assert re.fullmatch(r"answers\.html#question=[\w%.]+", link("<'\">"))
