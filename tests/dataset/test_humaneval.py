"""HumanEval from a file that the tests write, and from the real one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from real_data import DATA, needs

from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.dataset.chain_sum import ChainSum
from mirrorpo.dataset.gsm8k import Gsm8k
from mirrorpo.dataset.humaneval import HumanEval
from mirrorpo.dataset.mbpp import Mbpp
from mirrorpo.dataset.tiny_functions import TinyFunctions

ROW = {
    "task_id": "HumanEval/3",
    "entry_point": "f",
    "prompt": ('import math\n\ndef f(x):\n    """Double."""\n'),
    "canonical_solution": "    return 2 * x\n",
    "test": ("def check(candidate):\n    assert candidate(1) == 2\n"),
}


def test_it_alone_is_for_evaluation_only() -> None:
    assert HumanEval.evaluation_only
    for other in (Arithmetic, ChainSum, Gsm8k, Mbpp, TinyFunctions):
        assert not other.evaluation_only, other


def dataset(root: Path, **changes: Any) -> HumanEval:
    return HumanEval(
        **{"root": str(root), "hub": "", "revision": None, "system": "", "user": "{question}"} | changes
    )


def written(root: Path, **changes: Any) -> Path:
    (root / "humaneval").mkdir(parents=True)
    with gzip.open(root / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROW | changes) + "\n")
    return root


def test_a_problem_is_its_own_code_and_one_test(tmp_path: Path) -> None:
    (prompt,) = dataset(written(tmp_path)).load("test")
    assert (prompt.uid, prompt.question, prompt.gold) == (
        "humaneval/003",
        ROW["prompt"],
        ROW["canonical_solution"],
    )
    checks = prompt.checks
    assert checks is not None and (checks.entry_point, checks.prefix, checks.prelude) == (
        "f",
        ROW["prompt"],
        ROW["prompt"],
    )
    assert (
        list(checks.visible) == []
        and list(checks.hidden) == [ROW["test"] + "\n\ncheck(f)"]
        and checks.fault == ""
    )


def test_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    assert data.load("train") == data.load("validation") == [] and data.fingerprint(
        "train"
    ) != data.fingerprint("test")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"prompt": "def f(x:"}, "the prompt does not parse"),
        ({"test": "def check("}, "the test does not parse"),
        ({"canonical_solution": "  )"}, "the reference does not parse"),
    ],
)
def test_a_bad_row_is_loaded_with_its_fault(tmp_path: Path, changes: dict[str, str], fault: str) -> None:
    (prompt,) = dataset(written(tmp_path, **changes)).load("test")
    assert prompt.checks is not None and prompt.checks.fault == fault


def test_what_is_missing_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*HumanEval\.jsonl\.gz.*set MIRRORPO_DATA"):
        dataset(tmp_path).load("test")
    with pytest.raises(ValueError, match=r"dataset\.user='' must hold"):
        dataset(tmp_path, user="")


@needs("humaneval/HumanEval.jsonl.gz")
def test_the_real_file_has_164_sound_problems() -> None:
    prompts = dataset(DATA).load("test")
    assert len(prompts) == 164 and not [
        prompt.uid for prompt in prompts if prompt.checks and prompt.checks.fault
    ]
    assert (prompts[0].uid, prompts[-1].uid) == ("humaneval/000", "humaneval/163")
