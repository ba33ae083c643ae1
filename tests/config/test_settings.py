"""Typed settings take from a config what they are named after, and nothing else."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args, get_type_hints

import pytest
from cli import cell_here

from mirrorpo.config import settings
from mirrorpo.config.schema import CHOICES, TrainConfig
from mirrorpo.config.settings import (
    CheckpointSettings,
    DriftSettings,
    EvaluationSettings,
    LearningRateSettings,
    RolloutSettings,
    UpdateSettings,
)

CLASSES = (
    RolloutSettings,
    UpdateSettings,
    LearningRateSettings,
    EvaluationSettings,
    DriftSettings,
    CheckpointSettings,
)
PREFIXED = {
    EvaluationSettings: {
        name: f"eval_{name}"
        for name in (
            "every",
            "split",
            "questions",
            "max_new_tokens",
            "sampled_questions",
            "samples",
            "temperature",
        )
    },
    DriftSettings: {"questions": "drift_questions", "positions": "drift_positions"},
    CheckpointSettings: {"every": "checkpoint_every", "keep": "keep_checkpoints"},
}


@pytest.fixture(scope="module")
def config() -> Iterator[Mapping[str, Any]]:
    yield cell_here("eval_temperature=0.25", "eval_max_new_tokens=77", "eval_every=3").config


def test_each_field_is_the_setting_that_it_is_named_after(config: Mapping[str, Any]) -> None:
    for kind in CLASSES:
        built = kind.of(config)
        for field in fields(kind):
            key = PREFIXED.get(kind, {}).get(field.name, field.name)
            assert getattr(built, field.name) == config[key], f"{kind.__name__}.{field.name}"


def test_types_are_the_schemas_and_choices_are_those_that_it_allows() -> None:
    schema = get_type_hints(TrainConfig)
    for kind in CLASSES:
        for name, hint in get_type_hints(kind).items():
            key = PREFIXED.get(kind, {}).get(name, name)
            if schema[key] is str:
                assert get_args(hint) == tuple(CHOICES[key]), f"{kind.__name__}.{name}"
            else:
                assert hint is schema[key], f"{kind.__name__}.{name}"


def test_they_cannot_be_changed(config: Mapping[str, Any]) -> None:
    with pytest.raises(FrozenInstanceError):
        CheckpointSettings.of(config).keep = 3  # type: ignore[misc]


def test_nothing_is_evaluated_without_questions(config: Mapping[str, Any]) -> None:
    evaluation = EvaluationSettings.of({**config, "eval_questions": 0})
    assert not any(evaluation.due(step) for step in range(config["steps"] + 1))


def test_they_import_no_torch() -> None:
    code = f"import sys; import {settings.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
