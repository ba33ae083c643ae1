"""vLLM in this process, where it is installed: what the contract of `test_engines.py`, which it joins, does
not say; `docs/vllm.md` has the command.
"""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from cli import ROOT
from engines import COLOCATED, LONG, RAGGED, gap, ids, next_probabilities, sample, wide

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout import vllm as module
from mirrorpo.rollout.vllm import Colocated, _start
from mirrorpo.rollout.weights import fingerprint, network_config

slow = pytest.mark.slow
installed = pytest.mark.skipif(
    find_spec("vllm") is None,
    reason="NOT TESTED: rollout=vllm; vLLM is not installed in this environment (docs/vllm.md)",
)
# vLLM and the libraries it brings warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return wide()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_setting_and_what_to_install(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with pytest.raises(ValueError, match=r"^rollout=vllm: vLLM is not installed .* docs/vllm\.md"):
        sample(COLOCATED, model)


def test_no_prompts_need_no_engine(model: LanguageModel) -> None:
    assert list(sample(COLOCATED, model, [])) == []


def test_vllm_is_told_to_give_its_logits_in_float32(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {}

    def started(folder: str, **given: Any) -> None:
        settings.update(given)
        raise RuntimeError("seen")

    stand_in = ModuleType("vllm")
    stand_in.LLM = started  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    with pytest.raises(RuntimeError, match="seen"):
        _start(replace(COLOCATED, dtype="bfloat16"), model)
    assert settings["hf_overrides"] == {"head_dtype": "float32"} and settings["dtype"] == "bfloat16"
    config = copy.deepcopy(network_config(model))
    config.update(settings["hf_overrides"])
    assert config.head_dtype == "float32"


def test_an_engine_that_slept_wakes_to_memory_that_the_trainer_gave_back(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Engine:
        """What happens to it, in order; it answers nothing."""

        def wake_up(self) -> None:
            happened.append("wake")

        def sleep(self, level: int) -> None:
            happened.append(f"sleep {level}")

        def generate(self, *args: object, **kwargs: object) -> list[object]:
            happened.append("generate")
            return [SimpleNamespace(outputs=[])]

        def collective_rpc(self, *args: object, **kwargs: object) -> None: ...

        apply_model = reset_prefix_cache = collective_rpc

    running = module.Running(llm=Engine(), weights=fingerprint(model))
    sampled = SimpleNamespace(SamplingParams=lambda **settings: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: happened.append("given back"))
    monkeypatch.setattr(module, "_library", lambda device: sampled)
    monkeypatch.setattr(Colocated, "_running", lambda self, model: running)
    engine, on_a_card = replace(COLOCATED, sleep=True), replace(model, device=torch.device("cuda"))
    sample(engine, on_a_card, [RAGGED[0]])
    assert happened == ["given back", "wake", "generate", "sleep 1"]


@slow
@installed
def test_below_top_p_one_logprobs_are_of_the_cut_distribution(model: LanguageModel) -> None:
    cut = replace(COLOCATED, top_p=0.7)
    probabilities = next_probabilities(model, RAGGED[0])
    ordered, order = probabilities.sort(descending=True)
    nucleus = order[ordered.cumsum(0) - ordered < 0.7]
    for completion in sample(cut, model, [RAGGED[0]], group_size=50, max_new_tokens=1):
        assert completion.ids[0] in nucleus
        expected = float((probabilities[completion.ids[0]] / probabilities[nucleus].sum()).log())
        assert completion.logprobs[0] == pytest.approx(expected, abs=1e-5)


@slow
@installed
def test_completions_depend_on_seed_and_place_and_touch_no_global_generator(model: LanguageModel) -> None:
    threads, set_threads, before = torch.get_num_threads(), torch.set_num_threads, torch.get_rng_state()
    first = sample(COLOCATED, model, seed=7)
    assert (
        torch.equal(torch.get_rng_state(), before)
        and torch.get_num_threads() == threads
        and torch.set_num_threads is set_threads
    )
    assert ids(sample(COLOCATED, model, seed=7)) == ids(first) != ids(sample(COLOCATED, model, seed=8))
    assert ids(sample(COLOCATED, model, RAGGED[:2], seed=7)) == ids(first)[:6]
    assert ids(sample(COLOCATED, model, group_size=2, seed=7)) == [
        row for place, row in enumerate(ids(first)) if place % 3 < 2
    ]
    assert [completion.group for completion in first] == [group for group in range(4) for _ in range(3)]


@slow
@installed
@pytest.mark.parametrize("tied", [False, True])
def test_a_changed_policy_is_the_one_that_samples_also_behind_prompts_it_has_seen(tied: bool) -> None:
    model = wide(tie_word_embeddings=tied)
    sample(COLOCATED, model, [LONG])
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    assert gap(model, sample(COLOCATED, model, [LONG])) < 1e-5


@slow
@installed
def test_a_context_that_is_too_short_is_an_error_not_a_short_completion(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"max_model_len"):
        sample(COLOCATED, replace(model, eos_ids=frozenset({999})), max_new_tokens=510)


@slow
@installed
@pytest.mark.timeout(600)
def test_a_run_of_two_steps_trains_and_measures_no_mismatch_to_speak_of(tmp_path: Path) -> None:
    settings = [
        "steps=2",
        "eval_questions=4",
        "eval_sampled_questions=0",
        "prompts_per_step=2",
        "group_size=4",
        "threads=1",
        "tracking=none",
        "progress=false",
    ]
    engine = [
        "rollout=vllm",
        "rollout@eval_rollout=vllm",
        "rollout.enforce_eager=true",
        "eval_rollout.enforce_eager=true",
        "importance_correction=truncated",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, ROOT / "train.py", *engine, *settings, f"out={tmp_path}"],
        check=True,
        cwd=ROOT,
        env=environment,
    )
    (path,) = tmp_path.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows[1:]:
        assert 0 <= row["kl/sampler"] < 1e-9 and row["mismatch/clipped"] == 0
        assert (
            row["mismatch/ratio_mean"] == pytest.approx(1, abs=1e-4)
            and 1 <= row["mismatch/ratio_max"] < 1.001
        )
