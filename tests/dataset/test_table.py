"""Questions by settings alone, from files that the tests write: what rows become, and what is refused."""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli import ROOT, cell_here
from real_data import DATA, needs

from mirrorpo.dataset.table import Table
from mirrorpo.train.build import build_components, build_dataset
from mirrorpo.train.questions import load_questions

SVAMP = [
    {"Body": f"Ben has {n} pens and buys {n}.", "Question": "How many pens?", "Answer": 2.0 * n, "Note": ""}
    for n in range(40)
]
COLUMNS = {"question": "{Body} {Question} {Note?}", "gold": "Answer", "extractor": "number"}


@cache
def defaults() -> Mapping[str, Any]:
    node = yaml.safe_load((ROOT / "conf/dataset/jsonl.yaml").read_text())
    return {key: value for key, value in node.items() if key not in ("defaults", "_target_", "root")}


def table(source: object = None, **changes: Any) -> Table:
    return Table(**{**defaults(), "root": None, "source": source and str(source), **changes})


def lines(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def one(tmp_path: Path, row: Mapping[str, Any], **changes: Any) -> Any:
    """The prompt of a file of one row."""
    path = lines(tmp_path / "one.jsonl", [row])
    return table(path, **{"validation_fraction": 0.0, **changes}).load("train")[0]


def separated(path: Path, delimiter: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(SVAMP[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(SVAMP)
    return path


# ---------------------------------------------------------------- where rows are stored


def test_a_file_is_the_same_questions_in_every_form(tmp_path: Path) -> None:
    from pyarrow import Table as Arrow
    from pyarrow.parquet import write_table

    plain = lines(tmp_path / "a.jsonl", SVAMP)
    (tmp_path / "b.json").write_text(json.dumps(SVAMP))
    (tmp_path / "c.json").write_text(json.dumps({"version": "1", "data": SVAMP}))
    lines(tmp_path / "d.json", SVAMP)
    (tmp_path / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n") + b"\n\n")
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    separated(tmp_path / "g.csv", ",")
    separated(tmp_path / "h.tsv", "\t")
    write_table(Arrow.from_pylist(SVAMP), tmp_path / "i.parquet")
    lines(tmp_path / "j/data/train-00000-of-00002.jsonl", SVAMP[:15])
    lines(tmp_path / "j/data/train-00001-of-00002.jsonl", SVAMP[15:])
    loaded = {
        path.name: [(p.question, p.gold) for p in table(path, **COLUMNS).load("train")]
        for path in sorted(tmp_path.iterdir())
    }
    assert len(loaded) == 10 and loaded["a.jsonl"][0] == ("Ben has 0 pens and buys 0. How many pens?", "0")
    assert not [name for name, questions in loaded.items() if questions != loaded["a.jsonl"]]


def test_what_save_to_disk_wrote_and_a_copy_of_a_hub_repository_are_the_same_questions(
    tmp_path: Path,
) -> None:
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_list(SVAMP)
    saved.save_to_disk(str(tmp_path / "single"))
    DatasetDict({"train": saved, "dev": saved.select(range(3))}).save_to_disk(str(tmp_path / "splits"))
    lines(tmp_path / "copy/train.jsonl", SVAMP)
    named = {**COLUMNS, "name": "svamp", "validation_fraction": 0.0}
    single, splits = (table(tmp_path / name, **named) for name in ("single", "splits"))
    hub = table(hub=str(tmp_path / "copy"), splits={"train": "train"}, **named)
    assert [p.gold for p in single.load("train")] == [p.gold for p in splits.load("train")]
    assert splits.fingerprint("train") == hub.fingerprint("train") and len(hub.load("train")) == 40
    assert [len(splits.load("validation")), len(splits.files("validation"))] == [3, 3]
    assert [path.name for path in hub.files("train")] == ["train.jsonl"]


def test_paths_are_below_the_root_unless_they_are_full_and_what_is_missing_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "svamp/all.jsonl", SVAMP)
    assert table("svamp/all.jsonl", root=str(tmp_path), **COLUMNS).files("train") == [path]
    assert table(path, root="/elsewhere", **COLUMNS).files("train") == [path]
    lines(tmp_path / "odd/one.jsonl", SVAMP)
    lines(tmp_path / "both/dev.jsonl", SVAMP)
    lines(tmp_path / "both/val.jsonl", SVAMP)
    (tmp_path / "notes.txt").write_text("")
    lines(tmp_path / "latin.csv", ["Body,Question,Answer\n", "caf\udce9,how many?,2\n"])
    cases = {
        "latin.csv": r"latin.csv, line 2: byte 0xe9 is no UTF-8; save the file as UTF-8",
        "svmap": r"dataset.source=svmap: there is no file or folder .*svmap \(there is svamp\)",
        "notes.txt": "notes.txt: its ending is none of .jsonl, ",
        "odd": r"odd has no file named after a split .* only one.jsonl; name files in dataset.splits=",
        "both": "has files for val and dev; say which",
        None: "dataset.source=null: name a file or folder, or a set of the hub in dataset.hub",
    }
    for source, message in cases.items():
        with pytest.raises(ValueError, match=message):
            table(source, root=str(tmp_path), **COLUMNS).load("train")


# ---------------------------------------------------------------- splits


def test_shares_are_held_out_by_a_hash_that_no_reordering_moves(tmp_path: Path) -> None:
    forth, back = lines(tmp_path / "a.jsonl", SVAMP), lines(tmp_path / "b.jsonl", SVAMP[::-1])
    shares = {"validation_fraction": 0.2, "test_fraction": 0.3, **COLUMNS}
    split = {
        path: [
            {p.question for p in table(path, **shares).load(name)}  # type: ignore[arg-type]
            for name in ("train", "validation", "test")
        ]
        for path in (forth, back)
    }
    train, validation, test = split[forth]
    assert split[forth] == split[back] and len(train | validation | test) == 40
    assert len(train) + len(validation) + len(test) == 40 and len(test) in range(6, 20)
    # A greater share of test takes from training alone.
    assert validation == {
        p.question for p in table(forth, **shares | {"test_fraction": 0.0}).load("validation")
    }
    uids = [p.uid for p in table(forth, **shares).load("validation")]
    assert all(uid.startswith("a/all/") for uid in uids) and uids == sorted(uids)


def test_splits_are_found_by_name_or_named_and_a_set_without_train_is_for_evaluation(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "dev", "test", "extra")):
        lines(tmp_path / f"{name}.jsonl", SVAMP[10 * number : 10 * number + 10])
    stored = table(tmp_path, **COLUMNS)
    assert [len(stored.load(name)) for name in ("train", "validation", "test")] == [10, 10, 10]  # type: ignore[arg-type]
    assert stored.load("test")[0].uid == f"{tmp_path.name}/test/00000"
    other = table(tmp_path, splits={"test": "extra.jsonl"}, **COLUMNS)
    assert other.evaluation_only and not stored.evaluation_only and other.load("train") == []
    assert other.files("test") == [tmp_path / "extra.jsonl"] and other.load("test")[0].gold == "60"
    with pytest.raises(ValueError, match=r"eval_split=validation: only test is stored"):
        other.load("validation")
    with pytest.raises(ValueError, match=r"eval_split=test: only train is stored.*dataset.test_fraction"):
        table(tmp_path / "extra.jsonl", **COLUMNS).load("test")
    with pytest.raises(
        ValueError, match=r"dataset.splits: 'train' is no file beside .*set dataset.splits=.*all rows"
    ):
        table(tmp_path / "extra.jsonl", splits={"train": "train"}, **COLUMNS).load("train")
    with pytest.raises(ValueError, match=r"has no file of 'dve' .it has dev.jsonl, extra.jsonl"):
        table(tmp_path, splits={"train": "dve"}, **COLUMNS).load("train")


# ---------------------------------------------------------------- golds


@pytest.mark.parametrize(
    ("extractor", "text", "gold", "worked"),
    [
        ("text", " New York ", "New York", "New York"),
        ("number", "5 - 3 is 2, and $1,200.50 in all.", "1,200.50", r"\boxed{1,200.50}"),
        ("number", "\u22127.0", "-7", r"\boxed{-7}"),
        ("hashes", "Twice 9.\n#### 18", "18", "Twice 9.\n#### 18"),
        ("box", r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}", r"So \boxed{\frac{1}{2}}."),
        ("latex", r"\(\sqrt{3}\)", r"\sqrt{3}", r"\boxed{\sqrt{3}}"),
    ],
)
def test_a_gold_is_read_from_its_text(
    extractor: str, text: str, gold: str, worked: str, tmp_path: Path
) -> None:
    prompt = one(tmp_path, {"question": "?", "answer": text}, extractor=extractor)
    assert (prompt.gold, prompt.demonstration) == (gold, worked)


def test_templates_reach_into_rows_and_a_demonstration_may_hold_the_gold(tmp_path: Path) -> None:
    row = {"turns": [{"content": "Two {2}?"}, {"content": "Four"}], "why": "2 + 2"}
    settings = {
        "question": "{{Q}} {turns.0.content}",
        "gold": "turns.1.content",
        "demonstration": "{why}: {gold}",
    }
    prompt = one(tmp_path, row, **settings)
    assert (prompt.question, prompt.gold, prompt.demonstration) == ("{Q} Two {2}?", "Four", "2 + 2: Four")


def test_a_program_has_its_tests_and_shows_its_signature(tmp_path: Path) -> None:
    row = {"task": "Double n.", "code": "def twice(n): return 2 * n", "asserts": ["assert twice(1) == 2"]}
    prompt = one(tmp_path, row, question="task", gold="code", tests="asserts", extractor="tests")
    assert prompt.question == "Double n.\ndef twice(n):" and prompt.gold == row["code"]
    assert (prompt.checks.entry_point, list(prompt.checks.hidden)) == ("twice", row["asserts"])


@needs("gsm8k/test.jsonl")
def test_gsm8k_by_settings_alone_is_the_shipped_gsm8k() -> None:
    shipped = build_dataset(cell_here("dataset=gsm8k", f"dataset.root={DATA}").config)
    assert table("gsm8k", root=str(DATA), extractor="hashes").load("test") == shipped.load("test")


# ---------------------------------------------------------------- choices


def test_choices_are_read_from_every_form_and_named_in_every_way(tmp_path: Path) -> None:
    texts, stem = ["red", "blue", "green"], {"question": "Sky?"}
    labelled = [{"label": label, "text": text} for label, text in zip("123", texts, strict=True)]
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"choices": texts, "answer": "B"}, {"extractor": "letter"}),
        ({"choices": texts, "answer": "(b)."}, {"extractor": "letter"}),
        ({"choices": texts, "answer": 1}, {"extractor": "index"}),
        ({"choices": texts, "answer": "2"}, {"extractor": "index_from_1"}),
        ({"choices": texts, "answer": " Blue"}, {"extractor": "choice"}),
        ({"choices": {"text": texts, "label": list("123")}, "answer": "2"}, {"extractor": "letter"}),
        ({"choices": labelled, "answer": "2"}, {"extractor": "letter"}),
        ({"choices": dict(zip("ABC", texts, strict=True)), "answer": "B"}, {"extractor": "letter"}),
        ({"choices": ["A) red", "B) blue", "C) green"], "answer": "B"}, {"extractor": "letter"}),
        ({"choices": texts, "names": list("xyz"), "answer": "y"}, {"extractor": "letter", "labels": "names"}),
        (
            {"r": "red", "answer": "blue", "g": "green"},
            {"extractor": "choice", "choices": ["r", "answer", "{g}"]},
        ),
    ]
    for number, (row, changes) in enumerate(cases):
        prompt = one(tmp_path / str(number), stem | row, **{"choices": "choices", **changes})
        assert (prompt.question, prompt.gold) == ("Sky?\nA) red\nB) blue\nC) green", "B"), row


