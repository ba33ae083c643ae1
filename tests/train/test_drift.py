"""The probe against a naive reading of the same completions; the facts that make it one measure for all
arms.
"""

import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from cli import ROOT
from hydra import compose, initialize_config_dir

from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import Prompt
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.drift import Probe, draw_probe


@cache
def tiny() -> tuple[Components, LanguageModel, list[Prompt]]:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        components = build_components(resolved(compose("train")))
    torch.set_num_threads(1)
    prompts = list(components.dataset.load("train"))[:5]
    return components, components.model.load(torch.device("cpu"), 0, lambda: iter(())), prompts


def ids(prompts: list[Prompt]) -> list[list[int]]:
    components, model, _ = tiny()
    data = components.dataset
    return [
        list(
            components.model.prompt(
                model.tokenizer, system=data.system, user=data.user, question=prompt.question
            ).ids
        )
        for prompt in prompts
    ]


def drawn(model: LanguageModel, positions: int = 64) -> Probe:
    components, _, prompts = tiny()
    probe = draw_probe(
        model,
        components.eval_rollout,
        prompts,
        ids(prompts),
        max_new_tokens=40,
        temperature=0.8,
        positions=positions,
    )
    assert isinstance(probe, Probe)
    return probe


def moved(model: LanguageModel, by: float) -> LanguageModel:
    network = copy.deepcopy(model.network)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by * torch.randn(parameter.shape, generator=draw)
    return replace(model, network=network)


def test_the_start_model_has_no_drift_to_the_bit():
    _, model, _ = tiny()
    assert drawn(model)(model) == {"drift/kl": 0.0, "drift/probl2": 0.0, "drift/tv": 0.0}


def test_drift_is_the_mean_over_states_of_each_distance_read_from_one_full_forward_a_completion():
    _, model, _ = tiny()
    probe, other = drawn(model, positions=10_000), moved(model, 0.02)
    sums, states = {"kl": 0.0, "probl2": 0.0, "tv": 0.0}, 0
    for row in range(len(probe.batch)):
        prompt = probe.batch.prompt_ids[row][probe.batch.prompt_present[row]]
        answer = probe.batch.completion_ids[row][probe.batch.present[row]]
        with torch.no_grad():
            both = [
                m.network(torch.cat([prompt, answer])[None]).logits[0].double() / 0.8 for m in (other, model)
            ]
        for place in range(len(prompt) - 1, len(prompt) + len(answer) - 1):
            p, q = (logits[place].softmax(-1).tolist() for logits in both)
            sums["kl"] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            sums["probl2"] += sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            sums["tv"] += sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
            states += 1
    drift = probe(other)
    assert states == int(probe.batch.present.sum()) == len(probe.positions)
    for name, total in sums.items():
        assert total > 0
        assert drift[f"drift/{name}"] == pytest.approx(total / states, rel=1e-4)


def test_drift_grows_as_the_policy_moves_away():
    _, model, _ = tiny()
    probe = drawn(model)
    near, far = probe(moved(model, 0.01)), probe(moved(model, 0.03))
    assert all(0 < near[name] < far[name] for name in near)


def test_fewer_positions_are_spread_evenly_over_the_answers():
    _, model, _ = tiny()
    every, some = drawn(model, 10_000), drawn(model, 12)
    count = len(every.positions)
    assert some.positions.tolist() == [index * count // 12 for index in range(12)]
    torch.testing.assert_close(some.start, every.start[some.positions])


def test_the_probe_is_the_same_each_time_and_draws_from_no_global_stream():
    _, model, _ = tiny()
    state = torch.get_rng_state()
    one, two = drawn(model), drawn(model)
    assert torch.equal(one.start, two.start) and torch.equal(
        one.batch.completion_ids, two.batch.completion_ids
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_measuring_leaves_the_policy_in_its_mode_and_without_gradient():
    _, model, _ = tiny()
    model.network.train()
    drawn(model)(model)
    assert model.network.training
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_without_questions_nothing_is_measured():
    components, model, _ = tiny()
    assert (
        draw_probe(model, components.eval_rollout, [], [], max_new_tokens=4, temperature=1.0, positions=8)(
            model
        )
        == {}
    )
