"""The dose of off-policy as settings: what they do to an engine, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.rollout.native import Native
from mirrorpo.rollout.sampler import AS_TRAINED

NATIVE = Native(rows_at_once=4, compact_at=0.1, check_every=1, cache_block=4, top_p=1.0)


def test_without_a_dose_engine_and_temperature_are_those_of_the_run() -> None:
    for sampler in (AS_TRAINED, replace(AS_TRAINED, lag=3), replace(AS_TRAINED, coarse="int8")):
        assert sampler.engine(NATIVE) is NATIVE and sampler.temperature(0.7) == 0.7
    assert [replace(AS_TRAINED, coarse=name).precision for name in ("none", "bf16", "fp8", "int8")] == [
        None,
        "bf16",
        "fp8",
        "int8",
    ]


def test_a_nucleus_is_the_engines_and_a_temperature_the_requests() -> None:
    nucleus, warm = (
        replace(AS_TRAINED, coarse="top_p", coarse_value=0.9),
        replace(AS_TRAINED, coarse="temperature", coarse_value=1.3),
    )
    cut: Any = nucleus.engine(NATIVE)
    assert cut.top_p == 0.9 and nucleus.temperature(0.7) == 0.7
    assert warm.engine(NATIVE) is NATIVE and warm.temperature(0.7) == 1.3
    assert nucleus.precision is warm.precision is None


def test_what_makes_no_sense_is_refused_with_the_setting_named() -> None:
    for settings, named in (
        ({"lag": -1}, "rollout.lag=-1"),
        ({"coarse": "top_p"}, "rollout.coarse_value=None with rollout.coarse=top_p"),
        ({"coarse": "bf16", "coarse_value": 0.5}, "rollout.coarse_value=0.5 with rollout.coarse=bf16"),
        ({"coarse": "top_p", "coarse_value": 1.0}, "rollout.coarse_value=1.0"),
        ({"coarse": "temperature", "coarse_value": 0.0}, "rollout.coarse_value=0.0"),
    ):
        with pytest.raises(ValueError, match=named):
            replace(AS_TRAINED, **settings)
    nucleus = replace(AS_TRAINED, coarse="top_p", coarse_value=0.9)
    with pytest.raises(ValueError, match="Demonstrations has no top_p"):
        nucleus.engine(Demonstrations())
    with pytest.raises(ValueError, match=r"with rollout\.top_p=0\.9"):
        nucleus.engine(nucleus.engine(NATIVE))