def test_choices_are_shuffled_by_seed_and_question_and_the_gold_goes_along(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {n} + 1?", "c": [str(n), str(n + 1), "none"], "answer": "B"} for n in range(60)
    ]
    rows.append({"question": "Which?", "c": ["red", "blue", "all of the above"], "answer": "C"})
    path, settings = lines(tmp_path / "c.jsonl", rows), {"choices": "c", "extractor": "letter"}
    first, second, plain = (table(path, choice_seed=seed, **settings).load("train") for seed in (0, 1, None))
    assert [p.uid for p in first] == [p.uid for p in second] == [p.uid for p in plain]
    assert {p.gold for p in first[:-1]} == {"A", "B", "C"} and {p.gold for p in plain[:-1]} == {"B"}
    assert [p.gold for p in first] != [p.gold for p in second] and first[-1].gold == "C"
    for prompt in first[:-1]:
        stem, *shown = prompt.question.splitlines()
        assert f"{prompt.gold}) {int(stem.split()[2]) + 1}" in shown
    # Of a row alone, the order is the same.
    alone = table(lines(tmp_path / "d.jsonl", rows[7:8]), choice_seed=0, validation_fraction=0.0, **settings)
    assert alone.load("train")[0].question in {p.question for p in first} | {
        p.question for p in table(path, choice_seed=0, **settings).load("validation")
    }


