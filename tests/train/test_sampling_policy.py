"""The policy as the sampler has it, full weights and adapters: earlier, rounded, and back to the bit."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli import SMALL, folder, rows, succeeded, train
from small_models import TINY, model_of, network_of

from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.lora import Lora
from mirrorpo.rollout.rounding import rounded
from mirrorpo.rollout.sampler import AS_TRAINED
from mirrorpo.train.sampling_policy import SamplingPolicy

LORA = Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])
KINDS = ("full", "adapter")


def policy_of(kind: str) -> LanguageModel:
    policy = model_of(network_of("qwen3", 0, **TINY))
    if kind == "adapter":
        policy = with_adapter(policy, LORA, seed=1)
        moved(policy, 0.3)
    return policy


def moved(policy: LanguageModel, by: float) -> None:
    """An update of every trained weight."""
    with torch.no_grad():
        for parameter in trained(policy).values():
            parameter += by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))


def trained(policy: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in policy.network.named_parameters() if p.requires_grad}


def state(policy: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in policy.network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def hidden(policy: LanguageModel) -> torch.Tensor:
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        return policy.hidden(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(5)[None])


def test_without_a_dose_it_is_the_policy_and_nothing_is_kept() -> None:
    policy = policy_of("full")
    subject = SamplingPolicy(sampler=AS_TRAINED, policy=policy)
    with subject() as sampled:
        assert sampled is policy
    assert not subject.past and not list(subject.notes()) and subject.metrics(4) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_step_t_samples_from_the_policy_of_lag_steps_before_and_goes_on_from_its_own(kind: str) -> None:
    policy = policy_of(kind)
    subject = SamplingPolicy(sampler=replace(AS_TRAINED, lag=2), policy=policy)
    before = []
    for step in range(1, 6):
        before.append(state(policy))
        with subject() as sampled:
            assert sampled is policy and len(subject.past) <= 3
            assert same(state(policy), before[max(step - 3, 0)])
        assert same(state(policy), before[-1]) and len(subject.past) <= 2
        assert subject.metrics(step) == {"rollout/lag": min(2, step - 1)}
        moved(policy, 0.01)
    # Only what is trained is kept, and a run that takes it up goes on alike.
    assert all(kept.keys() == trained(policy).keys() for kept in subject.past)
    again = SamplingPolicy(sampler=replace(AS_TRAINED, lag=2), policy=policy)
    again.restore([dict(kept) for kept in subject.past])
    with again():
        assert same(state(policy), before[3])


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_has_its_weights_again_where_sampling_fails(kind: str) -> None:
    policy = policy_of(kind)
    subject = SamplingPolicy(sampler=replace(AS_TRAINED, lag=1, coarse="int8"), policy=policy)
    for _ in range(2):
        before = state(policy)
        with pytest.raises(RuntimeError, match="no verdict"), subject():
            raise RuntimeError("no verdict")
        assert same(state(policy), before)
        moved(policy, 0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coarse", ["bf16", "fp8", "int8"])
def test_rounded_weights_are_those_of_the_merged_policy_while_it_samples(kind: str, coarse: str) -> None:
    policy = policy_of(kind)
    trained_state, exact = state(policy), hidden(policy)
    subject = SamplingPolicy(sampler=replace(AS_TRAINED, coarse=coarse), policy=policy)  # type: ignore[arg-type]
    with subject() as sampled:
        inside = hidden(sampled)
    assert same(state(policy), trained_state) and torch.equal(hidden(policy), exact)
    # By hand: merge, round, read.
    plain = policy_of(kind)
    network = plain.network.merge_and_unload() if kind == "adapter" else plain.network
    by_hand = model_of(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if coarse == "bf16" or "_proj.weight" in name:
                parameter.copy_(rounded(parameter, coarse))  # type: ignore[arg-type]
    torch.testing.assert_close(inside, hidden(by_hand), rtol=1e-5, atol=1e-5)
    assert 1e-4 < float((inside - exact).abs().max()) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("rollout.lag=1", "importance_correction=truncated"),
        ("rollout.lag=1", "rollout.coarse=fp8", "lora@model.lora=r16"),
        ("rollout.coarse=temperature", "rollout.coarse_value=1.3", "importance_correction=icepop"),
        ("rollout.coarse=top_p", "rollout.coarse_value=0.9", "importance_correction=off_policy_mask"),
    ],
)
def test_a_run_with_a_dose_resumes_byte_for_byte(settings: tuple[str, ...], tmp_path: Path) -> None:
    arguments = [*SMALL, *settings, f"out={tmp_path / 'undisturbed'}"]
    succeeded(train(*arguments, cwd=tmp_path))
    undisturbed = folder(tmp_path / "undisturbed")
    last = rows(undisturbed / "metrics.jsonl")[-1]
    assert last["kl/sampler"] > 1e-6 and abs(last["ratio/mean"] - 1) < 1e-6
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "again")
    again = folder(tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step_000003")
    arguments[-1] = f"out={tmp_path / 'again'}"
    succeeded(train(*arguments, cwd=tmp_path), said=["resuming after step 2 of 3"])
    assert (again / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
