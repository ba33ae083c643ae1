"""MBPP from files that the tests write, and from the real ones."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from real_data import DATA, needs

from mirrorpo.config.schema import register
from mirrorpo.dataset.code import FewShot, Style
from mirrorpo.dataset.mbpp import Mbpp

REPOSITORY = Path(__file__).parents[2]
needs_real_data = needs("mbpp/mbpp.jsonl")
STYLES = {
    "bare": Style(question="{text}", system="S", user="U {question}", fenced=False),
    "tests": Style(question="{text}\n{tests}", system="", user="{question}", fenced=True),
}


def row(number: int, **changes: Any) -> dict[str, Any]:
    tests = [f"assert f{number}({n}) == {n + number}" for n in range(3)]
    code = f"import math\r\ndef f{number}(n):\r\n  return n + {number}"
    return {
        "task_id": number, "text": f"Add {number}.", "code": code, "test_list": tests, "test_setup_code": "",
        "challenge_test_list": [f"assert f{number}(9) == {9 + number}"],
    } | changes  # fmt: skip


def written(root: Path, *changed: dict[str, Any]) -> Path:
    rows = {number: row(number) for number in (1, 10, 11, 510, 511, 600, 601, 974)} | {
        one["task_id"]: one for one in changed
    }
    (root / "mbpp").mkdir(parents=True)
    # The file's order is not the numbers'.
    (root / "mbpp/mbpp.jsonl").write_text("".join(json.dumps(one) + "\n" for one in reversed(rows.values())))
    clean = [{**one, "prompt": one["text"], "test_imports": ["import cmath"]} for one in rows.values()]
    for one in clean:
        del one["text"], one["test_setup_code"], one["challenge_test_list"]
    (root / "mbpp/sanitized-mbpp.json").write_text(json.dumps(clean))
    return root


def dataset(root: Path, **changes: Any) -> Mbpp:
    settings: dict[str, Any] = {
        "rows": "full",
        "root": str(root),
        "hub": "",
        "revision": None,
        "plus": None,
        "visible_tests": 0,
        "challenge": True,
        "style": "bare",
        "styles": STYLES,
    }
    return Mbpp(**settings | changes)


def test_splits_are_by_number_and_the_first_ten_are_in_none(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    found = {split: [prompt.uid for prompt in data.load(split)] for split in ("train", "validation", "test")}
    assert found == {
        "train": ["mbpp/601", "mbpp/974"],
        "validation": ["mbpp/511", "mbpp/600"],
        "test": ["mbpp/011", "mbpp/510"],
    }


def test_a_prompt_has_all_tests_hidden_unless_its_style_shows_some(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    checks = data.load("train")[0].checks
    assert (
        checks is not None
        and list(checks.visible) == []
        and len(checks.hidden) == 4
        and checks.prelude == "import math"
    )
    assert (data.system, data.user, data.load("train")[0].question) == ("S", "U {question}", "Add 601.")
    shown = replace(data, style="tests", visible_tests=1, challenge=False).load("train")[0]
    assert shown.question == "Add 601.\nassert f601(0) == 601"
    assert shown.checks is not None and (len(shown.checks.visible), len(shown.checks.hidden)) == (1, 2)
    assert shown.demonstration.startswith("```python\nimport math")


def test_the_sanitized_rows_bring_their_imports(tmp_path: Path) -> None:
    prompt = dataset(written(tmp_path), rows="sanitized").load("test")[0]
    assert (prompt.uid, prompt.question) == ("mbpp/011", "Add 11.")
    assert (
        prompt.checks is not None
        and prompt.checks.prelude == "import math\nimport cmath"
        and len(prompt.checks.hidden) == 3
    )


def test_bad_rows_are_loaded_with_their_fault(tmp_path: Path) -> None:
    data = dataset(
        written(tmp_path, row(601, test_list=["assert f601(1) ="]), row(974, code="def g(): pass"))
    )
    assert [prompt.checks.fault for prompt in data.load("train") if prompt.checks] == [
        "test 1 does not parse", "the first test calls no function of the reference (it defines g)",
    ]  # fmt: skip


def plus_row(number: int) -> dict[str, Any]:
    script = (
        f"import numpy as np\ninputs = [[1], [2]]\nfor one in inputs:\n"
        f"    assert f{number}(*one) == one[0] + {number}"
    )
    return {
        "task_id": number,
        "prompt": f"Add {number}.",
        "code": row(number)["code"],
        "test_imports": [],
        "test_list": row(number)["test_list"],
        "test": script,
    }


def test_the_test_split_may_be_mbpp_plus_without_what_lies_in_other_splits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plus.jsonl"
    path.write_text("".join(json.dumps(plus_row(number)) + "\n" for number in (511, 11, 601, 600, 12)))
    data = dataset(written(tmp_path), plus=str(path))
    with caplog.at_level(logging.WARNING):
        found = data.load("test")
    assert [prompt.uid for prompt in found] == ["mbpp_plus/011", "mbpp_plus/012"]
    assert "3 of 5 problems are of another split of MBPP and were dropped" in caplog.text
    assert (
        [len(prompt.checks.hidden) for prompt in found if prompt.checks] == [1, 1]
        and found[0].checks
        and found[0].checks.fault == ""
    )
    assert [prompt.uid for prompt in data.load("train")] == ["mbpp/601", "mbpp/974"]
    shown = replace(data, style="tests", visible_tests=1).load("test")[0]
    assert (
        shown.checks is not None
        and list(shown.checks.visible) == ["assert f11(0) == 11"]
        and len(shown.checks.hidden) == 1
    )


def test_a_fingerprint_is_of_what_is_used(tmp_path: Path) -> None:
    data = dataset(written(tmp_path / "a"))
    assert data.fingerprint("train") == dataset(written(tmp_path / "b")).fingerprint("train")
    assert data.fingerprint("train") != dataset(
        written(tmp_path / "c", row(601, test_list=row(601)["test_list"][:2]))
    ).fingerprint("train")
    assert data.fingerprint("train") != replace(data, challenge=False).fingerprint("train")
    assert len({data.fingerprint(split) for split in ("train", "validation", "test")}) == 3


def test_what_is_missing_or_unknown_is_an_error_with_the_fix(tmp_path: Path) -> None:
    for rows in ("full", "sanitized"):
        with pytest.raises(ValueError, match=r"no file .*mbpp.*set MIRRORPO_DATA"):
            dataset(tmp_path / "none", rows=rows).load("train")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        dataset(written(tmp_path)).load("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dataset\.rows=all: choose full or sanitized"):
        dataset(tmp_path, rows="all")
    (tmp_path / "mbpp/mbpp.jsonl").write_text(json.dumps(row(601)) + "\n")
    with pytest.raises(ValueError, match="mbpp's test split is empty"):
        dataset(tmp_path).load("test")


def test_a_bad_row_is_named_with_file_line_and_fix(tmp_path: Path) -> None:
    for rows, where in (("full", "mbpp.jsonl, line 3"), ("sanitized", "sanitized-mbpp.json, row 6")):
        root = written(tmp_path / rows, row(600, test_list=None))
        with pytest.raises(ValueError, match=rf"{where} \(task_id 600\): test_list is null; write a list"):
            dataset(root, rows=rows).load("train")
    path = tmp_path / "full/mbpp/mbpp.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in (601, 602, 601)))
    with pytest.raises(
        ValueError, match=r"mbpp.jsonl, line 3: task_id 601 is that of .*mbpp.jsonl, line 1 too"
    ):
        dataset(tmp_path / "full").load("train")


FEW_SHOT = FewShot(
    question="Task: {text}\n{tests}\n[BEGIN]", system="", user="{question}", fenced=False,
    example="{question}\n{code}\n[DONE]\n\n", end="[DONE]", shots=[10, 1],
)  # fmt: skip


def test_worked_examples_stand_before_the_question(tmp_path: Path) -> None:
    root = written(tmp_path)
    shots = {"style": "few", "visible_tests": 1}
    data = dataset(root, styles={"few": FEW_SHOT}, **shots)
    (prompt, _) = data.load("test")
    examples = "".join(
        f"Task: Add {n}.\nassert f{n}(0) == {n}\n[BEGIN]\nimport math\r\ndef f{n}(n):\r\n  return n + {n}\n"
        "[DONE]\n\n"
        for n in (10, 1)
    )
    assert prompt.question == f"{examples}Task: Add 11.\nassert f11(0) == 11\n[BEGIN]"
    assert prompt.demonstration.endswith("return n + 11\n[DONE]")
    assert prompt.checks is not None and prompt.checks.end == "[DONE]"
    for numbers in ([10, 11], [1, 1]):
        with pytest.raises(ValueError, match=r"styles\.few\.shots=.*give different numbers of 1 to 10"):
            dataset(root, styles={"few": replace(FEW_SHOT, shots=numbers)}, **shots)
    with pytest.raises(ValueError, match=r"no task_id 2 .*choose of \[1, 10\]"):
        dataset(root, styles={"few": replace(FEW_SHOT, shots=[2])}, **shots).load("test")
    with pytest.raises(ValueError, match=r"set dataset\.plus=null"):
        replace(data, plus="x")
    with pytest.raises(ValueError, match="the example must hold"):
        replace(FEW_SHOT, example="{code}")


@needs_real_data
@pytest.mark.parametrize(("name", "sizes"), [("mbpp", (374, 90, 500)), ("mbpp_sanitized", (120, 43, 257))])
def test_the_real_files_as_they_are_configured(
    name: str, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRRORPO_DATA", str(DATA))
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", [f"dataset={name}"])
        data = instantiate(cfg.dataset, _convert_="all")
    assert tuple(len(data.load(split)) for split in ("train", "validation", "test")) == sizes
    assert not [
        prompt.uid
        for split in ("train", "validation", "test")
        for prompt in data.load(split)
        if prompt.checks.fault
    ]
    assert (
        cfg.reward._target_.endswith("CodeTests")
        and cfg.reward.tests == "hidden"
        and cfg.reward.shaping is None
    )
    first = data.load("train")[0]
    assert first.question.splitlines()[-1].startswith("def ") and "Write this function." in data.user
    # Everything that is evaluated in one run is known to the recipe.
    assert cfg.eval_questions == sizes[1]


@needs_real_data
def test_the_few_shot_prompt_is_that_of_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRRORPO_DATA", str(DATA))
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", ["dataset=mbpp_few_shot"])
        data = instantiate(cfg.dataset, _convert_="all")
    assert (cfg.steps, cfg.reward.tests, cfg.reward.extraction) == (0, "all", "flexible")
    lines = (DATA / "mbpp/mbpp.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["task_id"]: row for row in map(json.loads, lines)}
    question = (
        "You are an expert Python programmer, and here is your task: {} Your code should pass these tests:"
        "\n\n{}\n[BEGIN]\n"
    )
    questions = {n: question.format(row["text"], "\n".join(row["test_list"])) for n, row in rows.items()}
    shots = "".join(f"{questions[n]}{rows[n]['code']}\n[DONE]\n\n" for n in (2, 3, 4))
    prompts = data.load("test")
    # The line end behind [BEGIN] is the prompt's own.
    for prompt in prompts:
        assert prompt.question + "\n" == shots + questions[int(prompt.uid[5:])], prompt.uid
    assert len(prompts) == 500