# ---------------------------------------------------------------- examples


def test_examples_come_from_the_settings_or_from_a_file_and_no_question_is_its_own(tmp_path: Path) -> None:
    path, shots = lines(tmp_path / "a.jsonl", SVAMP), lines(tmp_path / "shots.jsonl", SVAMP[:3])
    inline = table(path, shots=[{"question": "1 pen?", "answer": "1"}], **COLUMNS)
    assert [(e.question, e.answer) for e in inline.examples] == [("1 pen?", "1")]
    file = table(
        path, root=str(tmp_path), shots="shots.jsonl", shot_count=2, validation_fraction=0.0, **COLUMNS
    )
    assert [e.answer for e in file.examples] == [r"\boxed{0}", r"\boxed{2}"]
    assert len(file.load("train")) == 38 and file.files("train") == [path, shots]
    with pytest.raises(ValueError, match=r"dataset.shot_count=4: .*shots.jsonl has 3 rows; give 1 to 3"):
        _ = table(path, shots=str(shots), shot_count=4, **COLUMNS).examples
    with pytest.raises(ValueError, match=r"dataset.shots\[0\]=.*write .question: TEXT, answer: TEXT."):
        table(path, shots=[{"question": "1 pen?", "gold": "1"}])


# ---------------------------------------------------------------- what is refused

