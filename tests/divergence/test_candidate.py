"""A candidate of a search is named by a file, a noise and a sign, and by nothing else."""

import json
from pathlib import Path

import pytest
import torch

from mirrorpo.divergence.candidate import POSITIVITY, Candidate, noise
from mirrorpo.divergence.neural_mirror import NeuralMirror, RandomParameters


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    path = tmp_path / "generation_003.json"
    path.write_text(
        json.dumps({"mean": [0.01 * index for index in range(-190, 190)], "sigma": 0.5, "positivity": "none"})
    )
    return path


def test_an_antithetic_pair_lies_around_the_mean(generation: Path) -> None:
    plus, mean, minus = (
        Candidate(generation=str(generation), noise=9, sign=sign).values for sign in (1, 0, -1)
    )
    assert torch.allclose((plus + minus) / 2, mean) and torch.allclose(plus - mean, 0.5 * noise(9, 380))


def test_its_numbers_touch_no_global_stream(generation: Path) -> None:
    before = torch.get_rng_state()
    assert torch.equal(
        Candidate(generation=str(generation), noise=9, sign=1).values,
        Candidate(generation=str(generation), noise=9, sign=1).values,
    )
    assert not torch.equal(
        Candidate(generation=str(generation), noise=10, sign=1).values,
        Candidate(generation=str(generation), noise=9, sign=1).values,
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in POSITIVITY if name != "none"])
def test_with_any_positivity_it_is_a_divergence(generation: Path, name: str) -> None:
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "positivity": name}))
    mirror = NeuralMirror(parameters=Candidate(generation=str(generation), noise=1, sign=1))
    assert mirror.convex and bool((mirror.parameters.values >= 0).all())
    assert not NeuralMirror(
        parameters=Candidate(generation="mirrorpo:generation", noise=1, sign=1)
    ).parameters.signed


def test_the_shipped_generation_is_around_the_random_map() -> None:
    mean = Candidate(generation="mirrorpo:generation", noise=0, sign=0).values
    assert torch.allclose(mean, RandomParameters(seed=42, scale=0.01, signed=False).values, rtol=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "nonsense",
        '{"mean": [1], "sigma": 0.1, "positivity": "none"}',
        '{"mean": [NaN], "sigma": 1, "positivity": "none"}',
    ],
)
def test_a_file_that_is_no_generation_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation=.*bad.json.*hydra/sweeper=es writes these files"):
        Candidate(generation=str(tmp_path / "bad.json"), noise=0, sign=1)


def test_a_missing_file_and_another_sign_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Candidate(generation=str(tmp_path / "none.json"), noise=0, sign=1)
    with pytest.raises(ValueError, match="sign=2"):
        Candidate(generation="mirrorpo:generation", noise=0, sign=2)
