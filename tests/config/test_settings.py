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
    DriftSettings,
    EvaluationSettings,
    ModelSettings,
    RolloutSettings,
    RunSettings,
    UpdateSettings,
)

# OmegaConf has no type for what is checked of them.
WIDER = ("eval_sampled_questions", "eval_datasets")
CLASSES = (RolloutSettings, UpdateSettings, ModelSettings, EvaluationSettings, DriftSettings, RunSettings)


@pytest.fixture(scope="module")
def config() -> Iterator[Mapping[str, Any]]:
    yield cell_here("eval_temperature=0.25", "eval_max_new_tokens=77", "eval_every=3").config


def test_each_field_is_the_setting_that_it_is_named_after(config: Mapping[str, Any]) -> None:
    for kind in CLASSES:
        built = kind.of(config)
        for field in fields(kind):
            assert getattr(built, field.name) == config[field.name], f"{kind.__name__}.{field.name}"


def test_types_are_the_schemas_and_choices_are_those_that_it_allows() -> None:
    schema = get_type_hints(TrainConfig)
    for kind in CLASSES:
        for name, hint in get_type_hints(kind).items():
            if name in WIDER:
                continue
            if schema[name] is str:
                assert get_args(hint) == tuple(CHOICES[name]), f"{kind.__name__}.{name}"
            else:
                assert hint == schema[name], f"{kind.__name__}.{name}"


def test_they_cannot_be_changed(config: Mapping[str, Any]) -> None:
    with pytest.raises(FrozenInstanceError):
        DriftSettings.of(config).drift_questions = 3  # type: ignore[misc]


def test_an_evaluation_is_due_at_both_ends_and_at_every_so_manieth_step(config: Mapping[str, Any]) -> None:
    evaluation = EvaluationSettings.of(config)
    assert [step for step in range(9) if evaluation.due(step, last=8)] == [0, 3, 6, 8]
    none = EvaluationSettings.of({**config, "eval_questions": 0})
    assert not any(none.due(step, last=8) for step in range(9))
    # Another set is evaluated all the same.
    others = EvaluationSettings.of({**config, "eval_questions": 0, "eval_datasets": ["gsm8k"]})
    assert [step for step in range(9) if others.due(step, last=8)] == [0, 3, 6, 8]
    assert (evaluation.sets, none.sets, others.sets) == ([""], [], ["gsm8k"])


def test_as_many_questions_are_sampled_as_are_asked_for_and_evaluated(config: Mapping[str, Any]) -> None:
    for wanted, sampled in ((3, 3), (9, 5), ("all", 5), (0, 0)):
        settings = EvaluationSettings.of({**config, "eval_questions": 5, "eval_sampled_questions": wanted})
        assert settings.sampled == sampled, wanted


def test_the_drift_is_due_at_every_so_manieth_step_and_where_an_evaluation_is(
    config: Mapping[str, Any],
) -> None:
    drift = DriftSettings.of({**config, "drift_every": 3})
    assert [step for step in range(9) if drift.due(step, evaluated=step == 8)] == [0, 3, 6, 8]
    assert all(DriftSettings.of(config).due(step, evaluated=False) for step in range(9))


def test_they_import_no_torch() -> None:
    code = f"import sys; import {settings.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
