"""A map's scale: one divergence at a pair of distributions, whatever the numbers were, and the same shape."""

import json
from pathlib import Path

import pytest
import torch

from mirrorpo.divergence.candidate import Candidate
from mirrorpo.divergence.map_scale import MapScale
from mirrorpo.divergence.neural_mirror import ParametersFile, RandomParameters

SCALE = MapScale(p=[0.9, 0.1], q=[0.5, 0.5], value=0.3681)


def test_maps_that_differ_by_a_factor_are_one_map_of_a_scale() -> None:
    values = RandomParameters(seed=7, scale=0.01, signed=False).values
    larger = values.clone()
    larger[:126] *= 30
    larger[-2:] *= 30
    assert torch.allclose(SCALE.scaled(values), SCALE.scaled(larger), rtol=1e-12)
    assert SCALE.divergence(SCALE.scaled(values)) == pytest.approx(0.3681)
    # w and b make the shape, and stay.
    assert torch.equal(SCALE.scaled(values)[126:378], values[126:378])


def test_the_default_scale_is_that_of_kl() -> None:
    entropy = ParametersFile(path="mirrorpo:negative_entropy", signed=False).values
    assert torch.allclose(SCALE.scaled(entropy), entropy, rtol=1e-3)


def test_a_candidate_has_the_scale_of_its_generation_and_one_without_stays(tmp_path: Path) -> None:
    content = {"mean": [0.0] * 380, "sigma": 0.5, "positivity": "softplus"}
    values = {}
    for name, scale in (("plain", None), ("scaled", {"p": [0.9, 0.1], "q": [0.5, 0.5], "value": 2.0})):
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "scale": scale}))
        values[name] = Candidate(generation=str(tmp_path / f"{name}.json"), noise=3, sign=1).values
    assert SCALE.divergence(values["scaled"]) == pytest.approx(2.0)
    assert SCALE.divergence(values["plain"]) == pytest.approx(
        2.0 * float(values["plain"][0] / values["scaled"][0])
    )


def test_a_scale_that_is_none_and_a_map_that_has_none_are_named() -> None:
    flat = torch.zeros(380, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"set hydra\.sweeper\.scale=null"):
        SCALE.scaled(flat)
    for p, q, value, error in (
        ([0.9, 0.2], [0.5, 0.5], 1.0, r"scale\.p=\[0\.9, 0\.2\]"),
        ([0.9, 0.1], [1.0, 0.0], 1.0, r"scale\.q"),
        ([0.5, 0.5], [0.5, 0.5], 1.0, "two different"),
        ([0.9, 0.1], [0.5, 0.5], 0.0, r"value=0\.0"),
    ):
        with pytest.raises(ValueError, match=error):
            MapScale(p=p, q=q, value=value)
