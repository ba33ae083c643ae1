"""vLLM in this process: the facts of an engine's contract, where vLLM is installed; `docs/vllm.md` has the command."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cli import ROOT
from engines import LENGTH, RAGGED, gap, ids, next_probabilities, sample, wide
from scipy.stats import chisquare

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, reference, with_adapter
from mirrorpo.rollout.vllm import Colocated

slow = pytest.mark.slow
installed = pytest.mark.skipif(find_spec("vllm") is None, reason="NOT TESTED: rollout=vllm; vLLM is not installed in this environment (docs/vllm.md)")
# vLLM and the libraries it brings warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")

ENGINE = Colocated(top_p=1.0, dtype="auto", memory=0.1, max_model_len=None, enforce_eager=True, sleep=False)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return wide()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_setting_and_what_to_install(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with pytest.raises(ValueError, match=r"^rollout=vllm: vLLM is not installed .* docs/vllm\.md"):
        sample(ENGINE, model)


def test_no_prompts_need_no_engine(model: LanguageModel) -> None:
    assert list(sample(ENGINE, model, [])) == []


@slow
@installed
@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("prompt", [RAGGED[0], RAGGED[1]], ids=["long", "short"])
def test_first_tokens_come_in_the_models_proportions(model: LanguageModel, prompt: Sequence[int], temperature: float) -> None:
    drawn = sample(ENGINE, model, [prompt, RAGGED[0]], group_size=2000, max_new_tokens=1, temperature=temperature)[:2000]
    observed = torch.bincount(torch.tensor([completion.ids[0] for completion in drawn]), minlength=len(model.tokenizer)).double()
    expected = next_probabilities(model, prompt, temperature) * 2000
    rare = expected < 5
    pairs = [torch.cat([values[~rare], values[rare].sum()[None]]) for values in (observed, expected)]
    assert chisquare(pairs[0][pairs[1] > 0], pairs[1][pairs[1] > 0]).pvalue > 0.01


@slow
@installed
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_logprobs_are_the_trainers_own(model: LanguageModel, temperature: float) -> None:
    assert gap(model, sample(ENGINE, model, group_size=6, temperature=temperature), temperature) < 1e-5


@slow
@installed
def test_below_top_p_one_logprobs_are_of_the_cut_distribution(model: LanguageModel) -> None:
    cut = replace(ENGINE, top_p=0.7)
    probabilities = next_probabilities(model, RAGGED[0])
    ordered, order = probabilities.sort(descending=True)
    nucleus = order[ordered.cumsum(0) - ordered < 0.7]
    for completion in sample(cut, model, [RAGGED[0]], group_size=50, max_new_tokens=1):
        assert completion.ids[0] in nucleus
        expected = float((probabilities[completion.ids[0]] / probabilities[nucleus].sum()).log())
        assert completion.logprobs[0] == pytest.approx(expected, abs=1e-5)


@slow
@installed
@pytest.mark.parametrize("ends", [{1}, {1, 5, 9}, {999}])
def test_the_first_of_the_policys_ends_is_kept_and_is_the_last_token(model: LanguageModel, ends: set[int]) -> None:
    drawn = sample(ENGINE, replace(model, eos_ids=frozenset(ends)), group_size=40)
    assert not any(ends & set(completion.ids[:-1]) for completion in drawn)
    assert [completion.truncated for completion in drawn] == [completion.ids[-1] not in ends for completion in drawn]
    assert all(len(completion.ids) == LENGTH for completion in drawn if completion.truncated)
    assert {completion.ids[-1] for completion in drawn if not completion.truncated} == ends - {999}


@slow
@installed
def test_completions_depend_on_seed_and_place_and_touch_no_global_generator(model: LanguageModel) -> None:
    threads, set_threads, before = torch.get_num_threads(), torch.set_num_threads, torch.get_rng_state()
    first = sample(ENGINE, model, seed=7)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads and torch.set_num_threads is set_threads
    assert ids(sample(ENGINE, model, seed=7)) == ids(first) != ids(sample(ENGINE, model, seed=8))
    assert ids(sample(ENGINE, model, RAGGED[:2], seed=7)) == ids(first)[:6]
    assert ids(sample(ENGINE, model, group_size=2, seed=7)) == [row for place, row in enumerate(ids(first)) if place % 3 < 2]
    assert [completion.group for completion in first] == [group for group in range(4) for _ in range(3)]


@slow
@installed
def test_greedy_is_the_loop_over_the_likeliest_token(model: LanguageModel) -> None:
    expected = []
    for prompt in RAGGED:
        row: list[int] = []
        while len(row) < LENGTH and (not row or row[-1] != 1):
            row.append(int(next_probabilities(model, [*prompt, *row]).argmax()))
        expected += [row, row]
    assert ids(sample(ENGINE, model, group_size=2, temperature=0.0)) == expected


@slow
@installed
@pytest.mark.parametrize("tied", [False, True])
def test_a_changed_policy_is_the_one_that_samples_also_behind_prompts_it_has_seen(tied: bool) -> None:
    model = wide(tied=tied)
    sample(ENGINE, model, [list(range(2, 17)) * 3])
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    assert gap(model, sample(ENGINE, model, [list(range(2, 17)) * 3])) < 1e-5


@slow
@installed
def test_an_adapted_policy_samples_with_its_adapter_and_its_reference_without() -> None:
    model = with_adapter(wide(), Lora(rank=2, alpha=4, dropout=0.5, targets=["q_proj", "v_proj", "down_proj"]), 0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    model.network.train()
    drawn = sample(ENGINE, model)
    model.network.eval()
    assert gap(model, drawn) < 1e-5 < 0.1 < gap(reference(model), drawn)
    assert ids(sample(ENGINE, reference(model))) == ids(sample(ENGINE, wide()))


@slow
@installed
def test_a_context_that_is_too_short_is_an_error_not_a_short_completion(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"max_model_len"):
        sample(ENGINE, replace(model, eos_ids=frozenset({999})), max_new_tokens=62)


@slow
@installed
def test_a_run_of_two_steps_trains_and_measures_no_mismatch_to_speak_of(tmp_path: Path) -> None:
    settings = ["steps=2", "eval_questions=4", "eval_sampled_questions=0", "prompts_per_step=2", "group_size=4", "threads=1", "logger=none", "progress=false"]
    engine = ["rollout=vllm", "rollout@eval_rollout=vllm", "rollout.enforce_eager=true", "eval_rollout.enforce_eager=true", "mismatch=truncated"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "train.py", *engine, *settings, f"out={tmp_path}"], check=True, cwd=ROOT, env=environment)
    (path,) = tmp_path.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows[1:]:
        assert 0 <= row["kl/sampler"] < 1e-9 and row["mismatch/clipped"] == 0
        assert row["mismatch/ratio_mean"] == pytest.approx(1, abs=1e-4) and 1 <= row["mismatch/ratio_max"] < 1.001
