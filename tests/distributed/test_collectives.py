"""Several processes train one cell: what they compute is what one process computes, and what befalls one
befalls all.
"""

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
from cli import ROOT, SMALL, TRAIN, environment, folder, manifest, rows, succeeded, train

from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.collectives import ALONE, Ranks, init_process_group, owners
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

# Between them: both kinds of divergence and of anchor, hidden states, windows, dynamic sampling, cuts,
# adapters, one group for two ranks.
CELLS = {
    "default": ("divergence=kl", "checkpoint_every=1"),
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
}
MORE_CELLS = {
    "gradient": ("weighting=gradient",),
    "attention": ("weighting=attention",),
    "entropy": ("weighting=entropy_top20", "importance_correction=truncated"),
    "steered": ("beta_schedule=matched_drift", "steps=3"),
    "gspo": ("algo=gspo", "updates_per_rollout=2"),
    "micro-batches": ("algo=dr_grpo", "tokens_per_micro_batch=150"),
    "rows": ("weighting=counterfactual_permuted", "divergence=probl2", "shared_prefix=never"),
    "supervised": ("algo=sft", "divergence=none"),
    # One completion: a rank without any.
    "one row": ("algo=sft", "divergence=none", "group_size=1", "prompts_per_step=1"),
}
EXACT = ("reward/", "outcome/", "completion/", "group/", "rollout/", "eval/")


def run_cells(
    jobs: Sequence[tuple[Sequence[str], Path, int | str | None]], *launcher: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    words = json.dumps([[[*CELL, *overrides, f"out={out}"], how] for overrides, out, how in jobs])
    command = [*(launcher or (sys.executable,)), str(ROOT / "tests" / "rank_cells.py"), words]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500, check=False
    )


def agree(one: Path, two: Path) -> None:
    """The same rows, numbers to 1e-5, what is counted exactly; the same answers."""
    ours, theirs = rows(one / "metrics.jsonl"), rows(two / "metrics.jsonl")
    assert len(ours) == len(theirs) and all(a.keys() == b.keys() for a, b in zip(ours, theirs, strict=True))
    assert any(row.get("grad/norm", 0) > 0 for row in ours), "nothing was learned, so nothing is compared"
    for a, b in zip(ours, theirs, strict=True):
        for name, value in a.items():
            assert b[name] == (
                value if name.startswith(EXACT) else pytest.approx(value, rel=1e-5, abs=1e-5)
            ), (name, a["step"])
    for path in (one / "eval").iterdir():
        assert path.read_bytes() == (two / "eval" / path.name).read_bytes(), path


def compared(cells: dict[str, Sequence[str]], tmp_path: Path) -> None:
    succeeded(
        run_cells([(words, tmp_path / name / "one", None) for name, words in cells.items()], cwd=tmp_path)
    )
    succeeded(
        run_cells(
            [(words, tmp_path / name / "two", None) for name, words in cells.items()], *TORCHRUN, cwd=tmp_path
        )
    )
    for name in cells:
        agree(folder(tmp_path / name / "one"), folder(tmp_path / name / "two"))


# ---------------------------------------------------------------- pure functions


def test_stretches_have_about_equal_cost() -> None:
    costs = torch.randint(1, 100, (400,), generator=torch.Generator().manual_seed(0))
    whose = owners(costs, 7)
    assert whose.tolist() == sorted(whose.tolist()) and set(whose.tolist()) == set(range(7))
    shares = [int(costs[whose == rank].sum()) for rank in range(7)]
    assert max(shares) - min(shares) <= 200


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_thing_has_one_owner_however_few_there_are(count: int) -> None:
    for size in range(4):
        ranks = [Ranks(rank=index, world_size=count, local_rank=index) for index in range(count)]
        assert [place for rank in ranks for place in range(size)[rank.span(size)]] == list(range(size))
        for costs in (torch.arange(size), torch.arange(size).flip(0), torch.zeros(size, dtype=torch.long)):
            assert sum(rank.share(costs).long() for rank in ranks).tolist() == [1] * size


def test_one_process_divides_and_asks_nothing() -> None:
    engine, judge = Demonstrations(), lambda texts, prompts: []
    assert sharded_engine(engine, ALONE) is engine and sharded_reward(judge, ALONE) is judge
    assert ALONE.all_gather("mine") == ["mine"] and ALONE.broadcast_from_rank0(lambda: 3) == 3 and ALONE.first
    two = Ranks(rank=1, world_size=2, local_rank=1)
    assert (
        isinstance(sharded_engine(engine, two), ShardedEngine)
        and isinstance(sharded_reward(judge, two), ShardedReward)
        and not two.first
    )


@pytest.mark.parametrize("count", [None, "1"])
def test_one_process_is_alone(count: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if count:
        monkeypatch.setenv("WORLD_SIZE", count)
    with init_process_group() as ranks:
        assert ranks is ALONE and not torch.distributed.is_initialized()


def test_several_processes_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=r"LOCAL_RANK.*torchrun"), init_process_group():
        raise AssertionError("began")


