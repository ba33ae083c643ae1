"""A reference whose weights move with the run: full weights, and a second adapter."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli import SMALL, folder, rows, succeeded, train
from small_models import TINY, model_of, network_of

from mirrorpo.model.adapter import moving_weights, with_adapter
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.model.lora import Lora
from mirrorpo.train.learner import Learner

LORA = Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj"])


def learner(policy: LanguageModel) -> Learner:
    fields = dict.fromkeys(("optimiser", "algo", "penalty", "weighting", "settings", "second_reference"))
    unchecked = object.__new__(Learner)
    for name, value in {**fields, "policy": policy, "reference": reference(policy, moves=True)}.items():
        object.__setattr__(unchecked, name, value)
    return unchecked


def policies() -> dict[str, LanguageModel]:
    return {
        "full": model_of(network_of("qwen3", 0, **TINY)),
        "adapter": with_adapter(model_of(network_of("qwen3", 0, **TINY)), LORA, seed=1),
    }


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_reference_moves_by_its_share_and_the_policy_does_not(kind):
    policy = policies()[kind]
    subject = learner(policy)
    trained = {name: p for name, p in policy.network.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in trained.items()}
    moving = subject.moving_weights()
    assert moving.keys() == trained.keys() and len(trained) > 3
    assert all(torch.equal(moving[name], start[name]) for name in start)
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 1.0
    subject.move_reference(0.25)
    for name, before in start.items():
        torch.testing.assert_close(moving[name], before + 0.25)
        assert torch.equal(trained[name], before + 1)
    subject.move_reference(0.0)
    saved = {name: weight.detach().clone() for name, weight in subject.moving_weights().items()}
    subject.move_reference(1.0)
    assert all(torch.equal(moving[name], trained[name]) for name in trained)
    subject.load_moving_weights(saved)
    assert all(torch.equal(moving[name], saved[name]) for name in saved)
    assert not any(weight.requires_grad for weight in moving.values())


def test_an_adapters_anchor_is_read_as_an_adapter_and_begins_as_the_policy():
    policy = policies()["adapter"]
    start = reference(policy, moves=True)
    ids = torch.tensor([[3, 4, 5, 6]])
    present, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(4)[None]
    with torch.no_grad():
        for name, parameter in policy.network.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                parameter += 0.5
        at_start = start.hidden(ids, present, positions)
        live = policy.hidden(ids, present, positions)
        bare = replace(start, start_adapter=None).hidden(ids, present, positions)
        assert torch.equal(at_start, bare) and not torch.equal(at_start, live)
        for name, moving in moving_weights(start, policy).items():
            moving.copy_(dict(policy.network.named_parameters())[name])
        torch.testing.assert_close(start.hidden(ids, present, positions), live)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("anchor=ema", "anchor.decay=0.5"),
        ("anchor=reset", "anchor.every=2", "lora@model.lora=r16"),
        ("anchor=reset", "anchor.every=0", "anchor.measure=reward/mean", "anchor.patience=1"),
        ("anchor=mixture", "anchor.second.decay=0.5"),
        (
            "anchor=mixture",
            "anchor@anchor.first=ema",
            "anchor@anchor.second=reset",
            "anchor.second.every=2",
            "anchor.first.decay=0.5",
            "lora@model.lora=r16",
        ),
    ],
)
def test_a_run_with_a_moving_anchor_resumes_byte_for_byte(settings, tmp_path: Path):
    arguments = [*SMALL, *settings, "divergence=kl_exact", f"out={tmp_path / 'whole'}"]
    succeeded(train(*arguments, cwd=tmp_path))
    whole = folder(tmp_path / "whole")
    fixed = [*SMALL, "divergence=kl_exact", f"out={tmp_path / 'fixed'}"]
    if "lora@model.lora=r16" in settings:
        fixed.append("lora@model.lora=r16")
    succeeded(train(*fixed, cwd=tmp_path))
    # It does move: after some step the divergence is another.
    assert [row.get("divergence/value") for row in rows(whole / "metrics.jsonl")] != [
        row.get("divergence/value") for row in rows(folder(tmp_path / "fixed") / "metrics.jsonl")
    ]
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = folder(tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step_000003")
    arguments[-1] = f"out={tmp_path / 'again'}"
    succeeded(train(*arguments, cwd=tmp_path), said=["resuming after step 2 of 3"])
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
