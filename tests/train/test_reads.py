"""What a pass over a rollout waits for on a device: counted where the host reads a number of a tensor."""

import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from small_models import model_of, network_of, rollout
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mirrorpo.train.drift
import mirrorpo.train.learner
import mirrorpo.train.metrics
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.protocols import Placement
from mirrorpo.core.tensors import numbers
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.optim.adamw import AdamW
from mirrorpo.train.build import build_penalty
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.drift import Probe, read
from mirrorpo.train.learner import Learner, NotFinite
from mirrorpo.train.live_policy import LivePolicy
from mirrorpo.train.old_policy import ForwardSettings, TokenScores
from mirrorpo.train.rescore import Passes
from mirrorpo.train.scored import ScoredBatch
from mirrorpo.weighting.uniform import Uniform
from mirrorpo.weighting.unscored import Unscored

CONF = Path(__file__).parents[2] / "conf"
# Operations whose result has a size, or goes to the host, by what the numbers are.
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique", "unique_", "equal")
# What is laid out on the CPU before the device is asked anything.
PLANNING = {"micro_batch.py", "batch.py", "tensors.py", "collectives.py", "cost.py"}
# Adam counts its steps there too.
PLANNING |= {"together.py"}
PLANNED = {"_micro_batches", "_has_gradient", "_at_tokens", "score", "_at_update"}


