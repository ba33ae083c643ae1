"""Segment credit in a step: what is read of it, taken from it and counted for it, and what is refused."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from cli import SMALL, appeared, command, environment, folder, rows, succeeded, train
from completions import completion_of
from hydra import compose, initialize_config_dir
from rows import CONF

from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.protocols import Roller, Scorer
from mirrorpo.core.span import ScoredSpan
from mirrorpo.divergence.none import NoDivergence
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components, inert, model_needs
from mirrorpo.train.credit import segment_credit, signed_credit
from mirrorpo.train.equation import loss
from mirrorpo.train.equation import signed_credit as credit_lines
from mirrorpo.weighting.segment_rollout import SegmentRollout

CREDIT = torch.tensor([[0.5, -0.25, 0.0], [-0.75, 0.25, 0.0], [0.0, 0.0, 0.0]])


def components(*overrides: str) -> Components:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [override for override in overrides if override.startswith("weighting=")]
        cfg = compose("train", overrides=[*(() if chosen else ["weighting=segment_rollout"]), *overrides])
        return build_components(resolved(cfg))


class Given:
    """A part with credit that is written down."""

    def credit(
        self, batch: RolloutBatch, scorer: Scorer | None, roller: Roller | None, seed: int
    ) -> tuple[torch.Tensor, Sequence[ScoredSpan]]:
        return CREDIT, []


def batch() -> RolloutBatch:
    completions = [completion_of(row) for row in ([2, 3, 4], [5, 6], [7, 8])]
    return collate(completions, [1.0, 0.0, 0.0], pad_id=0, mask_truncated=False)


def test_the_surrogate_reads_the_credit_and_the_metrics_its_size() -> None:
    credit = segment_credit(Given(), batch(), None, None, 0)  # type: ignore[arg-type]
    rows = torch.arange(3)
    read, factor = credit.read(rows, 3)
    assert torch.equal(read, CREDIT) and bool((factor == 1).all())
    assert credit.acts(rows).tolist() == [True, True, False]
    torch.testing.assert_close(credit.advantages, torch.tensor([0.25, -0.5, 0.0]))
    torch.testing.assert_close((credit.advantages[:, None] * credit.weights).abs(), CREDIT.abs())


def test_a_penalty_takes_from_it_what_it_takes_from_an_advantage() -> None:
    mask, divergence = batch().mask, torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 9.0], [0.0, 0.0, 0.0]])
    for scope in ("credit", "loss"):
        penalty = Penalty(
            divergence=NoDivergence(), beta=0.5, anchor="reference", scope=scope, placement="reward"
        )
        signed = signed_credit(CREDIT, torch.ones(3, 3), divergence, mask, penalty=penalty)
        torch.testing.assert_close(signed, torch.where(mask, CREDIT - 0.5 * divergence, 0.0))


def test_what_does_not_go_with_it_is_refused_and_what_has_no_effect_named() -> None:
    refused = {
        ("group_size=1", "algo=reinforce"): r"^group_size=1 with weighting=SegmentRollout: ",
        ("algo=sft",): "^weighting: re-rolling with demonstrations",
        ("divergence=kl", "algo=rloo_kl_in_reward"): r"^divergence\.placement=completion with weighting",
        ("algo=mirror_descent",): r"^algo\.update_advantage with weighting=SegmentRollout",
        ("rollout.lag=2",): r"^rollout\.lag=2, rollout\.coarse=none with weighting=SegmentRollout",
        ("weighting.budget=3",): r"^weighting: weighting\.rolls=4, weighting\.budget=3: ",
    }
    for overrides, message in refused.items():
        with pytest.raises(ValueError, match=message) as error:
            components(*overrides)
        assert "\n" not in str(error.value)
    plain = components("divergence=kl")
    assert ("algo.advantage", "weighting.scope") in [entry.settings for entry in inert(plain)]
    assert "l(log r_t, A_t)" in loss(plain) and credit_lines(plain) == []
    placed = components("divergence=kl", "divergence.placement=reward")
    assert credit_lines(placed)[0].startswith("A_t = S_t - ")


def test_a_prior_says_what_it_needs_refuses_and_leaves_unread() -> None:
    parts = components("weighting=segment_rollout_drop")
    weighting = parts.weighting
    assert isinstance(weighting, SegmentRollout) and weighting.most_cuts == 2
    assert model_needs(parts) >= {"direct"}
    assert [line.split()[0] for line in weighting.passes()] == ["a", "samples"]
    unread = [name for entry in inert(parts) for name in entry.settings if ".prior." in name]
    assert "weighting.segments.prior.scope" in unread and "weighting.segments.prior.masking" not in unread


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_with_the_same_rolls_byte_for_byte(tmp_path: Path) -> None:
    arguments = (*SMALL, "weighting=segment_rollout_drop", "weighting.budget=4", "steps=5", "progress=false")
    succeeded(train(*arguments, f"out={tmp_path / 'whole'}", cwd=tmp_path))
    whole = folder(tmp_path / "whole")
    killed = (*arguments, f"out={tmp_path / 'killed'}", "checkpoint_every=1", "keep_checkpoints=9")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(*killed), cwd=tmp_path, env=environment(), **quiet)
    while process.poll() is None and not appeared(tmp_path / "killed", "step_000002"):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    succeeded(train(*killed, "progress=true", cwd=tmp_path), said=["resuming after step"])
    again = folder(tmp_path / "killed")
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    trained = [row for row in rows(whole / "metrics.jsonl") if row["step"] > 0]
    assert all(row["credit/rolls"] > 0 for row in trained) and any(row["grad/norm"] > 0 for row in trained)