GOOD: Mapping[str, Any] = {"question": "1 + 1?", "answer": "2"}
LETTER = {"choices": "c", "extractor": "letter"}
BROKEN: list[tuple[str, Any, Mapping[str, Any], str]] = [
    ("jsonl", '{"question": "1 + 1?", "answer"\n', {}, "line 2: it is no JSON .*write an object"),
    ("jsonl", ["1 + 1?", "2"], {}, "line 2: it is a JSON list, not an object; write {...}"),
    ("jsonl", {"question": "1 + 1?"}, {}, r"line 2: it lacks column 'answer' \(it has question\); add it"),
    ("jsonl", {"question": " ", "answer": "2"}, {}, "line 2: column 'question' is ' '; write a text"),
    (
        "jsonl",
        {**GOOD, "answer": None},
        {},
        "column 'answer' is null; write a text or a number, or delete the row",
    ),
    (
        "jsonl",
        {**GOOD, "answer": ""},
        {"gold": "{answer}"},
        r"'answer' is ''; .*, or {answer\?} in dataset.gold if",
    ),
    ("jsonl", {**GOOD, "answer": ["2"]}, {}, "column 'answer' is a list; .*dataset.gold=answer.0"),
    ("jsonl", {**GOOD, "answer": "two"}, {"extractor": "number"}, "'answer': 'two' holds no number; correct"),
    (
        "jsonl",
        {**GOOD, "answer": "so 2"},
        {"extractor": "hashes"},
        "'answer': 'so 2' has no answer behind ####",
    ),
    (
        "jsonl",
        {**GOOD, "answer": r"\boxed{2"},
        {"extractor": "box"},
        "'answer': .* has no closed .*box the answer",
    ),
    (
        "jsonl",
        {**GOOD, "answer": r"\frac{2}{"},
        {"extractor": "latex"},
        "'answer': .*braces close; correct it",
    ),
    (
        "jsonl",
        {**GOOD, "c": ["1", "2"], "answer": "E"},
        LETTER,
        "column 'answer': 'E' names none of the choices A, B",
    ),
    (
        "jsonl",
        {**GOOD, "c": ["1", "1"], "answer": "B"},
        LETTER,
        r"'c': .*\['1', '1'\] have an empty one or two",
    ),
    (
        "jsonl",
        {**GOOD, "c": "1 or 2", "answer": "B"},
        LETTER,
        "column 'c' is '1 or 2'; it needs a list of texts",
    ),
    (
        "jsonl",
        {**GOOD, "t": []},
        {"tests": "t", "extractor": "tests"},
        r"column 't' is \[\]; write a list of",
    ),
    ("jsonl", '{"question": "\udce9?", "answer": "2"}\n', {}, "line 2: byte 0xe9 is no UTF-8; save the file"),
    ("csv", "1, 2 or 3?,2\n", {}, "line 4: it has 3 fields and the header 2; quote a text that holds"),
]


