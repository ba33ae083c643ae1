"""Every published reference passes its own tests in the sandbox, and the tests tell most of what is wrong."""

import sys
from pathlib import Path

import pytest
from kernel import needs_any
from real_data import DATA, needs

ROOT = Path(__file__).parents[3]
SIZES = {"mbpp": 974, "mbpp_sanitized": 427, "humaneval": 164}


@pytest.mark.slow
@needs("mbpp/mbpp.jsonl")
@pytest.mark.parametrize("dataset", SIZES)
def test_all_references_pass_and_their_mutations_do_not(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_any()
    monkeypatch.setenv("MIRRORPO_DATA", str(DATA))
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    from references import loaded, mutations, register, reward

    register()
    judge, prompts = reward(), loaded(dataset)
    assert len(prompts) == SIZES[dataset]
    assert judge.unjudgeable(prompts) == {}
    for kind in ("constant", "empty", "off by one"):
        wrong = [
            (prompt, source) for prompt in prompts if (source := mutations(prompt).get(kind)) is not None
        ]
        verdicts = judge([source for _, source in wrong], [prompt for prompt, _ in wrong])
        assert len(wrong) > 0.9 * len(prompts) and sum(verdict.correct for verdict in verdicts) <= 0.01 * len(
            wrong
        ), kind
