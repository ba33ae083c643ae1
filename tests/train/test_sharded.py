"""Several processes train one cell: they compute what one computes, and a failure ends all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import FEW_PROBLEMS, ROOT, SMALL, TRAIN, environment, folder, manifest, rows, succeeded, train

from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.rollout.vllm_server import Served
from mirrorpo.run import checkpoint
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.sharded import ShardedEngine, ShardedReward, sharded_engine, sharded_reward

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
CELL = (
    *SMALL,
    "steps=2",
    "eval_questions=7",
    "eval_sampled_questions=3",
    "eval_samples=2",
    "eval_every=1",
    "drift_questions=2",
    "progress=false",
)

# Between them and the slow ones: both kinds of divergence and of anchor, hidden states, windows, dynamic
# sampling, cuts, adapters, one group for two ranks.
CELLS = {
    "default": ("divergence=kl", "checkpoint_every=1"),
}
MORE_CELLS = {
    "split": ("divergence=kl_exact", "algo=dapo", "update_window=split", "updates_per_rollout=3"),
    "adapter": (
        "weighting=counterfactual",
        "divergence=kl_exact",
        "lora@model.lora=r16",
        "model.lora.dropout=0",
        "updates_per_rollout=2",
    ),
    "one group": (
        "optim=muon",
        "divergence=kl_exact",
        "divergence.anchor=old",
        "updates_per_rollout=2",
        "prompts_per_step=1",
        "group_size=6",
    ),
    "gradient": ("weighting=gradient",),
    "attention": ("weighting=attention",),
    "entropy": ("weighting=entropy_top20", "importance_correction=truncated"),
    "segments": (
        "weighting=segment_rollout_entropy",
        "divergence=kl_exact",
        "divergence.placement=reward_to_go",
        "updates_per_rollout=2",
    ),
    "segments around drops": ("weighting=segment_rollout_drop", "weighting.rolls=2", "weighting.budget=4"),
    "steered": ("beta_schedule=matched_drift", "steps=3"),
    "adaptive entropy": ("entropy=adaptive", "entropy.start=0.3", "steps=3", "entropy.only_below=false"),
    "clipped covariance": (
        "entropy=covariance",
        "entropy.share=0.3",
        "entropy.low=0.0",
        "weighting=random_token",
        "algo=dapo",
    ),
    "penalised covariance": (
        "entropy=covariance",
        "entropy.method=kl",
        "entropy.share=0.2",
        "updates_per_rollout=3",
        "update_window=split",
        "tokens_per_micro_batch=150",
    ),
    "gspo": ("algo=gspo", "updates_per_rollout=2"),
    "moving anchor in the reward to go": (
        "anchor=ema",
        "anchor.decay=0.5",
        "divergence=kl_exact",
        "divergence.placement=reward_to_go",
    ),
    "trust region and both places": (
        "divergence=kl_corrected",
        "divergence.placement=loss_to_go",
        "trust_region=kl",
        "trust_region.over=vocabulary",
        "updates_per_rollout=2",
    ),
    "tracked prompts": (
        "algo=spo",
        "divergence=none",
        "data_order=informative",
        "dataset.train_size=8",
        "group_size=1",
        "prompts_per_step=6",
        "steps=3",
    ),
    "likeliest tokens": ("divergence=kl_topk", "divergence.k=8"),
    "likeliest tokens of the policy to a mixture": (
        "divergence=kl_topk",
        "divergence.k=8",
        "divergence.of=policy",
        "anchor=mixture",
        "anchor.second.decay=0.5",
    ),
    "mixture with an old policy and a trust region by its likeliest tokens": (
        "divergence=kl_topk",
        "anchor=mixture",
        "anchor.first=old",
        "anchor.second.decay=0.5",
        "trust_region=tv",
        "trust_region.over=top",
        "trust_region.k=8",
        "trust_region.low=0.01",
        "updates_per_rollout=2",
    ),
    "mirror descent": ("algo=mirror_descent", "updates_per_rollout=2"),
    "micro-batches": ("algo=dr_grpo", "tokens_per_micro_batch=150"),
    "rows": ("weighting=counterfactual_permuted", "divergence=probl2", "shared_prefix=never"),
    "sets": ("eval_datasets=[{test:{dataset:arithmetic,dataset.test_size:5,eval_split:test}}]",),
    "supervised": ("algo=sft", "divergence=none"),
    # One completion: a rank without any.
    "one row": ("algo=sft", "divergence=none", "group_size=1", "prompts_per_step=1"),
}
# What checkpoints hold of earlier weights.
PAST_CELLS = {
    "a lagging sampler of rounded weights": (
        "rollout.lag=2",
        "rollout.coarse=int8",
        "steps=3",
        "importance_correction=sequence_truncated",
    ),
    "a lagging sampler of an adapter": (
        "rollout.lag=1",
        "rollout.coarse=bf16",
        "lora@model.lora=r16",
        "model.lora.dropout=0",
        "steps=3",
    ),
    "a moving anchor": ("anchor=ema", "anchor.decay=0.5", "divergence=kl_exact", "steps=3"),
}
EXACT = ("reward/", "outcome/", "completion/", "group/", "rollout/", "eval/", "budget/")


# ---------------------------------------------------------------- divided without other processes


def test_one_process_divides_nothing() -> None:
    engine, reward = Demonstrations(), lambda texts, prompts: []
    assert sharded_engine(engine, ALONE) is engine and sharded_reward(reward, ALONE) is reward
    second = Ranks(rank=1, world_size=2, local_rank=1)
    assert isinstance(sharded_engine(engine, second), ShardedEngine)
    assert isinstance(sharded_reward(reward, second), ShardedReward)


@dataclass(frozen=True, slots=True)
class Unheard(Ranks):
    """A rank that hears of no other."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