class Reads(TorchDispatchMode):
    """Counts reads by file and function, the innermost of this package or of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.removeprefix("aten::")
        masks = (
            [part for part in args[1] if part is not None and part.dtype == torch.bool]
            if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple))
            else []
        )
        if masks or name.startswith(READS):
            frame = sys._getframe(1)
            while not any(part in frame.f_code.co_filename for part in ("/src/mirrorpo/", "/transformers/")):
                assert frame.f_back is not None
                frame = frame.f_back
            path = Path(frame.f_code.co_filename)
            place = "transformers" if "transformers" in path.parts else path.name
            self.places[place, frame.f_code.co_name] += 1
        return func(*args, **(kwargs or {}))

    def unplanned(self) -> dict[tuple[str, str], int]:
        return {
            (file, function): count
            for (file, function), count in self.places.items()
            if file not in PLANNING | {"transformers"} and function not in PLANNED
        }


def network(seed: int = 0) -> LanguageModel:
    shape = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 32, "head_dim": 8, "vocab_size": 40,
    }  # fmt: skip
    return model_of(network_of("qwen3", seed=seed, initializer_range=0.4, **shape))


def learner(divergence: str = "kl_k3", updates: int = 2) -> Learner:
    policy = network()
    return Learner(
        policy=policy,
        reference=network(1),
        optimiser=AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.0).build(policy.network),
        algo=instantiate(OmegaConf.load(CONF / "algo/grpo.yaml")),
        penalty=build_penalty(OmegaConf.to_container(OmegaConf.load(CONF / f"divergence/{divergence}.yaml"))),
        weighting=Unscored(weighting=Uniform()),
        settings=UpdateSettings(
            temperature=0.7,
            logit_chunk=16,
            tokens_per_micro_batch=80,
            tokens_per_call=None,
            shared_prefix="auto",
            updates_per_rollout=updates,
            update_window="whole",
            max_grad_norm=1.0,
        ),
    )


def scored(student: Learner, advantages: Tensor | None = None) -> tuple[ScoredBatch, TokenCredit]:
    batch = student.rescore(rollout())
    if advantages is None:
        advantages = torch.linspace(-1, 1, len(batch.batch))
    return batch, TokenCredit(advantages=advantages, weights=batch.batch.mask.float())


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("placement", ["loss", "reward_to_go"])
@pytest.mark.parametrize("divergence", ["kl_k3", "probl2_exact"])
def test_the_passes_of_a_rollout_are_those_that_are_stated(
    divergence: str, placement: Placement, updates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = learner(divergence, updates)
    student = replace(student, penalty=replace(student.penalty, placement=placement))
    models, read = [], []
    score, live = ForwardSettings.score, LivePolicy.read

    def scoring(
        self: ForwardSettings, model: LanguageModel, *args: object, **settings: object
    ) -> TokenScores:
        models.append(model)
        return score(self, model, *args, **settings)

    monkeypatch.setattr(ForwardSettings, "score", scoring)
    monkeypatch.setattr(LivePolicy, "read", lambda self, *args: read.append(0) or live(self, *args))
    student.rescore(rollout())
    stated = Passes.of(student.penalty, student.trust_region, on_policy=updates == 1, updates_read_old=False)
    assert (student.policy in models) == stated.old
    assert (student.reference in models) == stated.reference
    assert bool(read) == stated.both


@pytest.mark.parametrize("divergence", ["kl_k3", "probl2_exact"])
def test_passes_read_nothing_but_two_times_an_update(
    divergence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(scalars: list[Tensor]) -> list[float]:
        calls.append(len(scalars))
        return numbers(scalars)

    student = learner(divergence)
    with Reads() as scoring:
        batch, credit = scored(student)
    assert scoring.unplanned() == {}
    for module in (mirrorpo.train.learner, mirrorpo.train.metrics):
        monkeypatch.setattr(module, "numbers", counted)
    with Reads() as learning:
        learned = student.learn(batch, credit, [1e-3, 1e-3])
    assert learning.unplanned() == {}
    # Loss and norm before each step; the weights' finiteness after it, the last with all sums of the metrics.
    assert calls[:3] == [2, 1, 2] and len(calls) == 4 and calls[3] >= len(learned) - 3
    assert all(math.isfinite(value) for value in learned.values())


def test_a_weight_that_is_not_finite_is_seen_before_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    student, passes = learner(), []
    batch, credit = scored(student)
    accumulate = Learner._accumulate
    monkeypatch.setattr(Learner, "_accumulate", lambda self, *a: passes.append(0) or accumulate(self, *a))
    with pytest.raises(NotFinite, match="a weight is not finite after update 0"):
        student.learn(batch, credit, [math.inf, 1e-3])
    assert len(passes) == 1
    student = learner()
    with pytest.raises(NotFinite, match="a weight is not finite after update 1"):
        student.learn(*scored(student), [1e-3, math.inf])


def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_are() -> None:
    student = learner()
    before = [parameter.clone() for parameter in student.policy.network.parameters()]
    batch, credit = scored(student)
    bad = replace(credit, weights=credit.weights.masked_fill(credit.weights > 0, math.nan))
    with pytest.raises(NotFinite, match="loss nan, gradient norm nan at update 0"):
        student.learn(batch, bad, [1e-3, 1e-3])
    for was, parameter in zip(before, student.policy.network.parameters(), strict=True):
        assert torch.equal(was, parameter)


def test_the_drift_is_summed_in_float64_where_it_is_computed_and_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, policy = network(), network(1)
    batch = rollout().to("cpu")
    positions = torch.arange(40)
    probe = Probe(
        batch=batch,
        positions=positions,
        start=torch.cat([*read(start, batch, positions, 0.7)]),
        temperature=0.7,
    )
    calls: list[int] = []
    monkeypatch.setattr(
        mirrorpo.train.drift, "numbers", lambda scalars: calls.append(len(scalars)) or numbers(scalars)
    )
    with Reads() as reads:
        drift = probe(policy)
    assert reads.unplanned() == {} and calls == [3]
    # As it was summed before, a number at a time.
    log_p = torch.cat([*read(policy, batch, positions, 0.7)])
    kl = probl2 = tv = 0.0
    for p, q in (
        (p.double(), q.double()) for p, q in zip(log_p.split(16), probe.start.split(16), strict=True)
    ):
        gap = p.exp() - q.exp()
        kl += float((p.exp() * (p - q)).sum())
        probl2 += float(gap.square().sum())
        tv += float(gap.abs().sum() / 2)
    assert drift == {"drift/kl": kl / 40, "drift/probl2": probl2 / 40, "drift/tv": tv / 40}
    # A vocabulary too large for all positions at once.
    monkeypatch.setattr(mirrorpo.train.drift, "AT_ONCE", 20 * 40)
    assert [len(piece) for piece in read(policy, batch, positions, 0.7)] == [16, 16, 8]
    assert probe(policy) == pytest.approx(drift, rel=1e-5)
