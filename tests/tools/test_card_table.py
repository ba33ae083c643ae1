"""The table of cards: of the shipped settings, and as the documents have it."""

from pathlib import Path

import yaml

from mirrorpo.tools.card_table import (
    CARD,
    CHECKPOINTED,
    COMPLETION,
    LARGE,
    NATIVE,
    RECIPE,
    ROWS,
    TOKENS,
    Rates,
    large_step,
    load,
    page,
    shapes,
)
from mirrorpo.train.memory_plan import peak, usable

ROOT = Path(__file__).parents[2]


def test_the_documents_have_the_table_that_the_command_makes() -> None:
    assert page() in (ROOT / "docs" / "models.md").read_text()


def test_it_is_of_the_settings_that_are_shipped() -> None:
    def read(path: str) -> dict[str, object]:
        return yaml.safe_load((ROOT / "conf" / path).read_text())

    for name in shapes():
        assert read(f"recipe/model/{name}.yaml") == {"tokens_per_micro_batch": TOKENS}
        assert read(f"model/{name}.yaml")["gradient_checkpointing"] == (name in CHECKPOINTED)
    recipe, native = read("recipe/gsm8k.yaml"), read("rollout/native.yaml")
    assert (recipe["max_new_tokens"], native["rows_at_once"]) == (COMPLETION, NATIVE.rows_at_once)
    assert int(str(recipe["prompts_per_step"])) * int(str(recipe["group_size"])) == ROWS
    assert RECIPE.longest == COMPLETION


def test_activations_are_kept_wherever_all_of_a_model_then_fits() -> None:
    for name, shape in shapes().items():
        kept = load(shape, adapters=False, checkpointing=False, engine=NATIVE)
        assert (peak(kept) > usable(CARD)) == (name in CHECKPOINTED)


def test_a_step_takes_longer_than_its_products_and_less_on_a_faster_card() -> None:
    model = load(shapes()["qwen"], adapters=False, checkpointing=False, engine=NATIVE).model
    floor = 6 * LARGE.computed * model.shape.hidden / Rates().half
    assert floor < large_step(model, Rates()) < 10 * floor
    # On a card twice as fast in everything it takes half of what is not the processor's.
    assert large_step(model, Rates(1100e12, 100e12, 6e12, 2.75e-6)) < 0.7 * large_step(model, Rates())