def test_a_bad_row_is_named_with_its_file_line_column_and_the_fix(tmp_path: Path) -> None:
    for number, (ending, row, settings, message) in enumerate(BROKEN):
        path = tmp_path / f"{number}.{ending}"
        good = {**GOOD, "c": ["1", "2"], "t": ["assert 1"], "answer": r"\boxed{2} #### 2"}
        good["answer"] = {"letter": "A", "latex": "2"}.get(str(settings.get("extractor")), good["answer"])
        lines(path, ["question,answer\n", '"Two\nlines?",2\n', row] if ending == "csv" else [good, row])
        with pytest.raises(ValueError, match=message) as error:
            table(path, **settings).load("train")
        text = str(error.value)
        assert text.startswith(f"{path}, 1 bad row: line ") and "\n" not in text, text
        assert text.endswith("Mend them, or go on without them by dataset.bad_rows=leave_out"), text


def test_all_bad_rows_of_a_file_are_listed_and_can_be_left_out_by_name(tmp_path: Path) -> None:
    rows = [{**GOOD, "question": f"{n}?", "answer": "" if n % 3 == 0 else str(n)} for n in range(39)]
    path = lines(tmp_path / "a.jsonl", [*rows, "{\n"])
    with pytest.raises(
        ValueError,
        match=r"14 bad rows: line 1, line 4, .*line 28, and 3 more: column .*; line 40: it is no",
    ):
        table(path).load("train")
    settings = (
        f"dataset.source={path}",
        "dataset.bad_rows=leave_out",
        "dataset.root=null",
        "eval_questions=3",
    )
    components = build_components(cell_here("dataset=jsonl", *settings).config)
    questions = load_questions(components)
    assert len(questions.train) + len(components.dataset.load("validation")) == 26
    assert len(questions.left_out) == 14 and questions.left_out["a/all/00003"].startswith(
        "line 4: column 'an"
    )
    assert "line 40: it is no JSON" in questions.left_out["a/all/00039"]


def test_a_column_that_no_row_has_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = lines(tmp_path / "svamp.jsonl", SVAMP)
    with pytest.raises(
        ValueError,
        match=r"dataset.question='{body} {Question}': .*svamp.jsonl has no column 'body', only Body, "
        r"Question, Answer, Note; did you mean Body\?",
    ):
        table(path, question="{body} {Question}", gold="Answer").load("train")
    with pytest.raises(ValueError, match=r"dataset.gold='Anwser'.*did you mean Answer"):
        table(path, question="Body", gold="Anwser").load("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub": "a/b"}, "dataset.source=a.csv and dataset.hub=a/b: where are the rows"),
        ({"splits": {"dev": "x"}}, "dataset.splits: dev is no split; name train, validation or test"),
        ({"splits": {"train": "x", "test": "x"}}, "two splits are the same rows"),
        ({"validation_fraction": 0.6, "test_fraction": 0.4}, "dataset.test_fraction=0.4 and .*leave no rows"),
        ({"choices": "c"}, "dataset.extractor=text with dataset.choices=c: choices go with one of letter,"),
        ({"extractor": "letter"}, "dataset.extractor=letter with dataset.choices=None"),
        ({"extractor": "tests"}, "dataset.extractor=tests with dataset.tests=None: a column of tests"),
        ({"choice_line": "{letter}"}, "dataset.choice_line='{letter}' must hold"),
        ({"user": "?"}, "dataset.user"),
        ({"shots": 3}, "dataset.shots=3: give a list of examples, or the path"),
        ({"choices": 3, "extractor": "letter"}, "dataset.choices=3: give a column, or a list"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table("a.csv", **changes)


def test_an_unknown_extractor_is_answered_with_the_known_ones() -> None:
    config = {"dataset": {"_target_": "mirrorpo.dataset.table.Table", **defaults(), "extractor": "####"}}
    with pytest.raises(ValueError, match=r"dataset.extractor=####: choose one of text, number, hashes, box"):
        build_dataset(config)


def test_a_misspelt_setting_is_answered_with_the_nearest() -> None:
    config = {
        "dataset": {"_target_": "mirrorpo.dataset.table.Table", **defaults(), "root": None, "questoin": "q"}
    }
    with pytest.raises(ValueError, match=r"dataset\.questoin: did you mean dataset\.question\?"):
        build_dataset(config)
