"""What a call of the network costs: as it is set, as a run began, or measured."""

from types import SimpleNamespace

import pytest
import torch
from small_models import model

from mirrorpo.train import call_cost as module
from mirrorpo.train.call_cost import CallCost, call_cost, tokens_for

BEGUN = CallCost(tokens=700, source="measured on a card")


def test_a_setting_comes_before_what_a_run_began_with_and_that_before_the_device() -> None:
    policy = model("llama")
    assert call_cost(policy, 5, BEGUN, 4096)["tokens"] == 5
    assert call_cost(policy, None, BEGUN, 4096) == BEGUN
    assert call_cost(policy, None, None, 4096) == {"tokens": 128, "source": "of a CPU"}


@pytest.mark.parametrize(
    ("most", "launch_s", "token_s", "tokens"),
    [
        # 30 ms of launches hide what a token takes; the large calls do not.
        (8192, 0.030, 30e-6, 936),
        (512, 0.030, 30e-6, 512),
        # Launches hide everything: a call costs as much as the largest that was tried.
        (8192, 0.5, 30e-6, 4096),
        # A call costs nothing beside its tokens.
        (8192, 0.0, 30e-6, 1),
    ],
)
def test_on_cuda_it_is_the_seconds_of_a_small_call_in_tokens_of_large_ones(
    monkeypatch: pytest.MonkeyPatch, most: int, launch_s: float, token_s: float, tokens: int
) -> None:
    clock = 0.0

    class Card:
        """A model of a card whose clock is ours: a call takes its launches or its tokens, what is more."""

        device = torch.device("cuda", 0)
        network = torch.nn.Linear(1, 1)

        def hidden(self, ids: torch.Tensor, present: torch.Tensor, positions: torch.Tensor) -> None:
            nonlocal clock
            assert not torch.is_grad_enabled() and ids.shape == present.shape == positions.shape
            clock += max(launch_s, token_s * ids.numel())

    on_the_cpu = {name: getattr(torch, name) for name in ("tensor", "arange")}
    for name, function in on_the_cpu.items():
        monkeypatch.setattr(
            module.torch, name, lambda *args, device=None, function=function, **more: function(*args, **more)
        )
    monkeypatch.setattr(module.torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(module, "ordinary_ids", lambda model: [3, 4, 5])
    cost = call_cost(Card(), None, None, most)  # type: ignore[arg-type]
    assert cost["tokens"] == tokens and cost["source"].startswith("measured on H100: ")


def test_tokens_that_cost_nothing_make_a_call_worth_all_of_them() -> None:
    assert tokens_for(0.01, 64, (2048, 0.01), (4096, 0.01)) == 4096


def test_measuring_reads_a_real_model_and_leaves_its_mode() -> None:
    policy = model("llama")
    policy.network.train()
    assert module._seconds(policy, 2) > 0 and policy.network.training
