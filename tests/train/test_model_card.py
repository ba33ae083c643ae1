"""The card in a policy's folder says what the run recorded, and neither when nor where."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from cli import cell_here

from mirrorpo.train.build import build_components
from mirrorpo.train.model_card import model_card, wilson

MANIFEST: dict[str, Any] = {
    "parameters": {"all": 2000, "trained": 100},
    "questions": {"train": 4000, "evaluated": 200},
    "data": {"train": "a" * 64},
    "reward_version": "math_answer/2",
    "computed_in": "float32 on cpu",
    "commit": "c0ffee",
    "dirty": True,
    "versions": {"torch": "2.13.0", "vllm": None},
    "started": "2026-11-28T20:00:00Z",
}
ROWS = [
    {"step": 0, "eval/greedy_accuracy": 0.5, "eval/questions": 200.0, "eval/avg@4": 0.4},
    {"step": 3, "reward/mean": 0.5},
    {"step": 4, "eval/greedy_accuracy": 0.6, "eval/questions": 200.0, "eval/avg@4": 0.45},
]


def test_a_card_has_base_data_equation_evaluation_settings_and_licence() -> None:
    cell = cell_here("algo=dapo", "divergence=probl2", "weighting=counterfactual", "seed=3", "steps=4")
    components = build_components(cell.config)
    card = model_card(cell, components, MANIFEST, ROWS)
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "transformers" and "base_model" not in metadata
    assert {"mirrorpo", "dapo", "probl2", "counterfactual"} <= {*metadata["tags"]}
    assert "license" not in metadata
    for text in (
        "\n# single: algo=dapo,divergence=probl2,",
        "- start model: `mirrorpo:tiny`",
        "- trained: 100 of 2,000 parameters",
        "- trained on: 4,000 questions of its split train",
        "L = aggregate[ w_t l(log r_t, A_i)",
        "w_t  weighting: ",
        "| greedy accuracy | 50.0% [43.1, 56.9] | 60.0% [53.1, 66.5] |",
        "| avg@4 | 40.0% | 45.0% |",
        "- seed: 3",
        "`steps=4`",
        f"- config: `{cell.hash}`",
        "- code: commit c0ffee, with changes",
        "- packages: torch 2.13.0\n",
        "## Intended use",
        "the model that they began with have the MIT licence.",
    ):
        assert text in body, (text, body)
    assert "2026" not in card and "outputs" not in card and "None" not in card
    assert (
        model_card(replace(cell, config={**cell.config, "out": "/elsewhere"}), components, MANIFEST, ROWS)
        == card
    )
    assert "It was not evaluated." in model_card(cell, components, MANIFEST, [])
    # An adapter on a model of the hub, from a run.
    changed = {"adapter": {"rank": 16}, "model_run": {"config_hash": "abc"}, "model_commit": "f00"}
    hub = {**cell.config, "model": {**cell.config["model"], "path": "Qwen/Qwen3-1.7B"}}
    adapted = model_card(replace(cell, config=hub, settings={}), components, MANIFEST | changed, [])
    metadata = yaml.safe_load(adapted.split("---\n")[1])
    assert (metadata["base_model"], metadata["library_name"]) == ("Qwen/Qwen3-1.7B", "peft")
    assert "the licence of its base, `Qwen/Qwen3-1.7B`, which this card does not know" in adapted
    assert "commit f00" in adapted and "of a run: config abc" in adapted and '{"rank": 16}' in adapted


def test_wilsons_interval_is_the_published_one() -> None:
    # Agresti and Coull (1998), p = 0 of n = 10: upper bound 0.278.
    assert wilson(0.0, 10) == (pytest.approx(0.0), pytest.approx(0.2775, abs=1e-4))
    assert wilson(1.0, 10)[1] == 1.0
