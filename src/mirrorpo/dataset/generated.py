"""What datasets made by templates share: sizes, splits by the question's hash, habits of demonstrations."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Split
from mirrorpo.dataset.split import bucket

SPLIT_BOUNDS: Mapping[Split, tuple[float, float]] = {
    "test": (0.0, 0.1),
    "validation": (0.1, 0.2),
    "train": (0.2, 1.0),
}


def check_sizes(sizes: Mapping[Split, int], min_steps: int, max_steps: int) -> None:
    """Refuse empty splits and bounds that hold no number of steps.

    Raises:
        ValueError: naming the setting.
    """
    if not 1 <= min_steps <= max_steps:
        raise ValueError(
            f"dataset.min_steps={min_steps} and max_steps={max_steps}: need 1 <= min_steps <= max_steps"
        )
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"dataset.{split}_size={size}: a split has at least one problem")


def check_habits(habits: Mapping[str, float], known: Sequence[str]) -> None:
    """Refuse what are no shares of the known habits.

    Raises:
        ValueError: naming the setting.
    """
    if (
        set(habits) - set(known)
        or min(habits.values(), default=0) < 0
        or (habits and abs(sum(habits.values()) - 1) > 1e-9)
    ):
        raise ValueError(f"dataset.habits={dict(habits)}: give shares of {known} that sum to one, or none")


def habit(
    habits: Mapping[str, float], known: Sequence[str], habits_from: float, progress: float, rng: random.Random
) -> str:
    """How a problem is demonstrated: carefully at first, later by the habits' shares.

    Args:
        habits: share of each habit; empty means careful throughout.
        known: all habits, in the order they are drawn.
        habits_from: the share of the split after which habits set in; before it nothing is drawn.
        progress: where in the split the problem stands, from 0 to 1.
        rng: what draws.
    """
    if not habits or progress < habits_from:
        return "careful"
    return rng.choices(known, weights=[habits.get(name, 0.0) for name in known])[0]


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """Hash of questions, golds and demonstrations."""
    rows = [[prompt.question, prompt.gold, prompt.demonstration] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def filled(
    split: Split,
    size: int,
    draw: Callable[[], tuple[str, Callable[[float], Prompt]]],
    few: str,
    bounds: Mapping[Split, tuple[float, float]] = SPLIT_BOUNDS,
) -> Sequence[Prompt]:
    """The first `size` distinct questions that fall into a split, in the order they are drawn.

    Args:
        split: which part of the questions' hashes.
        size: how many.
        draw: the next question, and its prompt for where in the split it stands, from 0 to 1.
        few: what to say where there are not that many.
        bounds: where in [0, 1) the hashes of each split's questions fall.

    Raises:
        ValueError: if they are not found in 1000 + 200 size draws.
    """
    low, high = bounds[split]
    prompts: dict[str, Prompt] = {}
    for _ in range(1000 + 200 * size):
        question, prompt = draw()
        if low <= bucket(question) < high and question not in prompts:
            prompts[question] = prompt(len(prompts) / size)
            if len(prompts) == size:
                return list(prompts.values())
    raise ValueError(f"dataset.{split}_size={size}: there are not that many {few}")
