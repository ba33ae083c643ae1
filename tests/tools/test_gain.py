import math
import sys

import pytest
import torch

from mirrorpo.tools.gain import Moments, main, moments, relative_gain


def batches(count: int, noise: torch.Tensor, signal: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [signal + noise * torch.randn(len(signal), generator=draw) for _ in range(count)]


def blocks(weighted: list[torch.Tensor], uniform: list[torch.Tensor]) -> list[Moments]:
    return [
        moments(weighted[at], uniform[at]) + moments(weighted[at + 1], uniform[at + 1])
        for at in range(0, len(weighted), 2)
    ]


def test_the_gain_is_the_expected_gradient_along_adams_step() -> None:
    # Two parameters: signal 1 with noise 1, whose step is 1 / sqrt(2), and signal 2 without noise.
    uniform = batches(4000, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))
    total = moments(uniform[0], uniform[0])
    for gradient in uniform[1:]:
        total = total + moments(gradient, gradient)
    assert total.gain() == pytest.approx(1 / 2**0.5 + 2, abs=0.05)


def test_noise_lowers_a_weightings_gain_and_a_scale_does_not() -> None:
    signal = torch.ones(50)
    uniform = batches(64, torch.full((50,), 2.0), signal)
    noisier = batches(64, torch.full((50,), 4.0), signal, seed=1)
    of_uniform = blocks(uniform, uniform)
    assert relative_gain(of_uniform, of_uniform).ratio == 1
    scaled = relative_gain(blocks([3 * gradient for gradient in uniform], uniform), of_uniform)
    assert scaled.ratio == pytest.approx(1, abs=1e-5) and scaled.half_width < 1e-4
    gain = relative_gain(blocks(noisier, uniform), of_uniform)
    expected = (1 + 4) ** 0.5 / (1 + 16) ** 0.5
    assert abs(gain.ratio - expected) < gain.half_width + 0.1 and gain.ratio < 0.75


def test_batches_without_a_gradient_are_refused() -> None:
    still = blocks([torch.zeros(3)] * 8, [torch.zeros(3)] * 8)
    with pytest.raises(ValueError, match=r"no batch has a gradient .* --batches"):
        relative_gain(still, still)


def test_one_block_with_a_gradient_is_enough_for_a_number() -> None:
    gradients = [torch.zeros(3)] * 6 + [torch.ones(3)] * 2
    entries = blocks(gradients, gradients)
    gain = relative_gain(entries, entries)
    assert gain.ratio == 1 and math.isnan(gain.half_width)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batches", "4"], "--batches=4"),
        (["model=tiny", "weighting=uniform,oracle"], "weighting=oracle with dataset=Arithmetic"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, reason, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gain", *arguments])
    with pytest.raises(SystemExit, match=reason) as end:
        main()
    assert str(end.value).startswith("error: ") and "\n" not in str(end.value)


@pytest.mark.slow
def test_the_ledger_has_room_and_the_oracle_takes_it(capsys) -> None:
    main(["model=ledger", "algo=dr_grpo", "divergence=none", "threads=1", "weighting=oracle", "--batches=24"])
    rows = dict(line.strip("| ").split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:4])
    assert float(rows["uniform"]) == 1 and float(rows["oracle"]) > 1.2
