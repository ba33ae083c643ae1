"""Problems with LaTeX answers from files that the tests write: what a row becomes, what broken ones say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mirrorpo.dataset.math_rows import MathRows

CONF = Path(__file__).parents[2] / "conf/dataset"
TRAIN = [{"problem": f"Halve {n}.", "answer": rf"\frac{{{n}}}{{2}}"} for n in range(1, 100, 2)]
TEST = [{"problem": "What is $1+1$?", "answer": 2}, {"problem": "The root of 3?", "answer": r"\sqrt{3}"}]


def written(root: Path, name: str, train: Sequence[Any] = TRAIN, test: Sequence[Any] = TEST) -> Path:
    (root / name).mkdir()
    for stored, rows in (("train", train), ("test", test)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / name / f"{stored}.jsonl").write_text(text, encoding="utf-8")
    return root


def dataset(name: str, root: Path | None, **changes: Any) -> MathRows:
    node = OmegaConf.load(CONF / f"{name}.yaml")
    node.pop("defaults", None)
    return instantiate(OmegaConf.merge(node, {"root": None if root is None else str(root)}, changes))


def test_rows_are_prompts_with_their_latex_as_gold(tmp_path: Path) -> None:
    rows = dataset("math_jsonl", written(tmp_path, "math"))
    train, validation, test = (rows.load(split) for split in ("train", "validation", "test"))  # type: ignore[arg-type]
    assert len(train) + len(validation) == len(TRAIN) and len(validation) in range(1, 15)
    assert not {prompt.question for prompt in train} & {prompt.question for prompt in validation}
    assert [(prompt.uid, prompt.gold) for prompt in test] == [
        ("math/test/00000", "2"),
        ("math/test/00001", r"\sqrt{3}"),
    ]
    assert train[0].uid.startswith("math/train/") and train[0].demonstration == ""
    assert rows.files("test") == [tmp_path / "math/test.jsonl"] and not rows.evaluation_only
    assert len(rows.fingerprint("test")) == 64 and rows.fingerprint("test") != rows.fingerprint("train")


def test_a_worked_solution_has_its_answer_in_its_last_box(tmp_path: Path) -> None:
    solution = r"First \boxed{3}? No: $\boxed{\frac{1}{2}}$."
    root = written(tmp_path, "math", test=[{"problem": "Half of 1?", "solution": solution}])
    rows = dataset("math_jsonl", root, answer="solution", answer_in="box")
    assert [(p.gold, p.demonstration) for p in rows.load("test")] == [(r"\frac{1}{2}", solution)]


def test_evaluation_sets_have_no_training_rows(tmp_path: Path) -> None:
    for name, file in (("math500", "test"), ("aime2024", "train")):
        rows = dataset(name, written(tmp_path, name, train=TEST))
        assert rows.evaluation_only and len(rows.load("test")) == 2
        assert rows.load("train") == rows.load("validation") == [] and rows.files("train") == []
        assert rows.files("test") == [tmp_path / name / f"{file}.jsonl"]


def test_a_broken_row_is_named_with_its_file_line_and_column(tmp_path: Path) -> None:
    broken = [
        ({"problem": "1?", "answer": None}, {}, "column 'answer' is None"),
        ({"problem": " ", "answer": "1"}, {}, "column 'problem' is ' '"),
        ({"question": "1?", "answer": "1"}, {}, "lacks the key 'problem'"),
        (
            {"problem": "1?", "answer": "1"},
            {"answer_in": "box"},
            "no closed .boxed.*dataset.answer_in=column",
        ),
    ]
    for number, (row, changes, message) in enumerate(broken):
        (tmp_path / str(number)).mkdir()
        root = written(tmp_path / str(number), "math", test=[*TEST[:0], row])
        with pytest.raises(ValueError, match=rf"test\.jsonl, line 1\b.*{message}"):
            dataset("math_jsonl", root, **changes).load("test")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("stored", {"dev": "dev"}),
        ("validation_fraction", 1.0),
        ("user", "no question"),
        ("answer_in", "last"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: object) -> None:
    node = OmegaConf.load(CONF / "math500.yaml")
    settings = {key: OmegaConf.to_container(node)[key] for key in node if not key.startswith("_")}  # type: ignore[index]
    with pytest.raises(ValueError, match=f"dataset.{setting}"):
        MathRows(**(settings | {"root": None, setting: value}))  # type: ignore[arg-type]


def test_without_folder_or_hub_the_fix_is_named() -> None:
    with pytest.raises(ValueError, match="MIRRORPO_DATA"):
        dataset("math_jsonl", None).load("train")