class Server(Served):
    """Answers with the prompts' positions that it is to sample."""

    def generate(self, model: Any, request: RolloutRequest) -> Any:
        return request.only


def test_a_server_samples_for_all_at_the_first_ranks_request() -> None:
    prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(3)]
    request = RolloutRequest(
        prompts=prompts, prompt_ids=[[1]] * 3, group_size=1, max_new_tokens=1, temperature=1.0, seed=0
    )
    engine = Server(url="", weights="", top_p=1.0, connections=1, timeout=1.0, sleep=False)
    for rank, positions in ((0, [0, 1, 2]), (1, [])):
        ranks = Unheard(rank=rank, world_size=2, local_rank=rank)
        assert sharded_engine(engine, ranks).generate(None, request) == positions  # type: ignore[arg-type]


# ---------------------------------------------------------------- real ranks

# A cell's overrides, where its runs are, and how `rank_cells.py` disturbs it.
Job = tuple[Sequence[str], Path, int | str | None]


def run_cells(jobs: Sequence[Job], *launcher: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    encoded = json.dumps([[[*CELL, *overrides, f"out={out}"], how] for overrides, out, how in jobs])
    command = [*(launcher or (sys.executable,)), str(ROOT / "tests" / "rank_cells.py"), encoded]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=1100, check=False
    )