@dataclass(frozen=True, slots=True)
class Unheard(Ranks):
    """A rank that hears of no other."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


class Server(Served):
    """Answers with the places that it was asked for."""

    def generate(self, model: Any, request: RolloutRequest) -> Any:
        return request.only


def test_a_server_is_asked_by_the_first_rank_for_all() -> None:
    prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(3)]
    request = RolloutRequest(
        prompts=prompts, prompt_ids=[[1]] * 3, group_size=1, max_new_tokens=1, temperature=1.0, seed=0
    )
    engine = Server(url="", weights="", top_p=1.0, connections=1, timeout=1.0, sleep=False)
    for rank, of_server in ((0, [0, 1, 2]), (1, [])):
        ranks = Unheard(rank=rank, world_size=2, local_rank=rank)
        assert sharded_engine(engine, ranks).generate(None, request) == of_server  # type: ignore[arg-type]


# ---------------------------------------------------------------- real ranks


@pytest.mark.timeout(900)
def test_two_ranks_compute_what_one_process_computes_and_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    default = CELLS["default"]
    jobs = [(words, tmp_path / name / "one", None) for name, words in CELLS.items()]
    succeeded(run_cells([*jobs, (default, tmp_path / "1 to 2", 1)], cwd=tmp_path))
    jobs = [(words, tmp_path / name / "two", None) for name, words in CELLS.items()]
    jobs += [
        (default, tmp_path / "1 to 2", None),
        (default, tmp_path / "2 to 2", 1),
        (default, tmp_path / "2 to 2", None),
    ]
    # The last one fails, and with it all ranks.
    result = run_cells([*jobs, (default, tmp_path / "failed", "error")], *TORCHRUN, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    for name in CELLS:
        agree(folder(tmp_path / name / "one"), folder(tmp_path / name / "two"))

    one, two = folder(tmp_path / "default" / "one"), folder(tmp_path / "default" / "two")
    agree(one, folder(tmp_path / "1 to 2"))
    assert (folder(tmp_path / "2 to 2") / "metrics.jsonl").read_bytes() == (
        two / "metrics.jsonl"
    ).read_bytes()
    launches = manifest(folder(tmp_path / "1 to 2"))["launches"]
    assert [(launch["ranks"], launch["from_step"]) for launch in launches] == [(1, 0), (2, 1)]
    assert [launch["from_step"] for launch in manifest(folder(tmp_path / "2 to 2"))["launches"]] == [0, 1]
    assert manifest(two)["config_hash"] == manifest(one)["config_hash"] and RunFolder(two).finished()

    failed = manifest(folder(tmp_path / "failed"))
    assert (
        failed["state"] == "failed"
        and failed["error"] == "RankFailed: rank 1: OSError: no space left on its device"
    )

    # A share that is damaged makes the checkpoint damaged, and one process reads the others whole.
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
    assert sums.splitlines() == ["state.pt: OK", ".metadata: OK", "__0_0.distcp: OK", "__1_0.distcp: OK"]
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    before = checkpoint.newest(two / "checkpoints")
    assert before is not None and before["step"] == 1
    # A rank that wrote to another disk.
    share.unlink()
    with pytest.raises(RuntimeError, match=r"__1_0\.distcp.*every node"):
        checkpoint.sums(share.parent, divided=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_ranks_compute_what_one_process_computes_in_more_cells(tmp_path: Path) -> None:
    compared(MORE_CELLS, tmp_path)


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
    # One question for the drift: one of the ranks has none to ask.
    compared({"vllm": (*engines, "shared_prefix=never", "drift_questions=1")}, tmp_path)


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
    (found,) = [
        int(child) for child in children if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_request_to_one_rank_stops_all_at_one_step_and_one_process_goes_on(tmp_path: Path) -> None:
    overrides = (*CELL, "steps=4", "checkpoint_every=100", f"out={tmp_path / 'out'}")
    torchrun = start(*overrides, cwd=tmp_path)
    until_step(1, torchrun, tmp_path)
    os.kill(last_rank(torchrun), signal.SIGUSR2)
    said, _ = torchrun.communicate(timeout=200)
    run = folder(tmp_path / "out")
    # Rank 0 alone speaks, and the others leave it the time to.
    assert said.count("stopped by SIGUSR2 after step") == 1 and manifest(run)["state"] == "requeued", said
    assert len(list(run.glob("checkpoints/step_*"))) == 1 and not list(run.glob("checkpoints/.step_*"))
    succeeded(
        train(*overrides, "progress=true", cwd=tmp_path),
        said=["resuming after step", "begun by another number of processes"],
    )
    succeeded(train(*overrides[:-1], f"out={tmp_path / 'whole'}", cwd=tmp_path))
    agree(folder(tmp_path / "whole"), run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rank_that_is_killed_at_any_instant_ends_all_and_costs_no_more_than_steps(tmp_path: Path) -> None:
    overrides = (*CELL, "steps=8", "eval_every=0", "checkpoint_every=1")

    def ended(out: Path) -> None:
        torchrun = start(*overrides, f"out={out}", cwd=tmp_path)
        said, _ = torchrun.communicate(timeout=300)
        assert torchrun.returncode == 0, said

    ended(tmp_path / "whole")
    for step, delay in ((1, 0.0), (3, 0.1), (5, 0.3)):
        torchrun = start(*overrides, f"out={tmp_path / 'killed'}", cwd=tmp_path)
        until_step(step, torchrun, tmp_path / "killed")
        time.sleep(delay)
        killed = time.monotonic()
        os.kill(last_rank(torchrun), signal.SIGKILL)
        torchrun.communicate(timeout=200)
        # Not the thirty seconds after which torchrun kills what does not listen.
        assert torchrun.returncode == 1 and time.monotonic() - killed < 25
        run = folder(tmp_path / "killed")
        assert (
            manifest(run)["state"] == "failed"
            and "another process of this run ended without a word" in manifest(run)["error"]
        )
    ended(tmp_path / "killed")
    assert (folder(tmp_path / "killed") / "metrics.jsonl").read_bytes() == (
        folder(tmp_path / "whole") / "metrics.jsonl"
    ).read_bytes()


def test_a_sweep_inside_of_ranks_is_refused(tmp_path: Path) -> None:
    result = train("-m", "seed=0,1", *CELL, f"out={tmp_path}", cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert result.returncode == 1 and "hydra.launcher.tasks_per_node" in result.stderr
