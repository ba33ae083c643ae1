"""Settings that must hold before torch is imported, and shape checks at run time."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from types import FunctionType
from typing import Any

# Two busy cores and spinning threads do not go together; xdist gives the parallelism.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"

import jaxtyping
import pytest
from jaxtyping import install_import_hook
from omegaconf import OmegaConf
from parsed import load_once

# Every annotated function of the rooms with tensors is checked against its shapes while the tests run.
ROOMS = (
    "core",
    "algo",
    "divergence",
    "weighting",
    "model",
    "rollout",
    "train.loss",
    "train.learner",
    "train.live_policy",
    "train.rescore",
    "train.update_window",
    "train.metrics",
)
install_import_hook([f"mirrorpo.{room}" for room in ROOMS], "beartype.beartype")
decorator_of = jaxtyping.jaxtyped


def jaxtyped(*arguments: Any, **settings: Any) -> Any:
    """`jaxtyping.jaxtyped`, whose checks are compiled when a function is first called: six seconds of each
    process otherwise. What is made once alone: a function inside a function would be compiled anew at every
    call of the outer one, a millisecond each.
    """
    decorate: Callable[[Any], Any] = decorator_of(*arguments, **settings)

    def lazily(item: Any) -> Any:
        if "<locals>" in item.__qualname__:
            return item
        if not isinstance(item, FunctionType):
            return decorate(item)
        made: Callable[..., Any] | None = None

        @wraps(item)
        def checked(*given: Any, **named: Any) -> Any:
            nonlocal made
            made = made or decorate(item)
            return made(*given, **named)

        return checked

    return decorate if arguments else lazily


jaxtyping.jaxtyped = jaxtyped


OmegaConf.load = load_once


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collecting makes millions of objects that stay: no collector looks through them, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch reads the environment once; a test that changed the count must not slow the others."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest tests come first, so that no worker is left alone with one at the end: those that may take
    longer than the others.
    """
    limit = float(config.getini("timeout"))

    def usual(item: pytest.Item) -> bool:
        marker = item.get_closest_marker("timeout")
        return marker is None or marker.args[0] <= limit

    items.sort(key=usual)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing that was not tested; pytest's own -rs has one for each place in the files."""
    skipped = terminalreporter.getreports("skipped")
    counts = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(counts.items()):
        terminalreporter.write_line(f"SKIPPED [{count}] {reason}")