def assert_agree(first: Path, second: Path) -> None:
    """The same rows, numbers to 1e-5, what is counted exactly; the same answers."""
    ours, theirs = rows(first / "metrics.jsonl"), rows(second / "metrics.jsonl")
    assert len(ours) == len(theirs) and all(a.keys() == b.keys() for a, b in zip(ours, theirs, strict=True))
    assert any(row.get("grad/norm", 0) > 0 for row in ours), "nothing was learned, so nothing is compared"
    for a, b in zip(ours, theirs, strict=True):
        for name, value in a.items():
            expected = value if name.startswith(EXACT) else pytest.approx(value, rel=1e-5, abs=1e-5)
            assert b[name] == expected, (name, a["step"])
    for path in RunFolder(first).evaluations():
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def assert_ranks_agree(cells: dict[str, Sequence[str]], tmp_path: Path) -> None:
    """Each cell in one process and in two."""
    for launcher, name in (((), "one"), (TORCHRUN, "two")):
        jobs = [(overrides, tmp_path / cell / name, None) for cell, overrides in cells.items()]
        succeeded(run_cells(jobs, *launcher, cwd=tmp_path))
    for cell in cells:
        assert_agree(folder(tmp_path / cell / "one"), folder(tmp_path / cell / "two"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_compute_what_one_process_computes_and_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    default = CELLS["default"]
    jobs: list[Job] = [(overrides, tmp_path / name / "one", None) for name, overrides in CELLS.items()]
    succeeded(run_cells([*jobs, (default, tmp_path / "1 to 2", 1)], cwd=tmp_path))
    jobs = [(overrides, tmp_path / name / "two", None) for name, overrides in CELLS.items()]
    jobs += [
        (default, tmp_path / "1 to 2", None),
        (default, tmp_path / "2 to 2", 1),
        (default, tmp_path / "2 to 2", None),
    ]
    # The last one fails, and with it all ranks.
    result = run_cells([*jobs, (default, tmp_path / "failed", "error")], *TORCHRUN, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    for name in CELLS:
        assert_agree(folder(tmp_path / name / "one"), folder(tmp_path / name / "two"))
    failed = manifest(folder(tmp_path / "failed"))
    assert failed["state"] == "failed"
    assert failed["error"] == "RankFailed: rank 1: OSError: no space left on its device"
    check_resumed(tmp_path)
    check_checkpoints(folder(tmp_path / "default" / "one"), folder(tmp_path / "default" / "two"))


def check_resumed(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "default" / "one"), folder(tmp_path / "default" / "two")
    one_to_two, two_to_two = folder(tmp_path / "1 to 2"), folder(tmp_path / "2 to 2")
    assert_agree(one, one_to_two)
    assert (two_to_two / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    launches = manifest(one_to_two)["launches"]
    assert [(launch["ranks"], launch["from_step"]) for launch in launches] == [(1, 0), (2, 1)]
    assert [launch["from_step"] for launch in manifest(two_to_two)["launches"]] == [0, 1]
    assert manifest(two)["config_hash"] == manifest(one)["config_hash"] and RunFolder(two).finished()


def check_checkpoints(one: Path, two: Path) -> None:
    """Two ranks' checkpoint holds what one process's does; a damaged share makes it damaged."""
    reached = checkpoint.newest(two / "checkpoints")
    trained = checkpoint.newest(one / "checkpoints")
    assert reached is not None and trained is not None and reached["step"] == trained["step"] == 2
    # Where a gradient is nearly zero, Adam makes a step of its rounding.
    for name, tensor in trained["weights"].items():
        torch.testing.assert_close(reached["weights"][name], tensor, rtol=1e-5, atol=5e-5)
    assert all(len(list(path.glob("__*_0.distcp"))) == 2 for path in (two / "checkpoints").iterdir())
    share = two / "checkpoints" / "step_000002" / "__1_0.distcp"
    sums = subprocess.run(
        ["sha256sum", "-c", checkpoint.DIGEST], cwd=share.parent, capture_output=True, text=True, check=True
    ).stdout
    names = ("state.pt", ".metadata", "__0_0.distcp", "__1_0.distcp", "records.json")
    assert sums.splitlines() == [f"{name}: OK" for name in names]
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    # One process reads the intact one before it.
    before = checkpoint.newest(two / "checkpoints")
    assert before is not None and before["step"] == 1
    # A rank that wrote to another disk.
    share.unlink()
    with pytest.raises(RuntimeError, match=r"__1_0\.distcp.*every node"):
        checkpoint.shared_sums(share.parent, "")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_ranks_compute_what_one_process_computes_in_more_cells(tmp_path: Path) -> None:
    assert_ranks_agree(MORE_CELLS, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_earlier_weights_of_a_checkpoint_go_on_among_any_number_of_ranks(tmp_path: Path) -> None:
    def jobs(*steps_of: tuple[str, int | None]) -> list[Job]:
        return [
            (overrides, tmp_path / cell / name, stop)
            for cell, overrides in PAST_CELLS.items()
            for name, stop in steps_of
        ]

    succeeded(run_cells(jobs(("one", None), ("1 to 2", 2)), cwd=tmp_path))
    of_two = jobs(("two", None), ("1 to 2", None), ("2 to 2", 2), ("2 to 2", None), ("2 to 1", 2))
    succeeded(run_cells(of_two, *TORCHRUN, cwd=tmp_path))
    succeeded(run_cells(jobs(("2 to 1", None)), cwd=tmp_path))
    for cell in PAST_CELLS:
        one, two = folder(tmp_path / cell / "one"), folder(tmp_path / cell / "two")
        for other in ("two", "1 to 2", "2 to 1"):
            assert_agree(one, folder(tmp_path / cell / other))
        again = folder(tmp_path / cell / "2 to 2")
        assert (again / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


@pytest.mark.skipif(
    find_spec("vllm") is None,
    reason="NOT TESTED: vLLM in several processes; it is not installed here, docs/vllm.md",
)
@pytest.mark.timeout(900)
def test_each_rank_samples_with_a_vllm_of_its_own(tmp_path: Path) -> None:
    engines = (
        "rollout=vllm",
        "rollout@eval_rollout=vllm",
        "rollout.enforce_eager=true",
        "eval_rollout.enforce_eager=true",
    )
    # One question for the drift: one of the ranks has none.
    assert_ranks_agree({"vllm": (*engines, "shared_prefix=never", "drift_questions=1")}, tmp_path)


def start(*overrides: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, str(TRAIN), *overrides],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_step(step: int, process: subprocess.Popen[str], root: Path) -> None:
    while process.poll() is None and not any(
        f'"step": {step},' in path.read_text() for path in root.rglob("metrics.jsonl")
    ):
        time.sleep(0.02)


def last_rank(torchrun: subprocess.Popen[str]) -> int:
    """The process of rank 1."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    (rank1,) = [
        int(child) for child in children if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return rank1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_request_to_one_rank_stops_all_at_one_step_and_one_process_goes_on(tmp_path: Path) -> None:
    overrides = (*CELL, "steps=4", "checkpoint_every=100", f"out={tmp_path / 'out'}")
    torchrun = start(*overrides, cwd=tmp_path)
    until_step(1, torchrun, tmp_path)
    os.kill(last_rank(torchrun), signal.SIGUSR2)
    output, _ = torchrun.communicate(timeout=200)
    run = folder(tmp_path / "out")
    # Rank 0 alone reports, and the others leave it the time to.
    assert output.count("stopped by SIGUSR2 after step") == 1 and manifest(run)["state"] == "requeued", output
    assert len(list(run.glob("checkpoints/step_*"))) == 1 and not list(run.glob("checkpoints/.step_*"))
    succeeded(
        train(*overrides, "progress=true", cwd=tmp_path),
        said=["resuming after step", "begun by another number of processes"],
    )
    succeeded(train(*overrides[:-1], f"out={tmp_path / 'uninterrupted'}", cwd=tmp_path))
    assert_agree(folder(tmp_path / "uninterrupted"), run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rank_that_is_killed_at_any_instant_ends_all_and_costs_no_more_than_steps(tmp_path: Path) -> None:
    overrides = (*CELL, *FEW_PROBLEMS, "steps=6", "eval_every=0", "drift_questions=0", "checkpoint_every=1")

    def run_to_the_end(out: Path) -> None:
        torchrun = start(*overrides, f"out={out}", cwd=tmp_path)
        output, _ = torchrun.communicate(timeout=300)
        assert torchrun.returncode == 0, output

    run_to_the_end(tmp_path / "uninterrupted")
    # As a step ends, and in the midst of another one.
    for step, delay in ((1, 0.0), (3, 0.2)):
        torchrun = start(*overrides, f"out={tmp_path / 'killed'}", cwd=tmp_path)
        until_step(step, torchrun, tmp_path / "killed")
        time.sleep(delay)
        killed = time.monotonic()
        os.kill(last_rank(torchrun), signal.SIGKILL)
        torchrun.communicate(timeout=200)
        # Not the thirty seconds after which torchrun kills what does not listen.
        assert torchrun.returncode == 1 and time.monotonic() - killed < 25
        entry = manifest(folder(tmp_path / "killed"))
        assert entry["state"] == "failed"
        assert "another process of this run ended without a word" in entry["error"]
    run_to_the_end(tmp_path / "killed")
    killed_run, uninterrupted = folder(tmp_path / "killed"), folder(tmp_path / "uninterrupted")
    assert (killed_run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


def test_a_sweep_inside_of_ranks_is_refused(tmp_path: Path) -> None:
    result = train("-m", "seed=0,1", *CELL, f"out={tmp_path}", cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert result.returncode == 1 and "hydra.launcher.tasks_per_node" in result.stderr
