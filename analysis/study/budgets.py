"""The budgets at which arms can be compared, and how each is counted."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meter:
    """How what a run has spent is counted.

    Attributes:
        recorded: the cumulative metric; "" where the step itself is it.
        summed: the metric of each step whose sum is the same, for runs without the cumulative one; "" where
            there is none.
        unit: what is counted.
    """

    recorded: str
    summed: str
    unit: str


METERS: Mapping[str, Meter] = {
    "steps": Meter("", "", "steps"),
    "completions": Meter("budget/completions", "rollout/completions", "completions sampled"),
    "tokens_trained": Meter("budget/tokens_trained", "", "tokens trained"),
    "tokens_sampled": Meter("budget/tokens_sampled", "rollout/tokens", "tokens sampled"),
    "flops": Meter("budget/flops", "", "FLOPs"),
    "device_s": Meter("budget/device_s", "", "device seconds"),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as somebody names it.

    Attributes:
        name: of METERS.
        value: how much; None for the least that any run of a block spent.
    """

    name: str
    value: float | None = None


def read_budget(text: str) -> Budget:
    """`NAME` or `NAME=VALUE`.

    Example:
        >>> read_budget("flops=2e15")
        Budget(name='flops', value=2000000000000000.0)

    Raises:
        ValueError: naming the budgets there are.
    """
    name, equals, value = text.partition("=")
    if name not in METERS:
        raise ValueError(f"budget={text}: the budgets are {', '.join(METERS)}, each alone or as NAME=VALUE")
    if not equals:
        return Budget(name)
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ValueError(f"budget={text}: {value!r} is no amount; give a positive number, as in {name}=1e6")
    return Budget(name, number)
